from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from data_sets import coco_content, coco_set, write_lines
from gapcam.data import Dataset, Target, read_dataset
from gapcam.types import DataError

FILE = "instances_val2017.json"


def read(root: Path) -> Dataset:
    return read_dataset(root / "val2017", root / "annotations" / FILE)


def problems(root: Path, content: dict[str, Any]) -> list[str]:
    return [str(problem) for problem in read(coco_set(root, content)).problems]


def test_boxes_categories_crowds_and_bare_pictures(tmp_path: Path):
    dataset = read(coco_set(tmp_path))
    assert (dataset.name, dataset.layout) == (f"annotations/{FILE}", "coco")
    assert dataset.problems == ()
    (example,) = dataset.examples
    assert (example.name, example.where) == ("000139.jpg", f"{FILE}, annotation id 1")
    assert example.targets == (
        Target(("potted plant",), ((1, 2, 11.5, 8.25), (20, 5, 40, 30))),
        Target(("person",), ((0, 0, 8, 30),)),
    )
    assert dataset.notes == (
        "1 annotation of crowds left out (iscrowd)",
        "2 pictures without a box left out",
    )


def test_the_folder_stands_for_its_one_file(tmp_path: Path):
    coco_set(tmp_path)
    write_lines(tmp_path / "annotations" / "other.json", '{"a": 1}')
    folder = read_dataset(tmp_path / "val2017", tmp_path / "annotations")
    assert folder.examples == read(tmp_path).examples


