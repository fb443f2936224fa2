from __future__ import annotations

import os
import pickle
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_sets import write_lines, write_picture
from gapcam.formats.names import Taken
from gapcam.inputs import open_inputs
from gapcam.known_labels import only, read_labels
from gapcam.types import ArgumentError, DataError

TENCH, GOLDFISH, TABBY, CRANE_BIRD, CRANE = 0, 1, 281, 134, 517


@pytest.fixture(scope="module")
def card(quick: Any) -> Any:
    return quick.card


def known_of(spec: Any, path: Path, card: Any) -> tuple[Any, dict[str, Any]]:
    """The labels, and the ids of every picture below `path`, or why there are none."""
    inputs = open_inputs([str(path)])
    known = read_labels(str(spec), inputs, card)

    def ids_of(item: Any) -> Any:
        try:
            return known.wanted(item, inputs.reader)
        except DataError as error:
            return str(error)

    return known, {os.path.relpath(item.name, path): ids_of(item) for item in inputs}


def pictures(root: Path, *names: str) -> Path:
    for name in names:
        write_picture(root / name, (8, 6))
    return root


def test_folders_are_classes_by_name_synonym_and_wordnet_id(tmp_path: Path, card: Any):
    pictures(tmp_path, "tench/1.jpg", "n01443537/deep/er/2.jpg", "Tabby_Cat/3.png", "tench/4.jpg")
    known, ids = known_of("folders", tmp_path, card)
    assert ids == {
        "tench/1.jpg": (TENCH,),
        "tench/4.jpg": (TENCH,),
        "n01443537/deep/er/2.jpg": (GOLDFISH,),
        "Tabby_Cat/3.png": (TABBY,),
    }
    assert (known.classes, known.widest, known.notes) == ((TENCH, GOLDFISH, TABBY), 1, ())


def test_folders_of_parts_are_passed_over(tmp_path: Path, card: Any):
    pictures(tmp_path, "train/tench/1.jpg", "val/goldfish/2.jpg", "Test/tabby/3.jpg")
    assert [*known_of("folders", tmp_path, card)[1].values()] == [(TABBY,), (TENCH,), (GOLDFISH,)]
    # A class that is called so is one.
    own = replace(card, labels=("train", *card.labels[1:]))
    pictures(tmp_path / "b", "train/goldfish/1.jpg", "goldfish/2.jpg")
    assert sorted(known_of("folders", tmp_path / "b", own)[1].values()) == [(0,), (1,)]


def test_a_folder_that_is_a_class_itself(tmp_path: Path, card: Any):
    pictures(tmp_path / "tench", "1.jpg", "2.jpg")
    assert known_of("folders", tmp_path / "tench", card)[1] == {"1.jpg": (0,), "2.jpg": (0,)}


def test_archives_in_the_path_are_passed_over(tmp_path: Path, card: Any):
    pictures(tmp_path / "in", "tench/1.jpg", "goldfish/2.jpg")
    with tarfile.open(tmp_path / "0001.tar", "w") as tar:
        tar.add(tmp_path / "in", ".")
    inputs = open_inputs([str(tmp_path / "0001.tar")])
    known = read_labels("folders", inputs, card)
    found = {Path(i.name).name: known.wanted(i, inputs.reader) for i in inputs}
    assert found == {"1.jpg": (TENCH,), "2.jpg": (GOLDFISH,)}


def test_every_label_that_is_no_class_is_named_at_once(tmp_path: Path, card: Any):
    names = ["tench/1.jpg", "goldfich/2.jpg", "crane/3.jpg", "zzz/4.jpg"]
    pictures(tmp_path, *names)
    with pytest.raises(ArgumentError) as caught:
        known_of("folders", tmp_path, card)
    cranes = " or ".join(repr(card.labels[i]) for i in (CRANE_BIRD, CRANE))
    assert str(caught.value) == (
        "--labels folders: expected classes of efficientnet-lite0, 3 of 4 labels are none: "
        f"class 'crane' is ambiguous: did you mean {cranes}?; "
        "class 'goldfich' is unknown, did you mean 'goldfinch' or 'goldfish'?; "
        "class 'zzz' is unknown, for all names see: gapcam models --classes"
    )


