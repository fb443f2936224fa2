from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pytest

from data_sets import write_lines, write_picture
from gapcam.training.labelled import read_labelled
from gapcam.types import ArgumentError, DataError


def folders(root: Path, *names: str) -> Path:
    for name in names:
        write_picture(root / name)
    return root


def table(root: Path, *lines: str, pictures: str = "abcd") -> Path:
    folders(root, *(f"{name}.jpg" for name in pictures))
    return write_lines(root / "labels.csv", *lines)


def labels(data) -> dict[str, tuple[str, ...]]:
    return {name: data.labels_of(i) for i, name in enumerate(data.names)}


def test_class_folders(tmp_path):
    folders(tmp_path, "dog/2.png", "cat/1.JPG", "cat/deep/er/3.webp", "dog/4.jpg", ".git/5.jpg")
    folders(tmp_path, "cat/.hidden.jpg", "__MACOSX/cat/6.jpg", "cat/@eaDir/7.jpg")
    write_lines(tmp_path / "cat" / "notes.txt", "nothing")
    data = read_labelled(tmp_path)
    assert data.classes == ("cat", "dog")
    assert data.names == ("cat/1.JPG", "cat/deep/er/3.webp", "dog/2.png", "dog/4.jpg")
    assert data.paths == tuple(tmp_path / name for name in data.names)
    assert data.single
    assert data.given is None
    assert data.class_ids.tolist() == [0, 0, 1, 1]
    assert data.class_ids.dtype == np.int64
    assert data.notes == (f"1 file in {tmp_path} left alone: not called like pictures",)


def test_folder_links_are_followed(tmp_path):
    folders(tmp_path / "elsewhere", "1.jpg", "2.jpg")
    folders(tmp_path / "data", "cat/1.jpg", "cat/2.jpg")
    (tmp_path / "data" / "dog").symlink_to(tmp_path / "elsewhere")
    assert read_labelled(tmp_path / "data").names[2:] == ("dog/1.jpg", "dog/2.jpg")


@pytest.mark.parametrize("word", ["val", "valid", "validation", "Val"])
def test_parts_in_folders(tmp_path, word):
    names = ("train/cat/1.jpg", "train/dog/1.jpg", f"{word}/cat/2.jpg", f"{word}/dog/2.jpg")
    folders(tmp_path, *names, "test/cat/3.jpg", "test-masks/cat/3.png")
    data = read_labelled(tmp_path)
    assert set(data.names) == set(names)
    assert {n: int(p) for n, p in zip(data.names, data.given, strict=True)} == dict(
        zip(names, (0, 0, 1, 1), strict=True)
    )
    assert data.given.dtype == np.int8
    (note,) = data.notes
    assert note == (f"test/ and test-masks/ are left alone: training uses train/ and {word}/ only")


def test_train_without_validation(tmp_path):
    names = [f"train/{name}/{i}.jpg" for name in ("cat", "dog") for i in (1, 2)]
    data = read_labelled(folders(tmp_path, *names, "test/images/3.jpg"))
    assert data.given is None
    assert list(data.names) == names
    assert data.notes == ("test/ is left alone: training uses train/ only",)


def test_a_class_called_train(tmp_path):
    data = read_labelled(
        folders(tmp_path, "train/1.jpg", "train/2.jpg", "ship/1.jpg", "ship/2.jpg")
    )
    assert data.classes == ("ship", "train")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "got nothing"),
        (("cat/x.txt", "dog/y.txt"), r"only folders without pictures \(cat, dog\)"),
        (("1.jpg", "2.jpg", "3.jpg", "4.jpg", "5.jpg"), r"5 pictures directly.*and 2 more"),
        (("train/1.jpg", "test/1.jpg"), "train: expected class folders.*1 picture directly"),
        (("val/cat/1.jpg", "test/cat/1.jpg"), "got test/ and val/ and no train/"),
        (("train/a/1.jpg", "val/a/1.jpg", "valid/a/1.jpg"), "one folder a part, got val/ and va"),
        (("train/steam/1.jpg", "ship/1.jpg"), "got train/ with folders in it and pictures in ship"),
        (("cat/1.jpg", "cat/2.jpg"), "two classes or more, got only 'cat'; add"),
        (("d/cat/1.jpg", "d/dog/2.jpg"), "with the folders cat, dog in it; name .*d if these"),
        (("cat/1.jpg", "dog/x.txt"), "a picture of every class, got none of 'dog'"),
        (("a/1.jpg", "a/2.jpg", "b/1.jpg"), "a single one of 'b'"),
        (("a/1.jpg", "b/1.jpg", "c/x.txt"), "none of 'c'"),
        (("cat/1.jpg", "Cat/1.jpg"), "got 'Cat' and 'cat'"),
        (("cat/1.jpg", "cat /1.jpg"), "got 'cat' and 'cat '"),
        (("train/a/1.jpg", "train/b/1.jpg", "val/a/1.jpg"), "no validation picture of 'b'"),
        (
            ("train/a/1.jpg", "train/b/1.jpg", "val/a/1.jpg", "val/b/1.jpg", "val/c/1.jpg"),
            "no training picture of 'c'",
        ),
        (("train/a/1.jpg", "train/b/1.jpg", "val/a/1.jpg", "val/B/1.jpg"), "got 'B' and 'b'"),
    ],
)
def test_folders_that_cannot_be_trained_on(tmp_path, names, message):
    for name in names:
        if name.endswith(".txt"):
            write_lines(tmp_path / name, "words")
        else:
            write_picture(tmp_path / name)
    with pytest.raises(DataError, match=message):
        read_labelled(tmp_path)


