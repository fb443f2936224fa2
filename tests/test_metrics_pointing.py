from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gapcam.metrics.pointing import (
    POINTING_TOLERANCE,
    energy_inside,
    energy_inside_mask,
    pointing_hit,
    pointing_hit_mask,
)
from gapcam.types import ArgumentError

BOX = (10, 20, 30, 40)
places = st.floats(-2, 14, width=32)
tolerances = st.sampled_from([0.0, 0.25, 1.0, 2.5, 30.0])


def covered_share(heat: np.ndarray, boxes, size_hw, factor: int = 60) -> float:
    """Count points: `factor` a cell and side, in the middle of their little squares."""
    height, width = heat.shape
    y = (np.arange(height * factor) + 0.5) * size_hw[0] / (height * factor)
    x = (np.arange(width * factor) + 0.5) * size_hw[1] / (width * factor)
    inside = np.zeros((len(y), len(x)), bool)
    for x0, y0, x1, y1 in boxes:
        inside |= ((y0 <= y) & (y < y1))[:, None] & ((x0 <= x) & (x < x1))
    cells = inside.reshape(height, factor, width, factor).mean((1, 3))
    return float((heat * cells).sum() / heat.sum())


@pytest.mark.parametrize(
    ("peak", "hit"),
    [
        ((10, 20), True),
        ((29.9, 39.9), True),
        ((30, 30), False),
        ((20, 40), False),
        ((9.9, 30), False),
    ],
)
def test_a_peak_in_the_half_open_box_is_a_hit(peak, hit):
    assert pointing_hit(peak, [BOX]) is hit
    assert pointing_hit(peak, [(0, 0, 1, 1), BOX]) is hit


@pytest.mark.parametrize(
    ("peak", "away"),
    [((30, 30), 0), ((45, 30), 15), ((20, 12.5), 7.5), ((7, 16), 5), ((33, 44), 5), ((6, 43), 5)],
)
def test_the_tolerance_reaches_round_the_nearest_box(peak, away):
    boxes = [BOX, (500, 500, 501, 501)]
    assert pointing_hit(peak, boxes, away + 1e-9)
    assert not pointing_hit(peak, boxes, max(away - 1e-9, 0))
    assert pointing_hit(peak, boxes, POINTING_TOLERANCE)
    if away:
        assert pointing_hit(peak, boxes, away)


def test_nothing_is_hit_without_a_peak_or_a_box():
    mask = np.ones((3, 3), bool)
    for tolerance in (0.0, 99.0):
        assert not pointing_hit(None, [BOX], tolerance)
        assert not pointing_hit((1, 1), [], tolerance)
        assert not pointing_hit((1, 1), [(1, 1, 1, 5)], tolerance)
        assert not pointing_hit_mask(None, mask, tolerance)
        assert not pointing_hit_mask((1, 1), ~mask, tolerance)


@given(places, places, st.lists(st.tuples(*[st.integers(0, 12)] * 4), max_size=3), tolerances)
def test_a_mask_answers_as_the_boxes_it_was_drawn_from(x, y, boxes, tolerance):
    mask = np.zeros((12, 12), bool)
    for x0, y0, x1, y1 in boxes:
        mask[y0:y1, x0:x1] = True
    boxes = [box for box in boxes if box[0] < box[2] and box[1] < box[3]]
    expected = pointing_hit((x, y), boxes, tolerance)
    assert pointing_hit_mask((x, y), mask, tolerance) is expected


def test_a_mask_is_hit_pixel_by_pixel():
    mask = np.zeros((50, 60), bool)
    mask[30, 40] = True
    assert pointing_hit_mask((40.5, 30.5), mask)
    assert not pointing_hit_mask((41, 30.5), mask)
    assert pointing_hit_mask((41, 30.5), mask, 0.5)
    assert pointing_hit_mask((44, 35), mask, 5)
    assert not pointing_hit_mask((44, 35.1), mask, 5)
    assert pointing_hit_mask((55.9, 30.5), mask, POINTING_TOLERANCE)
    assert pointing_hit_mask((-3, 30.5), mask, 43)


def test_the_share_of_cells_by_hand():
    heat = np.array([[1, 2], [3, 4]])
    assert energy_inside(heat, [(0, 0, 10, 10)], (20, 20)) == 1 / 10
    assert energy_inside(heat, [(0, 0, 20, 20)], (20, 20)) == 1
    assert energy_inside(heat, [(5, 0, 15, 10)], (20, 20)) == pytest.approx(0.15)
    assert energy_inside(heat, [(15, 5, 20, 15)], (20, 20)) == pytest.approx(0.15)
    assert energy_inside(heat, [(-50, 15, 90, 99)], (20, 20)) == pytest.approx(0.35)
    assert energy_inside(heat, [(30, 30, 40, 40)], (20, 20)) == 0


