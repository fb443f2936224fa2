"""`gapcam export`, and `models` and `localize` with classifiers that are not gapcam model files."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import gapcam
from gapcam.cli import app
from gapcam.models.embedded import NAME
from head_nets import CLASSES, NETS, old_onnx

CAT = next(path for path in gapcam.sample_pictures() if path.name == "cat.jpg")


class Ended(NamedTuple):
    code: int
    out: str
    err: str


def call(*arguments: object) -> Ended:
    """The command in this process; an error is one line, without a traceback."""
    done = CliRunner().invoke(app, [*map(str, arguments)])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    assert "Traceback" not in done.stderr
    return Ended(done.exit_code, done.stdout, done.stderr)


def refused(code: int, *arguments: object) -> str:
    """The one line that says why."""
    ended = call(*arguments)
    assert (ended.code, ended.out) == (code, "")
    line, *more = ended.err.splitlines()
    assert (line.startswith("gapcam: "), more) == (True, [])
    return line


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`net.onnx` of another tool and `names.txt`."""
    folder = tmp_path_factory.mktemp("here")
    (folder / "net.onnx").write_bytes(old_onnx(NETS["gap_norm_linear"]()))
    (folder / "names.txt").write_text("\n".join(f"class {i}" for i in range(CLASSES)))
    return folder


@pytest.fixture(scope="module")
def settings(here: Path) -> list[str]:
    return ["--set", f"labels={here / 'names.txt'}", "--set", "preprocessing=imagenet"]


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("crops")
    with Image.open(CAT) as whole:
        for i in range(16):
            whole.crop((9 * i, 5 * i, 9 * i + 200, 5 * i + 150)).save(folder / f"{i:02}.png")
    return folder


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Transformers classifier as its library saves it: random weights, five classes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the library, as it is imported
        from transformers import ViTConfig, ViTForImageClassification

    folder = tmp_path_factory.mktemp("hub") / "vit"
    names = {i: f"thing {i}" for i in range(5)}
    config = ViTConfig(
        image_size=32,
        patch_size=8,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        id2label=names,
        label2id={name: i for i, name in names.items()},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        ViTForImageClassification(config).save_pretrained(folder)
    processor = {
        "image_processor_type": "ViTImageProcessor",
        "size": {"height": 32, "width": 32},
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


@pytest.fixture(scope="module")
def from_vit(vit: Path) -> tuple[Path, Ended]:
    """The model file of that classifier, and what making it said."""
    out = vit.parent / "vit.onnx"
    return out, call("export", f"hf:{vit}", out)


@pytest.fixture(scope="module")
def from_net(here: Path, settings: list[str]) -> tuple[Path, Ended]:
    out = here / "out" / "net.onnx"
    return out, call("export", here / "net.onnx", out, *settings)


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "localizations.jsonl").read_text().splitlines()]


# --- export -----------------------------------------------------------------------------------


def test_an_onnx_classifier_is_exported(from_net):
    out, ended = from_net
    assert (ended.code, ended.err) == (0, "")
    first, second, *rest = ended.out.splitlines()
    assert first == f"{out}: {out.stat().st_size / 1e3:.0f} kB, 64 x 64 only."
    assert second.startswith("net: class maps are exact. ")
    assert [line.partition(":")[0] for line in rest] == [
        "Against the file itself, batch 1, 64 x 64",
        "Against the file itself, batch 3, 64 x 64",
    ]
    assert left_in(out.parent) == ["net.onnx"]
    assert gapcam.load(out).card.labels == tuple(f"class {i}" for i in range(CLASSES))


def test_a_transformers_folder_is_exported(from_vit):
    out, ended = from_vit
    assert ended.code == 0, ended.err
    assert ended.out.count("Against PyTorch, batch ") == 2
    assert "vit: class maps are first-order, NOT exact." in ended.out
    assert gapcam.load(out).card.labels == tuple(f"thing {i}" for i in range(5))
    assert left_in(out.parent) == ["vit", "vit.onnx"]


def test_int8_says_what_it_costs_and_gains(from_net, crops, tmp_path):
    ended = call("export", from_net[0], tmp_path / "small.onnx", "--int8", crops)
    assert ended.code == 0, ended.err
    for words in (
        "small.onnx: ",
        "Quantized to 8 bits.",
        "Compared on 8 pictures, calibrated on 8 others: same best class in",
        "Boxes of the float model's best class: IoU ",
        "Speed on this machine: x ",
    ):
        assert words in ended.out
    assert left_in(tmp_path) == ["small.onnx"]
    again = call("export", tmp_path / "small.onnx", tmp_path / "more.onnx", "--int8", crops)
    assert (again.code, again.out) == (1, "")
    assert again.err.endswith("the network is quantized already. Start from the float model.\n")
    assert left_in(tmp_path) == ["small.onnx"]


