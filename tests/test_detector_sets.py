"""Labelled pictures to detector training sets, and back by pycocotools and the evaluator."""

from __future__ import annotations

import csv
import json
import math
import os
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO

import gapcam
from gapcam.data import read_dataset
from gapcam.formats import FORMATS, LEFT_OUT, Keep, box_key, read_records, record_line, to_record
from gapcam.formats.rle import area_of, encode_mask, run_lengths, unpack_counts
from gapcam.inputs import open_inputs
from gapcam.known_labels import only, read_labels
from gapcam.types import OutputError

TABBY = "tabby"
of_pycocotools = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory, quick: Any, cat: Path) -> dict[str, Any]:
    """Real photographs with known labels, localized for those; one is turned by EXIF."""
    root = tmp_path_factory.mktemp("labelled") / "pictures"
    others = [path for path in gapcam.sample_pictures() if path != cat]
    photo = Image.open(cat).convert("RGB")
    for name, orientation in (("tabby/a b.jpg", 1), ("tabby/turned.jpg", 6)):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        exif = Image.Exif()
        exif[0x0112] = orientation
        # Stored lying on its side, so that it is shown upright.
        stored = photo.transpose(Image.Transpose.ROTATE_90) if orientation == 6 else photo
        stored.save(root / name, quality=95, exif=exif)
    (root / "n02099601").mkdir()
    for path in others[:2]:
        Image.open(path).convert("RGB").save(root / "n02099601" / f"{path.stem}.png")
    inputs = open_inputs([str(root)])
    known = read_labels("folders", inputs, quick.card)
    return {
        "root": root,
        "known": known,
        "labels": quick.card.labels,
        "found": localized(quick, inputs, known),
    }


def localized(localizer: Any, inputs: Any, known: Any) -> list[Any]:
    items = list(inputs)
    wanted = [known.wanted(item, inputs.reader) for item in items]
    read = [localizer.read(item.source) for item in items]
    found = localizer.localize(read, [item.source for item in items], known.rows(wanted))
    return [only(one, ids) for one, ids in zip(found, wanted, strict=True)]


def write(labelled: Any, layout: str, out: Path, **keep: Any) -> Any:
    records = (to_record(found, masks=layout == "coco") for found in labelled["found"])
    return FORMATS[layout](
        records,
        labels=labelled["labels"],
        out_dir=out,
        root=labelled["root"],
        keep=Keep(**{"classes": labelled["known"].classes, **keep}),
    )


def boxes_of(found: Any) -> list[tuple[float, ...]]:
    return [tuple(round(v, 2) for v in d.box_xyxy) for d in found.detections if d.box_xyxy]


def name_in(labelled: Any, found: Any) -> str:
    return os.path.relpath(found.name, labelled["root"])


def test_every_picture_is_localized_for_its_own_class(labelled: Any):
    expected = {"tabby": TABBY, "n02099601": labelled["labels"][207]}
    assert len(labelled["found"]) == 4
    for found in labelled["found"]:
        folder = name_in(labelled, found).split("/")[0]
        assert {d.label for d in found.detections} == {expected[folder]}
    assert labelled["known"].classes == (207, 281)


@of_pycocotools
def test_pycocotools_reads_boxes_and_masks(labelled: Any, tmp_path: Path):
    written = write(labelled, "coco", tmp_path)
    read = COCO(tmp_path / "annotations.json")
    assert [c["name"] for c in read.loadCats(read.getCatIds())] == [
        labelled["labels"][i] for i in (207, 281)
    ]
    images = {image["file_name"]: image for image in read.loadImgs(read.getImgIds())}
    assert (len(images), written.pictures, written.notes) == (4, 4, ())
    for found in labelled["found"]:
        image = images[name_in(labelled, found)]
        assert (image["height"], image["width"]) == found.size_hw
        notes = read.loadAnns(read.getAnnIds(imgIds=image["id"], iscrowd=False))
        kept = [d for d in found.detections if d.box_xyxy]
        assert len(notes) == len(kept)
        for note, detection in zip(notes, kept, strict=True):
            x, y, width, height = note["bbox"]
            assert (x, y, x + width, y + height) == pytest.approx(detection.box_xyxy, abs=0.011)
            (category,) = read.loadCats(note["category_id"])
            assert category["name"] == detection.label
            assert np.array_equal(read.annToMask(note), detection.mask)
            assert note["area"] == coco_masks.area(read.annToRLE(note)) == detection.mask.sum()


