"""The layouts `voc` and `ilsvrc`."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from data_sets import edit, ilsvrc_set, voc_set, write_lines, write_picture, write_xml, xml_object
from gapcam.data import Dataset, Target, read_dataset
from gapcam.types import DataError

VAL = "ILSVRC2012_val_00000001"
SNAKE = ("n01751748", "sea snake")
TENCH = ("n01440764", "tench, Tinca tinca", "tench", "Tinca tinca")


def said(dataset: Dataset) -> list[str]:
    return [str(problem) for problem in dataset.problems]


# --- voc ---------------------------------------------------------------------------------------


def test_voc_counts_from_one_with_both_ends_inside(tmp_path: Path):
    dataset = read_dataset(None, voc_set(tmp_path / "VOC2007"))
    assert (dataset.name, dataset.layout, dataset.problems) == ("VOC2007", "voc", ())
    first, second = dataset.examples
    assert first.targets == (
        Target(("dog",), ((0, 1, 40, 30),)),
        Target(("person",), ((8, 2, 20, 30),)),
    )
    assert (first.name, first.where) == ("000001.jpg", "Annotations/000001.xml, object 1")
    assert second.targets == (Target(("dog",), ((4, 4, 5, 5),)),)  # one pixel has area 1
    assert dataset.notes == (
        "1 object marked difficult left out",
        "1 picture without an object left out",
    )


def test_voc_by_its_annotations_and_pictures(tmp_path: Path):
    voc_set(tmp_path)
    whole = read_dataset(None, tmp_path).examples
    assert read_dataset(None, tmp_path / "Annotations").examples == whole
    moved = tmp_path / "moved"
    (tmp_path / "JPEGImages").rename(moved)
    found = read_dataset(moved, tmp_path / "Annotations").examples
    assert [example.path for example in found] == [moved / "000001.jpg", moved / "000002.jpg"]


def test_voc_below_a_folder_of_its_own(tmp_path: Path):
    voc_set(tmp_path / "VOC2007")
    assert len(read_dataset(None, tmp_path).examples) == 2
    shutil.copytree(tmp_path / "VOC2007", tmp_path / "VOC2012")
    message = f"expected one data set, found {tmp_path}/VOC2007, {tmp_path}/VOC2012; name one"
    with pytest.raises(DataError, match=message):
        read_dataset(None, tmp_path)


def test_voc_split(tmp_path: Path):
    dataset = read_dataset(None, voc_set(tmp_path), split="test")
    assert [example.name for example in dataset.examples] == ["000002.jpg"]
    assert dataset.notes[0] == "1 picture outside the split 'test' left out"
    with pytest.raises(DataError, match=r"Main/val.txt: expected the list of the split, there is"):
        read_dataset(None, tmp_path, split="val")


def test_voc_pictures_in_subfolders_and_without_a_file_name(tmp_path: Path):
    for name in ("a/x.png", "a/y.PNG"):
        write_picture(tmp_path / "images" / name)
    write_xml(tmp_path / "xml" / "a" / "other.xml", "x.png", xml_object("cat", (1, 1, 2, 2)))
    write_xml(tmp_path / "xml" / "a" / "y.xml", "y", xml_object("cat", (1, 1, 2, 2)))
    dataset = read_dataset(tmp_path / "images", tmp_path / "xml")
    assert [example.name for example in dataset.examples] == ["a/x.png", "a/y.PNG"]
    assert read_dataset(None, tmp_path / "xml").examples == dataset.examples


def test_voc_numbers_may_have_fractions(tmp_path: Path):
    edit(voc_set(tmp_path) / "Annotations" / "000001.xml", ">9<", ">9.75<")
    assert read_dataset(None, tmp_path).examples[0].targets[1].boxes == ((8.75, 2, 20, 30),)


def test_xmin_zero_is_a_pixel_beyond_and_counted(tmp_path: Path):
    edit(voc_set(tmp_path) / "Annotations" / "000001.xml", ">9<", ">0<")
    dataset = read_dataset(None, tmp_path)
    assert dataset.examples[0].targets[1].boxes == ((-1, 2, 20, 30),)
    assert dataset.notes[-1] == "1 box up to 1 pixel beyond the picture, taken as written"


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("<xmin>9</xmin>", "", ", object 2: xmin: expected a finite number, got None"),
        (">9<", ">nine<", ", object 2: xmin: expected a finite number, got 'nine'"),
        (">person<", "><", ", object 2: name: expected the name of a class, got ''"),
        (
            ">9<",
            ">21<",
            ", object 2: expected a box with x0 < x1 and y0 < y1, got (20, 2, 20, 30) in pixels",
        ),
        (
            "<width>40</width>",
            "<width>0</width>",
            ": width: expected a whole number of at least 1, got '0'",
        ),
        (
            "<width>40</width>",
            "<width>30</width>",
            ": expected the size of {root}/JPEGImages/000001.jpg, 40x30 pixels, got 30x30; the "
            "boxes may be of another version of the picture",
        ),
        (
            ">000001.jpg<",
            ">../x.jpg<",
            ", object 1: '../x.jpg': expected a path below {root}/JPEGImages, this one leads out "
            "of it (2 rows of this picture left out)",
        ),
        (
            ">000001.jpg<",
            ">/x.jpg<",
            ", object 1: '/x.jpg': expected the path of a file below {root}/JPEGImages (2 rows of "
            "this picture left out)",
        ),
        (
            "<annotation>",
            "<html>",
            ": expected XML, it is broken (mismatched tag: line 7, column 2); get the file again",
        ),
        (
            "<annotation>",
            '<!DOCTYPE a [<!ENTITY b "c">]><annotation>',
            ": expected XML in UTF-8 without document type or entities; save the file without them",
        ),
    ],
)
def test_bad_xml(tmp_path: Path, old: str, new: str, what: str):
    edit(voc_set(tmp_path) / "Annotations" / "000001.xml", old, new)
    dataset = read_dataset(None, tmp_path)
    where = "Annotations/000001.xml"
    assert said(dataset) == [where + what.format(root=tmp_path)]
    assert [example.name for example in dataset.examples] == ["000002.jpg"]


def test_xml_that_hides_its_entities_in_utf16(tmp_path: Path):
    path = voc_set(tmp_path) / "Annotations" / "000001.xml"
    bomb = '<?xml version="1.0" encoding="utf-16"?><!DOCTYPE a [<!ENTITY b "c">]><annotation/>'
    path.write_text(bomb, encoding="utf-16")
    assert "without document type or entities" in said(read_dataset(None, tmp_path))[0]


def test_other_xml_and_other_encodings(tmp_path: Path):
    voc_set(tmp_path)
    write_lines(tmp_path / "Annotations" / "000001.xml", "<html/>")
    latin = '<?xml version="1.0" encoding="nonsense"?><annotation/>'
    write_lines(tmp_path / "Annotations" / "000002.xml", latin)
    first, second = said(read_dataset(None, tmp_path, layout="voc"))
    assert first == (
        "Annotations/000001.xml: expected an annotation, got <html>; is this another format?"
    )
    assert second.startswith("Annotations/000002.xml: expected XML, it is broken (unknown encoding")


def test_xml_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("gapcam.data.xml_files.MAX_XML_BYTES", 300)
    first = said(read_dataset(None, voc_set(tmp_path), layout="voc"))[0]
    assert "000001.xml: expected at most 300 bytes, it has" in first


def test_two_files_for_one_picture(tmp_path: Path):
    edit(voc_set(tmp_path) / "Annotations" / "000002.xml", "000002.jpg", "000001.jpg")
    dataset = read_dataset(None, tmp_path)
    assert said(dataset) == [
        "Annotations/000002.xml: expected a picture of its own, Annotations/000001.xml has "
        "'000001.jpg' too"
    ]
    assert dataset.examples == ()


# --- ilsvrc ------------------------------------------------------------------------------------


def test_ilsvrc_as_distributed(tmp_path: Path):
    dataset = read_dataset(None, ilsvrc_set(tmp_path / "imagenet"))
    assert (dataset.name, dataset.layout, dataset.problems) == ("imagenet", "ilsvrc", ())
    (example,) = dataset.examples
    assert (example.name, example.where) == (
        f"val/{VAL}.JPEG",
        f"CLS-LOC/val/{VAL}.xml, object 1",
    )
    # As written: no pixel is taken off.
    assert example.targets == (Target(SNAKE, ((0, 4, 40, 29), (3, 5, 9, 30))),)
    assert dataset.notes == ("split 'val' read, 'train' left out",)


def test_ilsvrc_train_names_its_pictures_by_the_xml_file(tmp_path: Path):
    dataset = read_dataset(None, ilsvrc_set(tmp_path), split="train")
    (example,) = dataset.examples
    assert example.name == "train/n01440764/n01440764_10026.JPEG"
    assert example.targets == (Target(TENCH, ((2, 3, 13, 14),)),)
    both = read_dataset(None, tmp_path, split="all")
    assert len(both.examples) == 2
    assert both.notes == ()


@pytest.mark.parametrize("images", ["Data/CLS-LOC", "Data/CLS-LOC/val"])
@pytest.mark.parametrize(
    "boxes", ["", "Annotations", "Annotations/CLS-LOC", "Annotations/CLS-LOC/val"]
)
def test_any_folder_of_the_tree_may_be_named(tmp_path: Path, images: str, boxes: str):
    tree = ilsvrc_set(tmp_path) / "ILSVRC"
    (example,) = read_dataset(tree / images, tree / boxes).examples
    assert example.path == tree / "Data" / "CLS-LOC" / "val" / f"{VAL}.JPEG"
    assert example.targets[0].class_names == SNAKE
    (alone,) = read_dataset(None, tree / boxes).examples
    assert alone.targets == example.targets


def test_a_folder_of_one_split_has_no_other(tmp_path: Path):
    notes = ilsvrc_set(tmp_path) / "ILSVRC" / "Annotations" / "CLS-LOC"
    assert len(read_dataset(None, notes / "val", split="val").examples) == 1
    with pytest.raises(DataError, match="expected the split 'train', there is no such folder"):
        read_dataset(None, notes / "val", split="train")
    shutil.rmtree(notes / "train")
    with pytest.raises(DataError, match="expected the split 'train', there is val"):
        read_dataset(None, tmp_path, split="train")


def test_ilsvrc_without_its_words(tmp_path: Path):
    (ilsvrc_set(tmp_path) / "LOC_synset_mapping.txt").unlink()
    (example,) = read_dataset(None, tmp_path).examples
    assert example.targets[0].class_names == ("n01751748",)


def test_a_class_that_the_words_do_not_have(tmp_path: Path):
    edit(ilsvrc_set(tmp_path) / "LOC_synset_mapping.txt", "n01751748", "n01751747")
    what = "name: expected a class of LOC_synset_mapping.txt, got 'n01751748'"
    where = f"CLS-LOC/val/{VAL}.xml, object"
    assert said(read_dataset(None, tmp_path)) == [f"{where} {i}: {what}" for i in (1, 2)]


def test_ilsvrc_without_pictures(tmp_path: Path):
    shutil.rmtree(ilsvrc_set(tmp_path) / "ILSVRC" / "Data")
    message = "expected the pictures in the folder Data beside Annotations, there is none"
    with pytest.raises(DataError, match=message):
        read_dataset(None, tmp_path)


def test_ilsvrc_with_a_missing_picture(tmp_path: Path):
    data = ilsvrc_set(tmp_path) / "ILSVRC" / "Data" / "CLS-LOC"
    (data / "val" / f"{VAL}.JPEG").unlink()
    dataset = read_dataset(data, tmp_path)
    assert said(dataset) == [
        f"CLS-LOC/val/{VAL}.xml, object 1: {data}/val/{VAL}.JPEG: expected a picture file, there "
        "is none; check the path (2 rows of this picture left out)"
    ]


def test_kaggle_solution(tmp_path: Path):
    ilsvrc_set(tmp_path)
    data = tmp_path / "ILSVRC" / "Data" / "CLS-LOC"
    dataset = read_dataset(None, tmp_path / "LOC_val_solution.csv")
    (example,) = dataset.examples
    assert (dataset.layout, example.where) == ("ilsvrc", "LOC_val_solution.csv, line 2")
    assert example.targets == (Target(SNAKE, ((0, 4, 40, 29), (3, 5, 9, 30))),)
    for images in (data, data / "val"):
        (found,) = read_dataset(images, tmp_path / "LOC_val_solution.csv").examples
        assert found.path == example.path
    shutil.rmtree(tmp_path / "ILSVRC" / "Annotations")
    assert read_dataset(None, tmp_path).examples == dataset.examples


def test_kaggle_solution_of_training_pictures(tmp_path: Path):
    ilsvrc_set(tmp_path)
    path = tmp_path / "LOC_train_solution.csv"
    write_lines(path, "ImageId,PredictionString", "n01440764_10026,n01440764 1 2 30 20")
    (example,) = read_dataset(None, path).examples
    assert example.name == "train/n01440764/n01440764_10026.JPEG"
    with pytest.raises(DataError, match="expected no split, this is one; leave out split"):
        read_dataset(None, path, split="val")


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        (
            " 3 5 9 30 ",
            " 3 5 9",
            "PredictionString: expected `id x0 y0 x1 y1` again and again, got",
        ),
        (" 3 5 9 30 ", " 3 5 9 x ", "y1: expected a finite number, got 'x'"),
        (" 3 5 9 30 ", " 3 5 9 30,1", "expected 2 columns, ImageId,PredictionString, got 3"),
        (f"{VAL},", f"{VAL},n0 1 1 2 2 ", "name: expected a class of LOC_synset_mapping.txt, got"),
        (f"{VAL},", f"{VAL * 50},", "cannot be read (OSError"),
    ],
)
def test_bad_solution(tmp_path: Path, old: str, new: str, what: str):
    path = edit(ilsvrc_set(tmp_path) / "LOC_val_solution.csv", old, new)
    dataset = read_dataset(None, path)
    (problem,) = dataset.problems
    assert problem.where == "LOC_val_solution.csv, line 2"
    assert what in problem.what
    assert dataset.examples == ()
