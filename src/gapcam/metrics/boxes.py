"""Overlap of boxes, in both conventions.

Half-open boxes (the package's own) are continuous intervals: a box around one pixel is
`(x, y, x + 1, y + 1)`. Inclusive boxes name the first and the last pixel they hold, so the same
pixel is `(x, y, x, y)` and a side is `x1 - x0 + 1` long: the convention of the ILSVRC devkit
(Russakovsky et al., IJCV 2015) and of the WSOL evaluation (Choe et al., CVPR 2020).
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from gapcam.types import ArgumentError

Numbers: TypeAlias = npt.NDArray[np.float64]


def box_iou(boxes: npt.ArrayLike, others: npt.ArrayLike, *, inclusive: bool = False) -> Numbers:
    """Intersection over union of every box with every other.

    Args:
        boxes: `[N, 4]`, x0, y0, x1, y1; one box may come as `[4]`.
        others: `[M, 4]`, likewise.
        inclusive: Whether x1, y1 are the last pixel of the box instead of where it ends.

    Returns:
        `[N, M]`, 0..1; 0 where both boxes are empty.

    Raises:
        ArgumentError: An argument is not a table of four numbers a row.
    """
    a = as_boxes(boxes, inclusive=inclusive)[:, np.newaxis]
    return paired_iou(a, as_boxes(others, inclusive=inclusive)[np.newaxis])


def paired_iou(a: Numbers, b: Numbers) -> Numbers:
    """Intersection over union `[...]` of half-open boxes with their partners, both `[..., 4]`.

    0 where both are empty; shapes broadcast.
    """
    overlap = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    shared = np.clip(overlap, 0, None).prod(-1)
    union = box_areas(a) + box_areas(b) - shared
    ratio: Numbers = shared / np.where(union > 0, union, 1)
    return ratio


def best_iou(boxes: npt.ArrayLike, truths: npt.ArrayLike, *, inclusive: bool = False) -> Numbers:
    """The IoU of each box `[N, 4]` with the truth `[M, 4]` that it fits best: `[N]`.

    Returns 0 where there is no truth; other arguments and errors as `box_iou`.
    """
    best: Numbers = box_iou(boxes, truths, inclusive=inclusive).max(axis=1, initial=0.0)
    return best


def as_boxes(boxes: npt.ArrayLike, *, inclusive: bool = False) -> Numbers:
    """The boxes as float64 `[N, 4]`, half-open: 1 is added to inclusive ends.

    Raises:
        ArgumentError: The shape is not `[N, 4]` (nor `[4]`, nor empty).
    """
    table = np.asarray(boxes, np.float64)
    if not table.size:
        return np.zeros((0, 4))
    if table.ndim not in (1, 2) or table.shape[-1] != 4:
        raise ArgumentError(
            f"boxes: expected x0, y0, x1, y1 a row, [N, 4], got an array {list(table.shape)}"
        )
    ends = np.array([0.0, 0.0, 1.0, 1.0]) if inclusive else 0.0
    half_open: Numbers = table.reshape(-1, 4) + ends
    return half_open


def box_areas(boxes: Numbers) -> Numbers:
    """Areas `[...]` of half-open boxes `[..., 4]`; 0 where a box ends before it starts."""
    sides: Numbers = np.clip(boxes[..., 2:] - boxes[..., :2], 0, None)
    areas: Numbers = sides.prod(-1)
    return areas
