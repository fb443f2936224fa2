from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gapcam.metrics import baselines
from gapcam.metrics.baselines import (
    SHARES,
    best_centred_box,
    centred_hits,
    centred_ious,
    whole_image_ious,
)
from gapcam.metrics.boxes import box_iou
from gapcam.types import ArgumentError

GRID = [(w, h) for w in SHARES for h in SHARES]


def centred(share: tuple[float, float], size: tuple[float, float]) -> tuple[float, ...]:
    (w, h), (width, height) = share, size
    x0, y0 = (width - w * width) / 2, (height - h * height) / 2
    return x0, y0, x0 + w * width, y0 + h * height


def slow_ious(shares, truths, sizes) -> np.ndarray:
    return np.array(
        [
            [box_iou([centred(share, size)], boxes).max() for share in shares]
            for boxes, size in zip(truths, sizes, strict=True)
        ]
    )


def some_pictures(count: int, seed: int = 0) -> tuple[list[np.ndarray], np.ndarray]:
    random = np.random.default_rng(seed)
    sizes = random.integers(50, 500, (count, 2)).astype(float)
    truths = []
    for size in sizes:
        corners = np.sort(random.random((random.integers(1, 4), 2, 2)), axis=1) * size
        truths.append(corners.reshape(-1, 4))
    return truths, sizes


@given(st.integers(1, 6), st.integers(0, 99), st.sampled_from([1, 40, 2**17]))
@settings(deadline=None, max_examples=30)
def test_each_centred_box_meets_the_box_it_fits_best(count, seed, at_once):
    truths, sizes = some_pictures(count, seed)
    shares = [(0.7, 0.75), (1, 1), (0.05, 1), (0.4, 0.1)]
    expected = slow_ious(shares, truths, sizes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(baselines, "IOUS_AT_ONCE", at_once)
        np.testing.assert_allclose(centred_ious(shares, truths, sizes), expected, atol=1e-12)
        whole = whole_image_ious(truths, sizes)
        np.testing.assert_allclose(whole, expected[:, 1], atol=1e-12)
        hits = centred_hits(shares, truths, sizes)
    assert hits.tolist() == [[(row >= d).sum() for d in (0.3, 0.5, 0.7)] for row in expected.T]


def test_the_whole_picture_by_hand():
    truths = [[(0, 0, 50, 100)], [(10, 10, 20, 20), (0, 0, 200, 90)]]
    assert whole_image_ious(truths, [(100, 100), (200, 100)]) == pytest.approx([0.5, 0.9])
    assert centred_hits([(1, 1)], truths, [(100, 100), (200, 100)]).tolist() == [[2, 2, 1]]


def test_one_box_may_come_alone():
    assert whole_image_ious([(0, 0, 50, 100)], [(100, 100)]).tolist() == [0.5]


def test_in_an_inclusive_frame_the_last_pixel_counts():
    """A 224 x 224 frame whose boxes end at 223 is filled by (0, 0, 223, 223)."""
    frame = [(224, 224)]
    assert whole_image_ious([[(0, 0, 223, 223)]], frame, inclusive=True) == 1
    assert whole_image_ious([[(0, 0, 223, 223)]], frame) == pytest.approx((223 / 224) ** 2)
    assert centred_ious([(0.5, 0.25)], [[(56, 84, 167, 139)]], frame, inclusive=True) == 1
    assert centred_hits([(0.5, 0.25)], [[(56, 84, 167, 139)]], frame, inclusive=True).sum() == 3
    found = centred_ious([(0.5, 0.5)], [[(3, 7, 100, 123)]], frame, inclusive=True)
    assert found == box_iou([(56, 56, 167, 167)], [(3, 7, 100, 123)], inclusive=True)
    # an area of .175 holds .5 x .25 at IoU .7, but not the box that is a pixel smaller
    assert best_centred_box([[(56, 84, 167, 139)]], frame, inclusive=True) == (0.7, 0.25)
    assert best_centred_box([[(56, 84, 167, 139)]], frame) != (0.7, 0.25)


def test_the_best_box_has_the_most_hits_then_the_largest_area_then_the_greatest_width():
    for seed in range(4):
        truths, sizes = some_pictures(6, seed)  # few enough for ties
        table = slow_ious(GRID, truths, sizes)
        hits = sum((table >= d).sum(0) for d in (0.3, 0.5, 0.7))
        order = [(n, round(w * h, 9), w) for n, (w, h) in zip(hits, GRID, strict=True)]
        assert best_centred_box(truths, sizes) == GRID[order.index(max(order))]
        at_half = (table >= 0.5).sum(0)
        order = [(n, round(w * h, 9), w) for n, (w, h) in zip(at_half, GRID, strict=True)]
        assert best_centred_box(truths, sizes, iou=0.5) == GRID[order.index(max(order))]


def test_of_equally_good_boxes_the_largest_then_the_widest_is_taken():
    picture = [(100, 100)]
    # .6 x .5 is covered at IoU .7 by areas up to .4286: .425 is the largest of the grid
    assert best_centred_box([[(20, 25, 80, 75)]], picture) == (0.85, 0.5)
    # .6 x .6 by areas up to .5143: .6 x .85 and .85 x .6 are alike but for the width
    assert best_centred_box([[(20, 20, 80, 80)]], picture) == (0.85, 0.6)


def test_the_whole_picture_is_best_where_all_objects_fill_it():
    sizes = [(30, 90), (500, 400)]
    assert best_centred_box([[(0, 0, *size)] for size in sizes], sizes) == (1, 1)


def test_memory_does_not_grow_with_the_pictures():
    truths, sizes = some_pictures(3000)
    peaks = []
    for count in (1000, 3000):
        tracemalloc.start()
        centred_hits(GRID, truths[:count], sizes[:count])
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 200_000 < 20e6


def test_no_pictures_have_no_ious():
    assert centred_ious(GRID, [], []).shape == (0, 400)
    assert whole_image_ious([], np.zeros((0, 2))).shape == (0,)
    assert centred_hits(GRID, [], []).sum() == 0
    with pytest.raises(ArgumentError, match="truths: expected the boxes of at least one picture"):
        best_centred_box([], [])


@pytest.mark.parametrize("share", [(0, 1), (1, 1.1), (np.nan, 1)])
def test_shares_outside_the_picture_are_refused(share):
    for run in (centred_ious, centred_hits):
        with pytest.raises(
            ArgumentError, match=r"shares: expected \[s, 2\], width and height above 0"
        ):
            run([share], [[(0, 0, 1, 1)]], [(5, 5)])


def test_what_does_not_belong_together_is_refused():
    with pytest.raises(ArgumentError, match=r"shares: .* got \[0.5, 0.5\]"):
        centred_ious((0.5, 0.5), [[(0, 0, 1, 1)]], [(5, 5)])
    with pytest.raises(ArgumentError, match="sizes_wh: expected one a picture, 1, got 2"):
        whole_image_ious([[(0, 0, 1, 1)]], [(5, 5), (6, 6)])
    with pytest.raises(ArgumentError, match="sizes_wh: expected width and height above 0 pixels"):
        whole_image_ious([[(0, 0, 1, 1)]], [(5, 0)])
    with pytest.raises(ArgumentError, match=r"truths\[1\]: expected at least one box, got none"):
        whole_image_ious([[(0, 0, 1, 1)], []], [(5, 5), (6, 6)])
    with pytest.raises(ArgumentError, match="boxes: expected x0, y0, x1, y1 a row"):
        whole_image_ious([[(0, 0, 1)]], [(5, 5)])
