from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from gapcam.training.linear_head import FittedHead, class_weights, fit_head
from gapcam.training.logistic import Objective, Standardized, minimize
from gapcam.types import ArgumentError, DataError, ModelError

TIGHT = 1e-10


def clusters(
    classes: int, channels: int, each: int, seed: int = 0, apart: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Overlapping clouds around random centres: features `[n, K]` and `bool [n, C]`."""
    rng = np.random.default_rng(seed)
    ids = np.repeat(np.arange(classes), each)
    centres = apart * rng.normal(size=(classes, channels))
    features = centres[ids] + rng.normal(size=(len(ids), channels))
    return (3 + features * rng.uniform(0.1, 5, channels)).astype(np.float32), ids[
        :, None
    ] == np.arange(classes)


def parts(count: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    order = np.random.default_rng(seed).permutation(count)
    return order[count // 4 :], order[: count // 4]


def standardized(features: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x = features.astype(np.float64)
    mean = np.average(x, 0, weights)
    spread = np.sqrt(np.average((x - mean) ** 2, 0, weights))
    return (x - mean) / spread, spread


def slow_errors(logits: np.ndarray, targets: np.ndarray, single: bool) -> np.ndarray:
    """Probability less target, one picture and class at a time."""
    errors = np.zeros(logits.shape)
    for i, row in enumerate(logits):
        for c, score in enumerate(row):
            total = np.exp(row - score).sum() if single else 1 + np.exp(-score)
            errors[i, c] = 1 / total - targets[i, c]
    return errors


@pytest.mark.parametrize("single", [True, False])
def test_the_gradient_is_zero_at_the_head(single: bool):
    """The first-order condition, written out on standardized features."""
    features, targets = clusters(3, 5, 40)
    if not single:
        targets = np.roll(targets, 1, 1) | (np.random.default_rng(2).random(targets.shape) < 0.3)
    train, validation = parts(len(features))
    decay = 0.01
    head = fit_head(
        features, targets, train, validation, single=single, decays=[decay], tolerance=TIGHT
    )
    assert head.chosen.converged
    x, y = features[train].astype(np.float64), targets[train]
    counts = y.sum(0)
    s = (len(y) / (3 * counts))[y.argmax(1)] if single else np.ones(len(y))
    z, spread = standardized(x, s)
    errors = s[:, None] * slow_errors(x @ head.weights.T + head.bias, y, single) / len(y)
    np.testing.assert_allclose(errors.T @ z + decay * head.weights * spread, 0, atol=1e-6)
    np.testing.assert_allclose(errors.sum(0), 0, atol=1e-6)


def newton(z: np.ndarray, y: np.ndarray, s: np.ndarray, decay: float) -> np.ndarray:
    """Multinomial logistic regression by full Newton steps: `[C, K + 1]`."""
    n, k = z.shape
    c = y.shape[1]
    x = np.hstack([z, np.ones((n, 1))])
    penalty = decay * np.tile(np.append(np.ones(k), 0), c)
    theta = np.zeros(c * (k + 1))
    for _ in range(50):
        logits = x @ theta.reshape(c, -1).T
        p = np.exp(logits - logits.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        gradient = ((s[:, None] * (p - y)).T @ x / n).ravel() + penalty * theta
        hessian = np.diag(penalty)
        for xi, pi, si in zip(x, p, s, strict=True):
            hessian += si / n * np.kron(np.diag(pi) - np.outer(pi, pi), np.outer(xi, xi))
        theta = theta - np.linalg.pinv(hessian, rcond=1e-12) @ gradient
    return theta.reshape(c, -1)


def test_newton_gives_the_same_weights():
    features, targets = clusters(3, 4, 30)
    train, validation = parts(len(features))
    fitted = fit_head(
        features, targets, train, validation, single=True, decays=[1e-3], tolerance=TIGHT
    )
    s = class_weights(targets[train], True)
    z, spread = standardized(features[train], s)
    theta = newton(z, targets[train], s, 1e-3)
    np.testing.assert_allclose(fitted.weights * spread, theta[:, :-1], atol=1e-5)
    expected = z @ theta[:, :-1].T + theta[:, -1]
    np.testing.assert_allclose(fitted.logits(features[train]), expected, atol=1e-4)


def test_all_classes_weigh_alike():
    """Pictures of a rare class count as if there were as many of them as of the others."""
    features, targets = clusters(2, 4, 32)
    few = np.r_[:32, 32:40]
    replicated = np.r_[:32, np.repeat(np.arange(32, 40), 4)]
    validation = np.arange(40, 64)
    heads = [
        fit_head(features, targets, train, validation, single=True, decays=[0.01], tolerance=TIGHT)
        for train in (few, replicated)
    ]
    np.testing.assert_allclose(heads[0].weights, heads[1].weights, atol=1e-5)
    np.testing.assert_allclose(heads[0].bias, heads[1].bias, atol=1e-5)


def test_the_units_of_features_do_not_matter():
    features, targets = clusters(3, 6, 40)
    train, validation = parts(len(features))
    scale = np.float32(2.0) ** np.arange(-6, 6, 2)
    heads = [
        fit_head(
            x, targets, train, validation, single=True, decays=[0.1, 0.01, 1e-3], tolerance=TIGHT
        )
        for x in (features, features * scale)
    ]
    np.testing.assert_allclose(
        heads[0].logits(features), heads[1].logits(features * scale), atol=1e-4
    )
    assert heads[0].decay == heads[1].decay


def test_probabilities_are_calibrated():
    """Labels drawn from a logistic model: its own weights and chances come back."""
    rng = np.random.default_rng(5)
    features = rng.normal(size=(12_000, 3)).astype(np.float32)
    true = np.array([[1.5, -1, 0.5], [-0.5, 0.8, 0]])
    bias = np.array([-1.0, 0.5])
    chance = 1 / (1 + np.exp(-(features @ true.T + bias)))
    targets = rng.random(chance.shape) < chance
    head = fit_head(features, targets, *parts(len(features)), single=False, decays=[1e-4])
    np.testing.assert_allclose(head.weights, true, atol=0.1)
    np.testing.assert_allclose(head.bias, bias, atol=0.1)
    given = 1 / (1 + np.exp(-head.logits(features)))
    for low in np.arange(0, 1, 0.2):
        of_bin = (given >= low) & (given < low + 0.2)
        assert abs(targets[of_bin].mean() - given[of_bin].mean()) < 0.03


@pytest.fixture(scope="module")
def overlapping() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    features, targets = clusters(4, 30, 30, apart=0.3)
    return features, targets, *parts(len(features))


def test_the_path_goes_from_strong_to_weak_and_the_lowest_validation_loss_is_kept(overlapping):
    features, targets, train, validation = overlapping
    head = fit_head(features, targets, train, validation, single=True)
    fits = [result.train_loss for result in head.path]
    assert fits == sorted(fits, reverse=True)
    losses = [result.validation_loss for result in head.path]
    assert head.decay == head.path[int(np.argmin(losses))].decay
    assert all(result.converged for result in head.path)
    assert 0 < losses.index(min(losses)) < len(losses) - 1
    assert losses[-4:] == sorted(losses[-4:])  # it ended after three rises,
    assert len(losses) < 11  # not at the weakest decay
    assert "lowest validation loss" in head.notes[0]


def test_the_reported_numbers_are_those_of_the_kept_head(overlapping):
    features, targets, train, validation = overlapping
    head = fit_head(features, targets, train, validation, single=True)
    logits = head.logits(features[validation]).astype(np.float64)
    y = targets[validation]
    assert head.chosen.validation_accuracy == (logits.argmax(1) == y.argmax(1)).mean()
    losses = np.log(np.exp(logits).sum(1)) - logits[y]
    by_class = [losses[y[:, c]].mean() for c in range(4)]  # classes weigh alike
    assert head.chosen.validation_loss == pytest.approx(np.mean(by_class), rel=1e-5)


def test_of_equal_losses_the_strongest_decay_is_kept():
    constant = np.full((8, 3), 7, np.float32)
    targets = np.eye(2, dtype=bool)[[0, 1] * 4]
    head = fit_head(constant, targets, np.arange(4), np.arange(4, 8), single=True)
    assert head.decay == 1
    assert not head.weights.any()
    np.testing.assert_allclose(head.bias, 0, atol=1e-6)
    assert "strongest decay" in head.notes[1]


@pytest.mark.parametrize("single", [True, False])
def test_whole_chunked_and_kept_give_the_same(single: bool, monkeypatch: pytest.MonkeyPatch):
    features, targets = clusters(3, 8, 50)
    rows = np.arange(len(features))
    weights = class_weights(targets, single)
    whole = Standardized(features, rows, weights)
    kept = Standardized(features, rows, weights, chunk_bytes=8 * 8 * 7)
    monkeypatch.setattr("gapcam.training.logistic.KEPT_BYTES", 0)
    again = Standardized(features, rows, weights, chunk_bytes=8 * 8 * 7)
    assert [sum(1 for _ in data) for data in (whole, kept, again)] == [1, 22, 22]
    found = [
        minimize(
            Objective(data, targets, weights, single).penalized(0.01), np.zeros((3, 9)), TIGHT, 500
        ).theta
        for data in (whole, kept, again)
    ]
    np.testing.assert_allclose(found[0], found[1], atol=1e-8)
    assert (found[1] == found[2]).all()


def test_a_memory_map_gives_what_an_array_gives_and_twice_the_same(tmp_path, overlapping):
    features, *rest = overlapping
    np.save(tmp_path / "features.npy", features)
    mapped = np.load(tmp_path / "features.npy", mmap_mode="r")
    heads = [fit_head(x, *rest, single=True) for x in (features, mapped, mapped)]
    for head in heads[1:]:
        assert (head.weights == heads[0].weights).all()
        assert (head.bias == heads[0].bias).all()
        assert head.path == heads[0].path


def test_separable_data_fewer_pictures_than_channels_and_a_class_of_two():
    features, targets = clusters(3, 60, 6, apart=5)
    rows = np.r_[:12, 12:14]  # the third class has two pictures
    train, validation = rows[[0, 1, 2, 3, 6, 7, 8, 9, 12]], rows[[4, 5, 10, 11, 13]]
    head = fit_head(features, targets, train, validation, single=True)
    assert np.isfinite(head.weights).all()
    assert head.chosen.validation_accuracy == 1
    assert head.weights.shape == (3, 60)
    assert head.weights.dtype == head.bias.dtype == np.float32


def test_a_thousand_classes():
    features, targets = clusters(1000, 30, 2, apart=5)
    train, validation = np.arange(0, 2000, 2), np.arange(1, 2000, 2)
    head = fit_head(
        features, targets, train, validation, single=True, decays=[0.01], tolerance=1e-4
    )
    assert head.chosen.converged
    assert head.chosen.validation_accuracy > 0.95


def test_a_constant_channel_gets_no_weight():
    features, targets = clusters(2, 4, 30)
    features[:, 2] = 0.1
    head = fit_head(features, targets, *parts(60), single=True)
    assert not head.weights[:, 2].any()
    assert head.weights[:, 0].any()


def test_a_fit_that_was_stopped_says_so(overlapping):
    head = fit_head(*overlapping, single=True, decays=[1e-3], most_iterations=2)
    assert not head.chosen.converged
    assert head.chosen.iterations == 2
    assert "did not converge in 2" in head.notes[-1]


@pytest.mark.parametrize("row", [0, 50])  # one of training, one of validation
def test_features_that_are_no_numbers_are_refused(row: int):
    features, targets = clusters(2, 3, 30)
    features[row, 1] = np.nan
    order = np.arange(60)
    with pytest.raises(ModelError, match=r"not (all )?finite"):
        fit_head(features, targets, order[:40], order[40:], single=True)


def test_classes_without_pictures_are_refused():
    features, targets = clusters(3, 3, 10)
    order = np.arange(30)
    named = {"single": True, "classes": ["cat", "dog", "eel"]}
    with pytest.raises(DataError, match="'eel': no training picture"):
        fit_head(features, targets, order[:20], order[20:], **named)
    everywhere = np.array(targets)
    everywhere[:, 1] = True
    with pytest.raises(DataError, match="'1': every training picture"):
        fit_head(features, everywhere, order[::2], order[1::2], single=False)
    with pytest.raises(DataError, match="'0' is the only one"):
        fit_head(features, np.ones((30, 1), bool), order[::2], order[1::2], single=True)


def test_rows_and_shapes_that_do_not_fit_are_refused():
    features, targets = clusters(2, 3, 10)
    order = np.arange(20)
    with pytest.raises(ArgumentError, match="row 5 is in training and validation"):
        fit_head(features, targets, order[:10], order[5:], single=True)
    with pytest.raises(ArgumentError, match="validation: expected at least one row"):
        fit_head(features, targets, order, order[:0], single=True)
    with pytest.raises(ArgumentError, match=r"\[20, 3\] and \[19, 2\]"):
        fit_head(features, targets[:19], order[:10], order[10:], single=True)
    with pytest.raises(ArgumentError, match="exactly one class"):
        fit_head(features, ~targets | targets, order[::2], order[1::2], single=True)
    with pytest.raises(ArgumentError, match="each above 0"):
        fit_head(features, targets, order[::2], order[1::2], single=True, decays=[0.0])


def test_a_head_is_frozen(overlapping):
    head = fit_head(*overlapping, single=True, decays=[0.1])
    assert isinstance(head, FittedHead)
    with pytest.raises(dataclasses.FrozenInstanceError):
        head.decay = 1
