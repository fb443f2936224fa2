from __future__ import annotations

import csv
import json
import math
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import gapcam
from gapcam.batch import (
    ERRORS,
    RESULTS,
    RunOptions,
    localize_into,
    localize_many,
    overlay_path,
    without_results,
)
from gapcam.localizer import BATCH_SIZE
from gapcam.paths import Expansion, expand_paths
from gapcam.types import ArgumentError, Failure, Localization, OutputError
from picture_files import encode, smooth_pixels

SAMPLES = [str(path) for path in gapcam.sample_pictures()]
Record = dict[str, Any]


def records(out: Path) -> list[Record]:
    return [json.loads(line) for line in (out / RESULTS).read_text("utf-8").splitlines()]


def small_picture(path: Path, seed: int = 0, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(smooth_pixels(30, 40, seed)).save(path, **options)
    return path


def copies(folder: Path, number: int) -> Path:
    """A folder of many names (hard links, each a file of its own) for a few small pictures."""
    folder.mkdir()
    first = [small_picture(folder / f"{i:04}.jpg", i) for i in range(4)]
    for i in range(4, number):
        os.link(first[i % 4], folder / f"{i:04}.jpg")
    return folder


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    """A folder with the sample photographs in sub-folders."""
    folder = tmp_path / "photos"
    for i, path in enumerate(SAMPLES):
        (folder / f"sub{i % 2}").mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / f"sub{i % 2}")
    return folder


def run(
    localizer: gapcam.Localizer, inputs: Expansion, out: Path, **options: Any
) -> tuple[list[str], Any]:
    """A folder run: the names in the order they were reported, and the summary."""
    seen: list[str] = []
    options = {"overlays": False} | options
    summary = localize_into(
        localizer, inputs, RunOptions(out, **options), lambda result: seen.append(result.name)
    )
    return seen, summary


# --- a stream of results -----------------------------------------------------------------------


def test_results_are_in_order_with_failures_in_their_place(small: gapcam.Localizer, tmp_path: Path):
    paths = [SAMPLES[i % 4] for i in range(BATCH_SIZE * 2 + 3)]
    bad = (0, 5, BATCH_SIZE - 1, BATCH_SIZE, BATCH_SIZE * 2 + 2)
    for i in bad:
        paths[i] = str(tmp_path / f"missing{i}.jpg")
    found = list(localize_many(small, paths, 1))
    assert [result.name for result in found] == paths
    assert [i for i, result in enumerate(found) if isinstance(result, Failure)] == list(bad)


def test_a_batch_of_nothing_but_failures_does_not_stop_the_stream(small: gapcam.Localizer):
    paths = ["missing.jpg"] * BATCH_SIZE + [SAMPLES[0]]
    found = list(localize_many(small, paths, 1))
    assert all(isinstance(result, Failure) for result in found[:-1])
    assert isinstance(found[-1], Localization)


def test_no_pictures_give_no_results(small: gapcam.Localizer):
    assert list(localize_many(small, [], 1)) == []


@pytest.mark.parametrize("workers", [1, 3])
def test_many_at_once_find_what_one_by_one_finds(localizer: gapcam.Localizer, workers: int):
    for one in localize_many(localizer, SAMPLES, 5, workers):
        assert isinstance(one, Localization)
        alone = localizer(one.name, top=5)
        assert (one.size_hw, one.notes) == (alone.size_hw, alone.notes)
        for d, e in zip(one.detections, alone.detections, strict=True):
            assert (d.label, d.box_xyxy, d.peak_xy) == (e.label, e.box_xyxy, e.peak_xy)
            assert d.score == pytest.approx(e.score, abs=1e-5)
            np.testing.assert_allclose(d.map, e.map, atol=1e-3)
            np.testing.assert_array_equal(d.mask, e.mask)


def test_the_list_of_paths_is_read_lazily_and_the_readers_stop_with_the_consumer(
    small: gapcam.Localizer,
):
    taken = 0

    def paths() -> Iterator[str]:
        nonlocal taken
        for i in count():
            taken += 1
            yield SAMPLES[i % 4]

    with closing(localize_many(small, paths(), 1)) as results:
        next(results)
        assert taken <= 4 * BATCH_SIZE
        for _ in range(BATCH_SIZE):
            next(results)
        assert taken <= 5 * BATCH_SIZE


