from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import oracles
from gapcam.boxes import find_all_regions, find_regions, region_mask
from gapcam.dt_box import released_boxes
from gapcam.recipes import PAPER
from heats import (
    EVERY,
    FOUR,
    boxes,
    cut,
    gaussian,
    grid,
    one_region,
    scattered_heat,
    some_heat,
    thresholds,
    unit,
)

# --- where the sides are -----------------------------------------------------------------------


@given(st.one_of(some_heat, scattered_heat), thresholds)
@settings(deadline=None, max_examples=120)
def test_boxes_bound_the_bilinear_surface_above_the_threshold(heat, threshold):
    h, w = heat.shape
    found = find_regions(heat, cut(threshold))
    expected = oracles.sampled_regions(heat, threshold)
    assert len(found) == len(expected)
    by_cell = {cell: truth for truth in expected for cell in truth.cells}
    for region in found:
        truth = by_cell[math.floor(region.peak_xy[1]), math.floor(region.peak_xy[0])]
        assert region.area == truth.area
        ends = zip(region.box_xyxy, truth.box_xyxy, (-1, -1, 1, 1), (0, 0, w, h), strict=True)
        for side, sample, outward, border in ends:
            beyond = (side - sample) * outward  # how far outside the last sample within
            assert -1e-6 <= beyond <= truth.pitch + 1e-6
            if abs(border - sample) < truth.pitch:
                assert side == border


def test_a_tent_crosses_the_threshold_where_its_slope_says():
    # 1 - 0.25 |x - 4.5|: 0.4 is reached 2.4 away from the middle
    tent = 1 - 0.25 * np.abs(np.arange(9) + 0.5 - 4.5)
    region = one_region(np.maximum(tent, 0)[None], 0.4)
    assert region.box_xyxy == pytest.approx((2.1, 0, 6.9, 1), abs=1e-6)
    assert region.peak_xy == (4.5, 0.5)
    assert region.area == 5


@pytest.mark.parametrize("threshold", [0.1, 0.2, 0.42, 0.48, 0.7, 0.95])
@pytest.mark.parametrize(("slope_x", "slope_y"), [(0.25, 0.25), (0.2, 0.125), (0.1, 0.3)])
def test_a_separable_tent_has_the_analytic_box(slope_x, slope_y, threshold):
    places = np.arange(32) + 0.5
    x = np.maximum(1 - slope_x * np.abs(places - 14.5), 0)
    y = np.maximum(1 - slope_y * np.abs(places - 17.5), 0)
    # the foot of a tent lies between samples: stay where it is straight
    assume_straight = threshold > max(slope_x, slope_y)
    reach_x, reach_y = (1 - threshold) / slope_x, (1 - threshold) / slope_y
    box = one_region(np.outer(y, x), threshold).box_xyxy
    expected = (14.5 - reach_x, 17.5 - reach_y, 14.5 + reach_x, 17.5 + reach_y)
    assert box == pytest.approx(expected, abs=1e-5 if assume_straight else 0.5)


@pytest.mark.parametrize("threshold", [0.15, 0.35, 0.48, 0.8])
def test_a_cone_has_the_analytic_box(threshold):
    # along the grid lines through its tip a cone is a tent
    places = np.arange(41) + 0.5 - 20.5
    cone = np.maximum(1 - np.hypot(places[None], places[:, None]) / 16, 0)
    reach = 16 * (1 - threshold)
    expected = (20.5 - reach, 20.5 - reach, 20.5 + reach, 20.5 + reach)
    assert one_region(cone, threshold).box_xyxy == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("threshold", [0.2, 0.48, 0.8])
@pytest.mark.parametrize("centre", [(100.5, 100.5), (97.2, 108.9)])
def test_a_gaussian_on_a_fine_grid_ends_where_its_formula_says(threshold, centre):
    sigma = 18.0
    box = one_region(gaussian(200, sigma, centre), threshold).box_xyxy
    reach = sigma * math.sqrt(2 * math.log(1 / threshold))
    x, y = centre
    expected = (x - reach, y - reach, x + reach, y + reach)
    assert box == pytest.approx(expected, abs=0.02)


def test_a_region_beside_a_sharp_edge_ends_between_the_two_samples():
    heat = grid("..... .999. .999. .....")
    # 0.9 falls to 0 in one cell: 0.45 is half way from centre to centre
    assert one_region(heat, 0.45).box_xyxy == pytest.approx((1, 1, 4, 3), abs=1e-6)
    # 0.3 is two thirds of the way
    assert one_region(heat, 0.3).box_xyxy == pytest.approx((5 / 6, 5 / 6, 25 / 6, 19 / 6), abs=1e-6)


