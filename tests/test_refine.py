from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import oracles
from gapcam.maps import normalize_minmax
from gapcam.refine import affinity, fuse, similarity
from gapcam.resample import resample


def random_pair(batch: int = 2, classes: int = 3, seed: int = 0, fine=(5, 6), coarse=(3, 3)):
    rng = np.random.default_rng(seed)
    maps = rng.normal(0, 2, (batch, classes, *coarse)).astype(np.float32)
    fine_features = rng.normal(1, 1, (batch, 7, *fine)).astype(np.float32)
    return maps, fine_features


@pytest.mark.parametrize(
    ("coarse", "fine"), [((3, 3), (6, 6)), ((3, 4), (5, 7)), ((1, 2), (3, 2)), ((4, 4), (4, 4))]
)
def test_refined_maps_are_what_the_formula_gives(coarse, fine):
    maps, fine_features = random_pair(coarse=coarse, fine=fine)
    found = affinity(maps, fine_features)
    assert found.shape == (2, 3, *fine)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, oracles.affinity(maps, fine_features), atol=2e-5)


@pytest.mark.parametrize("centring", [0.0, 0.25, 0.9])
def test_features_lose_the_asked_share_of_their_mean(centring):
    maps, fine_features = random_pair(coarse=(3, 4), fine=(5, 7))
    found = affinity(maps, fine_features, centring)
    expected = oracles.affinity(maps, fine_features, centring)
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert np.abs(found - affinity(maps, fine_features)).max() > 0.01


def test_what_all_places_share_counts_only_without_centring():
    # One channel is the same everywhere: centred, the two halves are opposites; else all are alike.
    fine_features = np.ones((1, 2, 2, 4), np.float32)
    fine_features[:, 0, :, 2:] = -1
    maps = np.zeros((1, 1, 2, 4), np.float32)
    maps[0, 0, 0, 0] = 8
    apart = affinity(maps, fine_features, 1.0)[0, 0]
    np.testing.assert_allclose(apart, [[2, 2, 0, 0], [2, 2, 0, 0]], atol=1e-6)
    fine_features[:, 1] = 3  # cosine between the halves (9 - 1) / (9 + 1)
    shared = affinity(maps, fine_features, 0.0)[0, 0]
    left, right = 8 / (4 + 4 * 0.8), 8 * 0.8 / (4 + 4 * 0.8)
    np.testing.assert_allclose(shared, [[left, left, right, right]] * 2, atol=1e-5)


def test_fused_evidence_is_the_mean_of_the_two_scaled_to_their_peaks():
    first = np.array([[[[0, 2], [4, 1]]]], np.float32)
    second = np.array([[[[10, 5], [0, -3]]]], np.float32)
    np.testing.assert_allclose(fuse(first, second)[0, 0], [[0.5, 0.5], [0.5, 0.125]])
    np.testing.assert_array_equal(fuse(first, second), fuse(first * 7, second / 3))
    np.testing.assert_array_equal(fuse(first, second), fuse(second, first))


def test_evidence_with_no_positive_value_adds_nothing():
    first = np.array([[[[0, 2], [4, 1]]]], np.float32)
    np.testing.assert_array_equal(fuse(first, np.full_like(first, -2)), first / 8)
    np.testing.assert_array_equal(fuse(first * 0, first * 0), first * 0)


def test_finer_evidence_is_brought_to_the_grid_of_the_first():
    maps, fine_features = random_pair()
    finer = np.random.default_rng(1).normal(0, 1, (2, 3, 10, 12)).astype(np.float32)
    found = fuse(affinity(maps, fine_features), finer)
    same = fuse(affinity(maps, fine_features), resample(finer, (5, 6), "bicubic"))
    assert found.shape == (2, 3, 5, 6)
    np.testing.assert_array_equal(found, same)


def test_two_groups_of_places_share_their_heat_within_the_group_only():
    # left and right halves look opposite, so A averages over one's own half
    fine_features = np.ones((1, 1, 2, 4), np.float32)
    fine_features[..., 2:] = -1
    maps = np.zeros((1, 1, 2, 4), np.float32)
    maps[0, 0, 0, 0] = 8
    expected = [[2, 2, 0, 0], [2, 2, 0, 0]]
    np.testing.assert_allclose(affinity(maps, fine_features)[0, 0], expected, atol=1e-6)


@given(st.integers(2, 6), st.integers(2, 6), st.integers(0, 999))
@settings(deadline=None, max_examples=30)
def test_the_similarity_is_symmetric_1_with_itself_and_never_negative(h, w, seed):
    features = np.random.default_rng(seed).normal(0, 1, (2, 5, h, w)).astype(np.float32)
    rows = similarity(features)
    assert rows.shape == (2, h * w, h * w)
    assert rows.min() >= 0
    assert rows.max() <= 1 + 1e-5
    np.testing.assert_allclose(rows, rows.transpose(0, 2, 1), atol=1e-6)
    np.testing.assert_allclose(rows.diagonal(0, 1, 2), 1, atol=1e-5)


