"""Scores by name, each with its interval: one bootstrap over pictures gives them all."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from gapcam.evaluate.table import Table
from gapcam.metrics.bootstrap import bootstrap_ci95
from gapcam.types import BoolArray

Numbers: TypeAlias = npt.NDArray[np.float64]
Interval: TypeAlias = "list[float] | None"


class Columns:
    """Scores by name, so that one bootstrap over pictures gives every interval.

    A score is a mean over (picture, class) pairs or over pictures; resampling is over pictures.
    """

    def __init__(self, table: Table) -> None:
        self._pictures, self._count = table.pictures, len(table.tasks)
        self._names: list[str] = []
        self._sums: list[Numbers] = []
        self._counts: list[Numbers] = []

    def add(self, name: str, values: npt.ArrayLike, valid: npt.ArrayLike = True) -> None:
        """A score a pair `[n]`, where it is valid."""
        weights = np.broadcast_to(np.asarray(valid, np.float64), self._pictures.shape)
        self._append(
            name,
            self._by_picture(np.asarray(values) * weights),
            self._by_picture(weights),
        )

    def add_any(self, name: str, values: BoolArray, valid: npt.ArrayLike = True) -> None:
        """A score a picture: whether any of its valid pairs has it."""
        weights = np.broadcast_to(np.asarray(valid, np.float64), self._pictures.shape)
        sums, counts = self._by_picture(values * weights), self._by_picture(weights)
        self._append(name, (sums > 0).astype(np.float64), (counts > 0).astype(np.float64))

    def _by_picture(self, values: Numbers) -> Numbers:
        """The sum over the pairs of each picture."""
        sums: Numbers = np.bincount(self._pictures, values, self._count).astype(np.float64)
        return sums

    def _append(self, name: str, sums: Numbers, counts: Numbers) -> None:
        self._names.append(name)
        self._sums.append(sums)
        self._counts.append(counts)

    def results(self) -> tuple[dict[str, float | None], dict[str, list[float] | None]]:
        """The scores and their 95 % intervals; None where there is nothing to score."""
        sums, counts = np.stack(self._sums, axis=1), np.stack(self._counts, axis=1)
        total = counts.sum(0)
        means = np.where(total > 0, sums.sum(0) / np.where(total > 0, total, 1), np.nan)
        intervals = bootstrap_ci95(sums, counts)
        return (
            dict(zip(self._names, map(number, means), strict=True)),
            {
                name: None if np.isnan(low) else [rounded(low), rounded(high)]
                for name, (low, high) in zip(self._names, intervals.tolist(), strict=True)
            },
        )


def rounded(value: float) -> float:
    """Six decimals: more than any set of pictures can tell apart."""
    return round(float(value), 6)


def number(value: float) -> float | None:
    """For JSON: None stands for not a number."""
    return None if np.isnan(value) else rounded(value)