def test_a_folder_run_of_ten_times_as_many_pictures_takes_no_more_memory(
    small_model: Path, tmp_path: Path
):
    peak = {}
    for number in (40, 400):
        folder = copies(tmp_path / str(number), number)
        out = tmp_path / f"out{number}"
        words = ["localize", folder, "--out", out, "--model", small_model, "--no-overlays"]
        command = [sys.executable, "-m", "gapcam", *map(str, words)]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        assert len(records(out)) == number
        peak[number] = usage.ru_maxrss / 1024
    assert peak[400] < peak[40] + 30, peak


# --- a folder of results -----------------------------------------------------------------------


def test_a_folder_run_reports_and_counts_every_result(small: gapcam.Localizer, tmp_path: Path):
    inputs = expand_paths([SAMPLES[0], str(tmp_path / "missing.jpg"), SAMPLES[1]])
    seen, summary = run(small, inputs, tmp_path / "out", top=2)
    assert sorted(seen) == sorted(inputs.paths)
    assert [record["path"] for record in records(tmp_path / "out")] == list(inputs.paths)
    assert (summary.localized, summary.failed, summary.earlier) == (2, 1, 0)
    assert summary.written == (tmp_path / "out" / RESULTS, tmp_path / "out" / ERRORS)
    assert [len(record.get("detections", ())) for record in records(tmp_path / "out")] == [2, 0, 2]


def test_failed_pictures_are_tried_again_on_resume_and_good_ones_are_not(
    small: gapcam.Localizer, tmp_path: Path
):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"nothing")
    inputs = expand_paths([SAMPLES[0], str(broken), SAMPLES[1]])
    _, first = run(small, inputs, tmp_path / "out")
    assert (first.localized, first.failed) == (2, 1)
    shutil.copy(SAMPLES[2], broken)
    seen, second = run(small, inputs, tmp_path / "out", resume=True)
    assert seen == [str(broken)]
    assert (second.localized, second.failed, second.earlier) == (1, 0, 2)
    assert [record["path"] for record in records(tmp_path / "out")] == list(inputs.paths)
    assert not any("error" in record for record in records(tmp_path / "out"))
    assert not (tmp_path / "out" / ERRORS).exists()


