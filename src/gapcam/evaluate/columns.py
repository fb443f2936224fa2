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


COLUMNS_AT_ONCE = 16
"""Scores that are resampled together: many share the drawing, few bound the memory."""


class Columns:
    """Scores by name, each a mean over (picture, class) pairs or over pictures.

    Intervals come from resampling pictures. Where every picture hits, or none does, resampling
    says nothing; the interval is then the exact one of n such pictures (Clopper and Pearson,
    Biometrika 1934).
    """

    def __init__(self, table: Table) -> None:
        self._pictures, self._count = table.pictures, len(table.tasks)
        self._waiting: dict[str, tuple[Numbers, Numbers]] = {}
        self._means: dict[str, float | None] = {}
        self._ci95: dict[str, Interval] = {}

    def add(self, name: str, values: npt.ArrayLike, valid: npt.ArrayLike = True) -> None:
        """A score a pair `[n]`, where it is valid."""
        weights = np.broadcast_to(np.asarray(valid, np.float64), self._pictures.shape)
        self._append(
            name, self._by_picture(np.asarray(values) * weights), self._by_picture(weights)
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
        self._waiting[name] = (sums, counts)
        if len(self._waiting) == COLUMNS_AT_ONCE:
            self._resample()

    def _resample(self) -> None:
        if not self._waiting:
            return
        sums, counts = (
            np.stack(part, axis=1) for part in zip(*self._waiting.values(), strict=True)
        )
        intervals = bootstrap_ci95(sums, counts).tolist()
        for i, name in enumerate(self._waiting):
            hits, total = sums[:, i].sum(), counts[:, i].sum()
            self._means[name] = rounded(hits / total) if total else None
            pictures = int(np.count_nonzero(counts[:, i]))
            self._ci95[name] = _interval(hits, total, pictures, intervals[i])
        self._waiting.clear()

    def results(self) -> tuple[dict[str, float | None], dict[str, Interval]]:
        """The scores and their 95 % intervals; None where there is nothing to score."""
        self._resample()
        return self._means, self._ci95


def _interval(hits: float, total: float, pictures: int, drawn: list[float]) -> Interval:
    if not total:
        return None
    rest = 0.025 ** (1 / pictures)
    if hits == total:
        return [rounded(rest), 1.0]
    if hits == 0 and drawn[0] == drawn[1] == 0:
        return [0.0, rounded(1 - rest)]
    return [rounded(drawn[0]), rounded(drawn[1])]


def rounded(value: float) -> float:
    """Six decimals: more than any set of pictures can tell apart."""
    return round(float(value), 6)
