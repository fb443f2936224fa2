"""`gapcam localize --labels`: from class folders to a training set, reviewed and written again."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

import gapcam
from gapcam.cli import app
from gapcam.data import read_dataset


def run(*words: object) -> Any:
    return CliRunner().invoke(app, ["localize", *map(str, words), "--no-overlays"])


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of two pictures each, and a third whose label is wrong."""
    root = tmp_path_factory.mktemp("set") / "pictures"
    photos = list(gapcam.sample_pictures())
    for folder, path in zip(("tabby", "espresso", "tabby", "espresso"), photos, strict=False):
        (root / folder).mkdir(parents=True, exist_ok=True)
        with Image.open(path) as image:
            image.convert("RGB").save(root / folder / f"{path.stem}.jpg")
    return root


def test_folders_become_a_set_and_rejected_boxes_leave_it(pictures: Path):
    out = pictures / "found"  # inside the pictures: its links are no pictures of the next run
    first = run(pictures, "--out", out, "--labels", "folders", "--format", "yolo", "--review", 3)
    assert first.exit_code == 0, first.stderr
    assert "yolo: 4 pictures, " in first.stderr
    assert " boxes to review." in first.stderr
    names = [line.split(": ")[1] for line in (out / "data.yaml").read_text().splitlines()[4:]]
    assert names == ['"tabby"', '"espresso"']
    records = [json.loads(line) for line in (out / "localizations.jsonl").read_text().splitlines()]
    for record in records:
        assert {d["label"] for d in record["detections"]} == {Path(record["path"]).parent.name}
    assert {e.name for e in read_dataset(None, out).examples} == {
        Path(record["path"]).relative_to(pictures).as_posix() for record in records
    }
    with (out / "review.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3
    bad = pictures.parent / "rejected.csv"
    bad.write_text(f"key\n{rows[0]['key']}\n")
    asked = ("--labels", "folders", "--format", "yolo", "--resume", "--reject", bad)
    again = run(pictures, "--out", out, *asked)
    assert again.exit_code == 0, again.stderr
    assert "0 pictures localized, 4 done before" in again.stderr
    assert "1 rejected" in again.stderr
    assert rows[0]["path"] not in {e.name for e in read_dataset(None, out).examples}


def test_coco_has_masks_and_a_floor_leaves_out(pictures: Path, tmp_path: Path):
    table = tmp_path / "labels.csv"
    rows = [f"{p.relative_to(pictures)},{p.parent.name}" for p in sorted(pictures.glob("*/*.jpg"))]
    table.write_text("\n".join(["image,label", *rows[:-1], "gone.jpg,tabby", ""]))
    asked = ("--labels", table, "--format", "coco", "--min-score", 1)
    done = run(pictures, "--out", tmp_path / "out", *asked)
    assert done.exit_code == 1  # one picture has no row
    assert f"expected a row in {table}, there is none" in done.stderr
    assert f"1 picture has no label in {table}: counted as failed." in done.stderr
    assert f"1 picture that {table} names not among the inputs." in done.stderr
    assert "3 below the score; 3 pictures without a box left out" in done.stderr
    assert len((tmp_path / "out/without_boxes.csv").read_text().splitlines()) == 4
    asked = ("--labels", table, "--format", "coco", "--resume")
    assert run(pictures, "--out", tmp_path / "out", *asked).exit_code == 1
    content = json.loads((tmp_path / "out/annotations.json").read_text())
    assert len(content["annotations"]) >= 3
    assert all(note["segmentation"]["counts"] for note in content["annotations"])
    other = run(pictures, "--out", tmp_path / "out", "--labels", "folders", "--resume")
    assert other.exit_code == 2
    assert "that run had" in other.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--labels", "folders"), "--labels needs --out"),
        (("--labels", "folders", "--top", 2, "--out", "x"), "--labels says which classes: leave"),
        (("--min-score", 0.5, "--out", "x"), "--min-score is about annotations: add --format"),
        (("--reject", "r.csv", "--out", "x"), "--reject is about annotations: add --format"),
        (("--review", 5), "--review needs --out"),
    ],
)
def test_options_that_contradict(pictures: Path, words: Any, said: str):
    done = run(pictures, *words)
    assert done.exit_code == 2
    assert said in done.stderr


def test_labels_that_are_no_classes_stop_the_run_before_it_begins(pictures: Path, tmp_path: Path):
    (tmp_path / "taby").mkdir()
    (tmp_path / "taby/a.jpg").write_bytes(next(pictures.glob("tabby/*.jpg")).read_bytes())
    done = run(tmp_path, "--out", tmp_path / "out", "--labels", "folders", "--format", "csv")
    assert done.exit_code == 2
    assert "1 of 1 label is none: class 'taby' is unknown, did you mean 'tabby'" in done.stderr
    assert not (tmp_path / "out").exists()