OUT = "out.onnx"
SETTINGS = object()
WRONG = {
    "no labels": (2, ["net.onnx", OUT, "--set", "preprocessing=0..1"], "not name its 7 classes"),
    "no preprocessing": (2, ["net.onnx", OUT, "--set", "labels=names.txt"], "give preprocessing"),
    "no such labels": (
        2,
        ["net.onnx", OUT, "--set", "labels=no.txt", "--set", "preprocessing=0..1"],
        "labels: no.txt: cannot be read",
    ),
    "unknown key": (2, ["net.onnx", OUT, "--set", "label=names.txt"], "a key of labels, prep"),
    "no value": (2, ["net.onnx", OUT, "--set", "labels="], "expected KEY=VALUE"),
    "no equals": (2, ["net.onnx", OUT, "--set", "labels"], "expected KEY=VALUE"),
    "twice": (2, ["net.onnx", OUT, "--set", "layer=a", "--set", "layer=b"], "layer is given twi"),
    "bad size": (2, ["net.onnx", OUT, "--set", "size=64by64"], "like 224 or 224x320"),
    "size of none": (2, ["net.onnx", OUT, "--set", "size=0"], "like 224 or 224x320"),
    "unknown engine": (2, ["net.onnx", OUT, "--set", "engine=tpu"], "expected auto or onnx or to"),
    "another size": (
        1,
        ["net.onnx", OUT, SETTINGS, "--set", "size=96"],
        "net.onnx: takes pictures of 64 x 64 only, asked for 96 x 96",
    ),
    "unknown layer": (1, ["net.onnx", OUT, SETTINGS, "--set", "layer=body.4"], "close: body.3"),
    "torch": (2, ["net.onnx", OUT, SETTINGS, "--set", "engine=torch"], "leave engine='torch' out"),
    "gradcam": (
        2,
        ["net.onnx", OUT, SETTINGS, "--set", "method=gradcam"],
        "a model file holds class maps, not gradcam",
    ),
    "not onnx": (2, ["net.onnx", "out.pt", SETTINGS], "out.pt: expected the name of an .onnx file"),
    "itself": (2, ["net.onnx", "net.onnx", SETTINGS], "net.onnx: is the model itself"),
    "no folder": (1, ["net.onnx", "names.txt/out.onnx", SETTINGS], "cannot be written"),
    "no model": (1, ["no.onnx", OUT, SETTINGS], "no.onnx: no such model file"),
    "unknown model": (2, ["resnet50", OUT], "model 'resnet50' is unknown: expected"),
    "no hub folder": (2, ["hf:./nowhere", OUT], "nowhere"),
    "not a model": (1, ["text.onnx", OUT, SETTINGS], "text.onnx: not an ONNX model"),
    "few pictures": (
        2,
        ["net.onnx", OUT, SETTINGS, "--int8", str(CAT)],
        "int8: expected at least 8 pictures to calibrate on, got 1",
    ),
    "no pictures": (2, ["net.onnx", OUT, SETTINGS, "--int8", "nothing*.png"], "nothing*.png"),
    "the model itself": (2, ["out/net.onnx", "out/net.onnx"], "is the model itself"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_usage_is_one_line_and_leaves_nothing(case, here, settings, from_net, monkeypatch):
    monkeypatch.chdir(here)
    (here / "text.onnx").write_text("no model")
    code, arguments, words = WRONG[case]
    given = [a for part in arguments for a in (settings if part is SETTINGS else [part])]
    assert words in refused(code, "export", *given)
    assert left_in(here) == ["names.txt", "net.onnx", "out", "text.onnx"]
    assert from_net[1].code == 0


# --- models and localize ----------------------------------------------------------------------


def test_models_proves_a_model_file(from_net):
    ended = call("models", from_net[0], "--check", "--classes")
    assert ended.code == 0, ended.err
    assert ended.out.startswith("net  7 classes\nhead: gap-norm-linear")
    assert "input: 64 x 64 only, a map cell every 16 pixels" in ended.out
    assert "labels: names.txt, given by the user" in ended.out
    assert "   6 class 6\n" in ended.out
    assert "net: class maps are exact. " in ended.out
    assert NAME not in ended.out


def test_models_proves_other_classifiers(here, settings, vit):
    ended = call("models", here / "net.onnx", "--check", *settings)
    assert ended.code == 0, ended.err
    assert "net: class maps are exact. " in ended.out
    ended = call("models", f"hf:{vit}", "--check")
    assert ended.code == 0, ended.err
    assert "head: class-token" in ended.out
    assert "labels: " in ended.out
    assert "vit: class maps are first-order, NOT exact." in ended.out
    assert "give preprocessing" in refused(2, "models", here / "net.onnx")


def test_the_exported_file_localizes_as_what_it_was_made_from(from_vit, vit, tmp_path):
    found = {}
    for name, model in (("file", from_vit[0]), ("folder", f"hf:{vit}")):
        ended = call("localize", CAT, "--model", model, "--out", tmp_path / name)
        assert ended.code == 0, ended.err
        assert "thing " in ended.out
        (found[name],) = records(tmp_path / name)
        with Image.open(tmp_path / name / "overlays" / "cat_cam.jpg") as overlay:
            assert overlay.size == (902, 600)
    ours, theirs = found["file"]["detections"], found["folder"]["detections"]
    assert [d["label"] for d in ours] == [d["label"] for d in theirs]
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one["score"], other["score"], atol=1e-6)
        np.testing.assert_allclose(one["box"] or (), other["box"] or (), atol=0.5)


def test_an_onnx_classifier_localizes_without_an_export(here, settings, from_net, tmp_path):
    for name, more in (("file", settings), ("out", [])):
        model = here / "net.onnx" if name == "file" else from_net[0]
        ended = call("localize", CAT, "--model", model, "--out", tmp_path / name, *more)
        assert ended.code == 0, ended.err
    assert records(tmp_path / "file")[0]["detections"] == records(tmp_path / "out")[0]["detections"]


def test_gradcam_runs_on_pytorch_and_says_so(vit, here, settings, tmp_path):
    asked = ["--model", f"hf:{vit}", "--set", "method=gradcam", "--out", tmp_path / "out"]
    ended = call("localize", CAT, *asked)
    assert ended.code == 0, ended.err
    assert "runs on PyTorch: gradcam needs gradients" in ended.err
    assert len(records(tmp_path / "out")[0]["detections"]) == 5
    line = refused(
        2, "localize", CAT, "-m", here / "net.onnx", *settings, "--set", "method=gradcam"
    )
    assert "runs on ONNX Runtime only, without gradients" in line
