from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import oracles
from gapcam.boxes import find_regions
from gapcam.maps import (
    class_maps,
    map_gap,
    normalize,
    normalize_ivr,
    normalize_max,
    normalize_minmax,
    softmax,
    top_classes,
)
from gapcam.recipes import PAPER

GOLDEN = Path(__file__).parent / "golden" / "googlenet_cam.npz"
IVR_PERCENTILE = 0.45

Rule = Callable[[np.ndarray], np.ndarray]
RULES: dict[str, tuple[Rule, Rule]] = {
    "max": (normalize_max, oracles.normalize_max),
    "minmax": (normalize_minmax, oracles.normalize_minmax),
    "ivr": (
        lambda maps: normalize_ivr(maps, IVR_PERCENTILE),
        lambda values: oracles.normalize_ivr(values, IVR_PERCENTILE),
    ),
}
every_rule = pytest.mark.parametrize("rule", list(RULES))
# Not so small or large that a difference or a quotient leaves float32.
values = st.floats(-1000, 1000, width=32).map(lambda v: 0.0 if abs(v) < 1e-3 else v)
some_map = arrays(np.float32, st.tuples(st.integers(1, 6), st.integers(1, 6)), elements=values)


def random_head(batch: int, channels: int, classes: int, h: int, w: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    features = rng.normal(0.4, 1, (batch, channels, h, w)).astype(np.float32)
    weights = rng.normal(0, 0.5, (classes, channels)).astype(np.float32)
    bias = rng.normal(0, 1, classes).astype(np.float32)
    return features, weights, bias


# --- class maps --------------------------------------------------------------------------------


def test_a_class_map_is_the_weighted_sum_of_the_features():
    features, weights, _ = random_head(2, 5, 7, 3, 4)
    classes = np.array([[6, 0, 3], [2, 2, 5]])
    found = class_maps(features, weights, classes)
    assert found.shape == (2, 3, 3, 4)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, oracles.class_maps(features, weights, classes), atol=1e-5)


def test_every_picture_of_a_batch_gets_the_maps_of_its_own_classes():
    features, weights, _ = random_head(3, 8, 10, 4, 4)
    classes = np.array([[0, 1], [5, 9], [9, 5]])
    found = class_maps(features, weights, classes)
    for picture, ids in enumerate(classes):
        for place, class_id in enumerate(ids):
            one = features[picture : picture + 1]
            alone = class_maps(one, weights, np.array([[class_id]]))[0, 0]
            np.testing.assert_allclose(found[picture, place], alone, atol=1e-5)


def test_maps_are_signed_and_never_rescaled():
    features = np.ones((1, 2, 1, 2), np.float32)
    weights = np.array([[1, -3]], np.float32)
    np.testing.assert_array_equal(class_maps(features, weights, np.array([[0]])), [[[[-2, -2]]]])


@given(
    st.integers(1, 3), st.integers(1, 40), st.integers(1, 9), st.integers(1, 9), st.integers(0, 99)
)
@settings(deadline=None, max_examples=40)
def test_the_mean_of_a_map_plus_the_bias_is_the_logit(batch, channels, h, w, seed):
    features, weights, bias = random_head(batch, channels, 6, h, w, seed)
    classes = np.tile(np.arange(6), (batch, 1))
    mean = class_maps(features, weights, classes).mean((2, 3), dtype=np.float64)
    logits = oracles.pooled_logits(features, weights, bias)
    np.testing.assert_allclose(mean + bias, logits, atol=2e-5)


def test_the_maps_of_googlenet_cam_give_the_scores_of_its_authors():
    golden = np.load(GOLDEN)
    classes = np.tile(np.arange(1000), (2, 1))
    maps = class_maps(golden["activations"], golden["weights"], classes)
    error = np.abs(softmax(maps.mean((2, 3))) - golden["scores"]).max()
    assert error < 1e-3, f"largest error {error:.2e}"
    best = golden["scores"].argmax(-1)
    np.testing.assert_array_equal(top_classes(maps.mean((2, 3)), 1)[:, 0], best)


# --- the proof ---------------------------------------------------------------------------------


@pytest.fixture
def head():
    """Features, weights, bias and the true logits of a small network."""
    features, weights, bias = random_head(2, 16, 9, 5, 6, seed=5)
    logits = oracles.pooled_logits(features, weights, bias).astype(np.float32)
    return features, weights, bias, logits


def head_gap(features, weights, bias, logits):
    """The gap over every class of every picture."""
    classes = np.tile(np.arange(len(weights)), (len(features), 1))
    return map_gap(class_maps(features, weights, classes), classes, bias, logits)