def test_loose_pictures_fail_one_by_one_and_are_counted(tmp_path: Path, card: Any):
    pictures(tmp_path, "tench/1.jpg", "loose.jpg")
    known, ids = known_of("folders", tmp_path, card)
    assert known.notes == ("1 picture has no label in folders: counted as failed",)
    assert ids["loose.jpg"] == (
        f"{tmp_path / 'loose.jpg'}: expected a picture in a class folder, it is in none; "
        "move it into one"
    )
    with pytest.raises(ArgumentError) as caught:
        known_of("folders", pictures(tmp_path / "nothing here", "1.jpg", "2.jpg"), card)
    assert str(caught.value) == (
        "--labels folders: none of 2 pictures has a label, they lie right in nothing here; "
        "name the folder that holds the class folders, or a CSV file"
    )


FORMS = {
    "label": ("image,label", "a.jpg,tench", "b/c.jpg,tabby", "b/c.jpg,goldfish", "d.jpg,"),
    "labels": ("image,labels", "a.jpg,n01440764", "b/c.jpg,281;goldfish", "d.jpg,"),
    "one-hot": ("image,tench,tabby,goldfish", "a.jpg,1,0,0", "b/c.jpg,0,1,1", "d.jpg,0,0,0"),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("beside", [True, False])
def test_tables_in_all_forms(tmp_path: Path, card: Any, form: str, beside: bool):
    root = pictures(tmp_path / "set" / "images", "a.jpg", "b/c.jpg", "d.jpg", "e.jpg")
    lines = FORMS[form]
    if not beside:  # paths from the table's own folder
        lines = (lines[0], *(f"set/images/{line}" for line in lines[1:]))
    path = write_lines(tmp_path / "labels.csv", *lines)
    known, ids = known_of(path, root, card)
    assert ids == {
        "a.jpg": (TENCH,),
        "b/c.jpg": (TABBY, GOLDFISH),
        "d.jpg": (),
        "e.jpg": f"{root / 'e.jpg'}: expected a row in {path}, there is none; add one, or leave "
        "the picture out",
    }
    assert (known.classes, known.widest) == ((TENCH, GOLDFISH, TABBY), 2)
    assert known.notes == (f"1 picture has no label in {path}: counted as failed",)
    again = pickle.loads(pickle.dumps(known))
    assert again.fingerprint == known.fingerprint
    assert len(pickle.dumps(known)) < 1200


def test_rows_have_one_width_and_only_takes_the_filling_out(quick: Any, cat: Path, tmp_path: Path):
    root = pictures(tmp_path, "a.jpg", "b.jpg")
    path = write_lines(tmp_path / "l.csv", "image,labels", "a.jpg,tench|tabby|goldfish", "b.jpg,")
    known, ids = known_of(path, root, quick.card)
    assert ids == {"a.jpg": (TENCH, TABBY, GOLDFISH), "b.jpg": ()}
    rows = known.rows([(TABBY,), (), (GOLDFISH, TENCH, 5)])
    assert rows.tolist() == [[TABBY, 0, 1], [0, 1, 2], [GOLDFISH, TENCH, 5]]
    assert known.rows([]).shape == (0, 3)
    picture = quick.read(cat)
    tabby, nothing, three = quick.localize([picture] * 3, [cat] * 3, rows)
    (alone,) = only(tabby, (TABBY,)).detections
    (asked,) = quick(cat, classes=["tabby"]).detections
    assert (alone.label, alone.box_xyxy) == (asked.label, pytest.approx(asked.box_xyxy))
    assert alone.score == pytest.approx(asked.score)
    assert only(nothing, ()).detections == ()
    assert [d.class_id for d in only(three, (GOLDFISH, TENCH, 5)).detections] == [1, 0, 5]


def test_labels_that_mean_nothing_is_there_have_no_boxes(tmp_path: Path, card: Any):
    pictures(tmp_path, "tench/1.jpg", "goldfish/2.jpg")
    known, ids = known_of("folders", tmp_path, replace(card, placeless=(TENCH,)))
    assert known.classes == (GOLDFISH,)
    assert ids["tench/1.jpg"] == (TENCH,)


def test_rows_without_a_picture_are_counted(tmp_path: Path, card: Any):
    root = pictures(tmp_path, "a.jpg")
    path = write_lines(tmp_path / "l.csv", "image,label", "a.jpg,tench", "b.jpg,tench", "c.jpg,3")
    known, _ = known_of(path, root, card)
    assert known.notes == (f"2 pictures that {path} name not among the inputs",)


def test_absolute_paths_and_other_spellings(tmp_path: Path, card: Any, monkeypatch: Any):
    root = pictures(tmp_path / "p", "a.jpg", "b/c.jpg")
    rows = (f"{root}/b/../a.jpg,tench", "./b//c.jpg,tabby")
    path = write_lines(tmp_path / "l.csv", "image,label", *rows)
    monkeypatch.chdir(tmp_path)
    assert known_of(path, Path("p"), card)[1] == {"a.jpg": (TENCH,), "b/c.jpg": (TABBY,)}


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (("image,label", "a.jpg"), "line 2: expected 2 columns as in the header, got 1"),
        (("image,label", ",tench"), "line 2: image: expected the path of a picture, got ''"),
        (("image,tench", "a.jpg,2"), "line 2: column 'tench': expected 0 or 1"),
        (("picture,tench", "a.jpg,1"), "expected the columns image,label or"),
        ((), "expected the columns image,label or"),
    ],
)
def test_tables_that_cannot_be_meant(tmp_path: Path, card: Any, lines: Any, said: str):
    root = pictures(tmp_path, "a.jpg")
    path = write_lines(tmp_path / "l.csv", *lines)
    with pytest.raises(DataError) as caught:
        known_of(path, root, card)
    assert str(caught.value).startswith(f"{path}: {said}")


