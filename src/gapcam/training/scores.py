"""How well scores fit labels: accuracy, loss, confusion. Needs class labels only, never boxes.

`n` pictures, `C` classes. Logits are `[n, C]`; targets are `bool [n, C]`: exactly one True a row
where a picture has a single class (softmax), else any number (one sigmoid a class).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gapcam.types import ArgumentError, BoolArray, DataError, IntArray, ModelError

Scores = npt.NDArray[np.floating]


def accuracy(logits: Scores, targets: BoolArray, single: bool) -> float:
    """The share of pictures whose best class is right, or mean average precision; 0..1.

    Args:
        logits: `[n, C]`; of equal scores, the lower class id is taken as best.
        targets: `[n, C]`.
        single: True: top-1 accuracy. False: the mean of `average_precision` over the classes that
            occur.

    Raises:
        ArgumentError: Shapes that do not fit, or no pictures.
        DataError: Several classes a picture, and no picture shows any.
        ModelError: A score is not finite.
    """
    _check(logits, targets)
    if single:
        best = logits.argmax(1)
        return float(targets[np.arange(len(targets)), best].mean())
    occurring = np.flatnonzero(targets.any(0))
    if not len(occurring):
        raise DataError(
            f"mean average precision: none of these {len(targets)} pictures shows any class; "
            "put labelled pictures into this part"
        )
    return float(np.mean([average_precision(logits[:, c], targets[:, c]) for c in occurring]))


def loss(logits: Scores, targets: BoolArray, single: bool) -> float:
    """Mean cross-entropy a picture, or mean binary cross-entropy a picture and class; nats.

    Args:
        logits: `[n, C]`.
        targets: `[n, C]`.
        single: Softmax; else one sigmoid a class.

    Raises:
        ArgumentError: Shapes that do not fit, or no pictures.
        ModelError: A score is not finite.
    """
    _check(logits, targets)
    values = logits.astype(np.float64)
    if single:
        highest = values.max(1)
        total = highest + np.log(np.exp(values - highest[:, None]).sum(1))
        return float((total - values[targets]).mean())
    return float(np.logaddexp(0, np.where(targets, -values, values)).mean())


def confusion(logits: Scores, class_ids: IntArray, classes: int) -> IntArray:
    """Counts `[C, C]` of pictures: a row is the true class, a column the best-scored one.

    Args:
        logits: `[n, C]`; of equal scores, the lower class id is taken as best.
        class_ids: True classes `[n]`, 0 to `classes - 1`.
        classes: C.

    Raises:
        ArgumentError: Shapes or ids that do not fit.
        ModelError: A score is not finite.
    """
    if logits.shape != (len(class_ids), classes):
        raise ArgumentError(
            f"confusion: expected scores [{len(class_ids)}, {classes}], got {list(logits.shape)}"
        )
    if ((class_ids < 0) | (class_ids >= classes)).any():
        raise ArgumentError(f"confusion: expected class ids 0 to {classes - 1}")
    _check_finite(logits)
    cells = class_ids * classes + logits.argmax(1)
    return np.bincount(cells, minlength=classes**2).reshape(classes, classes).astype(np.int64)


def average_precision(scores: Scores, positive: BoolArray) -> float:
    """The area under the precision-recall steps, not interpolated; 0..1.

    The sum over all cuts of (recall gained) x (precision there). Pictures with equal scores fall
    on one side of a cut together, so their order does not matter.

    Args:
        scores: `[n]`.
        positive: `bool [n]`.

    Raises:
        ArgumentError: Shapes that do not fit, or no positive: precision has no meaning then.
        ModelError: A score is not finite.
    """
    if scores.shape != positive.shape or scores.ndim != 1:
        raise ArgumentError(
            f"average precision: expected one score and one label a picture, got "
            f"{list(scores.shape)} and {list(positive.shape)}"
        )
    if not positive.any():
        raise ArgumentError("average precision: expected at least one positive picture, got none")
    _check_finite(scores)
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    last_of_equals = np.append(ranked[1:] != ranked[:-1], True)
    found = np.cumsum(positive[order])[last_of_equals]
    taken = np.flatnonzero(last_of_equals) + 1
    gained = np.diff(found, prepend=0) / found[-1]
    return float((gained * found / taken).sum())


def _check(logits: Scores, targets: BoolArray) -> None:
    if logits.shape != targets.shape or logits.ndim != 2 or not logits.size:
        raise ArgumentError(
            f"scores: expected scores and labels [n, C] of the same pictures, got "
            f"{list(logits.shape)} and {list(targets.shape)}"
        )
    _check_finite(logits)


def _check_finite(logits: Scores) -> None:
    wrong = np.argwhere(~np.isfinite(logits))
    if len(wrong):
        raise ModelError(
            f"the score of picture {wrong[0][0]} is not finite; train with a lower learning rate, "
            "or without mixed precision"
        )
