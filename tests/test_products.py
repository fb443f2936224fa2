from __future__ import annotations

import numpy as np
import pytest

from gapcam import products
from gapcam.products import gram, matmul


@pytest.fixture(params=[1, 7, 100, 2**19 - 1])
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "LARGEST_BLOCK", request.param)


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize(
    ("a", "b"), [((3, 4), (4, 5)), ((2, 3, 7, 4), (4, 5)), ((6, 2), (3, 2, 4)), ((0, 2), (2, 1))]
)
def test_blocks_give_the_product(a: tuple[int, ...], b: tuple[int, ...]):
    random = np.random.default_rng(0)
    x, y = random.normal(size=a).astype(np.float32), random.normal(size=b).astype(np.float32)
    found = matmul(x, y)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.matmul(x, y), atol=1e-5)


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize("shape", [(4, 9), (2, 3, 5), (1, 6, 1)])
def test_the_gram_matrix_holds_every_product_of_two_columns(shape: tuple[int, ...]):
    columns = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    expected = np.einsum("...ki,...kj->...ij", columns, columns)
    np.testing.assert_allclose(gram(columns), expected, atol=1e-5)


def test_a_product_is_cut_into_blocks_that_stay_below_the_limit(monkeypatch: pytest.MonkeyPatch):
    sizes = []
    whole = np.matmul

    def watched(a: np.ndarray, b: np.ndarray, **out: np.ndarray) -> np.ndarray:
        sizes.append(a.shape[-2] * a.shape[-1] * b.shape[-1])
        return whole(a, b, **out)

    monkeypatch.setattr(np, "matmul", watched)
    g = np.ones((2, 112, 400), np.float32)
    gram(g)
    matmul(g.swapaxes(-1, -2), g)
    assert len(sizes) > 20
    assert max(sizes) <= products.LARGEST_BLOCK