def test_the_same_name_in_two_unicode_forms(tmp_path):
    forms = [unicodedata.normalize(form, "café") for form in ("NFC", "NFD")]
    folders(tmp_path, *(f"{form}/1.jpg" for form in forms))
    with pytest.raises(DataError, match="Unicode form"):
        read_labelled(tmp_path)


def test_parts_may_write_a_name_in_two_unicode_forms(tmp_path):
    for part, form in (("train", "NFC"), ("val", "NFD")):
        folders(tmp_path, f"{part}/{unicodedata.normalize(form, 'café')}/1.jpg", f"{part}/x/1.jpg")
    assert read_labelled(tmp_path).classes == (unicodedata.normalize("NFC", "café"), "x")


def test_no_such_path(tmp_path):
    with pytest.raises(DataError, match="there is no such path"):
        read_labelled(tmp_path / "nowhere")
    with pytest.raises(DataError, match="another file"):
        read_labelled(write_picture(tmp_path / "a.jpg"))
    with pytest.raises(ArgumentError, match="for a CSV file"):
        read_labelled(tmp_path, images=tmp_path)


def test_single_label_table(tmp_path):
    lines = ("Label,image,width", "dog,b.jpg,1", "cat,./a.jpg,2", " cat ,c.jpg,3", "dog,d.jpg,4")
    data = read_labelled(table(tmp_path, *lines))
    assert data.single
    assert labels(data) == {
        k: (v,)
        for k, v in zip(
            ("b.jpg", "a.jpg", "c.jpg", "d.jpg"), ("dog", "cat", "cat", "dog"), strict=True
        )
    }
    assert data.notes == ("columns of labels.csv left alone: width",)


@pytest.mark.parametrize(
    "lines",
    [
        ("image,labels", "a.jpg,cat;dog", "b.jpg,dog|cat", "c.jpg,cat", "d.jpg,"),
        ("image,labels", "a.jpg,cat", "b.jpg,dog;cat", "a.jpg,dog", "c.jpg,cat", "d.jpg,"),
        ("cat,image,dog", "1,a.jpg,1", "1.0,b.jpg,True", "1,c.jpg,0", "0,d.jpg,false"),
    ],
)
def test_multi_label_tables_agree(tmp_path, lines):
    data = read_labelled(table(tmp_path, *lines))
    both = ("cat", "dog")
    assert labels(data) == {"a.jpg": both, "b.jpg": both, "c.jpg": ("cat",), "d.jpg": ()}
    assert not data.single
    assert "multi-label: 3 of 4 pictures have not exactly one class" in data.notes[-1]
    with pytest.raises(ArgumentError, match="multi-label"):
        _ = data.class_ids
    with pytest.raises(DataError, match=r"one class a picture, got a.jpg \(line .*'cat', 'dog'"):
        read_labelled(tmp_path / "labels.csv", multi_label=False)


def test_one_hot_with_one_class_a_picture_is_single(tmp_path):
    path = table(tmp_path, "image,x,y", "a.jpg,1,0", "b.jpg,0,1", "c.jpg,1,0", "d.jpg,0,1")
    assert read_labelled(path).single
    assert not read_labelled(path, multi_label=True).single


def test_one_class_or_none_of_it(tmp_path):
    path = table(tmp_path, "image,dent", "a.jpg,1", "b.jpg,0", "c.jpg,1", "d.jpg,0")
    assert read_labelled(path).targets.tolist() == [[True], [False], [True], [False]]


