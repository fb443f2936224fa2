"""The list of doubtful boxes: what is on it, in which order, and back as a list of rejections."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gapcam.review.page as page
from data_sets import write_picture
from gapcam.formats import Keep, box_key
from gapcam.review import HEADER, doubt_of, most_doubtful, read_rejected, write_review
from gapcam.types import ArgumentError, PictureError

SIZE = (100, 80)


def found(score: float, box: Any = (30.0, 20.0, 90.0, 70.0), label: str = "cat") -> dict[str, Any]:
    box = None if box is None else list(box)
    at = {"label": label, "class_id": len(label)}
    return {**at, "score": score, "box": box, "peak": None}


def record(path: str, *detections: dict[str, Any]) -> dict[str, Any]:
    size = {"width": SIZE[0], "height": SIZE[1]}
    return {"path": path, **size, "detections": list(detections)}


FAILED = {"path": "bad.jpg", "error": {"kind": "picture", "message": "cut short"}}


@pytest.mark.parametrize(
    ("score", "box", "doubt", "reason"),
    [
        (1.0, (10, 10, 90, 60), 0.0, "score 1.00"),
        (0.25, (10, 10, 90, 60), 0.25, "score 0.25"),
        (1.0, (0, 0, 100, 80), 2 / 3, "score 1.00, touches 4 borders, 100% of the picture"),
        (0.1, (0, 0, 100, 80), 2.9 / 3, "score 0.10, touches 4 borders, 100% of the picture"),
        (1.0, (0, 10, 80, 70), 0.25 / 3, "score 1.00"),
        (1.0, (0, 0, 80, 70), 0.5 / 3, "score 1.00, touches 2 borders"),
        (1.0, (40, 40, 60, 52), 0.9 / 3, "score 1.00, 3.0% of the picture"),
        (0.0, (50, 50, 50, 50), 2 / 3, "score 0.00, 0.0% of the picture"),
    ],
)
def test_doubt(score: float, box: Any, doubt: float, reason: str):
    assert doubt_of(score, box, SIZE) == (pytest.approx(doubt, abs=1e-4), reason)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from([0.0, 0.2, 0.4, 0.6, 0.9]), max_size=3), max_size=8),
    st.integers(1, 6),
    st.sampled_from([0.0, 0.3]),
)
def test_the_list_is_the_head_of_all_boxes_sorted(scores: Any, count: int, floor: float):
    records = [record(f"{i}.jpg", *map(found, row)) for i, row in enumerate(scores)]
    records.insert(len(records) // 2, FAILED)
    # Slow and obvious: everything in a list; a stable sort keeps the earlier of equal doubts first.
    every = [(f"{i}.jpg", s) for i, row in enumerate(scores) for s in row if s >= floor]
    expected = sorted(every, key=lambda one: one[1])[:count]
    got, boxes = most_doubtful(iter(records), count, Keep(min_score=floor))
    assert [(one.path, one.score) for one in got] == expected
    assert boxes == len(every)


def test_the_list_as_csv(tmp_path: Path):
    name = str(write_picture(tmp_path / 'a, "b" \udcff.jpg', SIZE))
    sure, unsure = found(0.9, label="dog"), found(0.25)
    records = [record(name, sure, unsure, found(0.1, None))]
    made = write_review(records, tmp_path / "out", 5)
    assert (made.boxes, made.listed) == (2, 2)
    assert [path.name for path in made.written] == ["review.csv", "review.html"]
    with made.written[0].open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        header, first, second = csv.reader(file)
    assert tuple(header) == HEADER
    row = [box_key(name, unsure), name, "cat", "3", "0.25", "30.0", "20.0", "90.0", "70.0"]
    assert first == [*row, "0.25", "score 0.25"]
    assert second[2] == "dog"
    assert read_rejected([made.written[0]]) == {box_key(name, unsure), box_key(name, sure)}


def test_keys_are_of_picture_class_and_box():
    one = found(0.5)
    keys = {
        box_key("a.jpg", one),
        box_key("b.jpg", one),
        box_key("a.jpg", found(0.5, label="horse")),
        box_key("a.jpg", found(0.5, (30.0, 20.0, 90.0, 70.01))),
    }
    assert len(keys) == 4
    assert all(re.fullmatch("[0-9a-f]{16}", key) for key in keys)
    assert box_key("a.jpg", found(0.6)) == box_key(
        "a.jpg", one
    )  # a score may move in its last digit


def test_lists_of_rejections_that_are_none(tmp_path: Path):
    with pytest.raises(ArgumentError, match=r"none\.csv: cannot be read"):
        read_rejected([tmp_path / "none.csv"])
    path = tmp_path / "r.csv"
    for text in ("path\na.jpg\n", "key,path\nxyz,a.jpg\n"):
        path.write_text(text)
        with pytest.raises(ArgumentError) as caught:
            read_rejected([path])
        got = "''" if text.startswith("path") else "'xyz'"
        assert str(caught.value) == (
            f"{path}, row 1: expected a column key with 16 hex digits, got {got}; give what the "
            "review page saved, or rows of review.csv"
        )
    path.write_text("key\n" + "a" * 200_000)
    with pytest.raises(ArgumentError, match="expected a CSV file"):
        read_rejected([path])
    assert read_rejected([]) == frozenset()


@pytest.mark.parametrize("count", [0, 100_001])
def test_a_number_of_boxes_out_of_range(tmp_path: Path, count: int):
    with pytest.raises(ArgumentError, match="review: expected 1 to 100,000 boxes, got"):
        write_review([], tmp_path, count)


def test_pages_are_as_many_as_are_needed(tmp_path: Path, monkeypatch: Any):
    monkeypatch.setattr(page, "PAGE_SIZE", 2)
    write_picture(tmp_path / "a.jpg", (900, 600))
    boxes = [found(i / 10) for i in range(5)]
    made = write_review([record(str(tmp_path / "a.jpg"), *boxes)], tmp_path)
    names = ["review.html", "review-2.html", "review-3.html"]
    assert [path.name for path in made.written[1:]] == names
    texts = [path.read_text(encoding="utf-8") for path in made.written[1:]]
    assert [text.count('class="tile"') for text in texts] == [2, 2, 1]
    assert all(f'href="{name}"' in texts[0] for name in names[1:])
    assert 'width="100" height="80"' in texts[0]  # as large as the record says
    write_review([], tmp_path)
    assert sorted(path.name for path in tmp_path.glob("*.html")) == ["review.html"]
    assert "There is no box to review." in (tmp_path / "review.html").read_text()


def test_pictures_that_cannot_be_read_and_names_that_are_markup(tmp_path: Path):
    label = "<script>alert(1)</script>"
    records = [record(str(tmp_path / "gone\udcff.jpg"), found(0.5, label=label))]
    made = write_review(records, tmp_path)
    text = made.written[1].read_text(encoding="utf-8")
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert re.search(r'class="unreadable">.*gone.*: ', text)
    assert "data:image/jpeg" not in text


def test_pictures_from_elsewhere(tmp_path: Path):
    local = write_picture(tmp_path / "a.jpg", SIZE)
    asked = []

    def open_picture(name: str) -> bytes:
        asked.append(name)
        if "b.jpg" in name:
            raise PictureError(f"{name}: gone")
        return local.read_bytes()

    names = ["s3://x/a.jpg", "s3://x/b.jpg"]
    made = write_review([record(n, found(0.5)) for n in names], tmp_path, open_picture=open_picture)
    assert sorted(asked) == names
    text = made.written[1].read_text(encoding="utf-8")
    assert text.count("data:image/jpeg") == 1
    assert "s3://x/b.jpg: gone" in text