def test_an_exact_head_has_no_gap(head):
    assert head_gap(*head) < 1e-5


def test_the_gap_is_the_largest_one_of_any_picture_and_class(head):
    features, weights, bias, logits = head
    off = logits.copy()
    off[0, 3] += 0.25
    off[1, 8] -= 0.5
    assert head_gap(features, weights, bias, off) == pytest.approx(0.5, abs=1e-5)


def test_a_dropped_bias_is_found(head):
    features, weights, bias, logits = head
    gap = head_gap(features, weights, np.zeros_like(bias), logits)
    assert gap == pytest.approx(np.abs(bias).max(), abs=1e-5)


def test_a_relu_slipped_into_the_features_is_found(head):
    features, weights, bias, logits = head
    assert head_gap(np.maximum(features, 0), weights, bias, logits) > 0.1
    assert head_gap(features, np.maximum(weights, 0), bias, logits) > 0.1


def test_a_min_max_scaling_is_found(head):
    features, weights, bias, logits = head
    low, high = features.min((2, 3), keepdims=True), features.max((2, 3), keepdims=True)
    assert head_gap((features - low) / (high - low), weights, bias, logits) > 0.1


def test_a_norm_between_pooling_and_linear_is_found(head):
    features, weights, bias, _ = head
    pooled = features.mean((2, 3))
    normed = (pooled - pooled.mean(-1, keepdims=True)) / pooled.std(-1, keepdims=True)
    assert head_gap(features, weights, bias, normed @ weights.T + bias) > 0.1


def test_a_shifted_label_order_is_found(head):
    features, weights, bias, logits = head
    assert head_gap(features, weights, bias, np.roll(logits, 1, axis=1)) > 0.1


# --- heat --------------------------------------------------------------------------------------


@every_rule
@given(some_map)
@settings(deadline=None, max_examples=60)
def test_heat_is_what_the_definition_gives(rule, one):
    found, expected = (f(one) for f in RULES[rule])
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=2e-5)


@every_rule
@given(some_map)
@settings(deadline=None, max_examples=60)
def test_heat_lies_in_0_to_1_and_peaks_at_exactly_1_where_something_is_positive(rule, one):
    heat = RULES[rule][0](one)
    assert heat.min() >= 0
    assert heat.max() == (1 if one.max() > 0 else 0)
    if one.max() > 0:
        assert heat[np.unravel_index(one.argmax(), one.shape)] == 1


@every_rule
@pytest.mark.parametrize(
    "one",
    [
        np.zeros((3, 4)),
        np.full((3, 4), -2.5),
        -np.arange(12).reshape(3, 4),  # the highest is exactly 0
        -np.arange(1, 13).reshape(3, 4),
        np.full((1, 1), -0.0),
    ],
    ids=["zero", "constant negative", "up to zero", "negative", "minus zero"],
)
def test_a_map_without_a_positive_value_is_never_a_hot_spot(rule, one):
    heat = RULES[rule][0](one.astype(np.float32))
    np.testing.assert_array_equal(heat, np.zeros(one.shape))
    assert find_regions(heat, PAPER) == ()


@every_rule
def test_a_map_with_a_nan_is_never_a_hot_spot(rule):
    one = np.ones((2, 3, 3), np.float32)
    one[0, 1, 1] = np.nan
    one[1, 0, 0] = 2
    heat = RULES[rule][0](one)
    np.testing.assert_array_equal(heat[0], 0)
    assert heat[1].max() == 1  # its neighbour in the batch does not suffer


@every_rule
@pytest.mark.parametrize("value", [1e-6, 1, 3e4])
def test_a_constant_positive_map_is_1_everywhere(rule, value):
    np.testing.assert_array_equal(RULES[rule][0](np.full((3, 5), value, np.float32)), 1)


@every_rule
@given(some_map, st.floats(0.01, 100))
@settings(deadline=None, max_examples=40)
def test_scaling_a_map_leaves_its_heat_as_it_is(rule, one, factor):
    scaled = RULES[rule][0](one * np.float32(factor))
    np.testing.assert_allclose(scaled, RULES[rule][0](one), atol=1e-4)


@every_rule
def test_every_map_of_a_batch_is_normalized_for_itself(rule):
    maps = np.random.default_rng(3).normal(0, 1, (2, 3, 4, 5)).astype(np.float32)
    maps[0, 1] *= 1000
    maps[1, 2] = -1
    heat = RULES[rule][0](maps)
    for index in np.ndindex(2, 3):
        np.testing.assert_array_equal(heat[index], RULES[rule][0](maps[index]))