def test_boxes_that_overlap_count_once():
    heat = np.ones((4, 4))
    boxes = [(0, 0, 60, 100), (40, 0, 100, 100), (10, 10, 20, 20)]
    assert energy_inside(heat, boxes[:2], (100, 100)) == pytest.approx(1)
    assert energy_inside(heat, [boxes[0], boxes[2]], (100, 100)) == pytest.approx(0.6)


def test_no_heat_or_no_box_is_no_share():
    assert energy_inside(np.zeros((3, 3)), [(0, 0, 9, 9)], (9, 9)) == 0
    assert energy_inside(np.ones((3, 3)), [], (9, 9)) == 0
    assert energy_inside(np.ones((3, 3)), [(4, 4, 4, 8), (7, 5, 6, 8)], (9, 9)) == 0
    assert energy_inside_mask(np.zeros((3, 3)), np.ones((9, 9), bool)) == 0
    assert energy_inside_mask(np.ones((3, 3)), np.zeros((9, 9), bool)) == 0


@given(
    arrays(np.float32, (3, 4), elements=st.floats(0, 8, width=16)),
    # edges on the points' own grid, where counting them is exact
    st.lists(st.tuples(*[st.integers(-30, 270)] * 4), min_size=1, max_size=4),
)
@settings(deadline=None)
def test_the_share_is_that_of_counted_points(heat, corners):
    heat[1, 1] += 1
    boxes = [(x0, y0 / 2, x1, y1 / 2) for x0, y0, x1, y1 in corners]
    size_hw = (90, 240)  # 60 points a cell: one a pixel along x, two along y
    expected = covered_share(heat.astype(float), boxes, size_hw)
    assert energy_inside(heat, boxes, size_hw) == pytest.approx(expected, abs=1e-9)


def test_a_mask_weighs_the_resampled_heat():
    heat = np.random.default_rng(0).random((7, 7)).astype(np.float32)
    mask = np.random.default_rng(1).random((50, 70)) < 0.3
    fine = cv2.resize(heat.astype(float), (70, 50), interpolation=cv2.INTER_LINEAR)
    assert energy_inside_mask(heat, mask) == pytest.approx(fine[mask].sum() / fine.sum())
    assert energy_inside_mask(heat, ~mask) == pytest.approx(1 - energy_inside_mask(heat, mask))
    assert energy_inside_mask(np.ones((7, 7)), mask) == pytest.approx(mask.mean())
    assert energy_inside_mask(heat, np.ones((50, 70), bool)) == 1


def test_heat_is_resampled_by_pixel_centres():
    """Two cells over four pixels are read at 1/4, 3/4, 5/4, 7/4: 0, 1, 3, 4."""
    mask = np.array([[False, True, False, False]])
    assert energy_inside_mask(np.array([[0.0, 4.0]]), mask) == 1 / 8


@pytest.mark.parametrize(
    ("heat", "message"),
    [
        (np.zeros(4), r"heat: expected \[h, w\], got \[4\]"),
        (np.zeros((0, 4)), r"heat: expected \[h, w\], got \[0, 4\]"),
        (np.array([[1, -0.5]]), "heat: expected numbers from 0 up, got -0.5 to 1"),
        (np.array([[1, np.nan]]), "heat: expected numbers from 0 up, got nan"),
        (np.array([[1, np.inf]]), "heat: expected numbers from 0 up, got 1 to inf"),
    ],
)
def test_heat_that_has_no_shares_is_refused(heat, message):
    with pytest.raises(ArgumentError, match=message):
        energy_inside(heat, [BOX], (50, 50))
    with pytest.raises(ArgumentError, match=message):
        energy_inside_mask(heat, np.ones((3, 3), bool))


def test_wrong_arguments_are_refused():
    with pytest.raises(ArgumentError, match=r"size_hw: expected two sides in pixels, got \(0, 5\)"):
        energy_inside(np.ones((2, 2)), [BOX], (0, 5))
    with pytest.raises(ArgumentError, match="boxes: expected x0, y0, x1, y1 a row"):
        energy_inside(np.ones((2, 2)), [(1, 2)], (5, 5))
    for tolerance in (-1, np.nan):
        with pytest.raises(
            ArgumentError, match=f"tolerance: expected 0 pixels or more, got {tolerance}"
        ):
            pointing_hit((1, 1), [BOX], tolerance)
    with pytest.raises(ArgumentError, match="tolerance"):
        pointing_hit_mask((1, 1), np.ones((2, 2), bool), -1)
    grey = np.ones((2, 2), np.uint8)
    with pytest.raises(ArgumentError, match=r"mask: expected bool \[H, W\], got uint8 \[2, 2\]"):
        pointing_hit_mask((1, 1), grey)
    with pytest.raises(ArgumentError, match="mask: expected bool"):
        energy_inside_mask(np.ones((2, 2)), grey)
