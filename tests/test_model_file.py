from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

import gapcam
from gapcam.engines.onnx import OnnxEngine
from gapcam.maps import class_maps
from gapcam.models import embedded
from gapcam.models.file.assemble import assemble
from gapcam.models.file.network import Network
from gapcam.models.model_file import OUTPUTS, card_from_metadata, card_to_metadata
from gapcam.models.trace import Layout
from gapcam.recipes import BEST, DEFAULT, PAPER
from gapcam.refine import affinity
from gapcam.types import ModelError, Preprocessing


@pytest.fixture(scope="module")
def built(localizer: gapcam.Localizer) -> Path:
    engine = localizer.engine
    assert isinstance(engine, OnnxEngine)
    return engine.path


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), np.uint8)


def all_outputs(path: Path, pixels: np.ndarray) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"images": pixels}), strict=True))


def test_the_card_survives_the_metadata():
    card = embedded.model_card(DEFAULT)
    again = card_from_metadata(card_to_metadata(card), "x.onnx")
    assert again == card
    assert again.recipe == DEFAULT
    assert again.recipe.input_size_hw == (224, 224)


def test_a_recipe_of_two_passes_survives_the_metadata():
    card = embedded.model_card(BEST)
    again = card_from_metadata(card_to_metadata(card), "x.onnx")
    assert again.recipe == BEST
    assert again.recipe.evidence_size_hw == (448, 448)


def test_a_recipe_of_a_later_version_is_named_not_called_damaged():
    metadata = card_to_metadata(embedded.model_card(DEFAULT))
    recipe = {**json.loads(metadata["gapcam.recipe"]), "sharpness": 1}
    metadata["gapcam.recipe"] = json.dumps(recipe)
    with pytest.raises(ModelError, match=r"x\.onnx: its recipe has sharpness.*Update gapcam"):
        card_from_metadata(metadata, "x.onnx")


def test_a_recipe_written_before_a_field_was_there_gets_its_default():
    metadata = card_to_metadata(embedded.model_card(PAPER))
    recipe = json.loads(metadata["gapcam.recipe"])
    for name in ("evidence_size_hw", "centring", "prominence", "cost", "chosen_score", "version"):
        del recipe[name]
    metadata["gapcam.recipe"] = json.dumps(recipe)
    again = card_from_metadata(metadata, "x.onnx").recipe
    assert again == dataclasses.replace(PAPER, cost=0.0)


def test_a_file_whose_recipe_takes_two_passes_leaves_the_refining_to_its_user(tmp_path: Path):
    rng = np.random.default_rng(0)
    graph = helper.make_graph(
        [
            helper.make_node("AveragePool", ["picture"], ["coarse"], kernel_shape=[4, 4]),
            helper.make_node("Identity", ["picture"], ["finer"]),
        ],
        "tiny",
        [helper.make_tensor_value_info("picture", TensorProto.FLOAT, ["b", 3, "h", "w"])],
        [],
    )
    network = Network(
        proto=helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]),
        picture="picture",
        picture_layout="nchw",
        features="coarse",
        layout=Layout(1, (2, 3), (29, 29)),
        fine="finer",
        fine_layout=Layout(1, (2, 3), (32, 32)),
        logits=None,
        weights=rng.normal(0, 1, (5, 3)).astype(np.float32),
        bias=np.zeros(5, np.float32),
        preprocessing=Preprocessing((32, 32), (0, 0, 0), (1, 1, 1)),
        shapes={"coarse": (2, 3, 29, 29)},
        kind="gap-linear",
        words="",
    )
    card = dataclasses.replace(
        embedded.model_card(DEFAULT), labels=tuple("abcde"), aliases=((),) * 5
    )
    for recipe, refined in ((DEFAULT, True), (BEST, False), (PAPER, False)):
        path = tmp_path / f"{recipe.name}.onnx"
        onnx.save(assemble(network, dataclasses.replace(card, recipe=recipe)), path)
        images = rng.integers(0, 256, (1, 32, 32, 3), np.uint8)
        assert ("top_refined" in all_outputs(path, images)) == refined


def test_the_card_names_a_thousand_different_classes():
    card = embedded.model_card(DEFAULT)
    assert len({label.casefold() for label in card.labels}) == 1000
    assert (card.labels[0], card.labels[285], card.labels[999]) == (
        "tench",
        "Egyptian cat",
        "toilet tissue",
    )
    ids = [names[0] for names in card.aliases]
    assert ids == sorted(ids), "ILSVRC's order is that of the WordNet ids"
    assert card.aliases[281] == ("n02123045", "tabby cat")


def test_a_newer_format_is_refused():
    metadata = card_to_metadata(embedded.model_card(DEFAULT)) | {"gapcam.format": "9"}
    with pytest.raises(ModelError, match=r"x\.onnx: model file format 9.*reads format 3"):
        card_from_metadata(metadata, "x.onnx")


@pytest.mark.parametrize(
    ("key", "value"),
    [("gapcam.labels", None), ("gapcam.labels", "[1"), ("gapcam.recipe", '{"input_size_hw": [1]}')],
)
def test_damaged_metadata_is_named(key: str, value: str | None):
    metadata = card_to_metadata(embedded.model_card(DEFAULT))
    del metadata[key]
    if value is not None:
        metadata[key] = value
    with pytest.raises(ModelError, match=r"x\.onnx: .*metadata is damaged.*Build the file again"):
        card_from_metadata(metadata, "x.onnx")


