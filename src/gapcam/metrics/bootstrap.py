"""Confidence intervals by resampling pictures.

Pictures are drawn with replacement and the score is computed anew, many times; the interval
reaches from the 2.5th to the 97.5th percentile of these scores (the percentile interval of Efron
and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13). A picture is drawn whole:
the pairs of picture and class that it holds are not independent, so they come and go together.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from gapcam.types import ArgumentError

Numbers: TypeAlias = npt.NDArray[np.float64]

PERCENTILES = (0.025, 0.975)
WEIGHTS_AT_ONCE = 2**20
"""How many numbers a block of weights may hold: bounds the memory, whatever the rounds."""


def bootstrap_ci95(
    sums: npt.ArrayLike,
    counts: npt.ArrayLike | None = None,
    rounds: int = 1000,
    seed: int = 0,
) -> Numbers:
    """Where scores lie with 95 % confidence.

    A score is `sum(sums) / sum(counts)` over pictures: a ratio estimator, so that a picture with
    more pairs weighs more, as it does in the score itself. All scores see the same draws. For the
    difference of two scores over the same pairs, give the differences as one more column.

    Args:
        sums: `[n, m]`: what each of n pictures adds to each of m scores (hits, IoUs, ...), or
            `[n]` for one score.
        counts: What each picture adds to the denominator, same shape as `sums`, or `[n]` for all
            scores alike; None for one a picture.
        rounds: How often the pictures are drawn.
        seed: The same seed gives the same interval.

    Returns:
        `[m, 2]`, low and high; `[2]` for one score `[n]`. NaN where nothing was counted. Draws
        without anything counted are left out.

    Raises:
        ArgumentError: Shapes differ, a number is not finite, a count is negative, a sum is not 0
            where nothing is counted, or `rounds` is below 1.
    """
    tops = np.asarray(sums, np.float64)
    bottoms = _counts(counts, tops)
    if rounds < 1:
        raise ArgumentError(f"rounds: expected at least 1, got {rounds}")
    table, below = (a[:, np.newaxis] if a.ndim == 1 else a for a in (tops, bottoms))
    intervals = np.full((table.shape[1], 2), np.nan)
    if table.size:
        scores = _resampled(table, below, rounds, seed)
        drawn = ~np.isnan(scores).all(axis=0)
        if drawn.any():
            intervals[drawn] = np.nanquantile(scores[:, drawn], PERCENTILES, axis=0).T
    return intervals if tops.ndim == 2 else intervals[0]


def _counts(counts: npt.ArrayLike | None, sums: Numbers) -> Numbers:
    """The counts in the shape of the sums, both checked."""
    if sums.ndim not in (1, 2):
        raise ArgumentError(f"sums: expected [n, m] or [n], got an array {list(sums.shape)}")
    if counts is None:
        table = np.ones_like(sums)
    else:
        table = np.asarray(counts, np.float64)
        if table.ndim == 1 and sums.ndim == 2 and len(table) == len(sums):
            table = np.broadcast_to(table[:, np.newaxis], sums.shape)
    if table.shape != sums.shape:
        raise ArgumentError(
            f"counts: expected the shape of sums, {list(sums.shape)}, got {list(table.shape)}"
        )
    for name, values in (("sums", sums), ("counts", table)):
        if not np.isfinite(values).all():
            raise ArgumentError(f"{name}: expected finite numbers, got NaN or infinity")
    if (table < 0).any():
        raise ArgumentError(f"counts: expected 0 or more, got {table.min():g}")
    if ((table == 0) & (sums != 0)).any():
        raise ArgumentError("sums: expected 0 where counts are 0, got a sum of nothing")
    return table


def _resampled(sums: Numbers, counts: Numbers, rounds: int, seed: int) -> Numbers:
    """The scores of every round, `[rounds, m]`; NaN where a round counted nothing."""
    one_a_picture = bool((counts == 1).all())
    blocks = []
    for weights in _weights(len(sums), rounds, seed):
        below = weights @ counts if not one_a_picture else float(len(sums))
        with np.errstate(invalid="ignore"):
            blocks.append(weights @ sums / below)
    return np.concatenate(blocks)


def _weights(n: int, rounds: int, seed: int) -> Iterator[Numbers]:
    """How often each of n pictures was drawn in each round, a block `[rounds, n]` at a time.

    A block is overwritten by the next one.
    """
    random = np.random.default_rng(seed)
    step = max(1, WEIGHTS_AT_ONCE // n)
    weights = np.empty((min(step, rounds), n))
    for start in range(0, rounds, step):
        block = weights[: rounds - start]
        for row in block:
            row[:] = np.bincount(random.integers(0, n, n), minlength=n)
        yield block