@given(st.integers(0, 999))
@settings(deadline=None, max_examples=30)
def test_refined_heat_is_an_average_of_the_positive_heat(seed):
    maps, fine_features = random_pair(seed=seed)
    seeds = np.maximum(resample(maps, (5, 6), "bicubic"), 0)
    found = affinity(maps, fine_features)
    assert found.min() >= 0
    assert (found.max((2, 3)) <= seeds.max((2, 3)) * (1 + 1e-5)).all()


@pytest.mark.parametrize("value", [0, -1e-6, -3])
def test_a_flat_map_that_is_not_positive_refines_to_zero(value):
    maps, fine_features = random_pair()
    maps[1, 2] = value
    found = affinity(maps, fine_features)
    np.testing.assert_array_equal(found[1, 2], 0)
    assert found[1, 1].max() > 0


def test_a_map_that_is_negative_everywhere_refines_to_zero():
    """The bicubic resampling overshoots zero beside a shallow place in a deep map."""
    maps, fine_features = random_pair(batch=1, classes=1, coarse=(7, 7), fine=(14, 14))
    maps[:] = -5
    maps[0, 0, 2:4, 2:4] = -0.05
    found = affinity(maps, fine_features)
    heat = normalize_minmax(found)
    assert found.max() == 0, f"refined up to {found.max():.3g}, which is then stretched to heat 1"
    assert heat.max() == 0


@pytest.mark.parametrize("value", [0, 1, 0.1, -7.3, 1e-20, 1e10])
def test_features_that_are_the_same_everywhere_give_finite_maps(value):
    maps, fine_features = random_pair()
    fine_features[0] = value
    found = affinity(maps, fine_features)
    assert np.isfinite(found).all()
    assert found.min() >= 0
    alone = affinity(maps[1:], fine_features[1:])
    np.testing.assert_allclose(found[1:], alone, atol=1e-6)


def test_one_place_without_features_of_its_own_gets_no_heat_and_gives_none():
    maps, fine_features = random_pair(batch=1)
    fine_features -= fine_features.mean((2, 3), keepdims=True)
    fine_features = np.round(fine_features * 64) / 64  # exact in float32
    fine_features[..., 0, 0] = 0
    fine_features[..., 0, 1] -= fine_features.sum((2, 3))  # the mean is exactly 0
    rows = similarity(fine_features)
    np.testing.assert_array_equal(rows[0, 0], 0)
    np.testing.assert_array_equal(rows[0, :, 0], 0)
    assert np.isfinite(affinity(maps, fine_features)).all()


def test_one_fine_place_gives_finite_maps():
    maps, fine_features = random_pair(coarse=(1, 1), fine=(1, 1))
    assert np.isfinite(affinity(maps, fine_features)).all()


@pytest.mark.parametrize("factor", [2.0**-20, 1e-4, 3, 1e6])
def test_scaling_the_fine_features_changes_nothing(factor):
    maps, fine_features = random_pair()
    scaled = affinity(maps, fine_features * np.float32(factor))
    np.testing.assert_allclose(scaled, affinity(maps, fine_features), atol=1e-5)


def test_adding_a_constant_to_a_channel_changes_nothing():
    maps, fine_features = random_pair()
    shift = np.arange(7, dtype=np.float32)[:, None, None]
    shifted = affinity(maps, fine_features + shift)
    np.testing.assert_allclose(shifted, affinity(maps, fine_features), atol=1e-5)


def test_scaling_the_maps_scales_the_refined_maps():
    maps, fine_features = random_pair()
    found = affinity(maps * np.float32(4), fine_features)
    np.testing.assert_allclose(found, 4 * affinity(maps, fine_features), rtol=1e-5)


@pytest.mark.parametrize("axis", [2, 3])
def test_flipping_the_picture_flips_the_refined_maps(axis):
    maps, fine_features = random_pair()
    flipped = affinity(np.flip(maps, axis), np.flip(fine_features, axis))
    np.testing.assert_allclose(flipped, np.flip(affinity(maps, fine_features), axis), atol=1e-5)


def test_every_picture_of_a_batch_is_refined_for_itself():
    maps, fine_features = random_pair(batch=3)
    together = affinity(maps, fine_features)
    for i in range(3):
        alone = affinity(maps[i : i + 1], fine_features[i : i + 1])
        np.testing.assert_allclose(together[i], alone[0], atol=1e-6)
