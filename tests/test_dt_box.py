from __future__ import annotations

import math
from itertools import pairwise

import cv2
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import oracles
from gapcam.dt_box import released_boxes
from heats import scattered_heat, some_heat

FIRST = 20 / 255
MARGIN = 5


def bytes_map(longest):
    return arrays(
        np.uint8,
        st.tuples(st.integers(1, longest), st.integers(1, longest)),
        elements=st.sampled_from([0, 20, 21, 100, 101, 110, 111, 254, 255]),
        fill=st.sampled_from([0, 255]),
    )


# --- a slow re-implementation ------------------------------------------------------------------


def distances(hot):
    """From each hot pixel to the nearest cold one, by trying them all; 0 where cold."""
    result = np.zeros(hot.shape)
    cold = np.argwhere(~hot)
    for row in range(len(hot)):
        for column in np.flatnonzero(hot[row]):
            result[row, column] = math.sqrt(((cold - (row, column)) ** 2).sum(1).min())
    return result


def eroded(hot):
    if hot.all() or not hot.any():
        return hot
    distance = distances(hot)
    return np.floor(distance * 255 / distance.max() + 0.5) > 10


def holes(kept):
    """The 4-connected sets of cold cells that do not reach the outside, by flood fill."""
    cold = np.pad(~kept, 1, constant_values=True)
    found = []
    while cold.any():
        start = tuple(np.argwhere(cold)[0].tolist())
        cold[start] = False
        cells, edge = [start], [start]
        while edge:
            y, x = edge.pop()
            for near in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                if 0 <= near[0] < cold.shape[0] and 0 <= near[1] < cold.shape[1] and cold[near]:
                    cold[near] = False
                    cells.append(near)
                    edge.append(near)
        found.append([(y - 1, x - 1) for y, x in cells])
    return found[1:]  # the first starts in the padding


def rectangle(cells, rim, shape):
    """x0, y0, x1, y1 and the number of cells; None where the margin leaves nothing."""
    ys, xs = zip(*cells, strict=True)
    x0, y0 = min(xs) - rim, min(ys) - rim
    x1 = min(max(xs) + rim + 1, shape[1] - MARGIN)
    y1 = min(max(ys) + rim + 1, shape[0] - MARGIN)
    return (x0, y0, x1, y1, len(cells)) if x0 < x1 and y0 < y1 else None


def area(r):
    return (r[2] - r[0]) * (r[3] - r[1])


def alike(a, b):
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return wide > 0 and high > 0 and wide * high > 0.5 * max(area(a), area(b))


def after_each_head(rectangles):
    """Every rectangle clears the ones behind it; whatever follows a cleared one gets away."""
    if not rectangles:
        return []
    head, rest, kept = rectangles[0], list(rectangles[1:]), []
    while rest:
        if alike(head, rest.pop(0)):
            kept += rest[:1]
            del rest[:1]
        else:
            kept.append(rectangles[len(rectangles) - len(rest) - 1])
    return [head, *after_each_head(kept)]


def peak_in(box, heat):
    x0, y0, x1, y1 = box
    inside = [
        (-float(heat[j, i]), j, i)
        for j in range(heat.shape[0])
        for i in range(heat.shape[1])
        if x0 <= i + 0.5 < x1 and y0 <= j + 0.5 < y1
    ]
    if not inside:
        return ((x0 + x1) / 2, (y0 + y1) / 2)
    _, j, i = min(inside)
    return (i + 0.5, j + 0.5)


def slow_boxes(levels, cuts, heat):
    """The rule on an 8-bit map, given in the units of the heat that it shows."""
    pool = []
    for cut in cuts:
        kept = eroded(levels > cut)
        found = [rectangle(cells, 0, kept.shape) for cells in oracles.components(kept)]
        found += [rectangle(cells, 1, kept.shape) for cells in holes(kept)]
        pool += sorted((r for r in found if r), key=lambda r: (r[1], r[0], r[3], r[2]))
    down, along = heat.shape[0] / levels.shape[0], heat.shape[1] / levels.shape[1]
    result = []
    for r in after_each_head(sorted(pool, key=area, reverse=True)):
        box = (r[0] * along, r[1] * down, r[2] * along, r[3] * down)
        result.append((box, peak_in(box, heat), max(1, round(r[4] * down * along))))
    return result


