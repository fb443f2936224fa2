from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import gapcam
from gapcam.engines.torch import TorchEngine
from gapcam.models import embedded
from gapcam.models.heads import find_head
from gapcam.models.pytorch.network import TorchNetwork
from gapcam.models.pytorch.trace import trace_module

PREPARED = embedded.PREPROCESSING


@pytest.fixture(scope="module")
def torch_engine() -> TorchEngine:
    program, trace = trace_module(embedded.load_network(), PREPARED.size_hw)
    return TorchEngine(TorchNetwork(program, find_head(trace)), PREPARED, "cpu")


@pytest.fixture(scope="module")
def pixels(localizer: gapcam.Localizer) -> np.ndarray:
    return np.stack([localizer.read(path).pixels for path in gapcam.sample_pictures()])


@pytest.mark.parametrize("name", ["onnx", "torch"])
def test_maps_add_up_to_scores(
    name: str, localizer: gapcam.Localizer, torch_engine: TorchEngine, pixels: np.ndarray
):
    engine = {"onnx": localizer.engine, "torch": torch_engine}[name]
    out, head = engine.run(pixels), engine.head
    pooled = out.features.mean((2, 3), dtype=np.float64)
    gap = np.abs(pooled @ head.weights.T + head.bias - out.logits).max()
    assert gap <= 1e-4 * np.ptp(out.logits)


def test_the_engines_agree(
    localizer: gapcam.Localizer, torch_engine: TorchEngine, pixels: np.ndarray
):
    ours, theirs = localizer.engine.run(pixels), torch_engine.run(pixels)
    tolerance = 1e-4 * np.ptp(theirs.logits)
    np.testing.assert_allclose(ours.logits, theirs.logits, atol=tolerance)
    for name in ("features", "fine_features"):
        a, b = getattr(ours, name), getattr(theirs, name)
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, atol=1e-4 * np.ptp(b), err_msg=name)
    for name in ("weights", "bias"):
        a, b = getattr(localizer.engine.head, name), getattr(torch_engine.head, name)
        np.testing.assert_allclose(a, b, atol=1e-5 * np.ptp(b), err_msg=name)


def test_a_batch_gives_what_single_pictures_give(localizer: gapcam.Localizer, pixels: np.ndarray):
    together = localizer.engine.run(pixels).logits
    alone = np.concatenate([localizer.engine.run(one[np.newaxis]).logits for one in pixels])
    np.testing.assert_allclose(together, alone, atol=1e-4)


def test_an_engine_serves_several_threads(localizer: gapcam.Localizer, pixels: np.ndarray):
    expected = localizer.engine.run(pixels).logits
    with ThreadPoolExecutor(4) as pool:
        for out in pool.map(localizer.engine.run, [pixels] * 8):
            np.testing.assert_allclose(out.logits, expected, atol=1e-5)


def test_the_engines_make_the_same_maps(
    localizer: gapcam.Localizer, torch_engine: TorchEngine, pixels: np.ndarray
):
    out = torch_engine.run_maps(pixels, 5)
    features, weights = localizer.engine.run(pixels).features, localizer.engine.head.weights
    expected = np.einsum("bnk,bkhw->bnhw", weights[out.classes], features)
    np.testing.assert_allclose(out.maps, expected, atol=1e-4 * np.ptp(expected))
    best = np.take_along_axis(out.logits, out.classes, 1)
    gap = np.abs(out.maps.mean((2, 3)) + torch_engine.bias[out.classes] - best).max()
    assert gap <= 1e-4 * np.ptp(out.logits)
