from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import oracles
from gapcam.boxes import Region, find_regions, region_mask
from gapcam.instances import part_boxes, part_pixels, split_components
from gapcam.types import Recipe
from heats import cut, gaussian, grid, scattered_heat, some_heat, thresholds, unit

# Exact in float32, so that oracle and code agree on every difference.
sixteenths = st.tuples(st.integers(1, 7), st.integers(1, 7)).flatmap(
    lambda hw: arrays(np.int64, hw, elements=st.integers(0, 16)).map(
        lambda values: (values / 16).astype(np.float32)
    )
)
prominences = st.sampled_from([0.0, 0.0625, 0.125, 0.25, 0.5, 0.875])


def count_by_merging(heat: np.ndarray, threshold: float, prominence: float) -> int:
    """The instances, by lowering the level sample by sample and merging what meets.

    Where two hills meet, the lower one ends; it counts if it rose by more than the prominence.
    """
    order = sorted(zip(*np.nonzero(heat > threshold), strict=True), key=lambda c: -heat[c])
    hill: dict[tuple[int, int], tuple[int, int]] = {}  # each sample's hill, named by its peak
    count = 0
    for cell in order:
        hill[cell] = cell
        count += 1
        for near in [(cell[0] + dy, cell[1] + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]:
            if near in hill and hill[near] != hill[cell]:
                high, low = sorted((hill[near], hill[cell]), key=lambda peak: -heat[peak])
                if heat[low] - heat[cell] <= prominence:
                    count -= 1
                hill = {at: high if peak == low else peak for at, peak in hill.items()}
    return count


# --- which peaks are instances -----------------------------------------------------------------


@given(sixteenths, thresholds, prominences)
@settings(deadline=None, max_examples=80)
def test_there_are_as_many_instances_as_hills_that_rise_above_their_saddle(heat, threshold, least):
    labels = split_components(heat, threshold, least)
    assert labels.max() == count_by_merging(heat, threshold, least)


def test_a_peak_must_rise_by_more_than_the_prominence():
    row = np.array([[1, 0.75, 0.5, 0.75]], np.float32)
    np.testing.assert_array_equal(split_components(row, 0.25, 0.2490234375), [[1, 1, 1, 2]])
    np.testing.assert_array_equal(split_components(row, 0.25, 0.25), [[1, 1, 1, 1]])


def test_a_hill_between_two_counts_by_its_higher_saddle():
    heat = grid("9.8 959 ...")
    heat[1] = [0.7, 0.6, 0.3]
    heat[0, 1] = 0.5
    assert split_components(heat, 0.2, 0.1).max() == 2  # 0.8 rises 0.2 above the 0.6 at its corner
    assert split_components(heat, 0.2, 0.25).max() == 1


@pytest.mark.parametrize("prominence", [0.1, 0.3, 0.5])
def test_two_gaussians_split_as_the_depth_of_their_saddle_says(prominence):
    for gap in np.arange(2, 26, 1.5):
        heat = gaussian(48, 5, (23.5 - gap / 2, 24)) + gaussian(48, 5, (23.5 + gap / 2, 24))
        heat /= heat.max()
        rises = 1 - heat[:, 23].max()
        parts = split_components(heat, 0.0625, prominence).max()
        assert parts == (2 if rises > prominence else 1)


@given(st.one_of(some_heat, scattered_heat), thresholds)
@settings(deadline=None, max_examples=60)
def test_with_a_prominence_above_the_range_instances_are_components(heat, threshold):
    labels = split_components(heat, threshold, 1 - threshold)
    cells = {frozenset(zip(*np.nonzero(labels == n), strict=True)) for n in set(labels.flat) - {0}}
    assert cells == set(oracles.components(heat > threshold))


def test_no_heat_gives_no_instance():
    for heat in (np.zeros((4, 5)), np.full((4, 5), 0.25), np.full((4, 5), np.nan)):
        labels = split_components(heat.astype(np.float32), 0.25, 0.1)
        assert labels.dtype == np.int32
        assert labels.shape == (4, 5)
        assert not labels.any()


# --- which samples belong to them --------------------------------------------------------------


@given(st.one_of(some_heat, scattered_heat, sixteenths), thresholds, prominences)
@settings(deadline=None, max_examples=80)
def test_instances_are_connected_and_share_out_what_is_hot(heat, threshold, prominence):
    before = heat.copy()
    labels = split_components(heat, threshold, prominence)
    np.testing.assert_array_equal(heat, before)
    np.testing.assert_array_equal(labels > 0, heat > threshold)
    assert set(labels.flat) - {0} == set(range(1, labels.max() + 1))
    for number in range(1, labels.max() + 1):
        assert len(oracles.components(labels == number)) == 1


@given(
    st.permutations(range(1, 31)).map(lambda p: np.array(p, np.float32).reshape(5, 6) / 32),
    thresholds,
    prominences,
)
@settings(deadline=None, max_examples=80)
def test_turning_the_heat_turns_the_labels(heat, threshold, prominence):
    labels = split_components(heat, threshold, prominence)
    for turn in (np.fliplr, np.flipud, np.transpose, np.rot90):
        turned = split_components(np.ascontiguousarray(turn(heat)), threshold, prominence)
        np.testing.assert_array_equal(turned, turn(labels))


@given(sixteenths, thresholds, prominences)
@settings(deadline=None, max_examples=60)
def test_the_first_instance_has_the_highest_peak(heat, threshold, prominence):
    labels = split_components(heat, threshold, prominence)
    if labels.any():
        assert heat[labels == 1].max() == heat.max()


def test_a_sample_between_two_peaks_goes_to_the_higher():
    row = np.array([[0.75, 0.5, 1.0]], np.float32)
    np.testing.assert_array_equal(split_components(row, 0.25, 0.125), [[2, 1, 1]])


def test_instances_grow_over_the_hot_before_the_cold():
    """Along the ridge the right peak is far and the left near; still the ridge is its own."""
    heat = np.array([[0.9, 0.3, 0.8, 0.8, 0.8, 0.8, 1.0]], np.float32)
    np.testing.assert_array_equal(split_components(heat, 0.2, 0.25), [[2, 1, 1, 1, 1, 1, 1]])


def test_a_map_that_is_flat_between_its_peaks_is_shared_by_distance():
    heat = np.full((3, 9), 0.5, np.float32)
    heat[1, 1], heat[1, 7] = 1.0, 0.9375
    labels = split_components(heat, 0.25, 0.25)
    np.testing.assert_array_equal(labels, np.repeat([[1, 1, 1, 1, 1, 2, 2, 2, 2]], 3, axis=0))


# --- where the parts end, between the samples --------------------------------------------------


def owner_of_quadrant(heat: np.ndarray, labels: np.ndarray, y: int, x: int) -> int:
    """The part of the half cell `(y, x)`: its sample's, else the hottest's beside it."""
    cell = (y // 2, x // 2)
    if labels[cell]:
        return labels[cell]
    rows = {cell[0], cell[0] + (1 if y % 2 else -1)} & set(range(heat.shape[0]))
    columns = {cell[1], cell[1] + (1 if x % 2 else -1)} & set(range(heat.shape[1]))
    beside = [(heat[r, c], -labels[r, c]) for r in rows for c in columns if labels[r, c]]
    return -max(beside)[1] if beside else 0


def sampled_boxes(heat, labels, threshold, steps):
    """The box of each part by samples on a lattice of `steps` a half cell, its edges included."""
    height, width = heat.shape
    ends: dict[int, list[tuple[float, float]]] = {}
    for y in range(2 * height):
        for x in range(2 * width):
            owner = owner_of_quadrant(heat, labels, y, x)
            for i in range(steps + 1):
                for j in range(steps + 1):
                    place = ((y + i / steps) / 2, (x + j / steps) / 2)
                    if owner and surface(heat, *place) > threshold:
                        ends.setdefault(owner, []).append(place)
    return {
        n: (*np.min(places, axis=0)[::-1], *np.max(places, axis=0)[::-1])
        for n, places in ends.items()
    }


def surface(heat: np.ndarray, y: float, x: float) -> float:
    y, x = np.clip(y - 0.5, 0, heat.shape[0] - 1), np.clip(x - 0.5, 0, heat.shape[1] - 1)
    top, left = math.floor(y), math.floor(x)
    bottom, right = min(top + 1, heat.shape[0] - 1), min(left + 1, heat.shape[1] - 1)
    down, along = y - top, x - left
    upper = float(heat[top, left]) * (1 - along) + float(heat[top, right]) * along
    lower = float(heat[bottom, left]) * (1 - along) + float(heat[bottom, right]) * along
    return upper * (1 - down) + lower * down


small_heat = st.tuples(st.integers(1, 4), st.integers(1, 4)).flatmap(
    lambda hw: arrays(np.float32, hw, elements=unit)
)


@given(small_heat, thresholds, st.sampled_from([0.0, 0.125]))
@settings(deadline=None, max_examples=30)
def test_part_boxes_bound_the_quadrants_above_the_threshold(heat, threshold, prominence):
    labels = split_components(heat, threshold, prominence)
    found = part_boxes(heat, labels, threshold)
    expected = sampled_boxes(heat, labels, threshold, 4)
    assert len(found) == len(expected)
    for number, box in enumerate(found, start=1):
        outward = (np.array(expected[number]) - box) * (1, 1, -1, -1)
        assert (outward >= -1e-6).all()
        assert (outward <= 1 / 8 + 1e-6).all()


@given(st.one_of(some_heat, scattered_heat), thresholds)
@settings(deadline=None, max_examples=80)
def test_without_a_split_part_boxes_are_the_boxes_of_the_regions(heat, threshold):
    labels = split_components(heat, threshold, 1 - threshold)
    found = part_boxes(heat, labels, threshold)
    for region in find_regions(heat, cut(threshold)):
        number = labels[math.floor(region.peak_xy[1]), math.floor(region.peak_xy[0])]
        assert region.box_xyxy == pytest.approx(tuple(found[number - 1]), abs=1e-9)


def test_parts_meet_half_way_between_their_samples():
    heat = np.array([[0, 0.75, 0.5, 0.625, 1.0, 0]], np.float32)
    labels = split_components(heat, 0.25, 0.125)
    np.testing.assert_array_equal(labels, [[0, 2, 2, 1, 1, 0]])
    boxes = part_boxes(heat, labels, 0.25)
    # 0 to 0.75 passes 0.25 at a third, 1.0 to 0 at three quarters of the way
    assert boxes == pytest.approx(np.array([[3, 0, 5.25, 1], [5 / 6, 0, 3, 1]]))


@given(small_heat, thresholds, st.integers(1, 25), st.integers(1, 25))
@settings(deadline=None, max_examples=25)
def test_part_pixels_are_those_with_their_centres_in_the_quadrants(heat, threshold, height, width):
    labels = split_components(heat, threshold, 0.0)
    found = {
        number: part_pixels(heat, labels, tuple(np.argwhere(labels == number)[0]), (height, width))
        for number in range(1, labels.max() + 1)
    }
    for row in range(height):
        for column in range(width):
            y = (2 * row + 1) * heat.shape[0] // height
            x = (2 * column + 1) * heat.shape[1] // width
            owner = owner_of_quadrant(heat, labels, y, x)
            assert [n for n, pixels in found.items() if pixels[row, column]] == [owner][
                : int(owner > 0)
            ]


# --- the regions and masks they make -----------------------------------------------------------


def split(threshold: float, prominence: float) -> Recipe:
    return replace(cut(threshold), components="instances", prominence=prominence)


@given(st.one_of(some_heat, scattered_heat), thresholds)
@settings(deadline=None, max_examples=60)
def test_without_a_split_instances_are_all_regions(heat, threshold):
    assert find_regions(heat, split(threshold, 1 - threshold)) == find_regions(heat, cut(threshold))


@given(st.one_of(some_heat, scattered_heat), thresholds, st.sampled_from([0.0, 0.1, 0.25]))
@settings(deadline=None, max_examples=100)
def test_instances_share_out_their_region(heat, threshold, prominence):
    parts = find_regions(heat, split(threshold, prominence))
    whole = find_regions(heat, cut(threshold))
    cells_of = oracles.components(heat > threshold)
    assert [part.area for part in parts] == sorted((p.area for p in parts), reverse=True)
    for region in whole:
        (cells,) = (cells for cells in cells_of if cell_of(region) in cells)
        inside = [part for part in parts if cell_of(part) in cells]
        assert sum(part.area for part in inside) == region.area
        assert region.peak_xy in [part.peak_xy for part in inside]
        ends = np.array([part.box_xyxy for part in inside])
        together = (*ends[:, :2].min(0), *ends[:, 2:].max(0))
        assert together == pytest.approx(region.box_xyxy, abs=1e-9)


def cell_of(region: Region) -> tuple[int, int]:
    return math.floor(region.peak_xy[1]), math.floor(region.peak_xy[0])


@given(some_heat, thresholds, st.integers(1, 40), st.integers(1, 40))
@settings(deadline=None, max_examples=60)
def test_the_masks_of_instances_share_out_the_mask_of_their_region(heat, threshold, height, width):
    recipe, size_hw = split(threshold, 0.0625), (height, width)
    parts = find_regions(heat, recipe)
    peaks = np.zeros(size_hw, bool)  # a peak's pixel is in its mask, wherever its centre lies
    for part in parts:
        y, x = cell_of(part)
        peaks[
            (2 * y + 1) * height // (2 * len(heat)), (2 * x + 1) * width // (2 * heat.shape[1])
        ] = 1
    for region in find_regions(heat, cut(threshold)):
        mask = region_mask(heat, cut(threshold), region.peak_xy, size_hw)
        (cells,) = (c for c in oracles.components(heat > threshold) if cell_of(region) in c)
        of_parts = [
            region_mask(heat, recipe, p.peak_xy, size_hw) for p in parts if cell_of(p) in cells
        ]
        np.testing.assert_array_equal(np.sum(of_parts, axis=0)[~peaks], mask[~peaks])


@given(some_heat, thresholds, st.integers(1, 40), st.integers(1, 40))
@settings(deadline=None, max_examples=60)
def test_the_mask_of_an_instance_lies_in_its_box(heat, threshold, height, width):
    recipe = split(threshold, 0.0625)
    for part in find_regions(heat, recipe):
        mask = region_mask(heat, recipe, part.peak_xy, (height, width))
        y, x = cell_of(part)
        mask[
            (2 * y + 1) * height // (2 * len(heat)), (2 * x + 1) * width // (2 * heat.shape[1])
        ] = 0
        rows, columns = (
            (places + 0.5) * cells / pixels
            for places, cells, pixels in zip(
                np.nonzero(mask), heat.shape, (height, width), strict=True
            )
        )
        x0, y0, x1, y1 = np.add(part.box_xyxy, (-1e-4, -1e-4, 1e-4, 1e-4))
        assert ((columns >= x0) & (columns <= x1) & (rows >= y0) & (rows <= y1)).all()


def test_two_that_touch_end_half_way_between_their_samples():
    heat = np.zeros((4, 8), np.float32)
    heat[1:3, 1:4], heat[1:3, 4:7] = 0.5, 0.5
    heat[1, 2], heat[1, 5], heat[2, 5] = 0.875, 1.0, 0.9375
    left, right = sorted(find_regions(heat, split(0.25, 0.25)), key=lambda r: r.box_xyxy)
    assert left.box_xyxy == pytest.approx((1.0, 0.5 + 2 / 7, 4.0, 3.0), abs=1e-6)
    assert right.box_xyxy == pytest.approx((4.0, 0.75, 7.0, 3.5 - 0.25 / 0.9375), abs=1e-6)
    assert (left.peak_xy, right.peak_xy) == ((2.5, 1.5), (5.5, 1.5))
    masks = [region_mask(heat, split(0.25, 0.25), r.peak_xy, (4, 8)) for r in (left, right)]
    assert masks[0][1:3, 1:4].all()
    assert masks[1][1:3, 4:7].all()
    assert np.sum(masks) == 12


def test_small_instances_are_left_out_and_largest_keeps_the_region_whole():
    heat = grid("9999949")
    both = find_regions(heat, split(0.2, 0.3))
    assert [part.area for part in both] == [6, 1]
    assert len(find_regions(heat, replace(split(0.2, 0.3), min_area_share=0.2))) == 1
    assert [r.area for r in find_regions(heat, cut(0.2))] == [7]
    assert [r.area for r in find_regions(heat, replace(cut(0.2), components="largest"))] == [7]


def test_flipping_the_heat_mirrors_the_instances():
    heat = np.random.default_rng(0).permutation(np.arange(1, 201)).reshape(10, 20) / 200
    heat = heat.astype(np.float32)
    boxes_of = {
        name: np.array([r.box_xyxy for r in find_regions(turned, split(0.25, 0.125))])
        for name, turned in (("as is", heat), ("flipped", heat[:, ::-1]))
    }
    assert len(boxes_of["as is"]) > len(find_regions(heat, cut(0.25))) + 3
    x0, y0, x1, y1 = boxes_of["flipped"].T
    mirrored = np.stack([20 - x1, y0, 20 - x0, y1], axis=1)
    np.testing.assert_allclose(np.sort(mirrored, 0), np.sort(boxes_of["as is"], 0), atol=1e-9)