def assert_same(found, expected):
    assert len(found) == len(expected)
    for (box, peak, size), (true_box, true_peak, true_size) in zip(found, expected, strict=True):
        assert box == pytest.approx(true_box)
        assert peak == pytest.approx(true_peak)
        assert size == true_size


@given(bytes_map(30))
@settings(deadline=None, max_examples=120)
def test_on_an_eight_bit_map_of_its_own_size_the_rule_is_the_slow_one(levels):
    levels[0, 0] = 255  # the peak, so that dividing by it changes nothing
    heat = levels.astype(np.float32) / np.float32(255)
    expected = slow_boxes(levels, (20, 100, 110), heat)
    assert_same(released_boxes(heat, FIRST, levels.shape), expected)


@given(
    st.one_of(some_heat, scattered_heat),
    st.sampled_from([(64, 64), (48, 80)]),
    st.sampled_from([(FIRST, (20, 100, 110)), (0.125, (32, 159, 175)), (0.25, (64,))]),
)
@settings(deadline=None, max_examples=40)
def test_an_enlarged_map_is_eroded_like_the_slow_one(heat, raster_hw, cut):
    threshold, cuts = cut
    surface = oracles.bilinear_surface(heat, raster_hw)
    assume(surface.max() > 1e-30)
    shares = surface / surface.max() * 255
    # Single precision may round the other way, at a cut or between two equally hot cells.
    assume(all(np.abs(shares - (c + 0.5)).min() > 1e-3 for c in cuts))
    expected = slow_boxes(np.floor(shares + 0.5), cuts, heat)
    assert_same(released_boxes(heat, threshold, raster_hw), expected)


@given(bytes_map(17))
@settings(deadline=None, max_examples=100)
def test_the_rectangles_are_those_of_opencv_s_outer_and_hole_contours(levels):
    levels[0, 0] = 255
    height, width = levels.shape
    contours, _ = cv2.findContours(
        (levels > 127).astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE
    )
    expected = set()
    for x, y, w, h in map(cv2.boundingRect, contours):
        x1, y1 = min(x + w, width - MARGIN), min(y + h, height - MARGIN)
        if x < x1 and y < y1:
            expected.add((x, y, x1, y1))
    # Cut at 127: the other two thresholds lie above the maximum. No place is 24 pixels from the
    # cold, so nothing is eroded.
    heat = levels.astype(np.float32) / np.float32(255)
    found = {tuple(map(round, box)) for box, _, _ in released_boxes(heat, 127 / 255, levels.shape)}
    assert found <= expected
    if expected:
        assert max(map(area, found)) == max(map(area, expected))


# --- hand-made maps ----------------------------------------------------------------------------


def blocks(size, *rectangles):
    """A square map with each (x0, y0, x1, y1, value) painted on it."""
    heat = np.zeros((size, size), np.float32)
    for x0, y0, x1, y1, value in rectangles:
        heat[y0:y1, x0:x1] = value
    return heat


def only_boxes(found):
    return [tuple(round(side, 6) for side in box) for box, _, _ in found]


def test_one_rectangle_on_the_raster_of_a_picture():
    # Ten pixels a cell. The flank of the block passes 20/255 at pixel 196; the thickest place is
    # 104 pixels from the cold, so 4 more go: 200, where the block begins. At 100/255 and 110/255
    # it is 199 and 203. The box of 100 falls to the first, and the box of 110 slips behind it.
    found = released_boxes(blocks(50, (20, 10, 40, 30, 1.0)), FIRST)
    assert only_boxes(found) == [(20.0, 10.0, 40.0, 30.0), (20.3, 10.3, 39.7, 29.7)]
    assert [peak for _, peak, _ in found] == [(20.5, 10.5), (20.5, 10.5)]
    assert [size for _, _, size in found] == [400, 376]


def test_two_blobs_and_a_faint_third_come_by_size():
    heat = blocks(60, (30, 30, 50, 50, 0.3), (5, 5, 20, 25, 1.0), (40, 10, 50, 20, 0.6))
    found = released_boxes(heat, FIRST, (60, 60))
    # no place is 24 pixels deep: nothing is eroded; 0.3 is above the first threshold alone
    assert only_boxes(found) == [
        (30, 30, 50, 50),
        *[(5, 5, 20, 25)] * 2,
        *[(40, 10, 50, 20)] * 2,
    ]
    assert [size for _, _, size in found] == [400, 300, 300, 100, 100]
    assert [peak for _, peak, _ in found[::2]] == [(30.5, 30.5), (5.5, 5.5), (40.5, 10.5)]