def test_a_folder_with_two_files(tmp_path: Path):
    coco_set(tmp_path)
    text = (tmp_path / "annotations" / FILE).read_text(encoding="utf-8")
    (tmp_path / "annotations" / "again.json").write_text(text, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read_dataset(tmp_path / "val2017", tmp_path / "annotations")
    assert str(caught.value) == (
        f"{tmp_path}/annotations: expected one COCO file (*.json), found again.json, {FILE}; "
        "name the file"
    )


def test_ids_may_be_text_and_sizes_may_be_missing(tmp_path: Path):
    content = coco_content()
    content["images"] = [{"id": "x", "file_name": "000139.jpg"}]
    content["annotations"] = [{"id": "n", "image_id": "x", "category_id": 1, "bbox": [0, 0, 2, 2]}]
    (example,) = read(coco_set(tmp_path, content)).examples
    assert example.where == f"{FILE}, annotation id n"


ANNOTATION_PROBLEMS = [
    ({"bbox": [3, 3, 0, 5]}, "expected a box with x0 < x1 and y0 < y1, got (3, 3, 3, 8) in pixels"),
    (
        {"bbox": [3, 3, 5, -1]},
        "expected a box with x0 < x1 and y0 < y1, got (3, 3, 8, 2) in pixels",
    ),
    ({"bbox": [3, 3, 5]}, "bbox: expected [x, y, width, height], got [3, 3, 5]"),
    ({"bbox": None}, "bbox: expected [x, y, width, height], got None"),
    ({"bbox": [3, 3, "a", 5]}, "width: expected a finite number, got 'a'"),
    ({"bbox": [3, True, 2, 5]}, "y: expected a finite number, got True"),
    ({"bbox": [3, 3, float("nan"), 5]}, "width: expected a finite number, got nan"),
    ({"bbox": [3, 3, 5, 10**400]}, "height: expected a finite number, got 1" + 76 * "0" + "..."),
    ({"category_id": 2}, "category_id: expected an id that is in categories, got 2"),
    ({"category_id": None}, "category_id: expected an id that is in categories, got None"),
    (
        {"bbox": [30, 3, 20, 5]},
        "expected a box inside the picture, 40x30 pixels, or at most 1 pixel beyond its edges, got "
        "(30, 3, 50, 8)",
    ),
]


@pytest.mark.parametrize(("change", "what"), ANNOTATION_PROBLEMS)
def test_a_bad_annotation_takes_its_picture_along(tmp_path: Path, change: Any, what: str):
    content = coco_content()
    content["annotations"][1] |= change
    dataset = read(coco_set(tmp_path, content))
    assert [str(problem) for problem in dataset.problems] == [f"{FILE}, annotation id 2: {what}"]
    assert dataset.examples == ()


def test_annotations_that_belong_nowhere(tmp_path: Path):
    content = coco_content()
    content["annotations"] += [{"id": 9, "image_id": 5}, {"image_id": 139}, "note"]
    assert problems(tmp_path, content) == [
        f"{FILE}, annotation id 9: image_id: expected an id that is in images, got 5",
        f"{FILE}, annotation 6: id: expected a number or text, got None",
        f"{FILE}, annotation 7: expected an object, got 'note'",
    ]


IMAGE_PROBLEMS = [
    ({"width": "wide"}, "width: expected a whole number of at least 1, got 'wide'"),
    ({"height": 0}, "height: expected a whole number of at least 1, got 0"),
    ({"height": None}, "height: expected a whole number of at least 1, got None"),
    ({"file_name": ""}, "file_name: expected the path of a picture, got ''"),
    (
        {"file_name": "000285.jpg"},
        f"expected a file_name of its own, {FILE}, image id 285 has '000285.jpg' too",
    ),
]


@pytest.mark.parametrize(("change", "what"), IMAGE_PROBLEMS)
def test_a_bad_picture_is_said_once(tmp_path: Path, change: Any, what: str):
    content = coco_content()
    content["images"].append(content["images"].pop(0) | change)
    dataset = read(coco_set(tmp_path, content))
    assert [str(problem) for problem in dataset.problems] == [f"{FILE}, image id 139: {what}"]
    assert dataset.examples == ()


def test_a_wrong_size_is_said_once_at_the_picture(tmp_path: Path):
    content = coco_content()
    content["images"][0]["width"] = 41
    assert problems(tmp_path, content) == [
        f"{FILE}, image id 139: expected the size of {tmp_path}/val2017/000139.jpg, 40x30 pixels, "
        "got 41x30; the boxes may be of another version of the picture"
    ]


def test_of_two_pictures_with_one_id_neither_counts(tmp_path: Path):
    content = coco_content()
    content["images"][2]["id"] = 139
    what = "expected an id of its own, others have it"
    dataset = read(coco_set(tmp_path, content))
    said = [str(problem) for problem in dataset.problems]
    assert said == [f"{FILE}, image id 139: {what}"] * 2
    assert dataset.examples == ()
    assert dataset.notes[-1].startswith("2 pictures with a problem left out")


CATEGORY = "expected an id of its own, got"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": 1}, f", category 2: {CATEGORY} {{'id': 1, 'name': 'potted plant'}}"),
        ({"id": None}, f", category 2: {CATEGORY} {{'id': None, 'name': 'potted plant'}}"),
        ({"name": " "}, ", category id 64: name: expected the name of a class, got ' '"),
    ],
)
def test_a_broken_table_of_categories(tmp_path: Path, change: Any, message: str):
    content = coco_content()
    content["categories"][1] = {"id": 64, "name": "potted plant"} | change
    with pytest.raises(DataError) as caught:
        read(coco_set(tmp_path, content))
    assert str(caught.value) == f"{tmp_path}/annotations/{FILE}{message}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"expected JSON in UTF-8 \(Expecting property name"),
        ("[" * 100_000, r"expected JSON in UTF-8 \(maximum recursion"),
        ("[]", "expected an object with the lists images, annotations and categories, got list"),
        ('{"images": [], "info": 1}', "images, annotations and categories, got images, info; name"),
        ("{}", "images, annotations and categories, got none; name the file that holds the truth"),
    ],
)
def test_a_file_that_is_not_coco(tmp_path: Path, text: str, message: str):
    coco_set(tmp_path)
    (tmp_path / "annotations" / FILE).write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read(tmp_path)


def test_a_file_that_is_not_utf8(tmp_path: Path):
    coco_set(tmp_path)
    (tmp_path / "annotations" / FILE).write_bytes(json.dumps({"a": 1}).encode("utf-16"))
    with pytest.raises(DataError, match="expected JSON in UTF-8"):
        read(tmp_path)


def test_nothing_but_crowds(tmp_path: Path):
    content = coco_content()
    content["annotations"] = content["annotations"][3:]
    with pytest.raises(DataError, match=r"there is none \(1 annotation of crowds left out"):
        read(coco_set(tmp_path, content))
