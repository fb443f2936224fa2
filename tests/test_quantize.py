"""The int8 variant: 8 bits before the features, float after, and what it says of itself."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from torch import nn

import gapcam
from gapcam.engines.onnx import OnnxEngine
from gapcam.int8 import LEAST, Int8Report, compare, export_int8, split
from gapcam.localizer import Localizer
from gapcam.metrics.boxes import box_iou
from gapcam.models.file.build import model_bytes, network_of_module
from gapcam.models.onnx_graphs.quantize import (
    QuantizeChoices,
    _pair_ranges,
    is_quantized,
    quantize_static_file,
)
from gapcam.recipes import PAPER
from gapcam.types import ArgumentError, ModelCard, ModelError, PictureError, Preprocessing

CROPS = 5


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The sample photographs and crops of them."""
    folder = tmp_path_factory.mktemp("crops")
    rng = np.random.default_rng(0)
    paths = []
    for path in gapcam.sample_pictures():
        picture = Image.open(path).convert("RGB")
        for i in range(CROPS):
            share = rng.uniform(0.6, 1.0)
            width, height = (round(side * share) for side in picture.size)
            x, y = (
                int(rng.integers(0, whole - part + 1))
                for whole, part in zip(picture.size, (width, height), strict=True)
            )
            paths.append(folder / f"{path.stem}_{i}.png")
            picture.crop((x, y, x + width, y + height)).resize((256, 256)).save(paths[-1])
    return paths


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("int8") / "small.onnx"


@pytest.fixture(scope="module")
def report(quick: Localizer, crops: list[Path], out: Path) -> Int8Report:
    return export_int8(quick, crops, out, threads=1)


@pytest.fixture(scope="module")
def small(report: Int8Report, out: Path) -> Localizer:
    return gapcam.load(out, threads=1)


def source(localizer: Localizer) -> Path:
    assert isinstance(localizer.engine, OnnxEngine)
    return localizer.engine.path


def test_the_maps_still_add_up_to_the_scores(small: Localizer):
    proof = small.check()
    assert proof.exact
    assert proof.largest_gap < 1e-5 * proof.logit_range


def test_best_classes_and_boxes_of_the_photographs_stay(quick: Localizer, small: Localizer):
    for path in gapcam.sample_pictures():
        before = quick(path, top=1).detections[0]
        after = small(path, classes=[before.class_id]).detections[0]
        assert box_iou(before.box_xyxy, after.box_xyxy) > 0.8
        assert abs(after.score - before.score) < 0.25
        if before.score > 0.3:  # what the network is not sure of may change
            assert small(path, top=1).detections[0].label == before.label


def test_all_layers_with_weights_before_the_features_are_in_8_bits(
    quick: Localizer, small: Localizer
):
    assert is_quantized(source(small))
    assert not is_quantized(source(quick))
    float_convs = [n for n in onnx.load(source(quick)).graph.node if n.op_type == "Conv"]
    graph = onnx.load(source(small)).graph
    made_by = {name: node.op_type for node in graph.node for name in node.output}
    convs = [n for n in graph.node if n.op_type == "Conv"]
    assert len(convs) == len(float_convs)
    assert all(made_by[name] == "DequantizeLinear" for n in convs for name in n.input[:2])
    kinds = {c.name: c.data_type for c in graph.initializer}
    assert sum(kind == TensorProto.INT8 for kind in kinds.values()) >= len(convs)
    after = [n for n in graph.node if {"features", "logits"} & set(n.output)]
    assert not any(n.op_type == "DequantizeLinear" for n in after)


def test_what_is_after_the_features_is_left_as_it_was(quick: Localizer, small: Localizer):
    before, after = (onnx.load(source(m)) for m in (quick, small))

    def kept(model: onnx.ModelProto) -> list[bytes]:
        nodes = [n for n in model.graph.node if n.name.startswith(("prepare_", "localize_"))]
        return [n.SerializeToString(deterministic=True) for n in nodes]

    assert kept(after) == kept(before)
    for field in ("input", "output"):
        assert getattr(after.graph, field) == getattr(before.graph, field)
    assert after.opset_import == before.opset_import
    assert after.ir_version == before.ir_version


def test_the_card_stays(quick: Localizer, small: Localizer):
    assert small.card == quick.card
    assert small.engine.metadata == quick.engine.metadata