def test_a_ring_gives_its_outside_and_its_hole():
    heat = blocks(40, (5, 5, 31, 31, 1.0), (12, 12, 21, 21, 0.0))
    found = released_boxes(heat, 0.5, (40, 40))  # the other two thresholds lie above the maximum
    assert only_boxes(found) == [(5, 5, 31, 31), (11, 11, 22, 22)]
    assert [size for _, _, size in found] == [26 * 26 - 81, 81]
    assert found[1][1] == (11.5, 11.5)


def test_a_hole_that_fills_most_of_its_ring_is_dropped():
    heat = blocks(40, (5, 5, 31, 31, 1.0), (8, 8, 28, 28, 0.0))
    assert only_boxes(released_boxes(heat, 0.5, (40, 40))) == [(5, 5, 31, 31)]


def test_cells_connect_at_corners_and_holes_do_not():
    heat = blocks(20, (2, 2, 5, 5, 1.0), (5, 5, 8, 8, 1.0))
    assert only_boxes(released_boxes(heat, 0.5, (20, 20))) == [(2, 2, 8, 8)]
    heat = blocks(30, (2, 2, 22, 22, 1.0), (6, 6, 8, 8, 0.0), (8, 8, 10, 10, 0.0))
    boxes = only_boxes(released_boxes(heat, 0.5, (30, 30)))
    assert boxes == [(2, 2, 22, 22), (5, 5, 9, 9), (7, 7, 11, 11)]


def test_a_region_at_the_borders_ends_five_pixels_inside_right_and_bottom():
    heat = blocks(50, (0, 0, 50, 50, 1.0), (10, 10, 12, 12, 0.0))
    assert only_boxes(released_boxes(heat, 0.5))[0] == (0, 0, 49.5, 49.5)
    # beyond the border there is nothing cold: only the side towards the middle is peeled
    left = released_boxes(blocks(50, (0, 0, 25, 50, 1.0)), 0.5)
    assert only_boxes(left)[0] == (0, 0, 24.0, 49.5)


def test_a_hot_last_column_keeps_a_peak_in_its_box():
    (box, peak, size), *_ = released_boxes(blocks(50, (49, 0, 50, 50, 1.0)), FIRST)
    assert box == pytest.approx((48.6, 0, 49.5, 49.5))
    assert peak == pytest.approx((49.05, 24.75))  # it holds no cell centre
    assert size == 70  # 14 of 500 columns


def test_a_spot_within_the_last_pixels_gives_no_box():
    assert released_boxes(blocks(50, (47, 48, 50, 50, 1.0)), FIRST, (50, 50)) == []


@pytest.mark.parametrize("size_hw", [(1, 1), (7, 7), (3, 9)])
@pytest.mark.parametrize("value", [1.0, 0.4])
def test_a_flat_map_is_one_box_and_the_loop_leaves_it_twice(size_hw, value):
    height, width = size_hw
    heat = np.full(size_hw, value, np.float32)
    box = (0, 0, 0.99 * width, 0.99 * height)
    expected = (pytest.approx(box), (0.5, 0.5), height * width)
    assert released_boxes(heat, FIRST) == [expected, expected]
    assert released_boxes(heat, 0.2) == [expected]


@pytest.mark.parametrize("size_hw", [(1, 1), (5, 8)])
def test_a_map_without_heat_gives_nothing(size_hw):
    assert released_boxes(np.zeros(size_hw, np.float32), FIRST) == []


# --- thresholds --------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [20, 100, 110])
def test_the_cuts_are_the_released_ones_and_exclusive(level):
    # a frame-wide plate at the level and one byte above it, beside the peak
    for value, count in ((level, 0), (level + 1, 1)):
        heat = blocks(40, (2, 2, 22, 22, value / 255), (28, 28, 30, 30, 1.0))
        found = only_boxes(released_boxes(heat, FIRST, (40, 40)))
        # each threshold that the plate passes adds its box; the loop drops every second
        passed = sum(value > t for t in (20, 100, 110))
        assert found.count((2, 2, 22, 22)) == (passed + 1) // 2
        assert passed == [20, 100, 110].index(level) + count


