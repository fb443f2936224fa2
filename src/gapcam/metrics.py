"""Localization scores. Pure functions; boxes are half-open, in pixels of the original picture."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]


def box_iou(boxes: npt.ArrayLike, others: npt.ArrayLike) -> Numbers:
    """Intersection over union of every box with every other.

    Args:
        boxes: `[N, 4]`, x0, y0, x1, y1.
        others: `[M, 4]`.

    Returns:
        `[N, M]`, 0..1; 0 where both boxes are empty.
    """
    a = np.asarray(boxes, np.float64).reshape(-1, 1, 4)
    b = np.asarray(others, np.float64).reshape(1, -1, 4)
    overlap = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    shared = np.clip(overlap, 0, None).prod(-1)
    union = _areas(a) + _areas(b) - shared
    ratio: Numbers = shared / np.where(union > 0, union, 1)
    return ratio


def _areas(boxes: Numbers) -> Numbers:
    sides: Numbers = np.clip(boxes[..., 2:] - boxes[..., :2], 0, None)
    areas: Numbers = sides.prod(-1)
    return areas


def bootstrap_ci95(hits: npt.ArrayLike, rounds: int = 2000, seed: int = 0) -> tuple[float, float]:
    """Where the mean of `hits` `[n]` lies with 95 % confidence: resampling pictures, seeded."""
    values = np.asarray(hits, np.float64)
    random = np.random.default_rng(seed)
    means = values[random.integers(0, len(values), (rounds, len(values)))].mean(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)
