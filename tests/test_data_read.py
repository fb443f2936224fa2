"""Which layout it is, and which arguments go together."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_sets import (
    coco_set,
    csv_set,
    cub_set,
    ilsvrc_set,
    masks_set,
    voc_set,
    write_picture,
    wsol_set,
    yolo_set,
)
from gapcam.data import LAYOUTS, Problem, read_dataset
from gapcam.types import ArgumentError, DataError
from picture_files import as_plain_user, open_folder

SETS = {
    "csv": (csv_set, "", None),
    "coco": (coco_set, "annotations", "val2017"),
    "voc": (voc_set, "", None),
    "ilsvrc": (ilsvrc_set, "", None),
    "cub": (cub_set, "", None),
    "wsol": (wsol_set, "metadata", "images"),
    "yolo": (yolo_set, "", None),
}


@pytest.mark.parametrize("name", SETS)
def test_every_layout_is_recognized_and_named(tmp_path: Path, name: str):
    write, boxes, images = SETS[name]
    root = write(tmp_path)
    folder = None if images is None else root / images
    dataset = read_dataset(folder, root / boxes)
    assert dataset.layout == name
    assert dataset.examples
    assert dataset == read_dataset(folder, root / boxes, layout=name)


def test_every_layout_is_tested():
    assert set(SETS) | {"masks"} == set(LAYOUTS)


def test_masks_are_recognized_by_their_folder(tmp_path: Path):
    masks_set(tmp_path)
    alone = read_dataset(tmp_path / "test", masks=tmp_path / "test-masks")
    named = read_dataset(tmp_path / "test", masks=tmp_path / "test-masks", layout="masks")
    assert alone == named


def test_a_layout_may_be_forced(tmp_path: Path):
    notes = ilsvrc_set(tmp_path) / "ILSVRC" / "Annotations" / "CLS-LOC" / "val"
    data = tmp_path / "ILSVRC" / "Data" / "CLS-LOC" / "val"
    (example,) = read_dataset(data, notes, layout="voc").examples
    assert example.targets[0].boxes == ((-1, 3, 40, 29), (2, 4, 9, 30))


def test_a_folder_that_could_be_two(tmp_path: Path):
    csv_set(tmp_path)
    cub_set(tmp_path)
    with pytest.raises(DataError) as caught:
        read_dataset(None, tmp_path)
    message = "expected one layout, it could be csv and cub; name the layout"
    assert str(caught.value) == f"{tmp_path}: {message}"
    assert len(read_dataset(None, tmp_path, layout="cub").examples) == 2


def test_a_folder_that_is_no_data_set(tmp_path: Path):
    write_picture(tmp_path / "a.jpg")
    with pytest.raises(DataError) as caught:
        read_dataset(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}: expected a data set, none was recognized; looked for: "
        "a CSV file, or a folder with boxes.csv (csv); "
        "a COCO file (*.json), or a folder with one (coco); "
        "a folder of VOC annotations (*.xml), or one that holds it as Annotations (voc); "
        "annotations (*.xml) whose classes are WordNet ids, or LOC_val_solution.csv (ilsvrc); "
        "a folder with images.txt, image_class_labels.txt, classes.txt and bounding_boxes.txt "
        "(cub); "
        "a folder with localization.txt and class_labels.txt, or one that holds such folders as "
        "test, val or train (wsol); "
        "class folders of pictures, with the folder of their masks named too (masks); "
        "data.yaml, or a folder with it and with the folder labels (yolo)"
    )


def test_xml_files_without_a_class_are_voc(tmp_path: Path):
    folder = voc_set(tmp_path) / "Annotations"
    for name in ("000001", "000002"):
        (folder / f"{name}.xml").write_text("<broken", encoding="utf-8")
    dataset = read_dataset(None, tmp_path)
    assert (dataset.layout, dataset.examples, len(dataset.problems)) == ("voc", (), 2)
    for name in ("000001", "000002"):
        (folder / f"{name}.xml").unlink()
    with pytest.raises(DataError, match=r"there is none \(1 picture without an object left out\)"):
        read_dataset(None, tmp_path)


@pytest.mark.parametrize("name", ["images", "masks", "boxes"])
def test_what_is_named_must_be_there(tmp_path: Path, name: str):
    csv_set(tmp_path)
    paths = {"images": tmp_path / "images", "boxes": tmp_path / "boxes.csv"}
    paths[name] = tmp_path / "gone"
    with pytest.raises(DataError, match=rf"{tmp_path}/gone: expected .*; check the path"):
        read_dataset(**paths)


def test_the_pictures_must_be_beside_when_they_are_not_named(tmp_path: Path):
    shutil.rmtree(csv_set(tmp_path) / "images")
    message = (
        f"{tmp_path}/boxes.csv: expected its pictures in {tmp_path}/images, there is no such "
        "folder; name the folder of the pictures"
    )
    with pytest.raises(DataError) as caught:
        read_dataset(None, tmp_path / "boxes.csv")
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": None}, "boxes: expected the annotations' file or folder, got none; name it"),
        ({"images": None, "masks": "m"}, "images: expected the folder of the pictures, got none"),
        ({"layout": "vocc"}, "layout: expected one of csv, coco, voc, ilsvrc, cub, wsol, masks, y"),
        (
            {"boxes": "boxes.csv", "masks": "images"},
            "masks: the layout 'csv' has none; leave masks or boxes out",
        ),
        (
            {"boxes": "boxes.csv", "masks": "images", "layout": "masks"},
            "boxes: the layout 'masks' has none; leave boxes out",
        ),
        ({"layout": "masks"}, "masks: expected the folder of the masks, got none; name it"),
        (
            {"boxes": "boxes.csv", "split": "test"},
            "split: expected none, for this layout has no splits, got 'test' for the layout 'csv'",
        ),
        (
            {"boxes": "boxes.csv", "layout": "cub", "split": "val"},
            "split: expected test, train, all, got 'val' for the layout 'cub'",
        ),
        (
            {"masks": "images", "layout": "wsol"},
            "boxes: expected the annotations' file or folder, got none; name it",
        ),
    ],
)
def test_arguments_that_do_not_go_together(tmp_path: Path, arguments: dict, message: str):
    root = csv_set(tmp_path)
    named = {"images": "images", "masks": None, "boxes": None} | arguments
    for name in ("images", "masks", "boxes"):
        named[name] = None if named[name] is None else root / named[name]
    with pytest.raises(ArgumentError) as caught:
        read_dataset(**named)
    assert str(caught.value).startswith(message)


def test_a_folder_is_named_by_its_own_name_wherever_one_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(cub_set(tmp_path / "CUB"))
    assert read_dataset(Path()).name == "CUB"


def test_links_are_followed_once_around(tmp_path: Path):
    masks_set(tmp_path / "far")
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "crack").symlink_to(tmp_path / "far" / "test" / "crack")
    (tmp_path / "far" / "test" / "crack" / "back").symlink_to(tmp_path / "far" / "test")
    dataset = read_dataset(tmp_path / "test", masks=tmp_path / "far" / "test-masks")
    assert [example.name for example in dataset.examples] == ["crack/1.jpg", "crack/2.png"]


def test_the_import_is_light():
    code = "import sys, gapcam.data; print(*sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"PIL", "cv2", "torch", "onnxruntime"} & set(shown.stdout.split())


def test_a_folder_in_place_of_a_file(tmp_path: Path):
    path = cub_set(tmp_path) / "classes.txt"
    path.unlink()
    path.mkdir()
    message = f"{path}: expected a file, this is a folder or device; check the path"
    with pytest.raises(DataError) as caught:
        read_dataset(tmp_path, layout="cub")
    assert str(caught.value) == message


def test_files_without_permission(tmp_path_factory: pytest.TempPathFactory):
    with open_folder() as root:
        csv_set(root / "csv")
        coco_set(root / "coco")
        masks_set(root / "masks")
        locked = (root / "csv" / "boxes.csv", root / "masks" / "test" / "crack")
        for path in (*locked, root / "coco" / "annotations" / "instances_val2017.json"):
            path.chmod(0)
        with as_plain_user():
            for arguments in (
                {"images": root / "csv" / "images", "boxes": root / "csv" / "boxes.csv"},
                {"images": root / "masks" / "test", "masks": root / "masks" / "test-masks"},
                {"images": root / "coco" / "val2017", "boxes": root / "coco" / "annotations"},
                {
                    "images": root / "coco" / "val2017",
                    "boxes": root / "coco" / "annotations" / "instances_val2017.json",
                },
            ):
                with pytest.raises(DataError, match=r"cannot be read .Permission denied.; check"):
                    read_dataset(**arguments)
        locked[1].chmod(0o755)


ODD = (b"", b"\0", b"\xff", b"-", b"nan", b"1e999", b"/", b"../", b'"', b"\n", b",")
TEXT = {".csv", ".json", ".xml", ".txt", ".yaml"}


@pytest.mark.parametrize("name", SETS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_whatever_is_in_the_files_is_said(tmp_path_factory: Any, name: str, data: Any):
    write, boxes, images = SETS[name]
    root = write(tmp_path_factory.mktemp("set"))
    files = sorted(path for path in root.rglob("*") if path.suffix in TEXT)
    path = data.draw(st.sampled_from(files))
    text = path.read_bytes()
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 9)))
    path.write_bytes(text[:start] + data.draw(st.sampled_from(ODD)) + text[end:])
    folder = None if images is None else root / images
    try:
        problems = read_dataset(folder, root / boxes, layout=name).problems
    except DataError as error:
        problems = (Problem(str(root), str(error)),)  # what is wrong with all of it
    assert all(problem.where and problem.what for problem in problems)