def test_the_line_that_reaches_farthest_counts():
    # row 1 stays above 0.5 for 0.8 of the way to its neighbour, row 0 for 0.4 of it
    heat = np.array([[0.7, 0.2, 0], [0.9, 0.4, 0]], np.float32)
    assert one_region(heat, 0.5).box_xyxy == pytest.approx((0, 0, 1.3, 2), abs=1e-6)


@pytest.mark.parametrize("threshold", [0.2, 0.42, 0.48, 0.52])
def test_thresholds_that_float32_rounds_do_not_move_a_box(threshold):
    heat = gaussian(14, 2.5, (6.3, 7.7))
    box, near = (one_region(heat, t).box_xyxy for t in (threshold, float(np.float32(threshold))))
    assert box == pytest.approx(near, abs=1e-6)


# --- symmetry ----------------------------------------------------------------------------------


@given(some_heat, thresholds)
@settings(deadline=None, max_examples=80)
def test_flipping_the_heat_mirrors_the_boxes(heat, threshold):
    h, w = heat.shape
    found = boxes(heat, threshold)
    mirrored = sorted((w - x1, y0, w - x0, y1) for x0, y0, x1, y1 in found)
    turned = sorted((x0, h - y1, x1, h - y0) for x0, y0, x1, y1 in found)
    np.testing.assert_allclose(boxes(heat[:, ::-1], threshold), mirrored, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(boxes(heat[::-1], threshold), turned, rtol=1e-9, atol=1e-12)


@given(some_heat, thresholds)
@settings(deadline=None, max_examples=60)
def test_transposing_the_heat_swaps_the_axes(heat, threshold):
    swapped = sorted((y0, x0, y1, x1) for x0, y0, x1, y1 in boxes(heat, threshold))
    assert boxes(heat.T, threshold) == swapped
    assert boxes(np.ascontiguousarray(heat.T), threshold) == swapped


@given(arrays(np.float32, (4, 5), elements=unit), thresholds, st.integers(1, 9), st.integers(1, 9))
@settings(deadline=None, max_examples=60)
def test_moving_a_blob_by_whole_cells_moves_its_boxes_by_that(blob, threshold, right, down):
    canvas = np.zeros((16, 17), np.float32)
    here, there = canvas.copy(), canvas.copy()
    here[1:5, 1:6] = blob
    there[1 + down : 5 + down, 1 + right : 6 + right] = blob
    moved = [
        (x0 + right, y0 + down, x1 + right, y1 + down) for x0, y0, x1, y1 in boxes(here, threshold)
    ]
    np.testing.assert_allclose(boxes(there, threshold), sorted(moved), rtol=1e-12)


# --- the border --------------------------------------------------------------------------------


def test_a_region_at_an_edge_reaches_it_exactly():
    heat = grid("93... 3.... ....3 ...39")
    first, second = sorted(boxes(heat, 0.2))
    assert first[:2] == (0.0, 0.0)
    assert second[2:] == (5.0, 4.0)
    assert max(first[2:]) < 3
    assert min(second[:2]) > 1


def test_a_map_that_is_hot_everywhere_is_the_whole_grid():
    region = one_region(np.full((3, 7), 0.21), 0.2)
    assert region.box_xyxy == (0.0, 0.0, 7.0, 3.0)
    assert region.area == 21
    assert one_region(np.ones((1, 1)), 0.999).box_xyxy == (0.0, 0.0, 1.0, 1.0)


@given(some_heat, thresholds)
@settings(deadline=None, max_examples=60)
def test_a_box_lies_in_the_grid_and_holds_its_samples(heat, threshold):
    h, w = heat.shape
    found = find_regions(heat, cut(threshold))
    assert sum(region.area for region in found) == (heat > threshold).sum()
    for region in found:
        x0, y0, x1, y1 = region.box_xyxy
        assert 0 <= x0 < region.peak_xy[0] < x1 <= w
        assert 0 <= y0 < region.peak_xy[1] < y1 <= h


# --- which cells make a region -----------------------------------------------------------------


def test_a_single_hot_cell_is_a_region_of_its_own():
    heat = np.zeros((5, 6), np.float32)
    heat[2, 3] = 1
    region = one_region(heat, 0.25)
    assert region.box_xyxy == (2.75, 1.75, 4.25, 3.25)
    assert region.peak_xy == (3.5, 2.5)
    assert region.area == 1


def test_cells_that_touch_at_a_corner_are_one_region():
    diagonal = np.eye(5, dtype=np.float32)
    region = one_region(diagonal, 0.75)  # the saddles between the cells lie below
    assert region.box_xyxy == (0, 0, 5, 5)
    assert region.area == 5
    assert len(find_regions(diagonal[::-1], cut(0.75))) == 1
    checkerboard = (np.indices((6, 7)).sum(0) % 2).astype(np.float32)
    assert one_region(checkerboard, 0.5).area == 21


def test_the_threshold_is_exclusive():
    heat = np.full((3, 3), 0.5, np.float32)
    assert find_regions(heat, cut(0.5)) == ()
    heat[1, 1] = np.nextafter(np.float32(0.5), np.float32(1))
    region = one_region(heat, 0.5)
    assert region.area == 1
    assert region.box_xyxy == pytest.approx((0.5, 0.5, 2.5, 2.5))


@pytest.mark.parametrize("components", ["largest", "all", "instances"])
def test_nothing_above_the_threshold_gives_no_region(components):
    recipe = replace(PAPER, components=components)
    for heat in (np.zeros((7, 7)), np.full((7, 7), 0.1), np.full((2, 1), np.nan)):
        assert find_regions(heat.astype(np.float32), recipe) == ()


def test_a_region_inside_the_box_of_another_changes_neither():
    heat = grid("""
        5...9.
        5...81
        5.....
        5.....
        555555
        5.....
    """)
    heat[0, 5] = 0.19
    bent = heat.copy()
    bent[:2, 4:] = 0
    spot = heat - bent
    around, inside = find_regions(heat, cut(0.2))
    assert around == one_region(bent, 0.2)
    assert inside == one_region(spot, 0.2)
    assert around.peak_xy == (0.5, 0.5)
    assert inside.peak_xy == (4.5, 0.5)


# Areas 6, 1, 3 and 2 in reading order: 12 cells.


def test_the_largest_region_is_the_one_with_most_cells_not_the_hottest():
    (region,) = find_regions(FOUR, PAPER)
    assert region.area == 6
    assert FOUR.max() > 0.5


def test_all_regions_come_largest_first():
    assert [region.area for region in find_regions(FOUR, EVERY)] == [6, 3, 2, 1]


@pytest.mark.parametrize(
    ("share", "areas"),
    [(0.05, [6, 3, 2, 1]), (0.1, [6, 3, 2]), (0.25, [6, 3]), (0.26, [6]), (0.5, [6])],
)
def test_components_below_the_share_of_the_total_area_are_left_out(share, areas):
    recipe = replace(EVERY, min_area_share=share)
    assert [region.area for region in find_regions(FOUR, recipe)] == areas


def test_many_small_regions_do_not_leave_out_one_another_to_the_last():
    """25 cells of 4 % each, none above the share: still there is something to show."""
    heat = np.zeros((9, 9), np.float32)
    heat[::2, ::2] = 1
    found = find_regions(heat, replace(PAPER, components="all"))
    assert found != (), "heat 1 at 25 places gives no box at all"


@given(some_heat, thresholds)
@settings(deadline=None, max_examples=60)
def test_the_peak_is_the_centre_of_the_hottest_cell_of_its_region(heat, threshold):
    cells_of = oracles.components(heat > threshold)
    found = find_regions(heat, cut(threshold))
    assert [r.area for r in found] == sorted((len(cells) for cells in cells_of), reverse=True)
    for region in found:
        x, y = region.peak_xy
        assert (x % 1, y % 1) == (0.5, 0.5)
        (cells,) = (cells for cells in cells_of if (math.floor(y), math.floor(x)) in cells)
        assert heat[math.floor(y), math.floor(x)] == max(heat[cell] for cell in cells)


def test_of_two_regions_as_large_the_hotter_counts_so_a_flip_changes_nothing():
    heat = np.zeros((9, 9), np.float32)
    heat[1:3, 1:3], heat[6:8, 6:8] = 0.8, 1.0
    for turned in (heat, heat[::-1], heat[:, ::-1], heat[::-1, ::-1]):
        (region,) = find_regions(turned, replace(PAPER, threshold=0.5))
        x, y = region.peak_xy
        assert turned[int(y), int(x)] == 1.0


@pytest.mark.parametrize("components", ["largest", "all", "instances", "released"])
def test_many_maps_give_what_each_gives_alone(components):
    heat = np.random.default_rng(1).random((5, 9, 11), np.float32) ** 3
    heat[2] = 0
    recipe = replace(cut(0.15), components=components, prominence=0.2, min_area_share=0.02)
    assert find_all_regions(heat, recipe) == [find_regions(plane, recipe) for plane in heat]


# --- the released rule -------------------------------------------------------------------------


def test_released_regions_are_the_released_boxes():
    recipe = replace(PAPER, components="released", threshold=20 / 255)
    found = find_regions(FOUR, recipe)
    expected = released_boxes(FOUR, 20 / 255)
    assert [(r.box_xyxy, r.peak_xy, r.area) for r in found] == expected
    assert len(found) > 1
    component = region_mask(FOUR, recipe, found[0].peak_xy, FOUR.shape)
    plain = region_mask(FOUR, cut(20 / 255), found[0].peak_xy, FOUR.shape)
    np.testing.assert_array_equal(component, plain)
