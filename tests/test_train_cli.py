"""`gapcam train` at the command line: a run from folders to boxes, and every wrong use."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

import gapcam
from exporter import list_operators_once
from gapcam.cli import app
from gapcam.metrics.boxes import box_iou
from picture_files import as_plain_user, open_folder
from train_sets import write_classes, write_hf

list_operators_once()


def gapcam_train(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["train", *map(str, arguments)])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, tuple], Result]:
    """A run with the embedded network; the squares' boxes; what was said."""
    folder = tmp_path_factory.mktemp("whole")
    boxes = write_classes(folder / "shapes", side=160)
    return folder, boxes, gapcam_train(folder / "shapes", "--out", folder / "run")


def test_a_run_ends_well_and_says_what_to_do_next(whole: tuple):
    folder, _, result = whole
    assert result.exit_code == 0, result.output
    assert result.stderr.startswith(
        "24 pictures of 3 classes: 18 pictures train and 6 validate, chosen by class at random\n"
    )
    assert "Chosen by class labels only, no boxes" in result.stdout
    assert "class maps are exact" in result.stdout
    assert f"gapcam localize PICTURES --model {folder / 'run'}" in result.stdout
    there = {path.name for path in (folder / "run").iterdir()}
    expected = {"config.json", "data.json", "split.csv", "head.csv", "features.npy", "run.json"}
    expected |= {"features.json", "validation.json", "per_class.csv", "confusion.csv"}
    expected |= {"mistakes.csv", "model.onnx", "training.html", "samples", ".lock"}
    assert there == expected


def test_the_model_file_has_the_accuracy_that_was_told(whole: tuple):
    folder, _, _ = whole
    localizer = gapcam.load(folder / "run")
    with (folder / "run" / "split.csv").open(newline="") as file:
        held = [row for row in csv.DictReader(file) if row["part"] == "validation"]
    found = localizer((folder / "shapes" / row["image"] for row in held), top=1)
    right = [one.detections[0].label == row["labels"] for one, row in zip(found, held, strict=True)]
    result = json.loads((folder / "run" / "run.json").read_text())["result"]
    assert result["accuracy"] == np.mean(right) > 0.8
    proof = localizer.check([folder / "shapes" / row["image"] for row in held])
    assert proof.exact


def test_boxes_lie_on_the_squares(whole: tuple):
    folder, boxes, _ = whole
    localizer = gapcam.load(folder / "run")
    ours, centred = [], []
    side = 160
    for name, box in boxes.items():
        (found,) = localizer(folder / "shapes" / name, classes=[name.split("/")[0]]).detections
        assert found.box_xyxy is not None
        width = box[2] - box[0]
        middle = ((side - width) / 2,) * 2 + ((side + width) / 2,) * 2
        ours.append(float(box_iou([found.box_xyxy], [box])[0, 0]))
        centred.append(float(box_iou([middle], [box])[0, 0]))
    assert np.mean(ours) > np.mean(centred) + 0.1


def test_localize_and_evaluate_take_the_run_folder(whole: tuple, tmp_path: Path):
    folder, boxes, _ = whole
    picture = folder / "shapes" / "red" / "0.png"
    done = CliRunner().invoke(app, ["localize", str(picture), "--model", str(folder / "run")])
    assert done.exit_code == 0, done.output
    assert "red" in done.stdout
    table = tmp_path / "boxes.csv"
    rows = [
        f"{name},{name[: name.index('/')]},160,160,{','.join(map(str, box))}"
        for name, box in boxes.items()
    ]
    table.write_text("\n".join(["image,class,width,height,x0,y0,x1,y1", *rows]) + "\n")
    command = ["evaluate", "--images", folder / "shapes", "--boxes", table]
    done = CliRunner().invoke(app, [*map(str, command), "--model", str(folder / "run")])
    assert done.exit_code == 0, done.output


def test_a_finished_run_is_told_to_be_finished(whole: tuple):
    folder, _, _ = whole
    before = (folder / "run" / "model.onnx").stat().st_mtime_ns
    (folder / "run" / "training.html").unlink()  # as if a kill had come before it
    done = gapcam_train(folder / "shapes", "--out", folder / "run", "--resume")
    assert done.exit_code == 0
    assert "this run is finished already" in done.stderr
    assert (folder / "run" / "model.onnx").stat().st_mtime_ns == before
    assert (folder / "run" / "training.html").exists()


# --- wrong uses ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wrong") / "shapes"
    write_classes(folder, each=4)
    write_hf(folder.parent / "net")
    (folder.parent / "empty").mkdir()
    shutil.copytree(folder / "red", folder.parent / "alone" / "red")
    (folder.parent / "file.onnx").write_bytes(b"a model file")
    return folder