def test_parts_in_a_table(tmp_path):
    rows = ("a.jpg,x,train", "b.jpg,y,Train", "c.jpg,x,val", "d.jpg,y,validation")
    path = table(tmp_path, "image,label,split", *rows, "gone.jpg,x,test")
    data = read_labelled(path)
    assert data.given.tolist() == [0, 0, 1, 1]
    assert data.notes == (
        "1 test picture in labels.csv left alone: training uses the other parts only",
    )


def test_pictures_elsewhere(tmp_path):
    folders(tmp_path / "pictures", "a.jpg", "sub/b.jpg")
    far = folders(tmp_path / "far", "c.jpg", "d.jpg")
    path = write_lines(
        tmp_path / "labels.csv",
        *("image,label", "a.jpg,x", "sub/b.jpg,y", f"{far}/c.jpg,x", "../far/d.jpg,y"),
    )
    data = read_labelled(path, images=tmp_path / "pictures")
    assert data.names == ("a.jpg", "sub/b.jpg", f"{far}/c.jpg", f"{far}/d.jpg")
    assert data.root == tmp_path / "pictures"
    with pytest.raises(DataError, match="expected the folder of the pictures"):
        read_labelled(path, images=tmp_path / "nowhere")


HEAD = "image,label"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (("image,kind", "a.jpg,cat"), "'kind': expected 0 or 1 .*got 'cat'.*call it label"),
        (("file,label", "a.jpg,cat"), "expected the columns image,label .*got the header 'file,"),
        (("image", "a.jpg"), "expected the columns"),
        (("image,x,x", "a.jpg,1,0"), "every class once"),
        (("image,label,split,part", "a.jpg,x,train,train"), "at most one of split and part"),
        (("image;label", "a.jpg;x"), "with commas"),
        ((HEAD,), "there is none"),
        ((HEAD, "a.jpg,x", "b.jpg"), "line 3: expected 2 columns as in the header, got 1"),
        ((HEAD, ",x"), "line 2: image: expected the path"),
        ((HEAD, "a.jpg,x;"), "line 2: label: expected the name of a class, got ''"),
        ((HEAD, "a.jpg,caf\udce9"), "line 2: label: expected UTF-8 text"),
        ((HEAD, 'a.jpg,"x'), "expected comma-separated values"),
        ((HEAD, *(f"{i}.jpg,x" for i in range(5))), r"5 of 5 are not there: .*and 2 more"),
        ((HEAD, r"a\1.jpg,x"), r"mend them \(a \\ does not part folders here: write /\)"),
        ((HEAD, "a.jpg,x", "b.jpg,y", "c.jpg,", "d.jpg,x"), r"c.jpg \(line 4\): none; mend"),
        ((HEAD, "a.jpg,x", "b.jpg,X"), "got 'X' and 'x'"),
        ((HEAD, "a.jpg,x", "b.jpg,x"), "two classes or more"),
        ((HEAD, "a.jpg,x", "b.jpg,y"), "a single one of 'x', 'y'"),
        (("image,labels", "a.jpg,x;y;z", "b.jpg,x"), "got 2 pictures of 3 classes"),
        (("image,x,y", "a.jpg,1,0", "b.jpg,1,0"), "none of 'y'"),
        ((f"{HEAD},part", "a.jpg,x,dev"), "line 2: part: expected train, val .*got 'dev'"),
        ((f"{HEAD},part", "a.jpg,x,train", "./a.jpg,x,val"), r"one part.*a.jpg \(line 2, line 3\)"),
        ((f"{HEAD},part", "a.jpg,x,test", "b.jpg,y,test"), "there is none"),
        ((f"{HEAD},part", "a.jpg,x,train", "b.jpg,y,val"), "no training picture of 'y'"),
    ],
)
def test_tables_that_cannot_be_read(tmp_path, lines, message):
    folders(tmp_path, *(f"{name}.jpg" for name in "abcd"))
    text = "".join(f"{line}\n" for line in lines)
    (tmp_path / "labels.csv").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=message):
        read_labelled(tmp_path / "labels.csv")


def test_contradicting_rows_name_both(tmp_path):
    path = table(tmp_path, HEAD, "a.jpg,x", "b.jpg,y", "a.jpg,y", "c.jpg,x")
    with pytest.raises(DataError, match=r"a.jpg \(line 2, line 4\): 'x', 'y'; mend"):
        read_labelled(path, multi_label=False)
