"""Nets with a pooled linear head as model files: scores, maps, check, and the card's words."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import gapcam
from gapcam.engines.onnx import OnnxEngine
from gapcam.models.file.build import model_bytes
from gapcam.models.file.network import Network
from gapcam.models.gap_net import FlattenNet, GapNet, network_of_net
from gapcam.models.pooling import PooledLinear
from gapcam.recipes import default_for
from gapcam.types import ModelCard, ModelError, Preprocessing
from head_nets import CHANNELS, CLASSES, SIDE, trunk

WANTS = Preprocessing((SIDE, SIDE), (120.0, 110.0, 100.0), (60.0, 58.0, 56.0))
STRIDE = 16.0


def body(seed: int = 0) -> nn.Module:
    """A trunk whose batch norms have statistics of their own."""
    torch.manual_seed(seed)
    made = trunk()
    for part in made.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.2)
            part.running_var.uniform_(0.5, 2)
            nn.init.uniform_(part.weight, 0.5, 2)
            nn.init.normal_(part.bias, std=0.3)
    return made


def gap_net(pool: str, **values: float) -> GapNet:
    head = PooledLinear(CHANNELS, CLASSES, pool, **values)
    nn.init.normal_(head.linear.weight)
    nn.init.normal_(head.linear.bias)
    return GapNet(body(), head)


def card_of(network: Network, name: str = "net") -> ModelCard:
    side, fine = network.preprocessing.size_hw[0], network.fine is not None
    stride = side / network.layout.grid_hw[0]
    return ModelCard(
        name=name,
        labels=tuple(f"class {i}" for i in range(len(network.bias))),
        aliases=((),) * len(network.bias),
        head=network.kind,
        map_stride=stride,
        size_multiple=network.size_multiple,
        recipe=default_for(network.preprocessing.size_hw, stride, fine),
        sources={},
        version=metadata.version("gapcam"),
        features_at=network.words,
        fixed_hw=network.fixed_hw,
        fixed_batch=network.fixed_batch,
        fine_features=fine,
    )


def written(net: nn.Module, folder: Path) -> Path:
    network = network_of_net(net, WANTS, "net")
    path = folder / "model.onnx"
    path.write_bytes(model_bytes(network, card_of(network)))
    return path


def prepared(pixels: np.ndarray) -> Tensor:
    x = (pixels - np.float32(WANTS.mean)) / np.float32(WANTS.scale)
    return torch.from_numpy(x).permute(0, 3, 1, 2)


@pytest.fixture(scope="module", params=["gap", "gmp", "lse", "tap"])
def pool(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def net(pool: str) -> GapNet:
    values = {"lse": {"sharpness": 200}, "tap": {"share": 0.6}}  # none is the usual one
    return gap_net(pool, **values.get(pool, {}))


@pytest.fixture(scope="module")
def path(net: GapNet, tmp_path_factory) -> Path:
    before = {name: value.clone() for name, value in net.state_dict().items()}
    made = written(net, tmp_path_factory.mktemp("pooled"))
    assert net.training  # left as it was found
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    net.eval()
    return made


def test_a_model_file_gives_pytorchs_scores_and_maps(net: GapNet, pool: str, path: Path):
    localizer = gapcam.load(path)
    assert net.head.pool == pool
    assert localizer.card.head == f"{pool}-linear"
    assert localizer.card.fixed_hw is None
    assert localizer.recipe.name == "default"  # fine features were found
    head = localizer.engine.head
    np.testing.assert_allclose(head.weights, net.head.linear.weight.detach(), atol=1e-5)
    np.testing.assert_allclose(head.bias, net.head.linear.bias.detach(), atol=1e-5)
    random = np.random.default_rng(1)
    for batch, height, width in ((3, SIDE, SIDE), (2, 96, 80), (1, 53, 101)):
        pixels = random.integers(0, 256, (batch, height, width, 3), np.uint8)
        out = localizer.engine.run_maps(pixels, np.arange(CLASSES))
        with torch.no_grad():
            features = net.spatial(prepared(pixels))
            logits, maps = net.head(features), net.head.class_maps(features)
        np.testing.assert_allclose(out.logits, logits, atol=1e-4)
        np.testing.assert_allclose(out.maps, maps, atol=1e-4)


def test_the_files_own_nodes_give_the_maps_of_the_best_classes(path: Path):
    pixels = np.random.default_rng(2).integers(0, 256, (2, SIDE, SIDE, 3), np.uint8)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = ["logits", "top_classes", "top_maps"]
    logits, classes, maps = session.run(names, {"images": pixels})
    ours = OnnxEngine(path).run_maps(pixels, classes)
    np.testing.assert_array_equal(classes, np.argsort(-logits, 1)[:, : classes.shape[1]])
    np.testing.assert_allclose(maps, ours.maps, atol=1e-5)


def test_the_proof_says_what_the_pool_means(pool: str, path: Path):
    proof = gapcam.load(path).check()
    words = {
        "gap": "class maps are exact.",
        "gmp": "for maximum pooling, NOT exact",
        "lse": "log-sum-exp pooling, NOT exact (each score lies between its map's mean and",
        "tap": "thresholded average pooling, NOT exact (each score is of the positions that",
    }
    assert words[pool] in str(proof)
    assert proof.exact == (pool == "gap")
    assert proof.as_expected
    said = {
        "gap": "then mean, linear",
        "gmp": "then max, linear",
        "lse": "then linear, log-sum-exp of the class maps (r = 200)",
        "tap": "then mean of what exceeds 0.6 of the channel's maximum, linear",
    }
    assert said[pool] in proof.features_at


def test_scores_lie_where_the_pool_puts_them(pool: str, path: Path):
    engine = OnnxEngine(path)
    pixels = np.random.default_rng(3).integers(0, 256, (4, SIDE, SIDE, 3), np.uint8)
    out = engine.run_maps(pixels, np.arange(CLASSES))
    scores, means = out.logits - engine.bias, out.maps.mean((2, 3))
    if pool == "gap":
        np.testing.assert_allclose(scores, means, atol=1e-4)
    if pool == "lse":  # between the map's mean and its maximum
        assert (scores >= means - 1e-4).all()
        assert (scores <= out.maps.max((2, 3)) + 1e-4).all()
        assert 200 * scores.max() > 100  # whose exponential is no float32


class Summed(nn.Module):
    """A trunk that leaves one position."""

    def __init__(self) -> None:
        super().__init__()
        self.body = body()

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x).mean((2, 3), keepdim=True)


def test_a_trunk_that_leaves_one_position_is_refused():
    torch.manual_seed(0)
    net = GapNet(Summed(), PooledLinear(CHANNELS, CLASSES, "lse"))
    with pytest.raises(ModelError, match=r"flat: the trunk's output was not found.*more than one"):
        network_of_net(net, WANTS, "flat")


def test_a_flatten_net_goes_through_as_any_classifier(tmp_path: Path):
    torch.manual_seed(1)
    net = FlattenNet(body(), CHANNELS, (4, 4), CLASSES, (32,))
    for layer in (net.head[1], net.head[-1]):
        nn.init.normal_(layer.weight)
        nn.init.normal_(layer.bias)  # without biases a head of ReLUs adds up
    localizer = gapcam.load(written(net, tmp_path))
    assert localizer.card.head == "flatten-hidden"
    assert localizer.card.fixed_hw == (SIDE, SIDE)
    assert localizer.engine.head is None
    pixels = np.random.default_rng(7).integers(0, 256, (2, SIDE, SIDE, 3), np.uint8)
    out = localizer.engine.run_maps(pixels, 2)
    with torch.no_grad():
        np.testing.assert_allclose(out.logits, net.eval()(prepared(pixels)), atol=1e-4)
    proof = localizer.check()
    assert not proof.exact
    assert proof.as_expected
