"""The layout `csv`, and the checks of rows against pictures that every layout shares."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_sets import csv_set, edit, write_lines, write_picture
from gapcam.data import Dataset, Problem, Target, read_dataset
from gapcam.types import DataError

HEADER = "image,class,width,height,x0,y0,x1,y1"


def read(root: Path) -> Dataset:
    return read_dataset(root / "images", root / "boxes.csv")


def one_row(root: Path, *rows: str, header: str = HEADER) -> Dataset:
    """A set of one picture, 40x30."""
    write_picture(root / "images" / "a.jpg")
    write_lines(root / "boxes.csv", header, *rows)
    return read(root)


def said(dataset: Dataset) -> list[str]:
    return [str(problem) for problem in dataset.problems]


def test_examples_in_the_order_of_names(tmp_path: Path):
    dataset = read(csv_set(tmp_path / "birds"))
    assert (dataset.name, dataset.layout) == ("birds/boxes.csv", "csv")
    assert dataset.problems == dataset.notes == ()
    first, second = dataset.examples
    assert (first.name, first.size_wh, first.orientation) == ("a.jpg", (40, 30), 1)
    assert first.path == tmp_path / "birds" / "images" / "a.jpg"
    assert first.where == "boxes.csv, line 3"
    assert first.targets == (
        Target(("cat",), ((1, 2, 11.5, 12.25), (3, 4, 9, 9))),
        Target(("dog",), ((20, 5, 40, 30),)),
    )
    assert (second.name, second.size_wh, second.where) == ("b/c.png", (20, 50), "boxes.csv, line 2")
    assert second.targets == (Target(("cat",), ((0, 0, 20, 50),)),)


def test_the_folder_stands_for_its_file_and_images(tmp_path: Path):
    csv_set(tmp_path)
    assert read_dataset(None, tmp_path).examples == read(tmp_path).examples
    assert read_dataset(tmp_path).examples == read(tmp_path).examples


def test_class_id_is_a_number_and_columns_come_in_any_order(tmp_path: Path):
    header = "score, x1,y1,x0,y0,class_id,height,width,image"
    dataset = one_row(tmp_path, "0.5,11,12,1,2,207,30,40,a.jpg", header=header)
    assert dataset.examples[0].targets == (Target((207,), ((1, 2, 11, 12),)),)


def test_name_and_number_are_both_kept_name_first(tmp_path: Path):
    header = "image,class_id,class,width,height,x0,y0,x1,y1"
    dataset = one_row(tmp_path, "a.jpg,7,cat,40,30,0,0,1,1", header=header)
    assert dataset.examples[0].targets[0].class_names == ("cat", 7)


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ("7,dog", "'dog' with 7 here and 'cat' with 7 before"),
        ("8,cat", "'cat' with 8 here and 'cat' with 7 before"),
    ],
)
def test_name_and_number_must_go_together(tmp_path: Path, row: str, what: str):
    header = "image,class_id,class,width,height,x0,y0,x1,y1"
    rows = ("a.jpg,7,cat,40,30,0,0,1,1", f"a.jpg,{row},40,30,0,0,2,2")
    assert said(one_row(tmp_path, *rows, header=header)) == [
        f"boxes.csv, line 3: expected class and class_id to go together, got {what}"
    ]


def test_quotes_byte_order_mark_and_line_numbers(tmp_path: Path):
    write_picture(tmp_path / "images" / "a,\nb.jpg")
    text = (
        '"image","class","width","height","x0","y0","x1","y1"\r\n'
        '"a,\nb.jpg","big ""cat""",40,30,0,0,9,9\r\n'
        "\r\n"
        "gone.jpg,cat,40,30,0,0,9,9\r\n"
    )
    path = tmp_path / "boxes.csv"
    path.write_text(text, encoding="utf-8-sig", newline="")
    dataset = read(tmp_path)
    assert dataset.examples[0].name == "a,\nb.jpg"
    assert dataset.examples[0].targets[0].class_names == ('big "cat"',)
    assert dataset.examples[0].where == "boxes.csv, line 2"
    assert [problem.where for problem in dataset.problems] == ["boxes.csv, line 5"]


