"""The layouts `cub`, `wsol` and `yolo`."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_sets import cub_set, edit, write_lines, write_picture, wsol_set, yolo_set
from gapcam.data import Dataset, Target, read_dataset
from gapcam.data.yolo import parse_yaml
from gapcam.types import DataError

ALBATROSS = ("001.Black_footed_Albatross", "Black_footed_Albatross", "Black footed Albatross")
ANI = ("004.Groove_billed_Ani", "Groove_billed_Ani", "Groove billed Ani")


def said(dataset: Dataset) -> list[str]:
    return [str(problem) for problem in dataset.problems]


# --- cub ---------------------------------------------------------------------------------------


def test_cub_reads_its_test_split(tmp_path: Path):
    dataset = read_dataset(None, cub_set(tmp_path / "CUB_200_2011"))
    assert (dataset.name, dataset.layout, dataset.problems) == ("CUB_200_2011", "cub", ())
    first, second = dataset.examples
    assert first.name == "001.Black_footed_Albatross/B_0046_18.jpg"
    assert first.where == "bounding_boxes.txt, line 1"
    assert first.targets == (Target(ALBATROSS, ((6, 2, 38, 30),)),)
    assert second.targets == (Target(ANI, ((0, 3, 40, 23),)),)
    assert dataset.notes == ("1 picture outside the test split left out",)


def test_cub_other_splits_and_other_ways_to_name_it(tmp_path: Path):
    cub_set(tmp_path)
    train = read_dataset(None, tmp_path, split="train")
    assert [example.where for example in train.examples] == ["bounding_boxes.txt, line 2"]
    assert train.notes == ("2 pictures outside the train split left out",)
    everything = read_dataset(None, tmp_path, split="all")
    assert len(everything.examples) == 3
    assert everything.notes == ()
    test = read_dataset(tmp_path).examples
    assert read_dataset(tmp_path / "images", tmp_path / "bounding_boxes.txt").examples == test


@pytest.mark.parametrize(
    ("file", "old", "new", "what"),
    [
        (
            "bounding_boxes.txt",
            "1 6.0 2.0 32.0 28.0",
            "1 6.0 2.0 32.0",
            "bounding_boxes.txt, line 1: expected 5 columns, id x y width height, got 4",
        ),
        (
            "bounding_boxes.txt",
            "6.0 2.0 32.0 28.0",
            "6.0 2.0 0.0 28.0",
            "bounding_boxes.txt, line 1: expected a box with x0 < x1 and y0 < y1, got (6, 2, 6, "
            "30) in pixels",
        ),
        (
            "bounding_boxes.txt",
            "6.0 2.0 32.0 28.0",
            "6.0 2.0 32.0 x",
            "bounding_boxes.txt, line 1: height: expected a finite number, got 'x'",
        ),
        (
            "bounding_boxes.txt",
            "1 6.0 2.0 32.0 28.0\n",
            "",
            "images.txt, line 1: expected image 1 in bounding_boxes.txt, it is not there",
        ),
        (
            "bounding_boxes.txt",
            "1 6.0 2.0 32.0 28.0\n",
            "1 6.0 2.0 32.0 28.0\n1 1 1 2 2\n",
            "bounding_boxes.txt, line 2: expected every id once, bounding_boxes.txt, line 1 has 1",
        ),
        (
            "image_class_labels.txt",
            "1 1\n",
            "1 2\n",
            "image_class_labels.txt, line 1: expected a class id of classes.txt, got '2'",
        ),
        (
            "image_class_labels.txt",
            "1 1\n",
            "",
            "images.txt, line 1: expected image 1 in image_class_labels.txt, it is not there",
        ),
        (
            "train_test_split.txt",
            "1 0\n",
            "",
            "images.txt, line 1: expected image 1 in train_test_split.txt, it is not there",
        ),
        (
            "images.txt",
            "B_0046_18.jpg",
            "gone.jpg",
            "bounding_boxes.txt, line 1: {root}/images/001.Black_footed_Albatross/gone.jpg: "
            "expected a picture file, there is none; check the path",
        ),
    ],
)
def test_bad_cub(tmp_path: Path, file: str, old: str, new: str, what: str):
    edit(cub_set(tmp_path) / file, old, new)
    dataset = read_dataset(None, tmp_path)
    assert said(dataset) == [what.format(root=tmp_path)]
    assert [example.targets[0].class_names for example in dataset.examples] == [ANI]


def test_cub_lines_that_belong_nowhere(tmp_path: Path):
    cub_set(tmp_path)
    edit(tmp_path / "images.txt", "1 001.Black_footed_Albatross/B_0046_18.jpg", "1")
    assert said(read_dataset(None, tmp_path)) == [
        "images.txt, line 1: expected two columns or more, got '1'",
        "image_class_labels.txt, line 1: expected an image id of images.txt, got '1'",
        "bounding_boxes.txt, line 1: expected an image id of images.txt, got '1'",
    ]


def test_cub_without_its_split(tmp_path: Path):
    (cub_set(tmp_path) / "train_test_split.txt").unlink()
    with pytest.raises(DataError, match=r"train_test_split.txt: cannot be read .No such file"):
        read_dataset(None, tmp_path)
    assert len(read_dataset(None, tmp_path, split="all").examples) == 3


# --- wsol --------------------------------------------------------------------------------------


def test_wsol_boxes(tmp_path: Path):
    root = wsol_set(tmp_path)
    dataset = read_dataset(root / "images", root / "metadata" / "test")
    assert (dataset.name, dataset.layout, dataset.problems) == ("test", "wsol", ())
    first, second = dataset.examples
    assert (first.name, first.where) == ("val/v1.JPEG", "localization.txt, line 1")
    assert first.targets == (Target((65,), ((11, 5, 39, 29), (0, 0, 12, 13))),)
    assert second.targets == (Target((970,), ((1, 2, 30, 20),)),)
    assert dataset.notes == ()


def test_wsol_splits(tmp_path: Path):
    root = wsol_set(tmp_path)
    parent = read_dataset(root / "images", root / "metadata")
    assert parent.notes == ("split 'test' read, 'val' left out",)
    assert parent.examples == read_dataset(root / "images", root / "metadata" / "test").examples
    val = read_dataset(root / "images", root / "metadata", split="val")
    assert [example.name for example in val.examples] == ["val2/0/x.jpeg"]
    file = root / "metadata" / "val" / "localization.txt"
    assert read_dataset(root / "images", file, split="val").examples == val.examples
    with pytest.raises(DataError, match=r"expected the split 'train' with localization.txt, there"):
        read_dataset(root / "images", root / "metadata", split="train")
    with pytest.raises(DataError, match="metadata/val: expected the split 'test', this is 'val'"):
        read_dataset(root / "images", root / "metadata" / "val", split="test")


def test_wsol_reads_the_listed_pictures_only(tmp_path: Path):
    folder = wsol_set(tmp_path) / "metadata" / "test"
    write_lines(folder / "image_ids.txt", "val/v2.JPEG")
    dataset = read_dataset(tmp_path / "images", folder)
    assert [example.name for example in dataset.examples] == ["val/v2.JPEG"]
    assert dataset.notes == ("2 lines of localization.txt left out, not in image_ids.txt",)
    (folder / "image_ids.txt").unlink()
    assert len(read_dataset(tmp_path / "images", folder).examples) == 2


@pytest.mark.parametrize(
    ("file", "old", "new", "what"),
    [
        (
            "localization.txt",
            ",0,0,12,13",
            ",0,0,12",
            "localization.txt, line 2: expected 5 columns, path,x0,y0,x1,y1, or 3, "
            "path,mask,ignore, got 4",
        ),
        (
            "localization.txt",
            ",0,0,12,13",
            ",0,0,12,",
            "localization.txt, line 2: y1: expected a finite number, got ''",
        ),
        (
            "localization.txt",
            "val/v1.JPEG,11,5,39,29\nval/v1.JPEG,0,0,12,13\n",
            "",
            "image_ids.txt, line 1: expected a line in localization.txt, there is none",
        ),
        (
            "class_labels.txt",
            "v1.JPEG,65",
            "v1.JPEG,x",
            "class_labels.txt, line 1: class: expected a whole number of at least 0, got 'x'",
        ),
        (
            "class_labels.txt",
            "v1.JPEG,65",
            "v1.JPEG,65\nval/v1.JPEG,66",
            "class_labels.txt, line 2: expected one class a picture, 'val/v1.JPEG' has 65 before",
        ),
        (
            "image_sizes.txt",
            "v1.JPEG,40,30",
            "v1.JPEG,40,x",
            "image_sizes.txt, line 1: height: expected a whole number of at least 1, got 'x'",
        ),
        (
            "image_sizes.txt",
            "v1.JPEG,40,30",
            "v1.JPEG,40,31",
            "image_sizes.txt, line 1: expected the size of {root}/images/val/v1.JPEG, 40x30 pixels,"
            " got 40x31; the boxes may be of another version of the picture",
        ),
    ],
)
def test_bad_wsol(tmp_path: Path, file: str, old: str, new: str, what: str):
    edit(wsol_set(tmp_path) / "metadata" / "test" / file, old, new)
    dataset = read_dataset(tmp_path / "images", tmp_path / "metadata" / "test")
    assert said(dataset) == [what.format(root=tmp_path)]
    assert [example.name for example in dataset.examples] == ["val/v2.JPEG"]


def test_wsol_without_a_class_or_a_column(tmp_path: Path):
    folder = wsol_set(tmp_path) / "metadata" / "test"
    edit(folder / "class_labels.txt", "val/v1.JPEG,65\n", "")
    edit(folder / "image_sizes.txt", "val/v2.JPEG,40,30", "val/v2.JPEG")
    what = "expected the picture's class in class_labels.txt, 'val/v1.JPEG' is not there"
    assert said(read_dataset(tmp_path / "images", folder)) == [
        "image_sizes.txt, line 2: expected 3 columns, path,width,height, got 1",
        f"localization.txt, line 1: {what}",
        f"localization.txt, line 2: {what}",
    ]


# --- yolo --------------------------------------------------------------------------------------


def test_yolo_fractions_names_and_bare_pictures(tmp_path: Path):
    dataset = read_dataset(None, yolo_set(tmp_path / "coco8"))
    assert (dataset.name, dataset.layout, dataset.problems) == ("coco8", "yolo", ())
    assert [example.name for example in dataset.examples] == [
        "train/t.jpg",
        "val/a.jpg",
        "val/b.png",
    ]
    a = dataset.examples[1]
    assert a.targets == (
        Target(("it's a cat",), ((10, 7.5, 30, 22.5),)),
        Target(("dog: big",), ((0, 0, 20, 30),)),
    )
    assert a.where == "labels/val/a.txt, line 1"
    assert dataset.notes == ("1 picture without a box left out",)


def test_yolo_split_and_other_ways_to_name_it(tmp_path: Path):
    yolo_set(tmp_path)
    val = read_dataset(None, tmp_path / "data.yaml", split="val")
    assert [example.name for example in val.examples] == ["val/a.jpg", "val/b.png"]
    assert read_dataset(tmp_path / "images", tmp_path, split="val").examples == val.examples
    with pytest.raises(DataError, match=r"data.yaml: expected test: images/<folder> for the split"):
        read_dataset(None, tmp_path, split="test")


def test_yolo_path(tmp_path: Path):
    yolo_set(tmp_path / "a")
    (tmp_path / "a" / "images").rename(tmp_path / "images")
    edit(tmp_path / "a" / "data.yaml", "# a data set", "path: ..")
    assert len(read_dataset(None, tmp_path / "a").examples) == 3


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("1 0.25 0.5 0.5 1.0", "1 0.25 0.5 0.5", "2: expected 5 columns, class cx cy w h, got 4"),
        ("1 0.25", "2 0.25", "2: class: expected an index into names of data.yaml, got 2"),
        ("1 0.25", "x 0.25", "2: class: expected a whole number of at least 0, got 'x'"),
        ("1 0.25", "1 x", "2: cx: expected a finite number, got 'x'"),
        (
            "1 0.25 0.5 0.5 1.0",
            "1 0.25 0.5 0 1.0",
            "2: expected a box with x0 < x1 and y0 < y1, got (10, 0, 10, 30) in pixels",
        ),
        (
            "1 0.25 0.5 0.5 1.0",
            "1 0.25 0.5 0.6 1.0",
            "2: expected a box inside the picture, 40x30 pixels, or at most 1 pixel beyond its "
            "edges, got (-2, 0, 22, 30)",
        ),
    ],
)
def test_bad_yolo(tmp_path: Path, old: str, new: str, what: str):
    edit(yolo_set(tmp_path) / "labels" / "val" / "a.txt", old, new)
    dataset = read_dataset(None, tmp_path)
    assert said(dataset) == [f"labels/val/a.txt, line {what}"]
    assert [example.name for example in dataset.examples] == ["train/t.jpg", "val/b.png"]


def test_yolo_pictures_that_are_missing_or_two(tmp_path: Path):
    yolo_set(tmp_path)
    (tmp_path / "images" / "val" / "a.jpg").unlink()
    write_picture(tmp_path / "images" / "val" / "b.jpg")
    first, second = said(read_dataset(None, tmp_path))
    assert first.startswith(f"labels/val/a.txt, line 1: {tmp_path}/images/val/a.jpg: expected a")
    assert second == (
        "labels/val/b.txt: expected one picture with these labels, there are val/b.jpg and "
        "val/b.png"
    )


@pytest.mark.parametrize(
    ("lines", "names"),
    [
        (["names:", "  0: cat", "  1: 'it''s'", '  2: "caf\\u00e9 #1"  # third'], None),
        (["names:", "- cat", "- it's", "", "# more", '- "café #1"', "nc: 3"], None),
        (["names: [cat, 'it''s', \"café #1\"]  # three"], None),
        (["names: [cat,", "  it's,", '  "café #1",', "]"], None),
        (["names:", "  5: cat"], {5: "cat"}),
        (["names: [potted plant]"], {0: "potted plant"}),
    ],
)
def test_names_that_are_understood(tmp_path: Path, lines: list[str], names: dict[int, str] | None):
    _, found = parse_yaml(write_lines(tmp_path / "data.yaml", *lines))
    assert found == (names or {0: "cat", 1: "it's", 2: "café #1"})


@pytest.mark.parametrize(
    ("lines", "what"),
    [
        (["nc: 2"], "names: expected the names of the classes, got none"),
        (["names: {0: cat}"], "names: expected `index: name` or `- name`, got '{0: cat}'"),
        (["names:", "  0: cat", "  0: dog"], "names: expected `index: name` or `- name`, got '0: "),
        (["names: [cat, [dog]]"], r"names: expected a list of names, got '[cat, [dog]]'"),
        (["names:", "  0: &x cat"], "expected a plain or quoted value, got '&x cat'"),
        (["names:", "  0: a: b"], "expected a plain or quoted value, got 'a: b'"),
        (["names:", '  0: "a\\xe9"'], "expected a plain or quoted value, got '\"a"),
        (["names:", "  0: 'open"], 'expected a plain or quoted value, got "\'open"'),
        (["path: !x y", "names: [a]"], "expected a plain or quoted value, got '!x y'"),
    ],
)
def test_names_that_are_not(tmp_path: Path, lines: list[str], what: str):
    path = write_lines(tmp_path / "data.yaml", *lines)
    with pytest.raises(DataError) as caught:
        parse_yaml(path)
    assert str(caught.value).startswith(f"{path}: {what}")
    assert str(caught.value).endswith("the names as `names:` and lines `  0: name`")


def test_yolo_without_labels(tmp_path: Path):
    write_lines(tmp_path / "data.yaml", "names: [a]")
    with pytest.raises(DataError, match=r"expected data.yaml, and the folder labels beside it"):
        read_dataset(None, tmp_path, layout="yolo")
