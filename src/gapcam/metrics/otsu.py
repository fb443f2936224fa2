"""A threshold for each map from the map alone, without labels."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from gapcam.types import ArgumentError, IntArray

Numbers: TypeAlias = npt.NDArray[np.float64]

LEVELS = 256
CELLS_AT_ONCE = 2**17
"""Bounds the memory, however many maps come."""


def otsu_thresholds(heat: npt.NDArray[Any]) -> Numbers:
    """Where to cut each map so that the two sides differ most: `heat > threshold` is hot.

    Otsu, "A Threshold Selection Method from Gray-Level Histograms", IEEE Transactions on Systems,
    Man, and Cybernetics 1979: the level that maximizes the variance between the classes,
    (S n_k - N S_k)^2 / (n_k (N - n_k)), of a histogram with 256 levels, level k around k / 255.
    Of equally good levels the lowest is taken, as OpenCV does.

    Args:
        heat: `[n, h, w]`, 0..1.

    Returns:
        `[n]`: the border (k + 1/2) / 255 above the chosen level. A map with one level only cannot
        be split: its threshold is 0.5 / 255, so that it is hot everywhere, or nowhere if 0.

    Raises:
        ArgumentError: The shape is not `[n, h, w]`, or a value is NaN or outside 0..1.
    """
    if heat.ndim != 3 or not all(heat.shape[1:]):
        raise ArgumentError(f"heat: expected [n, h, w], got {list(heat.shape)}")
    if heat.size and not (heat.min() >= 0 and heat.max() <= 1):  # also refuses NaN
        raise ArgumentError(f"heat: expected 0..1, got {heat.min():g} to {heat.max():g}")
    step = max(1, CELLS_AT_ONCE // (heat.shape[1] * heat.shape[2]))
    thresholds = np.empty(len(heat))
    for start in range(0, len(heat), step):
        histograms = _histograms(heat[start : start + step])
        thresholds[start : start + step] = (_best_levels(histograms) + 0.5) / (LEVELS - 1)
    return thresholds


def _histograms(heat: npt.NDArray[Any]) -> IntArray:
    """How many cells of each map have each level, `[n, 256]`; a border belongs below."""
    top = LEVELS - 1
    borders = (np.arange(top) + 0.5) / top
    values = heat.reshape(len(heat), -1).astype(np.float64)
    nearest = np.minimum((values * top).astype(np.int64), top - 1)  # the border to compare with
    levels = nearest + (values > borders[nearest])
    levels += LEVELS * np.arange(len(heat))[:, np.newaxis]
    counts: IntArray = np.bincount(levels.ravel(), minlength=LEVELS * len(heat))
    return counts.reshape(-1, LEVELS)


def _best_levels(histograms: IntArray) -> IntArray:
    """The highest level of the lower class of each histogram `[n, 256]`: `[n]`.

    Whole numbers up to the last step, so that equally good levels are exactly equal.
    """
    below = histograms.cumsum(axis=1)
    sums = (histograms * np.arange(LEVELS)).cumsum(axis=1)
    count, total = below[:, -1:], sums[:, -1:]
    apart = (total * below - count * sums).astype(np.float64)
    products = (below * (count - below)).astype(np.float64)
    between = np.divide(apart**2, products, where=products > 0, out=np.zeros_like(apart))
    best: IntArray = between.argmax(axis=1)
    return best
