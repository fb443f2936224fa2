"""Heat to mask, components and boxes. Pure functions.

Heat is sampled on a grid whose cell i covers [i, i + 1] and is read at i + 1/2. Between samples
it is bilinear, beyond the outermost ones constant. Boxes bound the region {heat > threshold} of
that *continuous* surface: along any grid line it is piecewise linear, and the extreme of a
bilinear patch lies on such a line, so the four sides are found exactly, between the samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from gapcam.dt_box import released_boxes
from gapcam.instances import part_boxes, part_pixels, split_components
from gapcam.types import BoolArray, Box, ByteArray, FloatArray, Point, Recipe, SizeHW

MAPS_AT_ONCE = 256
"""Maps that are measured together: enough to be quick, few enough to bound the memory."""

Integers: TypeAlias = npt.NDArray[Any]
Numbers: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Region:
    """One connected region of a heat map, in grid units (the whole grid is `(0, 0, w, h)`).

    Attributes:
        box_xyxy: Its exact bounding box.
        peak_xy: The centre of its hottest cell.
        area: How many samples it holds.
    """

    box_xyxy: Box
    peak_xy: Point
    area: int


def find_regions(heat: FloatArray, recipe: Recipe) -> tuple[Region, ...]:
    """The regions of one heat map `[h, w]`; see `find_all_regions`."""
    return find_all_regions(heat[np.newaxis], recipe)[0]


def find_all_regions(heat: FloatArray, recipe: Recipe) -> list[tuple[Region, ...]]:
    """The regions that the recipe keeps of each map, largest first; none where nothing is hot.

    Args:
        heat: `[n, h, w]` in 0..1.
        recipe: Its `threshold` (exclusive), `components`, `min_area_share` and `prominence` are
            used. Samples that touch at a corner are connected.
    """
    if recipe.components == "released":
        return [_released(plane, recipe) for plane in heat]
    starts = range(0, len(heat), MAPS_AT_ONCE)
    return [found for i in starts for found in _find_some(heat[i : i + MAPS_AT_ONCE], recipe)]


def _released(heat: FloatArray, recipe: Recipe) -> tuple[Region, ...]:
    """The boxes that the paper's released code draws; they need not be components."""
    return tuple(Region(*found) for found in released_boxes(heat, recipe.threshold))


def _find_some(heat: FloatArray, recipe: Recipe) -> list[tuple[Region, ...]]:
    hot = heat > recipe.threshold
    labels = np.zeros(heat.shape, np.int32)
    owners: list[int] = []
    kept: list[tuple[int, ...]] = []
    regions: list[list[Region]] = [[] for _ in heat]
    for i, plane in enumerate(hot.view(np.uint8)):
        count, labels[i], stats, _ = cv2.connectedComponentsWithStatsWithAlgorithm(
            plane, 8, _label_type(plane), cv2.CCL_DEFAULT
        )
        if count > 1 and recipe.components == "instances":
            parts = split_components(heat[i], recipe.threshold, recipe.prominence)
            if parts.max() >= count:
                regions[i] = _measure_parts(heat[i], parts, recipe)
                continue
        if count > 1:
            chosen = _choose(stats[1:, cv2.CC_STAT_AREA], heat[i], labels[i], recipe)
            owners += [i] * len(chosen)
            kept += [(number, *stats[number].tolist()) for number in chosen]
    if owners:
        for i, region in zip(owners, _measure(heat, labels, owners, kept, recipe), strict=True):
            regions[i].append(region)
    return [tuple(found) for found in regions]


def _label_type(plane: ByteArray) -> int:
    """16 bits where they can count the components: OpenCV does not spread that over threads."""
    return cv2.CV_16U if plane.size < 2**16 else cv2.CV_32S


def _choose(areas: Integers, heat: FloatArray, labels: Integers, recipe: Recipe) -> list[int]:
    """The numbers of the components that are kept, largest first."""
    if len(areas) == 1:
        return [1]
    order = np.argsort(-areas, kind="stable")
    if len(set(areas.tolist())) < len(areas):
        # Of two as large the hotter, so that a flip changes nothing.
        peaks = [heat[labels == i + 1].max() for i in range(len(areas))]
        order = np.lexsort((-np.array(peaks), -areas))
    if recipe.components == "largest":
        order = order[:1]
    else:
        share = min(recipe.min_area_share * areas.sum(), areas.max())
        order = order[areas[order] >= share]
    return [int(i) + 1 for i in order]