def test_a_name_that_is_not_utf8_is_the_bytes_of_the_file(tmp_path: Path):
    name = os.fsdecode(b"caf\xe9.jpg")
    write_picture(tmp_path / "images" / name)
    rows = f"{HEADER}\n{name},cat,40,30,0,0,9,9\nx.jpg,ch\udce9vre,40,30,0,0,9,9\n"
    (tmp_path / "boxes.csv").write_bytes(os.fsencode(rows))
    dataset = read(tmp_path)
    assert [example.name for example in dataset.examples] == [name]
    assert said(dataset) == [
        "boxes.csv, line 3: class: expected UTF-8 text, got 'ch\\udce9vre'; save the file as UTF-8"
    ]


ROW = "a.jpg,cat,40,30,1,2,11,12"
INSIDE = "expected a box inside the picture, 40x30 pixels, or at most 1 pixel beyond its edges, got"
ORDER = "expected a box with x0 < x1 and y0 < y1, got"


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ("a.jpg,cat,40,30,1,2,11", "expected 8 columns as in the header, got 7"),
        ("a.jpg,cat,40,30,1,2,11,12,0.5", "expected 8 columns as in the header, got 9"),
        ("a.jpg,,40,30,1,2,11,12", "class: expected the name of a class, got ''"),
        ("a.jpg,cat,0,30,1,2,11,12", "width: expected a whole number of at least 1, got '0'"),
        ("a.jpg,cat,40,3.5,1,2,11,12", "height: expected a whole number of at least 1, got '3.5'"),
        ("a.jpg,cat,40,,1,2,11,12", "height: expected a whole number of at least 1, got ''"),
        ("a.jpg,cat,40,30,one,2,11,12", "x0: expected a finite number, got 'one'"),
        ("a.jpg,cat,40,30,1,nan,11,12", "y0: expected a finite number, got 'nan'"),
        ("a.jpg,cat,40,30,1,2,inf,12", "x1: expected a finite number, got 'inf'"),
        ("a.jpg,cat,40,30,1,2,11,1_2", "y1: expected a finite number, got '1_2'"),
        ("a.jpg,cat,40,30,11,2,11,12", f"{ORDER} (11, 2, 11, 12) in pixels"),
        ("a.jpg,cat,40,30,1,12,11,2", f"{ORDER} (1, 12, 11, 2) in pixels"),
        ("a.jpg,cat,40,30,1,2,41.01,12", f"{INSIDE} (1, 2, 41.01, 12)"),
        ("a.jpg,cat,40,30,1,2,11,32", f"{INSIDE} (1, 2, 11, 32)"),
        ("a.jpg,cat,40,30,-1.5,2,11,12", f"{INSIDE} (-1.5, 2, 11, 12)"),
        ("a.jpg,cat,40,30,1,-2,11,12", f"{INSIDE} (1, -2, 11, 12)"),
    ],
)
def test_a_bad_row_is_a_problem_and_takes_its_picture_along(tmp_path: Path, row: str, what: str):
    write_picture(tmp_path / "images" / "b.jpg")
    dataset = one_row(tmp_path, "b.jpg,cat,40,30,0,0,1,1", row, "a.jpg,cat,40,30,5,5,9,9")
    assert dataset.problems == (Problem("boxes.csv, line 3", what),)
    assert [example.name for example in dataset.examples] == ["b.jpg"]
    assert dataset.notes == ("1 picture with a problem left out, with all that is said of them",)


def test_a_bad_class_id(tmp_path: Path):
    header = HEADER.replace("class", "class_id")
    for value in ("cat", "-1", "1.5", ""):
        dataset = one_row(tmp_path, f"a.jpg,{value},40,30,0,0,1,1", header=header)
        what = f"class_id: expected a whole number of at least 0, got {value!r}"
        assert said(dataset) == [f"boxes.csv, line 2: {what}"]


def test_whole_numbers_may_be_written_with_a_point(tmp_path: Path):
    header = HEADER.replace("class", "class_id")
    dataset = one_row(tmp_path, "a.jpg,5.0,40.0,30.0,0,0,1,1", header=header)
    assert dataset.examples[0].targets[0].class_names == (5,)