def test_a_threshold_of_the_maximum_or_more_gives_nothing():
    heat = blocks(20, (2, 2, 12, 12, 1.0))
    assert released_boxes(heat, 1.0) == []
    assert released_boxes(heat, 1.5) == []
    # 5 * 0.2 and 5.5 * 0.19 pass the maximum; the loop leaves every second of equal boxes
    assert len(released_boxes(heat, 0.2, (20, 20))) == 1
    assert len(released_boxes(heat, 0.19, (20, 20))) == 1
    assert len(released_boxes(heat, 0.18, (20, 20))) == 2


# --- erosion -----------------------------------------------------------------------------------


def test_a_distance_that_rounds_up_to_11_stays():
    # distances 1 to 170 from the cold left column: 7 / 170 * 255 = 10.5 rounds to 11
    heat = np.ones((20, 171), np.float32)
    heat[:, 0] = 0
    assert only_boxes(released_boxes(heat, 0.5, heat.shape)) == [(7, 0, 166, 15)]


def test_the_distance_is_euclidean_off_the_axes_too():
    # The far corner is 39 * sqrt(2) away: what is nearer than sqrt(5.2) to the cold corner goes,
    # eight cells with those one step along and two across.
    heat = blocks(40, (0, 0, 40, 40, 1.0), (0, 0, 1, 1, 0.0))
    (_, _, size), *_ = released_boxes(heat, 0.5, (40, 40))
    assert size == 40 * 40 - 8


def test_what_is_thin_beside_a_thick_region_vanishes():
    # 100 pixels deep: places less than 4.1 from the cold go; a bar of 8 is 4 deep, one of 9 is 5
    heat = blocks(300, (10, 10, 210, 210, 1.0), (10, 220, 210, 228, 1.0), (230, 10, 239, 210, 1.0))
    boxes = only_boxes(released_boxes(heat, 0.5, (300, 300)))
    assert boxes == [(14, 14, 206, 206), (234, 14, 235, 206)]


# --- properties --------------------------------------------------------------------------------


@given(st.one_of(some_heat, scattered_heat), st.sampled_from([FIRST, 0.05, 0.15, 0.5]))
@settings(deadline=None, max_examples=60)
def test_boxes_are_ordered_inside_and_repeatable(heat, threshold):
    before = heat.copy()
    found = released_boxes(heat, threshold, (60, 60))
    assert released_boxes(heat, threshold, (60, 60)) == found
    assert np.array_equal(heat, before)
    height, width = heat.shape
    sizes = [area(box) for box, _, _ in found]
    assert all(a >= b - 1e-9 for a, b in pairwise(sizes))
    for (x0, y0, x1, y1), (x, y), size in found:
        assert 0 <= x0 < x1 < width
        assert 0 <= y0 < y1 < height
        assert x0 <= x < x1
        assert y0 <= y < y1
        assert 1 <= size <= height * width


@given(scattered_heat, st.integers(-6, 6))
@settings(deadline=None, max_examples=40)
def test_the_scale_of_the_heat_does_not_matter(heat, exponent):
    heat = np.where(heat > 1e-6, heat, 0)
    scaled = (heat * 2.0**exponent).astype(np.float32)
    assert released_boxes(scaled, FIRST, (60, 60)) == released_boxes(heat, FIRST, (60, 60))


@given(scattered_heat)
@settings(deadline=None, max_examples=40)
def test_transposing_the_map_transposes_its_first_box(heat):
    # bbox1 does not depend on the order of equal areas unless two places tie for the largest
    found = released_boxes(heat, FIRST, (60, 60))
    turned = released_boxes(np.ascontiguousarray(heat.T), FIRST, (60, 60))
    assert bool(found) == bool(turned)
    if found:
        assert area(turned[0][0]) == pytest.approx(area(found[0][0]))


def test_a_grid_larger_than_the_raster_is_not_made_smaller():
    heat = blocks(80, (10, 20, 40, 70, 1.0))
    assert released_boxes(heat, 0.5, (16, 16)) == released_boxes(heat, 0.5, (80, 80))