def test_a_table_of_other_pictures_or_that_is_missing(tmp_path: Path, card: Any):
    root = pictures(tmp_path, "a.jpg")
    path = write_lines(tmp_path / "l.csv", "image,label", "b.jpg,tench")
    with pytest.raises(ArgumentError) as caught:
        known_of(path, root, card)
    assert str(caught.value) == (
        f"--labels {path}: none of 1 picture has a label; its paths go from the folder of the "
        "pictures, or from its own"
    )
    with pytest.raises(DataError, match=r"missing\.csv: cannot be read"):
        known_of(tmp_path / "missing.csv", root, card)


def test_other_labels_have_another_fingerprint(tmp_path: Path, card: Any):
    root = pictures(tmp_path, "a.jpg", "b.jpg")
    prints = set()
    for rows in (("a.jpg,tench",), ("a.jpg,tabby",), ("a.jpg,tench", "b.jpg,tench")):
        path = write_lines(tmp_path / "l.csv", "image,label", *rows)
        prints.add(known_of(path, root, card)[0].fingerprint)
    assert len(prints) == 3


@settings(max_examples=20, deadline=None)
@given(st.lists(st.text(max_size=4), max_size=50))
def test_taken_is_a_set(texts: list[str]):
    taken, seen = Taken(), set[str]()
    for text in texts:
        assert taken.add(text) == (text not in seen)
        seen.add(text)


def test_taken_grows():
    taken = Taken()
    assert all(taken.add(str(i)) for i in range(5000))
    assert not any(taken.add(str(i)) for i in range(5000))
    assert all(taken.add(str(i)) for i in range(5000, 5100))
    assert np.count_nonzero(taken._slots) == 5100