@given(some_map)
@settings(deadline=None, max_examples=40)
def test_max_keeps_the_zero_level_and_the_ratios(one):
    heat = normalize_max(one)
    np.testing.assert_array_equal(heat[one <= 0], 0)
    np.testing.assert_allclose(heat * max(one.max(), 0), np.maximum(one, 0), rtol=1e-5)


def test_minmax_moves_the_zero_level_and_max_does_not():
    one = np.array([[-1, 0, 1, 3]], np.float32)
    np.testing.assert_allclose(normalize_minmax(one), [[0, 0.25, 0.5, 1]])
    np.testing.assert_allclose(normalize_max(one), [[0, 0, 1 / 3, 1]])


def test_ivr_takes_the_percentile_off_and_zeroes_what_lies_below():
    one = np.arange(11, dtype=np.float32).reshape(1, 11)  # percentiles 0, .1, ... 1 are 0 to 10
    np.testing.assert_allclose(normalize_ivr(one, 0.5), [[0] * 6 + [0.2, 0.4, 0.6, 0.8, 1]])
    np.testing.assert_allclose(normalize_ivr(one, 0.25)[0, :5], [0, 0, 0, 0.5 / 7.5, 1.5 / 7.5])
    np.testing.assert_allclose(normalize_ivr(one, 0), one / 10)


@given(some_map)
@settings(deadline=None, max_examples=30)
def test_ivr_at_percentile_0_is_minmax(one):
    np.testing.assert_array_equal(normalize_ivr(one, 0), normalize_minmax(one))


@given(some_map, st.floats(0, 0.9))
@settings(deadline=None, max_examples=40)
def test_ivr_zeroes_at_least_that_share_of_the_cells(one, share):
    heat = normalize_ivr(one, share)
    if one.max() > 0 and np.quantile(one, share) < one.max():
        assert (heat == 0).sum() >= np.floor(share * (one.size - 1))


@pytest.mark.parametrize("percentile", [0.1, 0.8])
def test_the_recipe_says_which_rule_is_used(percentile):
    maps = np.random.default_rng(4).normal(0.5, 1, (2, 6, 6)).astype(np.float32)
    ivr = replace(PAPER, normalize="ivr", ivr_percentile=percentile)
    np.testing.assert_array_equal(normalize(maps, PAPER), normalize_max(maps))
    minmax = replace(PAPER, normalize="minmax")
    np.testing.assert_array_equal(normalize(maps, minmax), normalize_minmax(maps))
    np.testing.assert_array_equal(normalize(maps, ivr), normalize_ivr(maps, percentile))


# --- scores and ranking ------------------------------------------------------------------------


@given(st.lists(st.floats(-80, 80, width=32), min_size=1, max_size=12))
@settings(deadline=None, max_examples=40)
def test_scores_are_what_the_definition_gives(logits):
    found = softmax(np.array([logits], np.float32))[0]
    np.testing.assert_allclose(found, oracles.softmax(logits), rtol=2e-5, atol=1e-12)


def test_scores_of_huge_logits_stay_finite():
    logits = np.array([[1e30, 1e30, 0], [-1e30, -1e30, -3e38], [2e5, 2e5 - 1, -2e5]], np.float32)
    expected = [[0.5, 0.5, 0], [0.5, 0.5, 0], [1 / (1 + np.exp(-1)), 1 / (1 + np.exp(1)), 0]]
    np.testing.assert_allclose(softmax(logits), expected, atol=1e-6)


@given(arrays(np.float32, (3, 7), elements=st.floats(-30, 30, width=32)), st.integers(-50, 50))
@settings(deadline=None, max_examples=30)
def test_scores_sum_to_1_and_a_common_shift_changes_nothing(logits, shift):
    scores = softmax(logits)
    np.testing.assert_allclose(scores.sum(-1), 1, atol=1e-6)
    np.testing.assert_allclose(softmax(logits + np.float32(shift)), scores, atol=2e-5)


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=20), st.integers(1, 20))
@settings(deadline=None, max_examples=60)
def test_the_best_classes_come_first_and_of_equal_ones_the_lower_id(logits, count):
    count = min(count, len(logits))
    backward = logits[::-1]
    found = top_classes(np.array([logits, backward], np.float32), count)
    assert found.shape == (2, count)
    assert found[0].tolist() == oracles.top_ids([float(x) for x in logits], count)
    assert found[1].tolist() == oracles.top_ids([float(x) for x in backward], count)


def test_equal_logits_rank_by_id():
    assert top_classes(np.zeros((1, 1000), np.float32), 5).tolist() == [[0, 1, 2, 3, 4]]
