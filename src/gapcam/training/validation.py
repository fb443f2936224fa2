"""What a trained net says of the validation pictures: how often it is right, and where it errs.

Class labels only: no box is read. `n` pictures, `C` classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gapcam.training.scores import accuracy, average_precision, confusion
from gapcam.types import ArgumentError, BoolArray, IntArray

Z_95 = 1.959963984540054
"""The normal quantile of a two-sided 95 % interval."""
PRESENT = 0.5
"""Several classes a picture: the probability from which a class is said to be there."""
AGREES = 1e-3
"""How far the probabilities of one picture may sum from 1."""

Probabilities = npt.NDArray[np.floating]


class ClassScore(NamedTuple):
    """How one class is found; a row of `per_class.csv`.

    Attributes:
        label: The class.
        pictures: Validation pictures that show it.
        precision: Of the pictures said to show it, the share that does; None: none was said to.
        recall: Of the pictures that show it, the share that was said to; None: none shows it.
        f1: The harmonic mean of both; None where neither means anything.
        average_precision: Several classes a picture only; None where no picture shows it.
    """

    label: str
    pictures: int
    precision: float | None
    recall: float | None
    f1: float | None
    average_precision: float | None


class Mistake(NamedTuple):
    """A wrong answer; a row of `mistakes.csv`.

    Attributes:
        image: The picture, as the data names it.
        label: What the data says. Several classes a picture: empty where the class is not there.
        predicted: What the net says. Several classes a picture: empty where it misses the class.
        score: The probability that the net gives its wrong answer, 0..1.
    """

    image: str
    label: str
    predicted: str
    score: float


class Validation(NamedTuple):
    """All that is kept of the validation pictures.

    Attributes:
        single: One class a picture; else several.
        pictures: How many validation pictures there are.
        right: How many are named right; None with several classes a picture.
        accuracy: Top-1; several classes a picture: mean average precision over those that occur.
        interval: 95 % Wilson interval of Top-1; None: mean average precision is no share.
        confusion: `[C, C]` counts, a row the true class; None with several classes a picture.
        classes: A score for each class.
        mistakes: The wrong answers, the surest first.
    """

    single: bool
    pictures: int
    right: int | None
    accuracy: float
    interval: tuple[float, float] | None
    confusion: IntArray | None
    classes: tuple[ClassScore, ...]
    mistakes: tuple[Mistake, ...]


def validate(
    probabilities: Probabilities,
    targets: BoolArray,
    classes: Sequence[str],
    names: Sequence[str],
    *,
    single: bool,
) -> Validation:
    """Compare what the net says of the validation pictures with their labels.

    Args:
        probabilities: `[n, C]`: a softmax's rows when single, else one sigmoid a class.
        targets: `[n, C]`.
        classes: The C names.
        names: The n pictures, as the data names them.
        single: One class a picture: the best class is said. Else all that reach `PRESENT` are.

    Raises:
        ArgumentError: Shapes do not fit, there are no pictures, or these are no probabilities.
        DataError: Several classes a picture, and no picture shows any.
        ModelError: A score is not finite.
    """
    measured = accuracy(probabilities, targets, single)  # checks shapes
    _check(probabilities, classes, names, single)
    said = _said(probabilities, single)
    counts = right = interval = None
    if single:
        counts = confusion(probabilities, targets.argmax(1), len(classes))
        right = int(np.trace(counts))
        interval = wilson(right, len(names))
    return Validation(
        single,
        len(names),
        right,
        measured,
        interval,
        counts,
        _by_class(probabilities, targets, said, classes, single),
        _mistakes(probabilities, targets, said, classes, names, single),
    )


def wilson(hits: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson, JASA 1927): all p with `|hits/n - p| <= z s(p)`.

    Args:
        hits: How many of the pictures.
        n: Of how many.

    Raises:
        ArgumentError: No pictures, or more hits than pictures.
    """
    if not 0 <= hits <= n or n == 0:
        raise ArgumentError(f"Wilson interval: expected 0 to n hits of n > 0, got {hits} of {n}")
    share, z2 = hits / n, Z_95**2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    low, high = max(0.0, middle - half), min(1.0, middle + half)
    return (0.0 if hits == 0 else low), (1.0 if hits == n else high)  # exact, whatever rounding


def _check(
    probabilities: Probabilities, classes: Sequence[str], names: Sequence[str], single: bool
) -> None:
    if probabilities.shape != (len(names), len(classes)):
        raise ArgumentError(
            f"validation: expected scores of {len(names)} pictures and {len(classes)} classes, "
            f"got {list(probabilities.shape)}"
        )
    sums = probabilities.sum(1) if single else np.ones(1)
    if probabilities.min() < 0 or probabilities.max() > 1 or np.abs(sums - 1).max() > AGREES:
        kind = "softmax's rows, which sum to 1" if single else "sigmoids"
        raise ArgumentError(f"validation: expected probabilities ({kind}), got other scores")


def _said(probabilities: Probabilities, single: bool) -> BoolArray:
    if not single:
        return probabilities >= PRESENT
    said = np.zeros(probabilities.shape, bool)
    said[np.arange(len(said)), probabilities.argmax(1)] = True
    return said


def _by_class(
    probabilities: Probabilities,
    targets: BoolArray,
    said: BoolArray,
    classes: Sequence[str],
    single: bool,
) -> tuple[ClassScore, ...]:
    found, there, claimed = (targets & said).sum(0), targets.sum(0), said.sum(0)
    return tuple(
        ClassScore(
            label,
            int(there[c]),
            _share(found[c], claimed[c]),
            _share(found[c], there[c]),
            _share(2 * found[c], there[c] + claimed[c]),
            None
            if single or not there[c]
            else average_precision(probabilities[:, c], targets[:, c]),
        )
        for c, label in enumerate(classes)
    )


def _share(part: int, whole: int) -> float | None:
    return float(part / whole) if whole else None


def _mistakes(
    probabilities: Probabilities,
    targets: BoolArray,
    said: BoolArray,
    classes: Sequence[str],
    names: Sequence[str],
    single: bool,
) -> tuple[Mistake, ...]:
    """The surest first; equal ones in the order of the pictures and classes."""
    wrong = []
    for i, c in np.argwhere(said != targets):
        sure = float(probabilities[i, c])
        if single and said[i, c]:
            wrong.append(Mistake(names[i], classes[int(targets[i].argmax())], classes[c], sure))
        elif not single and said[i, c]:
            wrong.append(Mistake(names[i], "", classes[c], sure))
        elif not single:
            wrong.append(Mistake(names[i], classes[c], "", 1 - sure))
    return tuple(sorted(wrong, key=lambda mistake: -mistake.score))
