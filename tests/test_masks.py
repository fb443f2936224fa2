from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import oracles
from gapcam.boxes import Region, find_regions, region_mask, scale_box, scale_point
from heats import EVERY, FOUR, cut, gaussian, one_region, some_heat, thresholds

# --- masks -------------------------------------------------------------------------------------

sides = st.integers(1, 60)


def peak_cell(region: Region) -> tuple[int, int]:
    return math.floor(region.peak_xy[1]), math.floor(region.peak_xy[0])


@given(some_heat, thresholds, sides, sides)
@settings(deadline=None, max_examples=120)
def test_a_mask_holds_the_pixels_whose_centres_lie_in_the_region(heat, threshold, height, width):
    size_hw = (height, width)
    surface = oracles.bilinear_surface(heat, size_hw)
    decided = np.abs(surface - threshold) > 1e-5  # closer than this, rounding decides
    for region in find_regions(heat, cut(threshold)):
        found = region_mask(heat, cut(threshold), region.peak_xy, size_hw)
        assert found.dtype == bool
        assert found.shape == size_hw
        expected = oracles.region_pixels(heat, threshold, peak_cell(region), size_hw)
        np.testing.assert_array_equal(found[decided], expected[decided])


@given(
    arrays(np.int64, (4, 8), elements=st.integers(0, 16)),
    st.sampled_from([0.25, 0.5, 0.8125]),
    st.sampled_from([(4, 8), (8, 16), (16, 32), (64, 8), (4, 128), (2, 4), (1, 1)]),
)
@settings(deadline=None, max_examples=60)
def test_a_mask_is_exact_to_the_pixel_where_arithmetic_is_exact(sixteenths, threshold, size_hw):
    heat = (sixteenths / 16).astype(np.float32)
    for region in find_regions(heat, cut(threshold)):
        found = region_mask(heat, cut(threshold), region.peak_xy, size_hw)
        expected = oracles.region_pixels(heat, threshold, peak_cell(region), size_hw)
        np.testing.assert_array_equal(found, expected)


def mask_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """The half-open box around the pixels of a mask."""
    rows, columns = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


@given(
    st.tuples(st.floats(9, 15), st.floats(9, 15)),
    st.floats(1.5, 3),
    st.sampled_from([0.2, 0.48, 0.7]),
    st.integers(24, 300),
    st.floats(0.75, 1.33),
)
@settings(deadline=None, max_examples=80)
def test_the_box_of_a_mask_is_the_box_of_its_region_within_a_pixel(
    centre, sigma, threshold, width, aspect
):
    # Away from the border, where a tongue may be narrower than a pixel and still reach the side.
    heat = gaussian(24, sigma, centre)
    heat /= heat.max()
    region = one_region(heat, threshold)
    size_hw = (max(24, round(width * aspect)), width)
    mask = region_mask(heat, cut(threshold), region.peak_xy, size_hw)
    box = scale_box(region.box_xyxy, heat.shape, size_hw)
    assert mask_box(mask) == pytest.approx(box, abs=1)


@given(some_heat, thresholds, sides, sides)
@settings(deadline=None, max_examples=60)
def test_no_pixel_of_a_mask_but_that_of_the_peak_has_its_centre_outside_the_box(
    heat, threshold, height, width
):
    for region in find_regions(heat, cut(threshold)):
        mask = region_mask(heat, cut(threshold), region.peak_xy, (height, width))
        peak_x, peak_y = scale_point(region.peak_xy, heat.shape, (height, width))
        mask[math.floor(peak_y), math.floor(peak_x)] = False
        x0, y0, x1, y1 = scale_box(region.box_xyxy, heat.shape, (height, width))
        rows, columns = (places + 0.5 for places in np.nonzero(mask))
        assert (x0 - 1e-3 <= columns).all()
        assert (columns <= x1 + 1e-3).all()
        assert (y0 - 1e-3 <= rows).all()
        assert (rows <= y1 + 1e-3).all()


@given(some_heat, thresholds, st.sampled_from([3, 5, 9]))
@settings(deadline=None, max_examples=60)
def test_with_pixels_on_the_grid_lines_any_mask_has_the_box_of_its_region(heat, threshold, factor):
    assume((np.abs(oracles.bilinear_surface(heat, heat.shape) - threshold) > 1e-5).all())
    size_hw = (heat.shape[0] * factor, heat.shape[1] * factor)
    assume((np.abs(oracles.bilinear_surface(heat, size_hw) - threshold) > 1e-5).all())
    for region in find_regions(heat, cut(threshold)):
        mask = region_mask(heat, cut(threshold), region.peak_xy, size_hw)
        box = scale_box(region.box_xyxy, heat.shape, size_hw)
        assert mask_box(mask) == pytest.approx(box, abs=0.5 + 1e-4)


