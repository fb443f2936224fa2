"""Logistic regression with L2 weight decay: its objective over chunks, and a solver. Float64.

    F(W, b) = (1/n) sum_i s_i loss(W z_i + b, y_i) + (decay / 2) |W|^2,   z = (x - mean) / spread

with picture weights s that sum to n, and loss the softmax cross-entropy of a picture, or the sum
over classes of its binary cross-entropies. The bias is not penalized. Features are standardized so
that one decay means the same for all of them, and so that the solver needs few steps; `fold` turns
the result into weights of the raw features.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gapcam.types import BoolArray, FloatArray, IntArray, ModelError

Doubles = npt.NDArray[np.float64]

CHUNK_BYTES = 2**26
"""Of standardized features and logits at a time: memory does not grow with the pictures."""
KEPT_BYTES = 2**30
"""Standardized features up to this are kept between the solver's steps; else made again."""
LEAST_SPREAD = 1e-6
"""A feature that varies by less, of its root mean square, is constant: float32 rounding."""
MEMORY = 10
SUFFICIENT = 1e-4
ROUNDING = 1e-12
SHORTEST_STEP = 1e-10


class Standardized:
    """Rows of raw features as float64 with weighted mean 0 and deviation 1, in chunks.

    Args:
        features: `[n, K]`; may be a memory map.
        rows: Which rows, ascending so that a map is read in order.
        weights: Of each row, summing to their number.
        chunk_bytes: Of a chunk.

    Raises:
        ModelError: A feature is not finite.
    """

    def __init__(
        self,
        features: FloatArray,
        rows: IntArray,
        weights: Doubles,
        chunk_bytes: int = CHUNK_BYTES,
    ) -> None:
        self._features = features
        self._rows = rows
        self._step = max(1, chunk_bytes // (8 * features.shape[1]))
        self._kept: list[Doubles] | None = None
        self.mean, self.spread = self._moments(weights)
        if 8 * len(rows) * features.shape[1] <= KEPT_BYTES:
            self._kept = [self._standardize(raw) for _, raw in self._raw()]

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[tuple[slice, Doubles]]:
        """Each part of the rows, and its features."""
        if self._kept is None:
            yield from ((part, self._standardize(raw)) for part, raw in self._raw())
            return
        yield from zip(self._parts(), self._kept, strict=True)

    def fold(self, weights: Doubles, bias: Doubles) -> tuple[FloatArray, FloatArray]:
        """The weights `[C, K]` and bias `[C]` that give the same scores from raw features."""
        folded = weights / self.spread
        return folded.astype(np.float32), (bias - folded @ self.mean).astype(np.float32)

    def _parts(self) -> Iterator[slice]:
        count = len(self._rows)
        return (slice(i, min(i + self._step, count)) for i in range(0, count, self._step))

    def _raw(self) -> Iterator[tuple[slice, Doubles]]:
        for part in self._parts():
            yield part, self._features[self._rows[part]].astype(np.float64)

    def _standardize(self, raw: Doubles) -> Doubles:
        raw -= self.mean
        raw /= self.spread
        return raw

    def _moments(self, weights: Doubles) -> tuple[Doubles, Doubles]:
        """Mean and deviation `[K]`; the deviation of a constant feature is 1."""
        total = np.zeros(self._features.shape[1])
        for part, raw in self._raw():
            if not np.isfinite(raw).all():
                row, channel = np.argwhere(~np.isfinite(raw))[0]
                raise ModelError(
                    f"features: row {self._rows[part][row]}, channel {channel} is not finite; "
                    "check the model's weights and compute the features again"
                )
            total += weights[part] @ raw
        mean = total / len(self._rows)
        square = np.zeros_like(mean)
        for part, raw in self._raw():
            square += weights[part] @ (raw - mean) ** 2
        spread = np.sqrt(square / len(self._rows))
        constant = spread <= LEAST_SPREAD * np.hypot(mean, spread)
        return mean, np.where(constant, 1.0, spread)


@dataclass(frozen=True, slots=True, eq=False)
class Objective:
    """F, without its penalty until `decay` is given.

    Attributes:
        data: The standardized features.
        targets: `bool [n, C]` of the same rows.
        weights: s, `[n]`.
        single: Softmax; else one sigmoid a class.
    """

    data: Standardized
    targets: BoolArray
    weights: Doubles
    single: bool

    def fit_and_gradient(self, theta: Doubles) -> tuple[float, Doubles]:
        """The weighted mean loss, nats, and its gradient, at `theta = [W | b]`, `[C, K + 1]`."""
        total, gradient = 0.0, np.zeros_like(theta)
        for part, rows in self.data:
            logits = rows @ theta[:, :-1].T + theta[:, -1]
            losses, errors = LOSSES[self.single](logits, self.targets[part])
            errors *= self.weights[part, None]
            total += float(self.weights[part] @ losses)
            gradient[:, :-1] += errors.T @ rows
            gradient[:, -1] += errors.sum(0)
        return total / len(self.data), gradient / len(self.data)

    def penalized(self, decay: float) -> Callable[[Doubles], tuple[float, Doubles]]:
        """F and its gradient as a function of theta."""

        def value_and_gradient(theta: Doubles) -> tuple[float, Doubles]:
            value, gradient = self.fit_and_gradient(theta)
            weights = theta[:, :-1]
            gradient[:, :-1] += decay * weights
            return value + decay / 2 * float(np.vdot(weights, weights)), gradient

        return value_and_gradient


def softmax_loss(logits: Doubles, targets: BoolArray) -> tuple[Doubles, Doubles]:
    """Cross-entropy `[n]` of each row and its gradient `[n, C]`."""
    shifted = logits - logits.max(1, keepdims=True)
    errors = np.exp(shifted)
    sums = errors.sum(1, keepdims=True)
    errors /= sums
    errors -= targets
    losses: Doubles = np.log(sums[:, 0]) - shifted[targets]
    return losses, errors


def sigmoid_loss(logits: Doubles, targets: BoolArray) -> tuple[Doubles, Doubles]:
    """Binary cross-entropy summed over classes `[n]`, and its gradient `[n, C]`."""
    losses: Doubles = np.logaddexp(0, np.where(targets, -logits, logits)).sum(1)
    errors = 0.5 * (1 + np.tanh(0.5 * logits)) - targets
    return losses, errors


LOSSES = {True: softmax_loss, False: sigmoid_loss}


@dataclass(frozen=True, slots=True, eq=False)
class Minimum:
    """Where the solver ended.

    Attributes:
        theta: `[C, K + 1]`.
        iterations: Steps taken.
        converged: Whether no component of the gradient exceeds the tolerance.
    """

    theta: Doubles
    iterations: int
    converged: bool


def minimize(
    function: Callable[[Doubles], tuple[float, Doubles]],
    start: Doubles,
    tolerance: float,
    most_iterations: int,
) -> Minimum:
    """Minimize a smooth convex function by L-BFGS (Nocedal and Wright, 2nd edition, section 7.2).

    Steps are halved until they suffice. A step without positive curvature is not remembered.

    Args:
        function: Value and gradient.
        start: Where to begin.
        tolerance: Converged when no component of the gradient is larger.
        most_iterations: Where to stop anyway.
    """
    theta = start
    value, gradient = function(theta)
    pairs: deque[tuple[Doubles, Doubles]] = deque(maxlen=MEMORY)
    for iteration in range(most_iterations):
        if np.abs(gradient).max() <= tolerance:
            return Minimum(theta, iteration, converged=True)
        direction = -_times_inverse_hessian(gradient, pairs)
        slope = float(np.vdot(direction, gradient))
        length = 1.0 if pairs else min(1.0, 1.0 / float(np.abs(gradient).sum()))
        while True:
            moved = theta + length * direction
            new_value, new_gradient = function(moved)
            new_slope = float(np.vdot(direction, new_gradient))
            if _suffices(value, new_value, length * slope, new_slope / -slope):
                break
            length /= 2
            if length < SHORTEST_STEP:  # rounding hides any further decrease
                return Minimum(theta, iteration, converged=False)
        step, change = moved - theta, new_gradient - gradient
        if np.vdot(step, change) > np.finfo(np.float64).eps * np.vdot(change, change):
            pairs.append((step, change))
        theta, value, gradient = moved, new_value, new_gradient
    return Minimum(theta, most_iterations, bool(np.abs(gradient).max() <= tolerance))


def _suffices(value: float, new_value: float, expected: float, slope_left: float) -> bool:
    """Whether a step decreased the value enough (Armijo).

    Close to the minimum rounding hides the decrease; then the slope says whether a convex function
    fell: the approximate Wolfe condition of Hager and Zhang (SIAM J. Optim. 16, 2005, section 2).

    Args:
        value: Before the step.
        new_value: After it.
        expected: Change of a function as steep as the start all along the step; below 0.
        slope_left: The slope after the step over that before it, sign turned.
    """
    if new_value <= value + SUFFICIENT * expected:
        return True
    return new_value <= value + ROUNDING * abs(value) and slope_left <= 1 - 2 * SUFFICIENT


def _times_inverse_hessian(gradient: Doubles, pairs: deque[tuple[Doubles, Doubles]]) -> Doubles:
    """The two-loop recursion (Nocedal and Wright, algorithm 7.4)."""
    product = gradient.copy()
    shares = []
    for step, change in reversed(pairs):
        share = float(np.vdot(step, product) / np.vdot(step, change))
        product -= share * change
        shares.append(share)
    if pairs:
        step, change = pairs[-1]
        product *= float(np.vdot(step, change) / np.vdot(change, change))
    for (step, change), share in zip(pairs, reversed(shares), strict=True):
        product += (share - float(np.vdot(change, product) / np.vdot(step, change))) * step
    return product
