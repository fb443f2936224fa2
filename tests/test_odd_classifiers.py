"""Classifiers that look like others and are not: each was once taken for something else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import gapcam
from gapcam.types import ArgumentError, ModelError, Preprocessing
from head_nets import CHANNELS, CLASSES, NETS, SIDE, Headed, gap, old_onnx, trunk

WANTS = Preprocessing((SIDE, SIDE), (120.0, 110.0, 100.0), (60.0, 58.0, 56.0))
BOTH = pytest.mark.parametrize("engine", ["onnx", "torch"])


def seeded(make: type[nn.Module] | object, *arguments: object) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return make(*arguments).eval()


def loaded(net: nn.Module, classes: int = CLASSES, **options: object) -> gapcam.Localizer:
    labels = [f"class {i}" for i in range(classes)]
    return gapcam.load(net, labels=labels, preprocessing=WANTS, **options)


@pytest.fixture(scope="module")
def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE, 3), np.uint8)


def test_a_file_called_like_our_network_is_not_taken_for_it(tmp_path: Path):
    path = tmp_path / "efficientnet-lite0.onnx"
    path.write_bytes(old_onnx(NETS["gap_linear"]()))
    labels = [f"mine {i}" for i in range(CLASSES)]
    localizer = gapcam.load(path, labels=labels, preprocessing=WANTS)
    assert localizer.card.labels == tuple(labels)
    assert localizer.card.map_stride == 16
    assert "not with this network" in localizer.recipe.chosen_on


def test_weights_beside_the_file_are_found(tmp_path: Path, noise: np.ndarray):
    model = onnx.load_from_string(old_onnx(NETS["gap_linear"]()))
    onnx.save(model, tmp_path / "whole.onnx")
    onnx.save(
        model, tmp_path / "split.onnx", save_as_external_data=True, location="w", size_threshold=0
    )
    options = {"labels": [f"c{i}" for i in range(CLASSES)], "preprocessing": WANTS}
    whole, split = (gapcam.load(tmp_path / f"{n}.onnx", **options) for n in ("whole", "split"))
    expected = whole.engine.run_maps(noise[:1], 2)
    np.testing.assert_array_equal(split.engine.run_maps(noise[:1], 2).maps, expected.maps)


def test_weights_outside_the_files_folder_are_refused(tmp_path: Path):
    inner = tmp_path / "inner"
    inner.mkdir()
    model = onnx.load_from_string(old_onnx(NETS["gap_linear"]()))
    onnx.save(model, inner / "x.onnx", save_as_external_data=True, location="w", size_threshold=0)
    (inner / "w").rename(tmp_path / "w")
    data = (inner / "x.onnx").read_bytes()
    changed = onnx.load_from_string(data)
    for constant in changed.graph.initializer:
        for entry in constant.external_data:
            if entry.key == "location":
                entry.value = "../w"
    (inner / "x.onnx").write_bytes(changed.SerializeToString())
    with pytest.raises(ModelError, match=r"x\.onnx: not an ONNX model"):
        gapcam.load(inner / "x.onnx", labels=["a"] * CLASSES, preprocessing=WANTS)


def test_what_is_asked_of_our_own_network_is_done_or_refused():
    with pytest.raises(ArgumentError, match="its weights come with gapcam"):
        gapcam.load("efficientnet-lite0", checkpoint="other.pth")
    with pytest.raises(ArgumentError, match="1000 classes and 1 names were given"):
        gapcam.load("efficientnet-lite0", labels=["a"])


class Window(nn.Module):
    """Pools in a window that covers the plane at one input size."""

    def __init__(self) -> None:
        super().__init__()
        self.body = trunk()
        self.classifier = nn.Linear(CHANNELS, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(functional.avg_pool2d(self.body(x), 4).flatten(1)[:, :CHANNELS])


@BOTH
def test_pooling_in_a_window_fixes_the_size(engine: str, noise: np.ndarray):
    localizer = loaded(seeded(Window), engine=engine)
    assert localizer.card.fixed_hw == (SIDE, SIDE)
    assert localizer.check().exact
    with pytest.raises(ModelError, match="takes pictures of 64 x 64 only, got 80 x 80"):
        localizer.engine.run_maps(np.zeros((1, 80, 80, 3), np.uint8), 1)


class Among(nn.Module):
    """Scores a picture against the others of its batch, as a file saved in training mode does."""

    def __init__(self) -> None:
        super().__init__()
        self.net = NETS["gap_linear"]()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x - x.mean(0, keepdim=True) / 2)


def test_scores_that_depend_on_the_batch_are_taken_one_picture_at_a_time(noise: np.ndarray):
    engine = loaded(Among(), engine="onnx").engine
    together = engine.run_maps(noise, 2)
    alone = [engine.run_maps(noise[i : i + 1], 2) for i in range(3)]
    np.testing.assert_array_equal(together.logits, np.concatenate([a.logits for a in alone]))
    with pytest.raises(ModelError, match="depend on the other pictures of a batch"):
        loaded(Among(), engine="torch")


@BOTH
def test_one_class_is_scored_by_its_sigmoid(engine: str, cat: Path):
    net = seeded(lambda: Headed(trunk(), gap(nn.Linear(CHANNELS, 1))))
    localizer = loaded(net, classes=1, engine=engine)
    proof = localizer.check()
    assert proof.exact
    assert "class maps are exact" in str(proof)
    found = localizer(cat).detections[0]
    logit = localizer.engine.run(localizer.read(cat).pixels[np.newaxis]).logits[0, 0]
    assert found.score == pytest.approx(1 / (1 + np.exp(-logit)), rel=1e-5)


class PlainCosine(nn.Module):
    """Divides by the length of the features, with nothing added to it."""

    def __init__(self) -> None:
        super().__init__()
        self.body = trunk()
        self.weight = nn.Parameter(torch.randn(CLASSES, CHANNELS))
        self.bias = nn.Parameter(torch.randn(CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        f = self.body(x).mean((2, 3))
        return functional.linear(f / f.norm(dim=1, keepdim=True), self.weight, self.bias)


@BOTH
def test_a_cosine_head_that_all_zero_features_break_is_exact(engine: str):
    net = seeded(PlainCosine)
    localizer = loaded(net, engine=engine)
    assert localizer.card.head == "gap-norm-linear"
    assert localizer.check().exact
    np.testing.assert_allclose(localizer.engine.bias, net.bias.detach().numpy(), atol=1e-5)


def test_swin_of_transformers_is_exact():
    from transformers import SwinConfig, SwinForImageClassification

    config = SwinConfig(
        embed_dim=24, depths=[2, 2], num_heads=[2, 4], window_size=4, image_size=SIDE, num_labels=7
    )
    localizer = loaded(seeded(SwinForImageClassification, config), engine="onnx")
    assert localizer.card.head == "gap-linear"
    assert localizer.check().exact
    assert localizer.engine.run(np.zeros((1, SIDE, SIDE, 3), np.uint8)).features.ndim == 4


def test_lazy_layers_have_to_be_made_first():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(7))
    with pytest.raises(ModelError, match="lazy layers whose weights are not made yet"):
        loaded(net)


class Counting(nn.Module):
    """Writes to a buffer whenever it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.net = NETS["gap_linear"]()
        self.register_buffer("runs", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.runs.add_(1)
        return self.net(x)


@BOTH
def test_buffers_are_left_as_they_were(engine: str, noise: np.ndarray):
    net = Counting().eval()
    loaded(net, engine=engine).engine.run_maps(noise, 1)
    assert net.runs.item() == 0