def test_an_unknown_head_is_refused():
    metadata = card_to_metadata(embedded.model_card(DEFAULT)) | {"gapcam.head": '"mlp"'}
    with pytest.raises(
        ModelError, match=r"x\.onnx: head 'mlp', this gapcam knows gap-linear, gmp-linear"
    ):
        card_from_metadata(metadata, "x.onnx")


def test_a_file_whose_maps_do_not_add_up_is_refused(built: Path, tmp_path: Path):
    model = onnx.load(built)
    gemm = next(node for node in model.graph.node if node.op_type == "Gemm")
    del gemm.input[2]  # the network forgets its bias, the file still names it
    onnx.save(model, tmp_path / "wrong.onnx")
    with pytest.raises(ModelError, match=r"wrong\.onnx: .*class maps are NOT exact"):
        gapcam.load(tmp_path / "wrong.onnx")


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x08" * 50])
def test_a_file_that_is_no_model_is_refused(tmp_path: Path, content: bytes):
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"broken\.onnx: not an ONNX model"):
        gapcam.load(path)


def test_a_missing_model_file_is_named(tmp_path: Path):
    with pytest.raises(ModelError, match=r"gone\.onnx: no such model file"):
        gapcam.load(tmp_path / "gone.onnx")


def test_the_built_file_keeps_the_contract(built: Path):
    model = onnx.load(built)
    onnx.checker.check_model(model, full_check=True)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 18)]
    (images,) = model.graph.input
    assert images.name == "images"
    assert images.type.tensor_type.elem_type == TensorProto.UINT8
    sides = [d.dim_param or d.dim_value for d in images.type.tensor_type.shape.dim]
    assert sides == ["batch", "height", "width", 3]
    assert {o.name for o in model.graph.output} == set(OUTPUTS) - {"asked_maps"}
    metadata = {p.key: json.loads(p.value) for p in model.metadata_props}
    assert metadata["gapcam.input_size_hw"] == [224, 224]
    assert {"gapcam.labels", "gapcam.head", "gapcam.recipe", "gapcam.sources"} <= set(metadata)


def test_the_built_file_holds_no_batch_norm_no_padding_and_no_path(built: Path):
    graph = onnx.load(built).graph
    kinds = {node.op_type for node in graph.node}
    assert not kinds & {"BatchNormalization", "Pad", "If", "Loop"}
    assert not any(item.metadata_props or item.doc_string for item in graph.node)
    assert not any(item.metadata_props or item.doc_string for item in graph.initializer)
    assert str(Path(gapcam.__file__).parent).encode() not in built.read_bytes()


def test_maps_in_the_graph_are_those_of_the_library(built: Path, pixels: np.ndarray):
    out = all_outputs(built, pixels)
    maps = class_maps(out["features"], out["head_weights"], out["top_classes"])
    assert out["top_maps"].shape == (2, 5, 2, 3)
    np.testing.assert_allclose(out["top_maps"], maps, atol=1e-4)
    refined = affinity(maps, out["fine_features"], DEFAULT.centring)
    assert out["top_refined"].shape == (2, 5, 4, 6)
    np.testing.assert_allclose(out["top_refined"], refined, atol=1e-4)


def test_the_means_of_the_maps_in_the_graph_are_the_logits(built: Path, pixels: np.ndarray):
    out = all_outputs(built, pixels)
    best = np.take_along_axis(out["logits"], out["top_classes"], 1)
    means = out["top_maps"].mean((2, 3)) + out["head_bias"][out["top_classes"]]
    np.testing.assert_allclose(means, best, atol=1e-4 * np.ptp(out["logits"]))


def test_another_runtime_gives_the_same(built: Path, pixels: np.ndarray):
    """ONNX's own reference evaluator, a plain NumPy implementation."""
    names = ["logits", "top_classes", "top_maps", "top_refined"]
    small = pixels[:1, :32, :64]
    ours = all_outputs(built, small)
    theirs = ReferenceEvaluator(onnx.load(built)).run(names, {"images": small})
    for name, value in zip(names, theirs, strict=True):
        np.testing.assert_allclose(value, ours[name], atol=1e-3, err_msg=name)


def test_a_model_file_can_be_loaded_by_its_path(
    built: Path, tmp_path: Path, localizer: gapcam.Localizer, cat: Path
):
    copy = tmp_path / "mine.onnx"
    copy.write_bytes(built.read_bytes())
    theirs = gapcam.load(copy)(cat)
    ours = localizer(cat)
    assert [d.box_xyxy for d in theirs.detections] == [d.box_xyxy for d in ours.detections]


def test_another_card_is_another_file():
    card = embedded.model_card(DEFAULT)
    changed = dataclasses.replace(card, recipe=dataclasses.replace(DEFAULT, threshold=0.5))
    assert embedded.model_path(card) == embedded.model_path(embedded.model_card(DEFAULT))
    assert embedded.model_path(card) != embedded.model_path(changed)
