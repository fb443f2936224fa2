"""`gapcam.exporting.export`: one checked file, or nothing."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import gapcam
from gapcam import exporting
from gapcam.exporting import CLOSE, ExportReport, export
from gapcam.foreign import Made
from gapcam.types import ArgumentError, ModelError, OutputError, PictureError, Preprocessing
from head_nets import CLASSES, NETS, SIDE, old_onnx

LABELS = [f"class {i}" for i in range(CLASSES)]
WANTS = Preprocessing((SIDE, SIDE), (120.0, 110.0, 100.0), (60.0, 58.0, 56.0))
OPTIONS = {"labels": LABELS, "preprocessing": WANTS}
EVERYTHING = np.arange(CLASSES)


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE, 3), np.uint8)


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another tool's classifier, pooled then norm then linear."""
    path = tmp_path_factory.mktemp("foreign") / "net.onnx"
    path.write_bytes(old_onnx(NETS["gap_norm_linear"]()))
    return path


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> ExportReport:
    """A PyTorch module's model file."""
    folder = tmp_path_factory.mktemp("exported") / "new" / "folder"
    return export(NETS["gap_norm_linear"](), folder / "net.onnx", **OPTIONS)


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Sixteen pieces of the sample photographs."""
    folder = tmp_path_factory.mktemp("crops")
    paths = []
    for sample in gapcam.sample_pictures():
        with Image.open(sample) as whole:
            for i in range(4):
                left, top = i * whole.width // 8, i * whole.height // 8
                box = (left, top, left + whole.width // 2, top + whole.height // 2)
                paths.append(folder / f"{sample.stem}_{i}.png")
                whole.convert("RGB").crop(box).resize((80, 72)).save(paths[-1])
    return paths


def left_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_module_becomes_a_file_that_gives_what_pytorch_gives(exported, pixels):
    path = exported.path
    assert left_in(path.parent) == ["net.onnx"]
    assert [(p.batch, p.size_hw) for p in exported.parities] == [
        *((1, (64, 64)), (3, (64, 64))),
        *((1, (96, 80)), (3, (96, 80))),
    ]
    assert max(max(p.logits, p.maps) for p in exported.parities) < 1e-5
    assert (exported.against, exported.fixed_hw, exported.int8) == ("PyTorch", None, None)
    assert exported.proof.exact
    file, net = gapcam.load(path), gapcam.load(NETS["gap_norm_linear"](), **OPTIONS)
    assert file.card == net.card
    ours, theirs = (one.engine.run_maps(pixels, EVERYTHING) for one in (file, net))
    np.testing.assert_array_equal(ours.maps, theirs.maps)
    np.testing.assert_array_equal(ours.logits, theirs.logits)


def test_the_report_says_what_was_compared(exported):
    words = str(exported)
    assert words.startswith(
        f"{exported.path}: {exported.path.stat().st_size / 1e3:.0f} kB, any input size.\n"
    )
    assert "class maps are exact" in words
    assert words.count("Against PyTorch, batch ") == 4
    assert "batch 3, 96 x 80: logits differ by " in words


def test_the_embedded_model_as_a_file_is_the_embedded_model(quick, cat, tmp_path):
    report = export(None, tmp_path / "lite.onnx")
    assert max(max(p.logits, p.maps) for p in report.parities) < 1e-5
    made = gapcam.load(report.path, threads=1)
    assert made.card == quick.card
    ours, theirs = made(cat), quick(cat)
    assert [d.label for d in ours.detections] == [d.label for d in theirs.detections]
    for d, e in zip(ours.detections, theirs.detections, strict=True):
        np.testing.assert_allclose(d.box_xyxy or (), e.box_xyxy or (), atol=0.5)


def test_another_tools_file_is_compared_with_itself(foreign, pixels, tmp_path):
    report = export(foreign, str(tmp_path / "out.onnx"), **OPTIONS)
    assert (report.against, report.fixed_hw) == ("the file itself", (SIDE, SIDE))
    assert [(p.batch, p.size_hw, p.maps) for p in report.parities] == [
        *((1, (64, 64), None), (3, (64, 64), None))
    ]
    assert max(p.logits for p in report.parities) < 1e-6
    assert "64 x 64 only." in str(report)
    assert ", maps by" not in str(report)
    ours = gapcam.load(tmp_path / "out.onnx").engine.run_maps(pixels, EVERYTHING)
    theirs = gapcam.load(foreign, **OPTIONS).engine.run_maps(pixels, EVERYTHING)
    np.testing.assert_array_equal(ours.maps, theirs.maps)


def test_a_folder_may_hold_another_tools_file(foreign, tmp_path):
    shutil.copy(foreign, tmp_path / "model.onnx")
    report = export(tmp_path, tmp_path / "out.onnx", **OPTIONS)
    assert report.against == "the file itself"
    assert gapcam.load(tmp_path, **OPTIONS).card == gapcam.load(report.path).card


# --- nothing is kept when it fails ------------------------------------------------------------


@pytest.mark.parametrize("what", ["logits", "maps", "nan"])
def test_a_file_that_differs_is_not_kept(what, foreign, tmp_path, monkeypatch):
    """The network that the file is compared with is another one here."""

    def differing(*asked: object) -> Made:
        made = honest(*asked)
        engine = gapcam.load(foreign, **OPTIONS).engine

        def reference(pixels, classes):
            out = engine.run_maps(pixels, classes)
            off = 2 * CLOSE * np.ptp(out.logits if what == "logits" else out.maps)
            if what == "nan":
                return out.logits * np.float32("nan"), None
            moved = np.float32(off) * np.eye(1, out.logits.shape[1], dtype=np.float32)
            return (
                (out.logits + moved, out.maps)
                if what == "logits"
                else (
                    out.logits,
                    out.maps + np.float32(off),
                )
            )

        return replace(made, reference=reference)

    honest = exporting.make
    monkeypatch.setattr(exporting, "make", differing)
    out = tmp_path / "out.onnx"
    out.write_text("an older file")
    with pytest.raises(ModelError, match=r"differ from the file itself by .* it is not kept"):
        export(foreign, out, **OPTIONS)
    assert (out.read_text(), left_in(tmp_path)) == ("an older file", ["out.onnx"])


def test_a_network_without_a_head_leaves_nothing(tmp_path):
    net = tmp_path / "net.onnx"
    net.write_bytes(old_onnx(NETS["no_head"]()))
    with pytest.raises(ModelError):
        export(net, tmp_path / "out.onnx", **OPTIONS)
    assert left_in(tmp_path) == ["net.onnx"]


def test_an_older_file_is_replaced(foreign, tmp_path):
    out = tmp_path / "out.onnx"
    out.write_text("an older file")
    export(foreign, out, **OPTIONS)
    assert gapcam.load(out).card.head == "gap-norm-linear"
    assert left_in(tmp_path) == ["out.onnx"]


def test_where_it_cannot_be_written_is_said_before_the_work(foreign, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "make", lambda *_: pytest.fail("the work began"))
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"out\.onnx: cannot be written .* another output folder"):
        export(foreign, tmp_path / "file" / "out.onnx", **OPTIONS)
    (tmp_path / "folder.onnx").mkdir()
    for name in ("out.pt", "out", "folder.onnx"):
        with pytest.raises(ArgumentError, match=rf"{name}: expected the name of an \.onnx file"):
            export(foreign, tmp_path / name, **OPTIONS)


def test_the_model_is_not_written_over(foreign, tmp_path):
    net = tmp_path / "net.onnx"
    shutil.copy(foreign, net)
    (tmp_path / "link.onnx").symlink_to(net)
    before = net.read_bytes()
    for out in (net, tmp_path / "link.onnx", tmp_path / "." / "net.onnx"):
        with pytest.raises(ArgumentError, match=r"is the model itself: choose another name"):
            export(net, out, **OPTIONS)
    assert net.read_bytes() == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "gradcam"}, r"a model file holds class maps, not gradcam"),
        ({"engine": "torch"}, r"runs on ONNX Runtime: leave engine='torch' out"),
        ({"label": LABELS}, r"export: unknown option 'label': expected one of labels, "),
        ({"labels": LABELS[:3]}, r"the network has 7 classes and 3 names were given"),
    ],
)
def test_wrong_options_are_named(options, words, foreign, tmp_path):
    with pytest.raises(ArgumentError, match=words):
        export(foreign, tmp_path / "out.onnx", **(OPTIONS | options))
    assert left_in(tmp_path) == []


# --- a gapcam model file, and 8 bits ----------------------------------------------------------


def test_a_model_file_is_copied(exported, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(exported.path, run / "model.onnx")
    for model in (exported.path, run):
        report = export(model, tmp_path / "out.onnx")
        assert (tmp_path / "out.onnx").read_bytes() == exported.path.read_bytes()
        assert report.proof.exact
        (tmp_path / "out.onnx").unlink()
    with pytest.raises(ArgumentError, match=r"holds its own labels: leave labels out"):
        export(exported.path, tmp_path / "out.onnx", labels=LABELS)
    with pytest.raises(ArgumentError, match=r"is the model itself"):
        export(run, run / "model.onnx")
    assert left_in(tmp_path) == ["run"]


@pytest.mark.parametrize("from_run", [False, True])
def test_a_model_file_gets_its_int8_variant(from_run, exported, crops, tmp_path):
    model = exported.path
    if from_run:
        model = tmp_path / "run"
        model.mkdir()
        shutil.copy(exported.path, model / "model.onnx")
    out = tmp_path / "new" / "small.onnx"
    heard: list[str] = []
    report = export(model, out, int8=crops, tell=heard.append)
    assert (report.against, report.parities) == ("", ())
    assert report.int8.pictures == report.int8.calibrated_on == 8
    assert report.int8.size_ratio < 1
    assert "Quantized to 8 bits.\nCompared on 8 pictures" in str(report)
    assert "Against" not in str(report)
    assert any("Calibrating on 8 pictures" in words for words in heard)
    assert left_in(out.parent) == ["small.onnx"]
    assert gapcam.load(out).check().exact
    with pytest.raises(ModelError, match=r"quantized already\. Start from the float model"):
        export(out, tmp_path / "smaller.onnx", int8=crops)
    assert "smaller.onnx" not in left_in(tmp_path)


def test_int8_pictures_are_looked_at_before_the_work(foreign, crops, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "make", lambda *_: pytest.fail("the work began"))
    with pytest.raises(ArgumentError, match=r"int8: expected at least 8 pictures .* got 3"):
        export(foreign, tmp_path / "out.onnx", int8=crops[:3], **OPTIONS)


def test_a_picture_that_cannot_be_read_leaves_nothing(foreign, crops, tmp_path):
    given = [*crops[:10], tmp_path / "missing.png"]
    with pytest.raises(PictureError, match=r"missing\.png"):
        export(foreign, tmp_path / "out.onnx", int8=given, **OPTIONS)
    assert left_in(tmp_path) == []