WRONG = [
    (["missing"], 1, "missing: expected a folder of class folders or a CSV file"),
    (["empty"], 1, "empty: expected class folders"),
    (["alone"], 1, "alone: expected two classes or more, got only 'red'"),
    (["shapes", "--epochs", "3", "--ema", "0.9"], 2, "ema, epochs: only fine-tuning has it"),
    (["shapes", "--pool", "fc"], 2, "pool fc: a head alone is fitted on features"),
    (["shapes", "--pool", "lse"], 2, "Add --finetune"),
    (["shapes", "--pool", "median"], 2, "'median' is not one of 'gap', 'gmp', 'lse'"),
    (["shapes", "--map-stride", "5"], 2, "map_stride: expected 8 or 16 or 32, got 5"),
    (["shapes", "--validation", "1"], 2, "validation_share: expected more than 0 and less than 1"),
    (["shapes", "--model", "resnet"], 2, "model 'resnet' is unknown: name efficientnet-lite0, a"),
    (["shapes", "--model", "file.onnx"], 2, "training begins from PyTorch weights"),
    (["shapes", "--model", "alexnet"], 2, "alexnet: its added layers are new"),
    (["shapes", "--set", "colour=red"], 2, "expected KEY=VALUE with a key of"),
    (["shapes", "--set", "labels=x"], 2, "--set labels: a model that is trained takes"),
    (["shapes", "--set", "method=cam"], 2, "--set method: a model that is trained takes"),
    (["shapes", "--normal", "good"], 2, "normal 'good': the data has no such class"),
    (["shapes", "--finetune", "--augment", "blur"], 2, "augment: expected some of crop, flip"),
]


@pytest.mark.parametrize(("arguments", "code", "words"), WRONG, ids=lambda v: str(v)[:40])
def test_a_wrong_use_is_one_line_and_leaves_nothing(
    arguments: list[str], code: int, words: str, shapes: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(shapes.parent)
    done = gapcam_train(*arguments, "--out", "run")
    assert done.exit_code == code
    assert words in " ".join(done.stderr.split())
    assert done.stdout == ""
    assert not Path("run").exists()


def test_what_cannot_be_read_is_named_and_left_out(shapes: Path, tmp_path: Path):
    model = f"hf:{shapes.parent / 'net'}"

    def small_run(data: Path, out: Path, *more: str) -> Result:
        return gapcam_train(data, "--out", out, "--model", model, *more)

    data = tmp_path / "shapes"
    shutil.copytree(shapes, data)
    (data / "red" / "1.jpg").write_bytes(b"no picture")
    done = small_run(data, tmp_path / "run")
    assert done.exit_code == 0, done.output
    assert "red/1.jpg: left out, it cannot be read" in done.stderr
    assert "1 picture cannot be read and is left out" in done.stderr
    with (tmp_path / "run" / "unreadable.csv").open(newline="") as file:
        assert [row["image"] for row in csv.DictReader(file)] == ["red/1.jpg"]

    # the run that is there is not written over, and not taken up with other choices
    again = small_run(data, tmp_path / "run")
    assert again.exit_code == 2
    assert "holds a run already: --resume to go on, or choose another --out" in again.stderr
    other = small_run(data, tmp_path / "run", "--resume", "--seed", "3")
    assert other.exit_code == 2
    assert "seed was 0, is now 3. Use the same choices to resume" in other.stderr

    for path in (data / "red").iterdir():
        path.write_bytes(b"no picture")
    done = small_run(data, tmp_path / "emptied")
    assert done.exit_code == 1
    assert "of class 'red' 4 cannot be read" in done.stderr
    state = json.loads((tmp_path / "emptied" / "run.json").read_text())
    assert (state["state"], "cannot be read" in state["reason"]) == ("failed", True)


def test_a_folder_that_cannot_be_written_is_told(shapes: Path):
    with open_folder() as folder:
        data = folder / "shapes"
        shutil.copytree(shapes, data)
        (folder / "closed").mkdir(mode=0o555)
        with as_plain_user():
            done = gapcam_train(data, "--out", folder / "closed" / "run")
    assert done.exit_code == 1
    assert "cannot be written (Permission denied); make the folder writable" in done.stderr


WITHOUT_LIGHTNING = """
import sys
from importlib import metadata

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "lightning":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
found = metadata.Distribution.from_name.__func__

def from_name(cls, name):
    if name == "lightning":
        raise metadata.PackageNotFoundError(name)
    return found(cls, name)

metadata.Distribution.from_name = classmethod(from_name)
from gapcam.cli import main
main()
"""


def test_without_lightning_it_says_what_to_install(shapes: Path, tmp_path: Path):
    model = f"hf:{shapes.parent / 'net'}"
    command = ["train", shapes, "--out", tmp_path / "run", "--model", model, "--finetune"]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_LIGHTNING, *map(str, command)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "pip install 'gapcam[train]'" in done.stderr
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()
