from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import gapcam
from gapcam.engines.torch import TorchEngine
from gapcam.maps import head_gap
from gapcam.models import embedded


@pytest.fixture(scope="module")
def torch_engine() -> TorchEngine:
    return TorchEngine(embedded.load_network(), embedded.PIXEL_MEAN, embedded.PIXEL_SCALE)


@pytest.fixture(scope="module")
def pixels(localizer: gapcam.Localizer) -> np.ndarray:
    return np.stack([localizer.read(path).pixels for path in gapcam.sample_pictures()])


@pytest.mark.parametrize("name", ["onnx", "torch"])
def test_maps_add_up_to_scores(
    name: str, localizer: gapcam.Localizer, torch_engine: TorchEngine, pixels: np.ndarray
):
    engine = {"onnx": localizer.engine, "torch": torch_engine}[name]
    out, head = engine.run(pixels), engine.head
    gap = head_gap(out.features, head.weights, head.bias, out.logits)
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
    np.testing.assert_array_equal(localizer.engine.head.weights, torch_engine.head.weights)
    np.testing.assert_array_equal(localizer.engine.head.bias, torch_engine.head.bias)


def test_a_batch_gives_what_single_pictures_give(localizer: gapcam.Localizer, pixels: np.ndarray):
    together = localizer.engine.run(pixels).logits
    alone = np.concatenate([localizer.engine.run(one[np.newaxis]).logits for one in pixels])
    np.testing.assert_allclose(together, alone, atol=1e-4)


def test_an_engine_serves_several_threads(localizer: gapcam.Localizer, pixels: np.ndarray):
    expected = localizer.engine.run(pixels).logits
    with ThreadPoolExecutor(4) as pool:
        for out in pool.map(localizer.engine.run, [pixels] * 8):
            np.testing.assert_allclose(out.logits, expected, atol=1e-5)


def test_the_torch_engine_leaves_the_network_as_it_was(pixels: np.ndarray):
    network = embedded.load_network()
    network.get_submodule("_blocks.3").train()
    modes = [module.training for module in network.modules()]
    TorchEngine(network, embedded.PIXEL_MEAN, embedded.PIXEL_SCALE).run(pixels[:1, :32, :32])
    assert [module.training for module in network.modules()] == modes
    assert all(p.requires_grad and p.grad is None for p in network.parameters())
    assert not any(module._forward_hooks for module in network.modules())
