"""Heat to mask, components and boxes. Pure functions.

Heat is sampled on a grid whose cell i covers [i, i + 1] and is read at i + 1/2. Between samples
it is bilinear, beyond the outermost ones constant. Boxes bound the region {heat > threshold} of
that *continuous* surface: along any grid line it is piecewise linear, and the extreme of a
bilinear patch lies on such a line, so the four sides are found exactly, between the samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from gapcam.types import BoolArray, Box, FloatArray, Point, Recipe, SizeHW

Integers: TypeAlias = npt.NDArray[Any]


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
    """The regions that the recipe keeps, largest first; none where nothing exceeds the threshold.

    Args:
        heat: `[h, w]` in 0..1.
        recipe: Its `threshold` (exclusive), `components` and `min_area_share` are used. Samples
            that touch at a corner are connected.
    """
    binary = (heat > recipe.threshold).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(binary, connectivity=8)
    if count <= 1:
        return ()
    areas = stats[1:, cv2.CC_STAT_AREA]
    order = _by_area(areas, heat, labels)
    if recipe.components == "largest":
        kept = order[:1]
    else:
        share = min(recipe.min_area_share * areas.sum(), areas.max())
        kept = order[areas[order] >= share]
    return tuple(_region(heat, recipe.threshold, labels, stats, int(i) + 1) for i in kept)


def region_mask(heat: FloatArray, threshold: float, peak_xy: Point, size_hw: SizeHW) -> BoolArray:
    """The pixels of a picture whose centres lie in the region around a peak.

    Args:
        heat: `[h, w]` in 0..1.
        threshold: Where it is cut, exclusive.
        peak_xy: A point of the region, grid units, as in `Region.peak_xy`.
        size_hw: Size of the mask, pixels.

    Returns:
        `bool [H, W]`; the pixel that holds the peak is always in it.
    """
    row, column = int(peak_xy[1]), int(peak_xy[0])
    _, labels = cv2.connectedComponents((heat > threshold).astype(np.uint8), connectivity=8)
    # Components never share a bilinear patch, so clearing the others leaves this one as it is.
    alone = np.where((labels > 0) & (labels != labels[row, column]), 0, heat)
    height, width = size_hw
    large = cv2.resize(alone.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    mask = np.asarray(large > threshold)
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


def _by_area(areas: Integers, heat: FloatArray, labels: Integers) -> Integers:
    """Components, largest first; of two as large, the hotter: so a flip changes nothing."""
    if len(areas) == 1:
        return np.zeros(1, np.int64)
    peaks = [heat[labels == i + 1].max() for i in range(len(areas))]
    return np.lexsort((-np.array(peaks), -areas))


def _region(
    heat: FloatArray, threshold: float, labels: Integers, stats: Integers, label: int
) -> Region:
    x, y, width, height, area = (int(v) for v in stats[label])
    inside = labels[y : y + height, x : x + width] == label
    window = np.where(inside, heat[y : y + height, x : x + width], -1)
    row, column = divmod(int(window.argmax()), width)
    last_x, last_y = x + width - 1, y + height - 1
    box = (
        _low_side(x, window[:, 0], heat[y : last_y + 1, x - 1] if x else None, threshold),
        _low_side(y, window[0], heat[y - 1, x : last_x + 1] if y else None, threshold),
        _high_side(x, width, window[:, -1], heat[y : last_y + 1], threshold),
        _high_side(y, height, window[-1], heat[:, x : last_x + 1].T, threshold),
    )
    return Region(box, (x + column + 0.5, y + row + 0.5), area)


def _low_side(
    first: int, values: FloatArray, outside: FloatArray | None, threshold: float
) -> float:
    """Where the region begins before sample `first`: 0 at the border, else the far crossing."""
    return 0.0 if outside is None else first + 0.5 - _reach(values, outside, threshold)


def _high_side(
    first: int, extent: int, values: FloatArray, lines: FloatArray, threshold: float
) -> float:
    """Where the region ends after its last sample; `lines[:, i]` are the samples at place i."""
    end = first + extent
    if end == lines.shape[1]:
        return float(end)
    return end - 0.5 + _reach(values, lines[:, end], threshold)


def _reach(values: FloatArray, outside: FloatArray, threshold: float) -> float:
    """How far, in cells, the heat stays above the threshold on its way from values to outside."""
    above = values > threshold
    inner = values[above].astype(np.float64)
    return float(((inner - threshold) / (inner - outside[above])).max())
