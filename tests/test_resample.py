from __future__ import annotations

from itertools import product
from typing import Literal

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import oracles
from gapcam.resample import interpolation_matrix, resample

Kind = Literal["bilinear", "bicubic"]
KINDS: tuple[Kind, ...] = ("bilinear", "bicubic")
CV2_FLAG = {"bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}
# (h, w) to (H, W), rectangular, odd factors, one side only, one cell
ENLARGED = [
    ((7, 7), (224, 224)),
    ((7, 7), (14, 14)),
    ((7, 7), (7, 7)),
    ((14, 14), (56, 56)),
    ((10, 10), (20, 20)),
    ((5, 9), (37, 41)),
    ((9, 5), (10, 333)),
    ((3, 4), (3, 11)),
    ((2, 2), (9, 5)),
    ((1, 6), (5, 25)),
    ((6, 1), (6, 3)),
    ((1, 1), (4, 7)),
]
sides = st.integers(1, 12)


def random_maps(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 3, shape).astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("size_in", "size_out"), ENLARGED)
def test_enlarging_gives_what_opencv_gives(size_in, size_out, kind: Kind):
    values = random_maps(*size_in)
    expected = cv2.resize(values, size_out[::-1], interpolation=CV2_FLAG[kind])
    found = resample(values, size_out, kind)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected.reshape(size_out), atol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("size_in", "size_out"), ENLARGED)
def test_enlarging_gives_what_torch_gives(size_in, size_out, kind: Kind):
    import torch

    values = random_maps(2, 3, *size_in, seed=1)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(values), size_out, mode=kind, align_corners=False
    ).numpy()
    np.testing.assert_allclose(resample(values, size_out, kind), expected, atol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("size_in", "size_out"), [((3, 5), (7, 11)), ((4, 2), (4, 9))])
def test_each_sample_is_the_kernel_weighted_sum_of_its_neighbours(size_in, size_out, kind: Kind):
    values = random_maps(*size_in, seed=2)
    expected = oracles.resample_map(values, size_out, kind)
    np.testing.assert_allclose(resample(values, size_out, kind), expected, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_every_row_of_the_matrix_sums_to_1(kind: Kind):
    for n_in, n_out in product((1, 2, 3, 7, 14, 20), (1, 2, 5, 7, 13, 56, 224)):
        matrix = interpolation_matrix(n_in, n_out, kind)
        assert matrix.shape == (n_out, n_in)
        np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_matrix_of_the_same_size_is_the_identity(kind: Kind):
    np.testing.assert_array_equal(interpolation_matrix(9, 9, kind), np.eye(9))


def test_the_cached_matrix_cannot_be_written():
    with pytest.raises(ValueError, match="read-only"):
        interpolation_matrix(4, 8, "bilinear")[0, 0] = 2


def test_the_first_sample_is_read_a_half_pixel_inside():
    values = np.array([[0, 4]], dtype=np.float32)
    # centres at 0.25, 0.75, 1.25, 1.75 of a row whose cells are centred at 0.5 and 1.5
    np.testing.assert_allclose(resample(values, (1, 4), "bilinear"), [[0, 1, 3, 4]])


@given(sides, sides, sides, sides, st.sampled_from(KINDS), st.integers(0, 9))
@settings(deadline=None, max_examples=40)
def test_flipping_and_transposing_commute_with_resampling(h, w, up_h, up_w, kind, seed):
    values, size = random_maps(h, w, seed=seed), (h + up_h, w + up_w)
    found = resample(values, size, kind)
    for axis in (0, 1):
        flipped = resample(np.flip(values, axis), size, kind)
        np.testing.assert_allclose(flipped, np.flip(found, axis), atol=2e-5)
    np.testing.assert_allclose(resample(values.T, size[::-1], kind), found.T, atol=2e-5)


@given(sides, sides, sides, sides, st.sampled_from(KINDS), st.floats(-50, 50, width=32))
@settings(deadline=None, max_examples=40)
def test_a_constant_map_stays_constant(h, w, out_h, out_w, kind, value):
    values = np.full((h, w), value, np.float32)
    np.testing.assert_allclose(resample(values, (out_h, out_w), kind), value, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("leading", [(), (4,), (2, 3), (2, 1, 3), (0, 3)])
def test_any_leading_dimensions_are_mapped_one_by_one(leading, kind: Kind):
    values = random_maps(*leading, 5, 6, seed=3)
    found = resample(values, (11, 8), kind)
    assert found.shape == (*leading, 11, 8)
    for index in np.ndindex(leading):
        one = resample(values[index], (11, 8), kind)
        np.testing.assert_allclose(found[index], one, atol=2e-6)


def test_bilinear_never_leaves_the_range_of_the_map():
    values = random_maps(6, 7, seed=4)
    found = resample(values, (50, 60), "bilinear")
    assert values.min() - 1e-5 <= found.min() <= found.max() <= values.max() + 1e-5