@pytest.mark.parametrize(
    ("layout", "place", "rounded"),
    [
        ("coco", "annotations.json", lambda box: box),
        ("csv", "boxes.csv", lambda box: box),
        ("yolo", "", lambda box: box),
        (
            "voc",
            "",
            lambda b: (math.floor(b[0]), math.floor(b[1]), math.ceil(b[2]), math.ceil(b[3])),
        ),
    ],
)
def test_the_evaluator_reads_the_same_boxes(
    labelled: Any, tmp_path: Path, layout: str, place: str, rounded: Any
):
    write(labelled, layout, tmp_path)
    linked = layout in ("yolo", "voc")  # those sets bring their pictures along
    dataset = read_dataset(None if linked else labelled["root"], tmp_path / place)
    assert (dataset.layout, dataset.problems) == (layout, ())
    by_name = {example.name: example for example in dataset.examples}
    assert len(by_name) == 4
    for found in labelled["found"]:
        example = by_name[name_in(labelled, found)]
        assert example.size_wh == found.size_hw[::-1]
        (target,) = example.targets
        assert target.class_names[0] == found.detections[0].label
        back, expected = sorted(target.boxes), sorted(map(rounded, boxes_of(found)))
        for one, other in zip(back, expected, strict=True):
            assert one == pytest.approx(other, abs=0.011)


def test_yolo_is_laid_out_as_trainers_look_for_it(labelled: Any, tmp_path: Path):
    write(labelled, "yolo", tmp_path)
    lines = (tmp_path / "data.yaml").read_text(encoding="utf-8").splitlines()
    names = [json.dumps(labelled["labels"][i]) for i in (207, 281)]
    assert lines == [
        f'path: "{tmp_path}"',
        *("train: images", "val: images", "names:"),
        *(f"  {i}: {name}" for i, name in enumerate(names)),
    ]
    # What Ultralytics does: every file below images, and its labels by the last "images" in it.
    pictures = [p for p in (tmp_path / "images").rglob("[!.]*.*") if p.is_file()]
    assert len(pictures) == 4
    for picture in pictures:
        before, after = str(picture).rsplit("/images/", 1)
        rows = Path(f"{before}/labels/{after}").with_suffix(".txt").read_text().splitlines()
        assert rows
        assert {row.split()[0] for row in rows} <= {"0", "1"}
        assert picture.resolve() == (labelled["root"] / after).resolve()


def test_voc_lists_what_is_in_the_set(labelled: Any, tmp_path: Path):
    write(labelled, "voc", tmp_path)
    listed = (tmp_path / "ImageSets/Main/trainval.txt").read_text().splitlines()
    assert sorted(listed) == sorted(
        Path(name_in(labelled, found)).with_suffix("").as_posix() for found in labelled["found"]
    )
    assert all((tmp_path / "Annotations" / f"{name}.xml").is_file() for name in listed)
    assert (tmp_path / "JPEGImages/tabby/a b.jpg").resolve().is_file()
    assert (tmp_path / "labels.txt").read_text().splitlines() == [
        labelled["labels"][i] for i in (207, 281)
    ]
    assert read_dataset(None, tmp_path, split="trainval").problems == ()


