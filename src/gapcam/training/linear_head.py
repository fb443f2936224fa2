"""A linear head on pooled features: logistic regression whose weight decay the labels choose.

One picture, one class: multinomial logistic regression in which all classes weigh alike, however
many pictures they have (a picture of class c counts n / (C n_c)). Several classes a picture: one
logistic regression a class, all pictures alike, so that a sigmoid of 1/2 means as likely as not.

The decays go from strong to weak, each fit starting where the one before ended. The decay is kept
whose head has the lowest loss on the validation pictures, in the weights of training; of equals the
strongest. Class labels alone decide. The loss and not the accuracy chooses: it moves with every
picture, where a few hundred pictures leave many decays with equal accuracy. The head stays the one
fitted on the training pictures, so that its validation accuracy is of pictures it did not learn.
(That the decay was chosen on them makes the accuracy slightly too good.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np

from gapcam.training.logistic import (
    LOSSES,
    Doubles,
    Minimum,
    Objective,
    Standardized,
    minimize,
)
from gapcam.training.plan import Progress
from gapcam.training.scores import accuracy
from gapcam.types import ArgumentError, BoolArray, DataError, FloatArray, IntArray, ModelError

DECAYS = tuple(10 ** (-step / 2) for step in range(11))
"""1 to 1e-5, two a decade."""
RISES = 3
"""The path ends when the validation loss rose this often in a row: weaker decays overfit more."""
TOLERANCE = 1e-6
MOST_ITERATIONS = 1000
VALIDATION_ROWS = 4096


@dataclass(frozen=True, slots=True)
class DecayResult:
    """One fit of the path.

    Attributes:
        decay: Of the weights of standardized features.
        train_loss: Without the penalty, in the weights of training: cross-entropy a picture, or
            binary cross-entropy a picture and class; nats.
        validation_loss: The same of the validation pictures; it chooses.
        validation_accuracy: Top-1, or mean average precision over the classes that occur.
        iterations: Of the solver.
        converged: Whether no component of the gradient exceeds the tolerance.
    """

    decay: float
    train_loss: float
    validation_loss: float
    validation_accuracy: float
    iterations: int
    converged: bool


@dataclass(frozen=True, slots=True, eq=False)
class FittedHead:
    """Logits are `weights @ features + bias`, of raw pooled features.

    Attributes:
        weights: `[C, K]`.
        bias: `[C]`.
        decay: The one that was chosen.
        path: Every decay that was tried, strongest first.
    """

    weights: FloatArray
    bias: FloatArray
    decay: float
    path: tuple[DecayResult, ...]

    @property
    def chosen(self) -> DecayResult:
        """The fit that was chosen."""
        return next(result for result in self.path if result.decay == self.decay)

    @property
    def notes(self) -> tuple[str, ...]:
        """How it was chosen and what to know of it, in words."""
        words = [
            f"weight decay {self.decay:.2g}: the lowest validation loss of {len(self.path)}, "
            "by class labels alone"
        ]
        if len(self.path) > 1 and self.decay == self.path[-1].decay:
            words.append("the weakest decay was the best: a weaker one may be better still")
        if len(self.path) > 1 and self.decay == self.path[0].decay:
            words.append("the strongest decay was the best: the features say little of the labels")
        if not self.chosen.converged:
            words.append(
                f"the fit did not converge in {self.chosen.iterations} iterations; its scores are "
                "those of a head that was stopped early"
            )
        return tuple(words)

    def logits(self, features: FloatArray) -> FloatArray:
        """Scores `[n, C]` of pooled features `[n, K]`."""
        scores: FloatArray = features @ self.weights.T + self.bias
        return scores


def fit_head(
    features: FloatArray,
    targets: BoolArray,
    train: IntArray,
    validation: IntArray,
    *,
    single: bool,
    classes: Sequence[str] | None = None,
    decays: Sequence[float] = DECAYS,
    tolerance: float = TOLERANCE,
    most_iterations: int = MOST_ITERATIONS,
    progress: Progress = lambda *_: None,
) -> FittedHead:
    """Fit a head on the training rows, its decay chosen on the validation rows.

    Nothing is random. Memory does not grow with the rows: a memory map is read in chunks.

    Args:
        features: Pooled, `[n, K]`.
        targets: `bool [n, C]`; exactly one True a row when `single`.
        train: Rows to fit.
        validation: Rows to choose the decay with, none of them in `train`.
        single: Softmax; else one sigmoid a class.
        classes: Their C names, for messages.
        decays: To try; the order does not matter.
        tolerance: No component of the gradient of the mean loss may exceed it, nats.
        most_iterations: Of the solver, for each decay.
        progress: Called with each decay that is done.

    Raises:
        ArgumentError: Shapes or rows that do not fit, or a decay that is not above 0.
        DataError: A class that no training picture shows, or that every one shows.
        ModelError: A feature is not finite.
    """
    names = tuple(classes) if classes is not None else tuple(map(str, range(targets.shape[1])))
    decays = sorted(decays, reverse=True)
    _check(features, targets, train, validation, single)
    _check_decays(decays)
    train, validation = np.sort(train), np.sort(validation)
    check_shown(targets[train], single, names)
    weights = class_weights(targets[train], single)
    objective = Objective(Standardized(features, train, weights), targets[train], weights, single)
    solve = partial(minimize, tolerance=tolerance, most_iterations=most_iterations)
    judge = _Judge(features, targets, validation, single)
    return _follow_path(objective, judge, decays, solve, progress)


def _follow_path(
    objective: Objective,
    judge: _Judge,
    decays: Sequence[float],
    solve: Callable[..., Minimum],
    progress: Progress,
) -> FittedHead:
    """Fit every decay, strongest first, until the validation loss has turned; keep the best."""
    theta: Doubles = np.zeros((judge.targets.shape[1], judge.features.shape[1] + 1))
    path: list[DecayResult] = []
    heads: list[tuple[FloatArray, FloatArray]] = []
    for number, decay in enumerate(decays, 1):
        found = solve(objective.penalized(decay), theta)
        theta = found.theta
        head = objective.data.fold(theta[:, :-1], theta[:, -1])
        fit = objective.fit_and_gradient(theta)[0] / (1 if judge.single else len(theta))
        path.append(DecayResult(decay, fit, *judge(*head), found.iterations, found.converged))
        heads = [head] if path[-1] is _lowest(path) else heads
        progress("fitting the head", number, len(decays))
        if _has_turned(path):
            break
    return FittedHead(*heads[0], _lowest(path).decay, tuple(path))


def class_weights(targets: BoolArray, single: bool) -> Doubles:
    """The weight of each of n pictures; they sum to n.

    Single: n / (m n_c) for a picture of class c, with m classes that occur, so that each of them
    weighs alike. Else 1.
    """
    count = len(targets)
    if not single:
        return np.ones(count)
    pictures = targets.sum(0)
    shares: Doubles = count / (np.count_nonzero(pictures) * pictures[targets.argmax(1)])
    return shares


def _lowest(path: Sequence[DecayResult]) -> DecayResult:
    """The lowest validation loss; of equals the first, which has the strongest decay."""
    return min(path, key=lambda result: result.validation_loss)


def _has_turned(path: Sequence[DecayResult]) -> bool:
    last = [result.validation_loss for result in path[-RISES - 1 :]]
    return len(last) > RISES and all(a < b for a, b in pairwise(last))


@dataclass(frozen=True, slots=True)
class _Judge:
    """Gives a head's loss and accuracy on the validation rows, as its float32 weights score."""

    features: FloatArray
    targets: BoolArray
    rows: IntArray
    single: bool

    def __call__(self, weights: FloatArray, bias: FloatArray) -> tuple[float, float]:
        targets = self.targets[self.rows]
        shares = class_weights(targets, self.single)
        logits = np.empty(targets.shape, np.float32)
        total = 0.0
        for start in range(0, len(targets), VALIDATION_ROWS):
            part = slice(start, start + VALIDATION_ROWS)
            raw = self.features[self.rows[part]]
            if not np.isfinite(raw).all():
                raise ModelError(
                    "features: those of the validation pictures are not all finite; check the "
                    "model's weights and compute the features again"
                )
            logits[part] = raw @ weights.T + bias
            losses, _ = LOSSES[self.single](logits[part].astype(np.float64), targets[part])
            total += float(shares[part] @ losses)
        mean = total / len(targets) / (1 if self.single else targets.shape[1])
        return mean, accuracy(logits, targets, self.single)


