"""The sheet of a net in training shows what its model file would."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from exporter import list_operators_once
from gapcam.engines.onnx import OnnxEngine
from gapcam.models.file.build import model_bytes
from gapcam.models.gap_net import FlattenNet, GapNet
from gapcam.models.pooling import PooledLinear
from gapcam.trainer.files import card_for, network_of
from gapcam.trainer.nets import Backbone
from gapcam.trainer.sheets import PICTURES, NetEngine, SampleSheet
from gapcam.training.labelled import read_labelled
from train_sets import COLOURS, PREPROCESSING, SIZE, small, write_classes

list_operators_once()
GRID = SIZE // 4


def net_of(pool: str, *, added: bool = False) -> nn.Module:
    torch.manual_seed(5)
    trunk = small().features
    if pool == "fc":
        return FlattenNet(trunk, 12, (GRID, GRID), 3, hidden=(10,)).eval()
    more = nn.Sequential(nn.Conv2d(12, 12, 3, padding=1), nn.ReLU()) if added else None
    net = GapNet(trunk, PooledLinear(12, 3, pool), more).eval()
    nn.init.normal_(net.head.linear.weight)
    return net


def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("pool", "added"),
    [("gap", False), ("gap", True), ("gmp", False), ("lse", False), ("tap", True), ("fc", False)],
)
def test_maps_are_those_of_the_model_file(pool: str, added: bool):
    net = net_of(pool, added=added)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    backbone = Backbone("small", net, PREPROCESSING, "", {"network": "small", "weights": "random"})
    network = network_of(backbone, net, lambda *_: None)
    card = card_for(
        backbone, network, name="x", classes=[*COLOURS], sources={}, single=True, normal=None
    )
    file = OnnxEngine(model_bytes(network, card), 1, "small")
    engine = NetEngine(net, PREPROCESSING, 3)
    wanted = np.array([[0, 2], [1, 0], [2, 1]])

    np.testing.assert_allclose(engine.run(pixels()).logits, file.run(pixels()).logits, atol=1e-4)
    found, expected = engine.run_maps(pixels(), wanted), file.run_maps(pixels(), wanted)
    assert (found.classes == expected.classes).all()
    np.testing.assert_allclose(found.logits, expected.logits, atol=1e-4)
    np.testing.assert_allclose(found.maps, expected.maps, atol=1e-4 * np.ptp(expected.maps))

    best = engine.run_maps(pixels(), 1)
    assert (best.classes[:, 0] == found.logits.argmax(1)).all()
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(weight.grad is None for weight in net.parameters())


def test_blue_first_networks_get_blue_first():
    net = net_of("gap")
    rgb = NetEngine(net, PREPROCESSING, 3)
    bgr = NetEngine(
        net,
        PREPROCESSING.__class__(
            PREPROCESSING.size_hw, PREPROCESSING.mean, PREPROCESSING.scale, "bgr"
        ),
        3,
    )
    swapped = np.ascontiguousarray(pixels()[..., ::-1])
    np.testing.assert_allclose(bgr.run(swapped).logits, rgb.run(pixels()).logits, atol=1e-6)


def test_pictures_are_chosen_in_turn_from_every_class_that_has_a_place(tmp_path: Path):
    write_classes(tmp_path / "shapes", each=9)
    data = read_labelled(tmp_path / "shapes")
    every = np.arange(len(data.names))
    sheet = SampleSheet(data, every, [])
    assert len(sheet.indices) == PICTURES
    assert sheet.classes == [0] * 4 + [1] * 4 + [2] * 4
    assert all(data.targets[i, c] for i, c in zip(sheet.indices, sheet.classes, strict=True))
    assert len(set(sheet.indices)) == PICTURES

    few = SampleSheet(data, every[::5], [1])
    assert set(few.classes) == {0, 2}
    assert set(few.indices) == {i for i in every[::5] if not data.targets[i, 1]}