def region_mask(heat: FloatArray, recipe: Recipe, peak_xy: Point, size_hw: SizeHW) -> BoolArray:
    """The pixels of a picture whose centres lie in the region around a peak.

    Args:
        heat: `[h, w]` in 0..1.
        recipe: The one that the region was found with. With `instances` an instance is masked;
            with `released` the component that holds the peak, which need not fill the box.
        peak_xy: A point of the region, grid units, as in `Region.peak_xy`.
        size_hw: Size of the mask, pixels.

    Returns:
        `bool [H, W]`; the pixel that holds the peak is always in it.
    """
    cell = int(peak_xy[1]), int(peak_xy[0])
    hot = (heat > recipe.threshold).astype(np.uint8)
    _, labels = cv2.connectedComponents(hot, connectivity=8)
    # Components never share a bilinear patch, so clearing the others leaves this one as it is.
    alone = np.where((labels > 0) & (labels != labels[cell]), 0, heat)
    height, width = size_hw
    large = cv2.resize(alone.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    mask = np.asarray(large > recipe.threshold)
    if recipe.components == "instances":
        parts = split_components(heat, recipe.threshold, recipe.prominence)
        mask &= part_pixels(heat, parts, cell, size_hw)
    peak_row = int(peak_xy[1] * height / heat.shape[0])
    peak_column = int(peak_xy[0] * width / heat.shape[1])
    mask[peak_row, peak_column] = True
    return mask


def scale_box(box_xyxy: Box, from_hw: SizeHW, to_hw: SizeHW) -> Box:
    """A box in the units of one size, in those of another that shows the same picture."""
    low, high = box_xyxy[:2], box_xyxy[2:]
    return (*scale_point(low, from_hw, to_hw), *scale_point(high, from_hw, to_hw))


def scale_point(point_xy: Point, from_hw: SizeHW, to_hw: SizeHW) -> Point:
    """A point in the units of one size, in those of another that shows the same picture."""
    return (point_xy[0] * to_hw[1] / from_hw[1], point_xy[1] * to_hw[0] / from_hw[0])


def _measure(
    heat: FloatArray,
    labels: Integers,
    owners: list[int],
    kept: list[tuple[int, ...]],
    recipe: Recipe,
) -> list[Region]:
    """The regions of many components at once; `kept` is number, x, y, width, height, area each."""
    numbers, x, y, width, height, areas = np.array(kept).T
    inside = labels[owners] == numbers[:, np.newaxis, np.newaxis]
    peaks = np.where(inside, heat[owners], -1).reshape(len(owners), -1).argmax(1)
    peak_y, peak_x = np.divmod(peaks, heat.shape[2])
    across = _Lines(heat, labels, owners, numbers, recipe.threshold)
    down = across._replace(heat=heat.transpose(0, 2, 1), labels=labels.transpose(0, 2, 1))
    x0, x1 = _sides(across, x, x + width - 1)
    y0, y1 = _sides(down, y, y + height - 1)
    boxes = np.stack([x0, y0, x1, y1], axis=1).tolist()
    points = np.stack([peak_x + 0.5, peak_y + 0.5], axis=1).tolist()
    return [
        Region((box[0], box[1], box[2], box[3]), (point[0], point[1]), area)
        for box, point, area in zip(boxes, points, areas.tolist(), strict=True)
    ]


def _measure_parts(heat: FloatArray, parts: Integers, recipe: Recipe) -> list[Region]:
    """The regions of a map of which a component is split: its parts, and the whole components."""
    boxes = part_boxes(heat, parts, recipe.threshold).tolist()
    areas = np.bincount(parts.ravel())[1:]
    regions = []
    for number in _choose(areas, heat, parts, recipe):
        peak_y, peak_x = divmod(int(np.where(parts == number, heat, -1).argmax()), heat.shape[1])
        x0, y0, x1, y1 = boxes[number - 1]
        peak_xy = (peak_x + 0.5, peak_y + 0.5)
        regions.append(Region((x0, y0, x1, y1), peak_xy, int(areas[number - 1])))
    return regions


class _Lines(NamedTuple):
    """Components of maps, to be measured along the maps' last axis.

    Attributes:
        heat: `[n, lines, w]`.
        labels: `[n, lines, w]`, the number of each sample's component.
        owners: Which map each component belongs to.
        numbers: `[m]`, the number of each component there.
        threshold: Where the heat is cut.
    """

    heat: FloatArray
    labels: Integers
    owners: list[int]
    numbers: Integers
    threshold: float


def _sides(lines: _Lines, first: Integers, last: Integers) -> tuple[Numbers, Numbers]:
    """Where each component begins and ends, given its first and last sample `[m]`.

    A component at the border begins or ends with the border.
    """
    end = lines.heat.shape[2] - 1
    low = first + 0.5 - _reach(lines, first, np.maximum(first - 1, 0))
    high = last + 0.5 + _reach(lines, last, np.minimum(last + 1, end))
    return np.where(first == 0, 0.0, low), np.where(last == end, end + 1.0, high)


def _reach(lines: _Lines, at: Integers, beyond: Integers) -> Numbers:
    """How far, in cells, the heat stays above the threshold on its way from `at` to `beyond`."""
    inner = lines.heat[lines.owners, :, at].astype(np.float64)
    outer = lines.heat[lines.owners, :, beyond]
    inside = lines.labels[lines.owners, :, at] == lines.numbers[:, np.newaxis]
    leaves = inside & (inner > outer)
    share = np.zeros(inner.shape)
    np.divide(inner - lines.threshold, inner - outer, out=share, where=leaves)
    farthest: Numbers = share.max(1)
    return farthest