def test_batch_and_size_stay_free(small: Localizer):
    rng = np.random.default_rng(0)
    for batch, height, width in ((1, 224, 224), (3, 160, 256)):
        pixels = rng.integers(0, 256, (batch, height, width, 3), np.uint8)
        out = small.engine.run(pixels)
        assert out.logits.shape == (batch, 1000)
        assert out.features.shape[2:] == (height // 32, width // 32)


def test_logits_are_close_to_the_float_networks(quick: Localizer, small: Localizer):
    pixels = np.stack([quick.read(path).pixels for path in gapcam.sample_pictures()])
    before, after = quick.engine.run(pixels).logits, small.engine.run(pixels).logits
    assert np.corrcoef(before.ravel(), after.ravel())[0, 1] > 0.95
    assert np.abs(before - after).max() > 1e-3  # or nothing was quantized


def test_the_report_says_what_it_saw(report: Int8Report, crops: list[Path], out: Path):
    count = len(crops)
    assert (report.pictures, report.calibrated_on, report.disjoint) == (count // 2,) * 2 + (True,)
    assert report.top1_agreement > 0.7
    assert report.mean_box_iou > 0.8
    assert 0 <= report.worst_box_iou <= report.mean_box_iou <= 1
    assert report.mean_score_change < 0.2
    assert 0.2 < report.size_ratio < 0.6
    assert [batch for batch, _ in report.speed_ratios] == [1, 16]
    assert all(0.1 < ratio < 10 for _, ratio in report.speed_ratios)
    words = str(report)
    assert f"{count // 2} pictures, calibrated on {count // 2} others" in words
    assert len(words.splitlines()) == 3


def test_a_model_compared_with_itself_is_the_same(quick: Localizer):
    report = compare(quick, quick, gapcam.sample_pictures())
    assert (report.top1_agreement, report.mean_box_iou, report.worst_box_iou) == (1, 1, 1)
    assert report.mean_score_change == 0
    assert report.size_ratio == 1
    assert "calibrated" not in str(report)


class PooledThenNormed(nn.Module):
    """Convolutions with batch norms, mean over positions, a norm, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU()),
            *(nn.Conv2d(16, 16, 3, 2, 1, groups=16), nn.BatchNorm2d(16), nn.ReLU6()),
            *(nn.Conv2d(16, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU()),
        )
        self.norm, self.classify = nn.LayerNorm(32), nn.Linear(32, 7)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.classify(self.norm(self.layers(pictures).mean((2, 3))))


@pytest.fixture(scope="module")
def normed(tmp_path_factory: pytest.TempPathFactory) -> Localizer:
    """A model file whose maps are gradients through the head, with batch norms of random data."""
    torch.manual_seed(0)
    module = PooledThenNormed()
    module.train()
    with torch.no_grad():
        for _ in range(20):
            module(torch.randn(8, 3, 64, 64))
    wants = Preprocessing((64, 64), (127.0,) * 3, (64.0,) * 3)
    network = network_of_module(module.eval(), wants, "normed")
    card = ModelCard(
        name="normed",
        labels=tuple("abcdefg"),
        aliases=((),) * 7,
        head=network.kind,
        map_stride=8,
        size_multiple=8,
        recipe=dataclasses.replace(PAPER, input_size_hw=(64, 64)),
        sources={},
        version="0",
        fine_features=network.fine is not None,
    )
    path = tmp_path_factory.mktemp("normed") / "normed.onnx"
    path.write_bytes(model_bytes(network, card))
    return gapcam.load(path, threads=1)


def test_maps_through_a_head_that_is_not_linear_still_add_up(
    normed: Localizer, crops: list[Path], tmp_path: Path
):
    made = tmp_path / "small.onnx"
    report = export_int8(normed, crops, made, threads=1)
    small = gapcam.load(made, threads=1)
    assert small.check().exact
    assert report.mean_box_iou > 0.8
    graph = onnx.load(made).graph
    assert [i.name for i in graph.input] == ["images", "asked_classes", "top"]
    assert not any(n.op_type == "BatchNormalization" for n in graph.node)
    pixels = np.stack([normed.read(path).pixels for path in crops[:3]])
    asked = np.array([6, 2])
    before, after = (m.engine.run_maps(pixels, asked) for m in (normed, small))
    assert np.corrcoef(before.maps.ravel(), after.maps.ravel())[0, 1] > 0.98
    means = after.maps.mean((2, 3)) + small.engine.bias[asked]
    assert np.allclose(means, after.logits[:, asked], atol=1e-4)


@pytest.mark.parametrize("groups", [1, 4])
def test_no_two_neighbouring_weights_can_saturate(groups: int):
    rng = np.random.default_rng(0)
    weight = rng.standard_t(3, (8, 12 // groups, 3, 3)).astype(np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["y"], group=groups)
    graph = helper.make_graph([node], "g", [], [], [numpy_helper.from_array(weight, "w")])
    (entries,) = _pair_ranges(helper.make_model(graph)).values()
    assert entries[0]["axis"] == 0
    for entry, channel in zip(entries, weight, strict=True):
        assert entry["rmax"] == -entry["rmin"]
        rounded = np.abs(np.round(channel / (entry["rmax"] / 127)))
        assert rounded.max() > 64  # finer than 7 bits, or as fine
        in_order = [
            rounded[c, y, x] for y in range(3) for x in range(3) for c in range(len(channel))
        ]
        in_order += [0] * (len(in_order) % 2)
        pairs = zip(in_order[::2], in_order[1::2], strict=True)
        assert max(255 * (a + b) for a, b in pairs) < 2**15


def test_a_report_of_pictures_it_was_calibrated_on_says_so(report: Int8Report):
    assert "THE SAME" in str(dataclasses.replace(report, disjoint=False))


def test_nothing_is_left_behind_and_nothing_is_printed(
    quick: Localizer, crops: list[Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    handlers, filters = list(logging.getLogger().handlers), list(logging.getLogger().filters)
    made = tmp_path / "small.onnx"
    pixels = np.stack([quick.read(path).pixels for path in crops[:4]])
    before = pixels.copy()
    quantize_static_file(source(quick), made, [pixels])
    assert [path.name for path in tmp_path.iterdir()] == [made.name]
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger().handlers == handlers
    assert logging.getLogger().filters == filters
    assert np.array_equal(pixels, before)


def test_pictures_are_split_into_two_where_there_are_enough():
    paths = [Path(str(i)) for i in range(1000)]
    for count in (16, 17, 100, 1000):
        calibrating, compared = split(paths[:count])
        assert len(calibrating) == min(count // 2, 64)
        assert len(compared) == min(count - len(calibrating), 256)
        assert not set(calibrating) & set(compared)
        assert calibrating == sorted(calibrating, key=paths.index)
        assert paths.index(calibrating[-1]) > 0.8 * count  # spread over the list
    assert split(paths[:15]) == (paths[:15], paths[:15])


def test_too_few_pictures_are_refused(quick: Localizer, crops: list[Path], tmp_path: Path):
    with pytest.raises(ArgumentError, match=f"at least {LEAST} pictures .* got 7. 128 are recomm"):
        export_int8(quick, crops[:7], tmp_path / "small.onnx")
    with pytest.raises(ArgumentError, match="pictures to compare on, got none"):
        compare(quick, quick, [])


def test_unreadable_pictures_are_named(quick: Localizer, crops: list[Path], tmp_path: Path):
    bad = [tmp_path / "a.png", tmp_path / "b.png"]
    bad[0].write_bytes(b"no picture")
    made = tmp_path / "small.onnx"
    with pytest.raises(PictureError, match=r"2 of 10 pictures cannot be read: .*a\.png.*b\.png"):
        export_int8(quick, [*crops[:8], *bad], made)
    assert not made.exists()


def test_an_int8_model_is_not_quantized_again(small: Localizer, crops: list[Path], tmp_path: Path):
    with pytest.raises(ModelError, match=r"quantized already\. Start from the float model"):
        export_int8(small, crops, tmp_path / "again.onnx")
    assert not list(tmp_path.iterdir())


def test_pairs_with_one_scale_are_refused():
    with pytest.raises(ArgumentError, match="set per_channel"):
        QuantizeChoices(per_channel=False)


def test_no_batch_is_refused(quick: Localizer, tmp_path: Path):
    with pytest.raises(ModelError, match="at least one batch of calibration pictures"):
        quantize_static_file(source(quick), tmp_path / "small.onnx", [])


@pytest.mark.parametrize(
    ("kind", "words"), [(None, "nothing to quantize"), (np.float16, "in 16 bits")]
)
def test_networks_that_cannot_be_quantized_are_refused(tmp_path: Path, kind, words: str):
    made = tmp_path / "tiny.onnx"
    onnx.save(tiny(kind), made)
    pixels = np.zeros((1, 8, 8, 3), np.uint8)
    with pytest.raises(ModelError, match=words):
        quantize_static_file(made, tmp_path / "small.onnx", [pixels])
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.onnx"]


def tiny(kind: type | None) -> onnx.ModelProto:
    """A file whose features are the pixels, or a 1 x 1 convolution of them."""
    to = TensorProto.FLOAT16 if kind else TensorProto.FLOAT
    nodes = [
        helper.make_node("Cast", ["images"], ["cast"], "prepare_cast", to=to),
        helper.make_node("Transpose", ["cast"], ["network.picture"], perm=[0, 3, 1, 2]),
    ]
    last, constants = "network.picture", []
    if kind:
        constants = [numpy_helper.from_array(np.ones((3, 3, 1, 1), kind), "network.weight")]
        nodes.append(helper.make_node("Conv", [last, "network.weight"], ["network.conv"]))
        last = "network.conv"
    nodes.append(helper.make_node("Cast", [last], ["features"], "features", to=TensorProto.FLOAT))
    sides = ["b", "h", "w"]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, [*sides, 3])],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["b", 3, "h", "w"])],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