def _check(
    features: FloatArray, targets: BoolArray, train: IntArray, validation: IntArray, single: bool
) -> None:
    if features.ndim != 2 or targets.ndim != 2 or len(features) != len(targets):
        raise ArgumentError(
            f"fit_head: expected features [n, K] and labels [n, C], got {list(features.shape)} and "
            f"{list(targets.shape)}"
        )
    for name, rows in (("training", train), ("validation", validation)):
        if not len(rows) or rows.min() < 0 or rows.max() >= len(features):
            raise ArgumentError(
                f"fit_head: {name}: expected at least one row from 0 to {len(features) - 1}, got "
                f"{len(rows)} rows"
            )
    shared = np.intersect1d(train, validation)
    if len(shared):
        raise ArgumentError(f"fit_head: row {shared[0]} is in training and validation; choose one")
    if single and (targets.sum(1) != 1).any():
        raise ArgumentError("fit_head: expected exactly one class a picture; or give single=False")


def _check_decays(decays: Sequence[float]) -> None:
    if not decays or not all(0 < decay < np.inf for decay in decays):
        raise ArgumentError(f"decays: expected at least one, each above 0, got {list(decays)}")


def check_shown(targets: BoolArray, single: bool, names: Sequence[str]) -> None:
    """Refuse a class without a picture that shows it, or one that does not: its bias is infinite.

    Args:
        targets: Of the training pictures, `[n, C]`.
        single: One class a picture.
        names: Of the classes.

    Raises:
        DataError: There is such a class.
    """
    shown = targets.sum(0)
    if len(shown) < 2 and single:
        raise DataError(
            f"class {names[0]!r} is the only one; add pictures of another, such as 'normal'"
        )
    for name, count in zip(names, shown, strict=True):
        if not count:
            raise DataError(
                f"class {name!r}: no training picture shows it; add pictures of it, or remove it"
            )
        if count == len(targets):
            raise DataError(
                f"class {name!r}: every training picture shows it, so nothing tells it apart; add "
                "pictures without it, or remove it"
            )