def test_resuming_a_finished_run_changes_no_byte(small: gapcam.Localizer, tmp_path: Path):
    out, inputs = tmp_path / "out", expand_paths(SAMPLES)
    run(small, inputs, out, overlays=True, format="coco")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    seen, summary = run(small, inputs, out, overlays=True, format="coco", resume=True)
    assert (seen, summary.localized, summary.earlier) == ([], 0, 4)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_a_resumed_run_knows_a_picture_however_it_is_spelled(
    small: gapcam.Localizer, samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    run(small, expand_paths(["photos"]), tmp_path / "out")
    for spelling in ("./photos", "photos/sub0/..", str(samples)):
        seen, summary = run(small, expand_paths([spelling]), tmp_path / "out", resume=True)
        assert (seen, summary.earlier) == ([], 4)


def test_a_resume_from_another_folder_never_mistakes_one_picture_for_another(
    small: gapcam.Localizer, samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    run(small, expand_paths(["photos"]), tmp_path / "relative")
    run(small, expand_paths([str(samples)]), tmp_path / "absolute")
    monkeypatch.chdir(samples)
    with pytest.raises(ArgumentError, match=rf"started in {tmp_path}, .* resume it from there"):
        run(small, expand_paths([str(samples)]), tmp_path / "relative", resume=True)
    _, summary = run(small, expand_paths(["."]), tmp_path / "absolute", resume=True)
    assert summary.earlier == 4


def test_a_new_run_replaces_a_finished_one(localizer: gapcam.Localizer, tmp_path: Path):
    run(localizer, expand_paths(SAMPLES), tmp_path / "out")
    run(localizer, expand_paths(SAMPLES[:1]), tmp_path / "out", classes=("tabby",))
    (only,) = records(tmp_path / "out")
    assert only["path"] == SAMPLES[0]
    assert [d["label"] for d in only["detections"]] == ["tabby"]


def test_an_unknown_class_is_refused_before_anything_is_written(
    localizer: gapcam.Localizer, tmp_path: Path
):
    with pytest.raises(ArgumentError, match="did you mean 'tabby'"):
        run(localizer, expand_paths(SAMPLES), tmp_path / "out", classes=("tabbby",))
    assert not (tmp_path / "out").exists()


def test_results_inside_the_folder_of_pictures_are_no_inputs_of_the_next_run(
    small: gapcam.Localizer, samples: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(samples)
    first = without_results(expand_paths(["."]), Path("out"))
    run(small, first, Path("out"), overlays=True)
    again = without_results(expand_paths([str(samples)]), Path("out"))
    assert len(again.paths) == len(first.paths) == 4
    assert again.ignored == first.ignored + 4 + 1 + 2  # overlays, sheet, the two JSON files
    elsewhere = without_results(expand_paths([str(samples)]), Path("other"))
    assert len(elsewhere.paths) == 9


# --- overlays ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "overlay"),
    [
        ("/in/cat.jpg", "cat_cam.jpg"),
        ("/in/cat.png", "cat_png_cam.jpg"),
        ("/in/cat.JPG", "cat_JPG_cam.jpg"),
        ("/in/a/b/cat.jpg", "a/b/cat_cam.jpg"),
        ("/in/cat_png.jpg", "cat_png_jpg_cam.jpg"),
        ("/in/a.b.jpg", "a.b_cam.jpg"),
    ],
)
def test_an_overlay_is_named_after_its_picture(path: str, overlay: str):
    inputs = Expansion((path,), (), 0, Path("/in"))
    assert overlay_path(inputs, path, Path("out")) == Path("out/overlays") / overlay


@pytest.mark.parametrize("letter", ["a", "é", "猫", "\udcff"])
def test_the_overlay_of_a_picture_with_the_longest_name_can_be_written(tmp_path: Path, letter: str):
    stem = letter * ((255 - len(".jpg") - 1) // len(os.fsencode(letter)))
    paths = [f"/in/{stem}{end}.jpg" for end in "ab"]
    inputs = Expansion(tuple(paths), (), 0, Path("/in"))
    written = {overlay_path(inputs, path, tmp_path) for path in paths}
    assert len(written) == 2
    for path in written:
        path.parent.mkdir(exist_ok=True)
        path.touch()


def test_every_picture_gets_an_overlay_of_its_size_and_several_get_a_sheet(
    localizer: gapcam.Localizer, samples: Path, tmp_path: Path
):
    small_picture(samples / "cat.png")
    (samples / "bad.jpg").write_bytes(b"")
    inputs, out = expand_paths([str(samples)]), tmp_path / "out"
    _, summary = run(localizer, inputs, out, overlays=True)
    assert (summary.localized, summary.failed) == (5, 1)
    others = (out / ERRORS, out / "overlays", out / "contact_sheet.jpg")
    assert summary.written == (out / RESULTS, *others)
    good = [record for record in records(out) if "error" not in record]
    expected = {overlay_path(inputs, record["path"], out): record for record in good}
    assert {path for path in (out / "overlays").rglob("*") if path.is_file()} == expected.keys()
    assert out / "overlays" / "cat_png_cam.jpg" in expected
    assert out / "overlays" / "sub1" / "cat_cam.jpg" in expected
    for path, record in expected.items():
        with Image.open(path) as image:
            image.load()
            assert image.format == "JPEG"
            scale = image.width // record["width"]  # small ones are enlarged to hold the words
            assert scale >= 1
            assert image.size == (scale * record["width"], scale * record["height"])
    with Image.open(out / "contact_sheet.jpg") as image:
        image.load()
        assert min(image.size) > 300


def test_one_picture_gets_no_sheet_and_no_overlays_means_none(
    small: gapcam.Localizer, tmp_path: Path
):
    run(small, expand_paths(SAMPLES[:1]), tmp_path / "one", overlays=True)
    assert {p.name for p in (tmp_path / "one").iterdir()} == {RESULTS, "run.json", "overlays"}
    run(small, expand_paths(SAMPLES), tmp_path / "none")
    assert {p.name for p in (tmp_path / "none").iterdir()} == {RESULTS, "run.json"}


@pytest.mark.parametrize("size", [(70_000, 20), (20, 70_000), (1, 1), (4000, 3)])
def test_a_picture_of_any_shape_gets_an_overlay(
    small: gapcam.Localizer, tmp_path: Path, size: tuple[int, int]
):
    path = tmp_path / "odd.png"
    path.write_bytes(encode(Image.new("RGB", size, "teal"), "PNG"))
    shutil.copy(SAMPLES[0], tmp_path / "other.jpg")
    inputs = expand_paths([str(path), str(tmp_path / "other.jpg")])
    _, summary = run(small, inputs, tmp_path / "out", overlays=True)
    assert (summary.localized, summary.failed) == (2, 0)
    with Image.open(tmp_path / "out" / "overlays" / "odd_png_cam.jpg") as image:
        image.load()
        assert max(image.size) >= min(max(size), 65_500)


# --- annotation formats ------------------------------------------------------------------------


def boxes_of_coco(out: Path) -> dict[str, list[list[float]]]:
    data = json.loads((out / "annotations.json").read_text())
    names = {image["id"]: image["file_name"] for image in data["images"]}
    found: dict[str, list[list[float]]] = {name: [] for name in names.values()}
    for note in data["annotations"]:
        x, y, width, height = note["bbox"]
        found[names[note["image_id"]]].append([x, y, x + width, y + height])
    return found


def boxes_of_yolo(out: Path) -> dict[str, list[list[float]]]:
    found = {}
    for record in records(out):
        path = Path(record["path"])
        name = f"{path.parent.name}/{path.name}"
        text = (out / "labels" / path.parent.name / f"{path.stem}.txt").read_text()
        boxes = np.array([[float(v) for v in line.split()[1:]] for line in text.splitlines()])
        corners = np.concatenate(
            [boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], axis=1
        )
        found[name] = (corners * ([record["width"], record["height"]] * 2)).tolist()
    return found


def boxes_of_voc(out: Path) -> dict[str, list[list[float]]]:
    found = {}
    for path in (out / "Annotations").rglob("*.xml"):
        tree = ET.parse(path)
        name = f"{tree.findtext('folder')}/{tree.findtext('filename')}"
        sides = ("xmin", "ymin", "xmax", "ymax")
        found[name] = [
            [float(box.findtext(side, "")) for side in sides] for box in tree.iter("bndbox")
        ]
    return found


def boxes_of_csv(out: Path) -> dict[str, list[list[float]]]:
    found: dict[str, list[list[float]]] = {}
    with (out / "boxes.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            box = [float(row[side]) for side in ("x0", "y0", "x1", "y1")]
            found.setdefault(row["image"], []).append(box)
    return found


def as_voc(box: list[float]) -> list[float]:
    x0, y0, x1, y1 = box
    return [math.floor(x0) + 1, math.floor(y0) + 1, math.ceil(x1), math.ceil(y1)]


READERS = {
    "coco": boxes_of_coco,
    "yolo": boxes_of_yolo,
    "voc": boxes_of_voc,
    "csv": boxes_of_csv,
}


@pytest.mark.parametrize("kind", READERS)
def test_annotations_hold_the_boxes_of_the_results(
    small: gapcam.Localizer, samples: Path, tmp_path: Path, kind: str
):
    out = tmp_path / "out"
    inputs = expand_paths([str(samples)])
    _, summary = run(small, inputs, out, format=kind, top=3)
    assert summary.written == (out / RESULTS, out)
    found = READERS[kind](out)
    assert len(found) == 4
    for record in records(out):
        boxes = [d["box"] for d in record["detections"] if d["box"] is not None]
        boxes = [as_voc(box) for box in boxes] if kind == "voc" else boxes
        name = str(inputs.relative(record["path"]))
        np.testing.assert_allclose(found[name], boxes, atol=0.006 if kind == "coco" else 0.001)


def test_two_pictures_with_one_annotation_name_end_the_run_with_their_names_and_whole_results(
    small: gapcam.Localizer, tmp_path: Path
):
    small_picture(tmp_path / "in" / "cat.jpg")
    small_picture(tmp_path / "in" / "cat.png")
    with pytest.raises(OutputError, match=r"cat\.png: expected an annotation name of its own"):
        run(small, expand_paths([str(tmp_path / "in")]), tmp_path / "out", format="yolo")
    assert len(records(tmp_path / "out")) == 2
