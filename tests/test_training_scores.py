from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapcam.training import scores
from gapcam.types import ArgumentError, DataError, ModelError


def slow_average_precision(values: np.ndarray, positive: np.ndarray) -> float:
    """From the definition: at every distinct cut, recall gained times precision."""
    total, recall = 0.0, 0.0
    for cut in sorted(set(values), reverse=True):
        taken = values >= cut
        found = (taken & positive).sum()
        total += (found / positive.sum() - recall) * found / taken.sum()
        recall = found / positive.sum()
    return total


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=30))
def test_average_precision_is_its_definition_whatever_the_order(pairs):
    values = np.array([v for v, _ in pairs], np.float32)
    positive = np.array([p for _, p in pairs])
    if not positive.any():
        with pytest.raises(ArgumentError, match="at least one positive"):
            scores.average_precision(values, positive)
        return
    found = scores.average_precision(values, positive)
    assert found == pytest.approx(slow_average_precision(values, positive))
    assert scores.average_precision(values[::-1], positive[::-1]) == pytest.approx(found)


def test_average_precision_by_hand():
    values = np.array([0.9, 0.8, 0.7, 0.6])
    positive = np.array([True, False, True, False])
    assert scores.average_precision(values, positive) == pytest.approx((1 + 2 / 3) / 2)
    assert scores.average_precision(np.zeros(4), positive) == pytest.approx(0.5)  # all equal


def test_accuracy_counts_the_best_class_and_takes_the_lower_id_of_equals():
    logits = np.array([[1, 2, 0], [3, 3, 0], [0, 0, 0], [0, 1, 5]], np.float32)
    targets = np.eye(3, dtype=bool)[[1, 1, 0, 2]]
    assert scores.accuracy(logits, targets, single=True) == 0.75


def test_mean_average_precision_leaves_out_classes_that_do_not_occur():
    logits = np.array([[2, 0, 9], [1, 1, 0], [0, 2, 0]], np.float32)
    targets = np.array([[1, 0, 0], [0, 1, 0], [0, 1, 0]], bool)
    assert scores.accuracy(logits, targets, single=False) == 1
    with pytest.raises(DataError, match="none of these 3 pictures"):
        scores.accuracy(logits, np.zeros_like(targets), single=False)


def test_the_losses_are_sums_of_logarithms_of_probabilities():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(6, 4)).astype(np.float32)
    ids = rng.integers(0, 4, 6)
    softmax = [
        -math.log(math.exp(row[i]) / sum(map(math.exp, row)))
        for row, i in zip(logits.tolist(), ids, strict=True)
    ]
    assert scores.loss(logits, np.eye(4, dtype=bool)[ids], True) == pytest.approx(np.mean(softmax))
    several = rng.random((6, 4)) < 0.5
    chance = 1 / (1 + np.exp(-logits.astype(np.float64)))
    binary = -np.log(np.where(several, chance, 1 - chance)).mean()
    assert scores.loss(logits, several, False) == pytest.approx(binary)


@pytest.mark.parametrize("single", [True, False])
def test_the_loss_of_huge_scores_is_finite(single: bool):
    logits = np.array([[1e30, -1e30], [-1e30, 1e30]], np.float32)
    assert scores.loss(logits, np.eye(2, dtype=bool), single) == 0
    assert scores.loss(logits, ~np.eye(2, dtype=bool), single) == pytest.approx(
        2e30 if single else 1e30
    )


def test_confusion_counts_true_rows_and_predicted_columns():
    logits = np.eye(3, dtype=np.float32)[[0, 1, 1, 2, 0]]
    counts = scores.confusion(logits, np.array([0, 0, 1, 2, 2]), 3)
    assert counts.tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 1]]
    assert counts.dtype == np.int64


def test_what_cannot_be_scored_is_refused():
    one = np.ones((1, 2), np.float32)
    with pytest.raises(ModelError, match="picture 0 is not finite"):
        scores.loss(one * np.nan, np.eye(2, dtype=bool)[:1], True)
    with pytest.raises(ArgumentError, match=r"\[1, 2\] and \[2, 2\]"):
        scores.accuracy(one, np.eye(2, dtype=bool), True)
    with pytest.raises(ArgumentError, match="same pictures"):
        scores.loss(one[:0], np.zeros((0, 2), bool), True)
    with pytest.raises(ArgumentError, match="ids 0 to 1"):
        scores.confusion(one, np.array([2]), 2)
    with pytest.raises(ArgumentError, match=r"expected scores \[2, 2\]"):
        scores.confusion(one, np.array([0, 1]), 2)
    with pytest.raises(ArgumentError, match="one score and one label"):
        scores.average_precision(np.ones(2), np.ones(3, bool))