@pytest.mark.parametrize("layout", FORMATS)
def test_a_floor_and_a_rejection_leave_pictures_out(labelled: Any, tmp_path: Path, layout: str):
    write(labelled, layout, tmp_path)  # an earlier run with everything
    records = [to_record(found) for found in labelled["found"]]
    scores = sorted(max(d["score"] for d in r["detections"]) for r in records)
    floor = (scores[0] + scores[1]) / 2
    best = max(records, key=lambda r: r["detections"][0]["score"])
    reject = frozenset(box_key(best["path"], d) for d in best["detections"])
    written = write(labelled, layout, tmp_path, min_score=floor, rejected=reject | {"0" * 16})
    assert (written.pictures, written.left_out, written.rejected) == (2, 2, len(reject))
    assert written.below >= 1
    assert written.notes == ("1 rejected box is not among the results: reviewed in another run?",)
    with (tmp_path / LEFT_OUT).open(newline="") as file:
        rows = list(csv.DictReader(file))
    reasons = {row["image"]: row["reason"] for row in rows if row["left_out"] == "yes"}
    worst = min(records, key=lambda r: r["detections"][0]["score"])
    assert reasons == {
        os.path.relpath(best["path"], labelled["root"]): "rejected in review",
        os.path.relpath(worst["path"], labelled["root"]): f"score below {floor:g}",
    }
    left = [p for d in ("labels", "Annotations") for p in (tmp_path / d).rglob("*.*")]
    assert len(left) == (2 if layout in ("yolo", "voc") else 0)
    links = [p for d in ("images", "JPEGImages") for p in (tmp_path / d).rglob("[!.]*.*")]
    assert len(links) == len(left)


def test_pictures_that_show_nothing_stay_as_examples_of_that(labelled: Any, tmp_path: Path):
    cat, *_, dog = sorted(labelled["found"], key=lambda found: found.detections[0].label)[::-1]
    normal = replace(
        dog, detections=tuple(replace(d, box_xyxy=None, peak_xy=None) for d in dog.detections)
    )
    known_empty = replace(cat, name=f"{cat.name}x.jpg", detections=())
    without = {**labelled, "found": [normal, known_empty]}
    written = write(without, "coco", tmp_path, placeless=(207,), classes=(281,))
    assert (written.pictures, written.boxes, written.left_out) == (2, 0, 0)
    content = json.loads((tmp_path / "annotations.json").read_text())
    assert [c["name"] for c in content["categories"]] == [TABBY]
    assert (len(content["images"]), content["annotations"]) == (2, [])
    listed = (tmp_path / LEFT_OUT).read_text()
    assert "means that nothing is there,no" in listed
    assert ",,,known to show nothing,no" in listed
    # Not known to show nothing: a detector must not learn that.
    written = write(without, "coco", tmp_path)
    assert (written.pictures, written.left_out) == (1, 1)
    assert "no positive evidence,yes" in (tmp_path / LEFT_OUT).read_text()


def test_a_box_of_another_class_is_refused(labelled: Any, tmp_path: Path):
    with pytest.raises(OutputError, match="expected one of the 1 classes of the set, got a box of"):
        write(labelled, "csv", tmp_path, classes=(207,))


def test_names_may_come_from_a_function_and_pictures_from_elsewhere(labelled: Any, tmp_path: Path):
    record = to_record(labelled["found"][0]) | {"path": "https://host/a/cat.jpg"}
    written = FORMATS["yolo"](
        [record],
        labels=labelled["labels"],
        out_dir=tmp_path,
        root=lambda name: Path(name.removeprefix("https://host/")),
    )
    assert (tmp_path / "labels/a/cat.txt").is_file()
    assert written.notes == (
        f"1 picture is not linked: no local files; put them below {tmp_path / 'images'} under the "
        "names of their annotations before you train",
    )


def test_a_set_beside_its_pictures_needs_no_links(labelled: Any, tmp_path: Path):
    images = tmp_path / "images"
    images.mkdir()
    Image.new("RGB", (8, 8)).save(images / "a.png")
    record = {"path": str(images / "a.png"), "width": 8, "height": 8, "detections": []}
    keep = Keep(classes=(281,))
    arguments = {"labels": labelled["labels"], "out_dir": tmp_path, "keep": keep}
    FORMATS["yolo"]([record], root=images, **arguments)
    assert [path.name for path in images.iterdir() if not path.is_symlink()] == ["a.png"]
    assert (tmp_path / "labels/a.txt").read_text() == ""


