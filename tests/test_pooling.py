"""Pooled linear heads against slow loops, their limits, gradients and class maps."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from gapcam.models.pooling import PooledLinear, log_sum_exp, thresholded_average
from gapcam.types import ArgumentError

POOLS = ["gap", "gmp", "lse", "tap"]


def head_of(pool: str, channels: int = 5, classes: int = 3, **values: float) -> PooledLinear:
    head = PooledLinear(channels, classes, pool, **values).double()
    nn.init.normal_(head.linear.weight)
    nn.init.normal_(head.linear.bias)
    return head


def features_of(seed: int, shape: tuple[int, ...]) -> Tensor:
    """As a ReLU gives them: about half are zero."""
    random = np.random.default_rng(seed)
    return torch.from_numpy(random.normal(0, 1, shape).clip(0))


def by_hand(head: PooledLinear, features: Tensor) -> np.ndarray:
    """Every score by the paper's formula, one position at a time."""
    weights = head.linear.weight.detach().numpy()
    bias = head.linear.bias.detach().numpy()
    batch, channels, rows, columns = features.shape
    scores = np.zeros((batch, len(bias)))
    for i in range(batch):
        values = [
            [float(features[i, k, y, x]) for y in range(rows) for x in range(columns)]
            for k in range(channels)
        ]
        for c in range(len(bias)):
            if head.pool == "lse":
                maps = [
                    sum(weights[c, k] * values[k][p] for k in range(channels))
                    for p in range(rows * columns)
                ]
                mean = sum(math.exp(head.sharpness * m) for m in maps) / len(maps)
                scores[i, c] = math.log(mean) / head.sharpness + bias[c]
                continue
            pooled = [pooled_by_hand(head, values[k]) for k in range(channels)]
            scores[i, c] = sum(w * p for w, p in zip(weights[c], pooled, strict=True)) + bias[c]
    return scores