def test_a_size_that_is_not_the_files(tmp_path: Path):
    dataset = one_row(tmp_path, "a.jpg,cat,80,60,1,2,11,12")
    assert said(dataset) == [
        f"boxes.csv, line 2: expected the size of {tmp_path}/images/a.jpg, 40x30 pixels, got "
        "80x60; the boxes may be of another version of the picture"
    ]


def test_boxes_up_to_a_pixel_beyond_stay_as_written_and_are_counted(tmp_path: Path):
    dataset = one_row(tmp_path, "a.jpg,cat,40,30,-1,-0.5,41,31", "a.jpg,cat,40,30,0,0,40.01,30")
    assert dataset.problems == ()
    boxes = ((-1, -0.5, 41, 31), (0, 0, 40.01, 30))
    assert dataset.examples[0].targets == (Target(("cat",), boxes),)
    assert dataset.notes == ("1 box up to 1 pixel beyond the picture, taken as written",)


def test_of_equal_boxes_one_counts(tmp_path: Path):
    dataset = one_row(tmp_path, ROW, "a.jpg,dog,40,30,1,2,11,12", "./a.jpg,cat,40,30,1,2,11.0,12")
    assert said(dataset) == [
        "boxes.csv, line 4: expected every row once, boxes.csv, line 2 says the same; delete one "
        "(one counts)"
    ]
    assert dataset.examples[0].targets == (
        Target(("cat",), ((1, 2, 11, 12),)),
        Target(("dog",), ((1, 2, 11, 12),)),
    )
    assert dataset.notes == ()


def test_a_missing_picture_is_one_problem_whatever_it_holds(tmp_path: Path):
    rows = ("no/x.jpg,cat,40,30,0,0,1,1", ROW, "no/x.jpg,dog,40,30,0,0,1,1")
    dataset = one_row(tmp_path, *rows)
    missing = tmp_path / "images" / "no" / "x.jpg"
    assert said(dataset) == [
        f"boxes.csv, line 2: {missing}: expected a picture file, there is none; check the path "
        "(2 rows of this picture left out)"
    ]
    assert [example.name for example in dataset.examples] == ["a.jpg"]


def test_a_file_that_is_no_picture(tmp_path: Path):
    write_lines(tmp_path / "images" / "x.jpg", "not a picture")
    dataset = one_row(tmp_path, "x.jpg,cat,40,30,0,0,1,1")
    (problem,) = dataset.problems
    assert problem.where == "boxes.csv, line 2"
    assert problem.what.startswith(f"{tmp_path}/images/x.jpg: expected a whole picture, it cannot")
    assert problem.what.endswith("get the file again")


def test_a_pipe_is_not_waited_for(tmp_path: Path):
    csv_set(tmp_path)
    os.mkfifo(tmp_path / "images" / "x.jpg")
    assert "expected a picture file" in said(one_row(tmp_path, "x.jpg,cat,40,30,0,0,1,1"))[0]


def test_a_picture_with_too_many_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    assert "too many pixels" in said(one_row(tmp_path, ROW))[0]


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("../boxes.csv", "expected a path below {images}, this one leads out of it"),
        ("b/../../boxes.csv", "expected a path below {images}, this one leads out of it"),
        ("/etc/hostname", "expected the path of a file below {images}"),
        ("..", "expected the path of a file below {images}"),
        (".", "expected the path of a file below {images}"),
        ("a\0.jpg", "expected the path of a file below {images}"),
    ],
)
def test_names_stay_below_the_folder(tmp_path: Path, name: str, what: str):
    dataset = one_row(tmp_path, f"{name},cat,40,30,0,0,1,1", ROW)
    assert len(dataset.problems) == len(dataset.examples) == 1
    assert dataset.problems[0].where == "boxes.csv, line 2"
    assert dataset.problems[0].what.endswith(what.format(images=tmp_path / "images"))


def test_dots_that_stay_inside_are_taken_out(tmp_path: Path):
    dataset = one_row(tmp_path, "./b/../a.jpg,cat,40,30,0,0,1,1")
    assert [example.name for example in dataset.examples] == ["a.jpg"]