def test_a_link_never_replaces_a_file(labelled: Any, tmp_path: Path):
    found = labelled["found"][0]
    link = tmp_path / "images" / name_in(labelled, found)
    link.parent.mkdir(parents=True)
    link.write_text("mine")
    with pytest.raises(OutputError) as caught:
        write(labelled, "yolo", tmp_path)
    assert str(caught.value) == (
        f"{link}: cannot be written (another file has that name); choose another output folder"
    )
    assert link.read_text() == "mine"
    link.unlink()
    link.symlink_to(tmp_path)
    write(labelled, "yolo", tmp_path)
    assert link.resolve() == Path(found.name).resolve()


def test_records_with_masks_come_back(labelled: Any, tmp_path: Path):
    path = tmp_path / "r.jsonl"
    records = [to_record(found, masks=True) for found in labelled["found"]]
    path.write_text("".join(map(record_line, records)), encoding="utf-8")
    assert list(read_records(path)) == records


def test_results_without_masks_give_boxes_and_a_word(labelled: Any, tmp_path: Path):
    records = [to_record(found, masks=i > 0) for i, found in enumerate(labelled["found"])]
    arguments = {"labels": labelled["labels"], "out_dir": tmp_path, "root": labelled["root"]}
    written = FORMATS["coco"](records, keep=Keep(), **arguments)
    assert written.notes == ("1 of 4 boxes have no mask: their results were made without",)
    notes = json.loads((tmp_path / "annotations.json").read_text())["annotations"]
    assert ["segmentation" in note for note in notes] == [False, True, True, True]
    assert notes[0]["area"] == pytest.approx(notes[0]["bbox"][2] * notes[0]["bbox"][3], abs=0.01)


@pytest.mark.parametrize("layout", ["coco", "csv"])
def test_writing_holds_no_records(tmp_path: Path, layout: str):
    """Memory for twenty times as many pictures grows by the 16 bytes a name that are promised."""
    box = {"label": "a", "class_id": 0, "score": 0.5, "box": [0.0, 0.0, 5.0, 5.0], "peak": None}

    def records(count: int) -> Any:
        for i in range(count):
            path = f"/p/{i:032}.jpg"
            yield {"path": path, "width": 9, "height": 9, "detections": [box]}

    peaks = []
    for count in (200, 4_000):
        tracemalloc.start()
        FORMATS[layout](
            records(count), labels=["a"], out_dir=tmp_path, root="/p", keep=Keep(min_score=0.1)
        )
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 400_000  # the records themselves take 3 MB


masks = arrays(np.bool_, st.tuples(st.integers(1, 40), st.integers(1, 40)))


@of_pycocotools
@settings(max_examples=100, deadline=None)
@given(masks)
def test_run_lengths_are_those_of_pycocotools(mask: Any):
    theirs = coco_masks.encode(np.asfortranarray(mask.astype(np.uint8)))
    ours = encode_mask(mask)
    assert (ours["size"], ours["counts"]) == (list(mask.shape), theirs["counts"].decode())
    assert np.array_equal(coco_masks.decode(ours), mask)
    assert unpack_counts(ours["counts"]) == run_lengths(mask).tolist()
    assert area_of(ours["counts"]) == mask.sum()


@pytest.mark.parametrize("size_hw", [(1, 1), (4000, 3000), (1, 70000)])
@pytest.mark.parametrize("place", ["all", "none", "corner"])
def test_run_lengths_of_large_masks(size_hw: tuple[int, int], place: str):
    mask = np.full(size_hw, place == "all")
    mask[-1, -1] |= place == "corner"
    theirs = coco_masks.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert encode_mask(mask)["counts"] == theirs["counts"].decode()