def pooled_by_hand(head: PooledLinear, values: list[float]) -> float:
    if head.pool == "gap":
        return sum(values) / len(values)
    if head.pool == "gmp":
        return max(values)
    above = [v for v in values if v > head.share * max(values)]
    return sum(above) / len(above) if above else 0.0


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    pool=st.sampled_from(POOLS),
    batch=st.integers(1, 3),
    rows=st.integers(1, 5),
    columns=st.integers(1, 6),
)
def test_scores_are_those_of_the_papers_formulas(
    seed: int, pool: str, batch: int, rows: int, columns: int
):
    torch.manual_seed(seed)
    head = head_of(pool, sharpness=2.5, share=0.4)
    features = features_of(seed, (batch, 5, rows, columns))
    with torch.no_grad():
        np.testing.assert_allclose(head(features), by_hand(head, features), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("pool", POOLS)
def test_class_maps_are_the_weights_times_the_features(pool: str):
    torch.manual_seed(0)
    head, features = head_of(pool), features_of(0, (2, 5, 3, 4))
    expected = torch.einsum("ck,bkhw->bchw", head.linear.weight, features)
    torch.testing.assert_close(head.class_maps(features), expected)


def test_only_average_pooling_gives_the_maps_mean_plus_the_bias():
    torch.manual_seed(1)
    features = features_of(1, (2, 5, 3, 4))
    for pool in POOLS:
        head = head_of(pool)
        gap = head(features) - head.class_maps(features).mean((2, 3)) - head.linear.bias
        assert (gap.abs().max() < 1e-12) == (pool == "gap"), pool


def test_log_sum_exp_goes_from_the_mean_to_the_maximum():
    maps = torch.from_numpy(np.random.default_rng(2).normal(0, 1, (2, 3, 4, 5)))
    mean, highest = maps.mean((2, 3)), maps.amax((2, 3))
    torch.testing.assert_close(log_sum_exp(maps, 1e-6), mean, rtol=0, atol=1e-5)
    torch.testing.assert_close(log_sum_exp(maps, 1e5), highest, rtol=0, atol=1e-4)
    scores = torch.stack([log_sum_exp(maps, r) for r in (0.1, 1, 5, 50)])
    assert (scores.diff(dim=0) > 0).all()
    assert ((scores > mean) & (scores < highest)).all()


def test_log_sum_exp_does_not_overflow():
    maps = torch.tensor([300.0, -300.0]).reshape(1, 1, 1, 2)
    torch.testing.assert_close(log_sum_exp(maps), torch.tensor([[300 - math.log(2) / 5]]))
    torch.testing.assert_close(log_sum_exp(-maps), torch.tensor([[300 - math.log(2) / 5]]))


def test_the_thresholded_average_of_share_0_is_the_mean_of_what_is_positive():
    features = features_of(3, (2, 4, 5, 5))
    for i in range(2):
        for k in range(4):
            channel = features[i, k]
            expected = channel[channel > 0].mean()
            torch.testing.assert_close(thresholded_average(features, 0)[i, k], expected)


def test_the_thresholded_average_of_nearly_1_is_the_maximum():
    features = features_of(4, (2, 4, 5, 5))
    torch.testing.assert_close(thresholded_average(features, 1 - 1e-12), features.amax((2, 3)))


def test_a_channel_that_is_nowhere_positive_averages_to_0():
    features = torch.zeros(2, 3, 4, 4, requires_grad=True)
    pooled = thresholded_average(features)
    pooled.sum().backward()
    assert (pooled == 0).all()
    assert torch.isfinite(features.grad).all()
    assert (thresholded_average(-torch.ones(1, 2, 3, 3)) == 0).all()


@pytest.mark.parametrize("pool", POOLS)
def test_gradients_are_those_of_differences(pool: str):
    # Apart enough that no difference step crosses a threshold or another maximum.
    torch.manual_seed(5)
    steps = torch.randperm(2 * 3 * 2 * 3).reshape(2, 3, 2, 3).double() / 10 + 0.053
    head = head_of(pool, 3, 2, share=0.37)
    assert torch.autograd.gradcheck(head, (steps.requires_grad_(),))


@pytest.mark.parametrize("pool", POOLS)
def test_the_slopes_of_all_positions_sum_to_the_weights(pool: str):
    torch.manual_seed(6)
    head = head_of(pool)
    features = features_of(6, (1, 5, 4, 3)).add(0.01).requires_grad_()
    for c in range(3):
        (slope,) = torch.autograd.grad(head(features)[0, c], features)
        torch.testing.assert_close(slope.sum((0, 2, 3)), head.linear.weight[c].detach())


def test_a_new_head_thinks_all_classes_about_equal():
    torch.manual_seed(7)
    head = PooledLinear(512, 10)
    assert float(head.linear.weight.detach().std()) == pytest.approx(0.01, rel=0.1)
    assert (head.linear.bias == 0).all()
    assert repr(head).startswith("PooledLinear(\n  pool=gap")
    assert "sharpness=5" in repr(PooledLinear(2, 2, "lse"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((4, 3, "max"), r"pool: expected gap or gmp or lse or tap, got 'max'"),
        ((0, 3), r"channels: expected at least 1, got 0"),
        ((4, 0), r"classes: expected at least 1, got 0"),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments: tuple, message: str):
    with pytest.raises(ArgumentError, match=message):
        PooledLinear(*arguments)


@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
def test_sharpness_is_above_0(value: float):
    with pytest.raises(ArgumentError, match=r"sharpness: expected a number above 0, got"):
        PooledLinear(2, 2, "lse", sharpness=value)


@pytest.mark.parametrize("value", [-0.1, 1.0, math.nan])
def test_share_is_a_share(value: float):
    with pytest.raises(ArgumentError, match=r"share: expected 0 or more and less than 1, got"):
        PooledLinear(2, 2, "tap", share=value)
