"""Boxes that look at no picture: what any localizer has to beat.

A fixed centred box scores 54 % on the validation set of ILSVRC at IoU 0.5 and 59 % on CUB, level
with many published rows, so it stands beside every result here (as the "centre" baseline of Choe
et al., CVPR 2020, does).

Boxes may come in the frame of a protocol, for example squashed into 224 x 224 with inclusive
ends: give them with that frame's sizes and `inclusive=True`. The trivial boxes are made in the
same frame, and all shares are of its sides.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from gapcam.metrics.boxes import as_boxes, box_areas
from gapcam.metrics.hits import HitTable
from gapcam.types import ArgumentError, IntArray

Numbers: TypeAlias = npt.NDArray[np.float64]
Truths: TypeAlias = Sequence[npt.ArrayLike]

SHARES = tuple(k / 20 for k in range(1, 21))
"""The sides that `best_centred_box` tries, as shares of the picture's."""
IOUS_AT_ONCE = 2**17
"""Overlaps that are computed together: bounds the memory, whatever the number of pictures."""


def whole_image_ious(
    truths: Truths, sizes_wh: npt.ArrayLike, *, inclusive: bool = False
) -> Numbers:
    """The IoU of the whole picture with the box that it fits best, `[n]`.

    Args and errors: see `centred_ious`.
    """
    return centred_ious([(1.0, 1.0)], truths, sizes_wh, inclusive=inclusive)[:, 0]


def centred_ious(
    shares: npt.ArrayLike, truths: Truths, sizes_wh: npt.ArrayLike, *, inclusive: bool = False
) -> Numbers:
    """The IoU of centred boxes with the box of each picture that they fit best.

    Args:
        shares: `[s, 2]`: width and height of each centred box as shares of the picture, above 0
            and up to 1.
        truths: The boxes of each picture (or of each pair of picture and class), `[m_i, 4]`, at
            least one.
        sizes_wh: `[n, 2]`, width and height of each picture, or of the protocol's frame.
        inclusive: Whether the truths' ends name their last pixel (see `gapcam.metrics.boxes`).

    Returns:
        `[n, s]`, 0..1.

    Raises:
        ArgumentError: A picture has no box, numbers of truths and sizes differ, or a share or a
            size is out of range.
    """
    blocks = list(_ious(shares, truths, sizes_wh, inclusive=inclusive))
    return np.concatenate(blocks) if blocks else np.zeros((0, len(_checked_shares(shares))))


def centred_hits(
    shares: npt.ArrayLike, truths: Truths, sizes_wh: npt.ArrayLike, *, inclusive: bool = False
) -> IntArray:
    """How many pictures each centred box hits, `[s, 3]`, a column an IoU of `HitTable.IOUS`.

    Memory does not grow with the number of pictures. Args and errors: see `centred_ious`.
    """
    counts = np.zeros((len(_checked_shares(shares)), len(HitTable.IOUS)), np.int64)
    for ious in _ious(shares, truths, sizes_wh, inclusive=inclusive):
        for column, delta in enumerate(HitTable.IOUS):
            counts[:, column] += np.count_nonzero(ious >= delta, axis=0)
    return counts


def best_centred_box(
    truths: Truths, sizes_wh: npt.ArrayLike, *, iou: float | None = None, inclusive: bool = False
) -> tuple[float, float]:
    """The centred box with the highest accuracy at an IoU, or over 0.3, 0.5 and 0.7 on average.

    Sides are tried in steps of 0.05 from 0.05 to 1. Of equally good boxes the one with the largest
    area is taken, then the widest. Choose it on other pictures than it is scored on.

    Args:
        truths: As in `centred_ious`.
        sizes_wh: Likewise.
        iou: One of `HitTable.IOUS`; None for their mean.
        inclusive: As in `centred_ious`.

    Returns:
        Its width and height as shares of the picture's.

    Raises:
        ArgumentError: There is no picture, or as `centred_ious`.
    """
    if not len(truths):
        raise ArgumentError("truths: expected the boxes of at least one picture, got none")
    grid = np.array([(w, h) for w in SHARES for h in SHARES])
    table = centred_hits(grid, truths, sizes_wh, inclusive=inclusive)
    hits = table.sum(axis=1) if iou is None else table[:, HitTable.IOUS.index(iou)]
    width, height = max(
        zip(hits, grid.tolist(), strict=True),
        key=lambda row: (row[0], round(row[1][0] * row[1][1], 6), row[1][0]),
    )[1]
    return width, height


def _ious(
    shares: npt.ArrayLike, truths: Truths, sizes_wh: npt.ArrayLike, *, inclusive: bool
) -> Iterator[Numbers]:
    """The table of `centred_ious`, some pictures at a time."""
    pairs, sizes = _checked_shares(shares), _checked_sizes(sizes_wh, len(truths))
    start = 0
    while start < len(truths):
        tables: list[Numbers] = []
        boxes = 0
        while start + len(tables) < len(truths) and (
            not tables or boxes * len(pairs) < IOUS_AT_ONCE
        ):
            tables.append(_truth(truths, start + len(tables), inclusive=inclusive))
            boxes += len(tables[-1])
        stop = start + len(tables)
        yield _best_ious(pairs, tables, sizes[start:stop])
        start = stop


def _best_ious(shares: Numbers, tables: Sequence[Numbers], sizes_wh: Numbers) -> Numbers:
    """The best IoU of each centred box in each picture, `[n, s]`; all boxes half-open."""
    counts = [len(table) for table in tables]
    boxes = np.concatenate(tables)
    sides = np.repeat(sizes_wh, counts, axis=0)
    shared = _overlaps(shares, boxes, sides, 0) * _overlaps(shares, boxes, sides, 1)
    areas = np.multiply.outer(sides.prod(axis=1), shares.prod(axis=1))
    union = areas + box_areas(boxes)[:, np.newaxis] - shared
    best: Numbers = np.maximum.reduceat(shared / union, np.cumsum([0, *counts[:-1]]))
    return best


def _overlaps(shares: Numbers, boxes: Numbers, sides: Numbers, axis: int) -> Numbers:
    """How far each centred box and each truth overlap along x (0) or y (1), `[n, s]`."""
    side, start, end = (column[:, axis, np.newaxis] for column in (sides, boxes, boxes[:, 2:]))
    ends = np.minimum(side * ((1 + shares[:, axis]) / 2), end)
    starts = np.maximum(side * ((1 - shares[:, axis]) / 2), start)
    length: Numbers = np.clip(ends - starts, 0, None)
    return length


def _truth(truths: Truths, index: int, *, inclusive: bool) -> Numbers:
    boxes = as_boxes(truths[index], inclusive=inclusive)
    if not len(boxes):
        raise ArgumentError(f"truths[{index}]: expected at least one box, got none")
    return boxes


def _checked_shares(shares: npt.ArrayLike) -> Numbers:
    pairs = np.asarray(shares, np.float64)
    if pairs.ndim != 2 or pairs.shape[1] != 2 or not ((pairs > 0) & (pairs <= 1)).all():
        raise ArgumentError(
            f"shares: expected [s, 2], width and height above 0 and up to 1, got {pairs.tolist()}"
        )
    return pairs


def _checked_sizes(sizes_wh: npt.ArrayLike, pictures: int) -> Numbers:
    sizes = np.asarray(sizes_wh, np.float64).reshape(-1, 2)
    if len(sizes) != pictures:
        raise ArgumentError(f"sizes_wh: expected one a picture, {pictures}, got {len(sizes)}")
    if not (sizes > 0).all():
        raise ArgumentError("sizes_wh: expected width and height above 0 pixels")
    return sizes
