"""Does the map point at the object? By its peak, and by where its energy lies.

Pointing game: Zhang, Lin, Brandt, Shen and Sclaroff, "Top-down Neural Attention by Excitation
Backprop", ECCV 2016: a hit when the map's maximum lies on an object of the class, give or take
15 pixels. Energy-based pointing game: Wang et al., "Score-CAM: Score-Weighted Visual Explanations
for Convolutional Neural Networks", CVPR Workshops 2020: the share of the map that lies inside.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from gapcam.metrics.boxes import as_boxes
from gapcam.types import ArgumentError, BoolArray, Point, SizeHW

Heat: TypeAlias = npt.NDArray[Any]
Numbers: TypeAlias = npt.NDArray[np.float64]

POINTING_TOLERANCE = 15.0
"""The tolerance of Zhang et al., pixels."""


def pointing_hit(peak_xy: Point | None, boxes: npt.ArrayLike, tolerance: float = 0.0) -> bool:
    """Whether the peak lies in one of the boxes, or near one.

    Args:
        peak_xy: Where the heat is highest, pixels; None (no positive evidence) is a miss.
        boxes: `[m, 4]`, half-open: a peak on the right or lower edge lies outside.
        tolerance: How far from the nearest box the peak may lie, pixels, inclusive;
            `POINTING_TOLERANCE` is the paper's.

    Raises:
        ArgumentError: The tolerance is negative, or `boxes` is not a table of boxes.
    """
    _check_tolerance(tolerance)
    table = as_boxes(boxes)
    if peak_xy is None:
        return False
    peak = np.asarray(peak_xy, np.float64)
    starts, ends = table[:, :2], table[:, 2:]
    inside = ((starts <= peak) & (peak < ends)).all(axis=1)
    if not tolerance:
        return bool(inside.any())
    away = np.hypot(*np.maximum(np.maximum(starts - peak, peak - ends), 0).T)
    near = (away <= tolerance) & (starts < ends).all(axis=1)
    return bool((inside | near).any())


def pointing_hit_mask(peak_xy: Point | None, mask: BoolArray, tolerance: float = 0.0) -> bool:
    """Whether the peak lies on the mask, or near it.

    A pixel is the square `[x, x + 1) x [y, y + 1)`, so a mask and a box of the same pixels give
    the same answer.

    Args:
        peak_xy: Where the heat is highest, in pixels of the mask; None is a miss.
        mask: `bool [H, W]`.
        tolerance: How far from the nearest pixel of the mask the peak may lie, pixels, inclusive.

    Raises:
        ArgumentError: The tolerance is negative, or the mask is not a bool plane.
    """
    _check_tolerance(tolerance)
    _check_mask(mask)
    if peak_xy is None:
        return False
    x, y = peak_xy
    left, top = (max(0, int(np.floor(c - tolerance)) - 1) for c in (x, y))
    right, bottom = (max(0, int(np.floor(c + tolerance)) + 1) for c in (x, y))
    rows, columns = np.nonzero(mask[top:bottom, left:right])  # the only pixels near enough
    corners = np.stack([columns + left, rows + top], axis=1)
    return pointing_hit(peak_xy, np.hstack([corners, corners + 1]), tolerance)


def energy_inside(heat: Heat, boxes: npt.ArrayLike, size_hw: SizeHW) -> float:
    """The share of the heat that lies inside the boxes.

    Each cell's heat is spread evenly over its cell, and a box takes exactly the part of the cell
    that it covers. Where boxes overlap, the heat counts once.

    Args:
        heat: `[h, w]`, 0 or more.
        boxes: `[m, 4]`, half-open, in pixels of a picture of `size_hw`.
        size_hw: The size of the picture that the grid covers.

    Returns:
        0..1; 0 where the heat is zero everywhere.

    Raises:
        ArgumentError: The heat is negative or not finite somewhere, or the size is not positive.
    """
    _check_heat(heat)
    if min(size_hw) <= 0:
        raise ArgumentError(f"size_hw: expected two sides in pixels, got {tuple(size_hw)}")
    height, width = heat.shape
    per_pixel = np.array([width / size_hw[1], height / size_hw[0]] * 2)
    grid_boxes = np.clip(as_boxes(boxes) * per_pixel, 0, [width, height, width, height])
    return _share(heat, _coverage(grid_boxes, (height, width)))


def energy_inside_mask(heat: Heat, mask: BoolArray) -> float:
    """The share of the heat that lies on the mask.

    The heat is resampled to the mask's size, bilinear between the centres of its cells.

    Args:
        heat: `[h, w]`, 0 or more; not larger than the mask, or cells are skipped.
        mask: `bool [H, W]`.

    Returns:
        0..1; 0 where the heat is zero everywhere.

    Raises:
        ArgumentError: The heat is negative or not finite somewhere, or the mask is not a bool
            plane.
    """
    _check_heat(heat)
    _check_mask(mask)
    height, width = mask.shape
    fine = cv2.resize(heat.astype(np.float64), (width, height), interpolation=cv2.INTER_LINEAR)
    return _share(fine, mask)


def _share(heat: Heat, coverage: npt.NDArray[Any]) -> float:
    values = heat.astype(np.float64)
    total = values.sum()
    return float(min((values * coverage).sum() / total, 1.0)) if total > 0 else 0.0


def _coverage(boxes: Numbers, grid_hw: SizeHW) -> Numbers:
    """Which part of each cell the union of the boxes covers, `[h, w]`.

    Grid lines and box edges cut the plane into rectangles that are covered whole or not at all.
    """
    inside_x, lengths_x = _segments(boxes[:, 0], boxes[:, 2], grid_hw[1])
    inside_y, lengths_y = _segments(boxes[:, 1], boxes[:, 3], grid_hw[0])
    covered = inside_y.T @ inside_x  # bool: whether any box holds the rectangle
    coverage: Numbers = lengths_y @ covered @ lengths_x.T
    return coverage


def _segments(starts: Numbers, ends: Numbers, cells: int) -> tuple[BoolArray, Numbers]:
    """Cut one axis at grid lines and box edges, s segments in all.

    Returns:
        Whether box i holds segment j, `[m, s]`, and the part of cell i that is segment j,
        `[cells, s]`.
    """
    cuts = np.unique(np.concatenate([np.arange(cells + 1.0), starts, ends]))
    inside = (starts[:, np.newaxis] <= cuts[:-1]) & (cuts[1:] <= ends[:, np.newaxis])
    lengths = np.zeros((cells, len(cuts) - 1))
    owners = np.floor(cuts[:-1]).astype(np.int64)
    lengths[owners, np.arange(len(owners))] = np.diff(cuts)
    return inside, lengths


def _check_heat(heat: Heat) -> None:
    if heat.ndim != 2 or not heat.size:
        raise ArgumentError(f"heat: expected [h, w], got {list(heat.shape)}")
    low, high = float(heat.min()), float(heat.max())
    if not (low >= 0 and high < np.inf):  # also refuses NaN
        raise ArgumentError(f"heat: expected numbers from 0 up, got {low:g} to {high:g}")


def _check_mask(mask: BoolArray) -> None:
    if mask.ndim != 2 or mask.dtype != np.bool_:
        raise ArgumentError(f"mask: expected bool [H, W], got {mask.dtype} {list(mask.shape)}")


def _check_tolerance(tolerance: float) -> None:
    if not tolerance >= 0:
        raise ArgumentError(f"tolerance: expected 0 pixels or more, got {tolerance}")