def test_an_empty_or_overlong_name(tmp_path: Path):
    dataset = one_row(tmp_path, " ,cat,40,30,0,0,1,1", f"{'x' * 5000}.jpg,cat,40,30,0,0,1,1")
    assert dataset.problems[0].what == "image: expected the path of a picture, got ' '"
    assert "cannot be read" in dataset.problems[1].what


@pytest.mark.parametrize(
    "header",
    [
        "",
        "a.jpg,cat,40,30,1,2,11,12",
        "image,width,height,x0,y0,x1,y1",
        "image;class;width;height;x0;y0;x1;y1",
        HEADER.replace(",x1", ""),
        f"{HEADER},x1",
    ],
)
def test_a_file_without_the_header(tmp_path: Path, header: str):
    with pytest.raises(DataError) as caught:
        one_row(tmp_path, *([ROW] if header else []), header=header)
    assert str(caught.value) == (
        f"{tmp_path}/boxes.csv: expected the header image,class_id,width,height,x0,y0,x1,y1 (or "
        f"class in place of class_id) in UTF-8, got {header!r}"
    )


def test_a_file_that_is_not_utf8(tmp_path: Path):
    csv_set(tmp_path)
    (tmp_path / "boxes.csv").write_text(f"{HEADER}\n{ROW}\n", encoding="utf-16")
    with pytest.raises(DataError, match=r"expected the header .* in UTF-8, got '\\udcff"):
        read(tmp_path)


def test_a_file_that_is_not_csv(tmp_path: Path):
    message = (
        r"boxes.csv, line 2: expected comma-separated values \(.*\); mend the quotes, or save the "
        "file as CSV again"
    )
    with pytest.raises(DataError, match=message):
        one_row(tmp_path, '"a"x.jpg,cat,40,30,0,0,1,1')


def test_a_file_without_rows(tmp_path: Path):
    with pytest.raises(DataError, match=r"boxes.csv: expected at least one box or mask, there is"):
        one_row(tmp_path)


def test_a_file_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    csv_set(tmp_path)
    monkeypatch.setattr("gapcam.data.fields.MAX_TEXT_BYTES", 99)
    with pytest.raises(DataError, match=r"boxes.csv: expected at most 99 bytes, it has 147; split"):
        read(tmp_path)


def test_problems_come_in_the_order_of_the_file(tmp_path: Path):
    csv_set(tmp_path)
    edit(tmp_path / "boxes.csv", "b/c.png,cat,20,50", "b/c.png,cat,20,51")
    edit(tmp_path / "boxes.csv", "a.jpg,dog,40", "a.jpg,dog,forty")
    edit(tmp_path / "boxes.csv", "3,4,9,9", "3,4,3,9")
    dataset = read(tmp_path)
    assert [problem.where[-1] for problem in dataset.problems] == ["2", "4", "5"]
    assert dataset.examples == ()
    assert dataset.notes == ("2 pictures with a problem left out, with all that is said of them",)


coordinate = st.one_of(st.integers(-3, 45).map(float), st.floats(allow_nan=True))


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(*[coordinate] * 4), min_size=1, max_size=4))
def test_every_row_is_a_box_or_a_problem(tmp_path_factory: pytest.TempPathFactory, boxes):
    root = tmp_path_factory.mktemp("set")
    rows = [f"a.jpg,cat,40,30,{','.join(map(repr, box))}" for box in boxes]
    dataset = one_row(root, *rows)
    good = [
        -1 <= x0 < x1 <= 41 and -1 <= y0 < y1 <= 31 and (x0, y0, x1, y1) not in boxes[:place]
        for place, (x0, y0, x1, y1) in enumerate(boxes)
    ]
    wrong = [f"boxes.csv, line {place}" for place, fits in enumerate(good, start=2) if not fits]
    assert [problem.where for problem in dataset.problems] == wrong
    kept = [box for example in dataset.examples for box in example.targets[0].boxes]
    only_repeats = all("says the same" in problem.what for problem in dataset.problems)
    assert kept == ([box for box, fits in zip(boxes, good, strict=True) if fits] * only_repeats)