def test_a_mask_leaves_the_other_regions_out():
    found = find_regions(FOUR, EVERY)
    size_hw = (100, 180)
    masks = [region_mask(FOUR, cut(0.2), region.peak_xy, size_hw) for region in found]
    assert (np.sum(masks, axis=0) <= 1).all()
    everything = oracles.bilinear_surface(FOUR, size_hw) > 0.2
    assert np.sum(masks) == everything.sum()
    for region, mask in zip(found, masks, strict=True):
        x0, y0, x1, y1 = scale_box(region.box_xyxy, FOUR.shape, size_hw)
        ys, xs = np.nonzero(mask)
        assert x0 <= xs.min() + 0.5 < xs.max() + 0.5 <= x1
        assert y0 <= ys.min() + 0.5 < ys.max() + 0.5 <= y1


@pytest.mark.parametrize("threshold", [0.2, 0.3, 0.42, 0.48, 0.52])
@pytest.mark.parametrize("number", [float, np.float64])
def test_a_plateau_next_door_never_leaks_into_a_mask(threshold, number):
    """Whatever the threshold's type: np.linspace and array items are np.float64."""
    heat = np.zeros((7, 7), np.float32)
    heat[0, 0] = 1
    heat[3:6, 3:6] = 0.9
    for size in range(20, 130, 13):
        mask = region_mask(heat, cut(number(threshold)), (0.5, 0.5), (size, size))
        leaked = int(mask[size * 2 // 7 + 1 :].sum())
        assert leaked == 0, f"{leaked} pixels of the other region at {size} x {size}"


@pytest.mark.parametrize("size_hw", [(1, 1), (1, 500), (500, 1), (2, 3), (224, 224), (3, 40000)])
def test_the_pixel_of_the_peak_is_always_in_the_mask(size_hw):
    heat = np.zeros((7, 9), np.float32)
    for row, column in ((0, 0), (3, 4), (6, 8), (2, 7)):
        heat[:] = 0
        heat[row, column] = 1
        region = one_region(heat, 0.99)
        mask = region_mask(heat, cut(0.99), region.peak_xy, size_hw)
        assert mask.shape == size_hw
        x, y = scale_point(region.peak_xy, heat.shape, size_hw)
        assert mask[math.floor(y), math.floor(x)]


def test_a_mask_of_the_grid_size_is_the_cells_of_the_region():
    (region, *_) = find_regions(FOUR, EVERY)
    mask = region_mask(FOUR, cut(0.2), region.peak_xy, (FOUR.shape[0], FOUR.shape[1]))
    expected = np.zeros(FOUR.shape, bool)
    expected[:3, :2] = True
    np.testing.assert_array_equal(mask, expected)


def test_making_a_mask_leaves_the_heat_as_it_is():
    heat = FOUR.copy()
    heat.flags.writeable = False
    region_mask(heat, cut(0.2), (0.5, 0.5), (30, 30))
    np.testing.assert_array_equal(heat, FOUR)


# --- from grid to picture ----------------------------------------------------------------------

some_size = st.tuples(st.integers(1, 5000), st.integers(1, 5000))


@pytest.mark.parametrize("cells", [7, 14, 20, 28, 40, 56, 80])
def test_the_whole_grid_is_the_whole_picture_exactly(cells):
    """The default recipe's grid is 56 x 56; no box may end beyond its picture, however little."""
    grid_hw, whole = (cells, cells), (0.0, 0.0, float(cells), float(cells))
    off = [side for side in range(1, 5001) if scale_box(whole, grid_hw, (9, side))[2] != side]
    off += [side for side in range(1, 5001) if scale_box(whole, grid_hw, (side, 9))[3] != side]
    assert off == [], f"{len(off)} sides are off, the first ones {off[:5]}"


@given(
    st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1)),
    some_size,
    some_size,
)
@settings(deadline=None, max_examples=60)
def test_a_box_scales_by_the_ratio_of_the_sizes(shares, from_hw, to_hw):
    sides_wh = (from_hw[1], from_hw[0]) * 2
    box = tuple(share * side for share, side in zip(shares, sides_wh, strict=True))
    ratios = (Fraction(to_hw[1], from_hw[1]), Fraction(to_hw[0], from_hw[0])) * 2
    exact = [float(Fraction(v) * ratio) for v, ratio in zip(box, ratios, strict=True)]
    found = scale_box(box, from_hw, to_hw)
    assert found == pytest.approx(exact, rel=1e-15, abs=1e-300)
    assert scale_box(found, to_hw, from_hw) == pytest.approx(box, rel=1e-14, abs=1e-300)


@given(st.tuples(st.floats(0, 300), st.floats(0, 300)), some_size, some_size)
@settings(deadline=None, max_examples=60)
def test_a_point_scales_there_and_back_as_the_corner_of_a_box_does(point, from_hw, to_hw):
    there = scale_point(point, from_hw, to_hw)
    assert scale_point(there, to_hw, from_hw) == pytest.approx(point, rel=1e-14, abs=1e-300)
    corner = scale_box((*point, *point), from_hw, to_hw)
    assert corner == pytest.approx((*there, *there), rel=1e-14, abs=1e-300)


def test_the_sides_of_a_picture_are_not_mixed_up():
    assert scale_box((1, 2, 3, 4), (10, 5), (20, 50)) == (10, 4, 30, 8)
    assert scale_point((1, 2), (10, 5), (20, 50)) == (10, 4)
