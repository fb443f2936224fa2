from __future__ import annotations

import csv
import errno
import json
import math
import os
import tempfile
import uuid
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gapcam.formats import (
    FORMATS,
    Written,
    failure_record,
    read_records,
    record_line,
    to_record,
    write_coco,
    write_csv,
    write_voc,
    write_yolo,
)
from gapcam.formats.voc import voc_tree
from gapcam.types import ArgumentError, Detection, Failure, Localization, OutputError, PictureError

LABELS = ['tabby, "tiger" cat', "crane: yes", "café\n#"]
ROOT = Path("/data/images")


def found(box: Any, at: int = 0, score: float = 0.5) -> dict[str, Any]:
    peak = None if box is None else box[:2]
    return {"label": LABELS[at], "class_id": at, "score": score, "box": box, "peak": peak}


def record(path: str, *detections: dict[str, Any], size: tuple[int, int] = (100, 80)) -> Any:
    start = {"path": path, "width": size[0], "height": size[1], "model": "m", "recipe": "r"}
    return {**start, "detections": list(detections)}


FAILED = {"path": "/data/images/bad.jpg", "error": {"kind": "picture", "message": "cut short"}}
RECORDS = [
    record("/data/images/a/cat.jpg", found([10.25, 20.5, 60.75, 80]), found([0, 0, 100, 1.5], 2)),
    FAILED,
    record("/data/images/b, c/cat.jpg", found(None, 1, 0.01)),
]
EXPECTED = [
    ("a/cat", 0, (10.25, 20.5, 60.75, 80.0)),
    ("a/cat", 2, (0.0, 0.0, 100.0, 1.5)),
]

# Any character a file name can hold; lone surrogates stand for bytes that are not UTF-8.
name_text = st.text(
    st.one_of(
        st.characters(exclude_characters="\0/", exclude_categories=["Cs"]),
        st.sampled_from(" ,\"'\n\r\udc80\udcff\u2028"),
    ),
    min_size=1,
    max_size=20,
).filter(lambda text: text.strip(".") != "")


@st.composite
def boxes(draw: Any) -> list[float]:
    x = sorted(draw(st.tuples(*[st.integers(0, 10000)] * 2)))
    y = sorted(draw(st.tuples(*[st.integers(0, 8000)] * 2)))
    return [x[0] / 100, y[0] / 100, x[1] / 100, y[1] / 100]


def test_record_of_a_localization() -> None:
    grid = np.zeros((2, 2), np.float32)

    def detection(box: Any, peak: Any) -> Detection:
        score = np.float32(1 / 3)
        return Detection(
            "tabby", 1, float(score), box, peak, grid, grid, 0.3, (80, 100), lambda: grid > 0
        )

    wide = Localization(
        "cat.jpg",
        (80, 100),
        (detection((0.123, 1.006, 99.999, np.float32(80)), (5, 6.5)), detection(None, None)),
        "m",
        "r",
        (),
        b"",
    )
    start = {"label": "tabby", "class_id": 1, "score": 0.333333}
    expected = {
        "path": "cat.jpg",
        "width": 100,
        "height": 80,
        "model": "m",
        "recipe": "r",
        "detections": [
            {**start, "box": [0.12, 1.01, 100.0, 80.0], "peak": [5.0, 6.5]},
            {**start, "box": None, "peak": None},
        ],
    }
    assert to_record(wide) == expected
    assert list(to_record(wide)) == list(expected)
    noted = Localization("a", (1, 1), (), "m", "r", ("first frame",), b"")
    assert to_record(noted)["notes"] == ["first frame"]


def test_record_of_a_failure() -> None:
    failure = Failure("/data/images/bad.jpg", PictureError("cut short"))
    assert failure_record(failure) == FAILED


def test_record_line_is_compact_and_readable() -> None:
    assert record_line({"path": "café 日.jpg", "n": [1, 2]}) == '{"path":"café 日.jpg","n":[1,2]}\n'
    assert record_line({"path": "a\udcff"}) == '{"path":"a\\udcff"}\n'


def test_record_line_refuses_nan() -> None:
    with pytest.raises(OutputError) as caught:
        record_line(record("a.jpg", found([0, 0, 1, math.nan])))
    assert str(caught.value).startswith("a.jpg: expected finite numbers (")
    assert str(caught.value).endswith("); check the model")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(name_text, boxes()), max_size=3))
def test_records_round_trip(pictures: list[tuple[str, list[float]]]) -> None:
    records = [record(name, found(box), found(None, 1)) for name, box in pictures]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "records.jsonl"
        text = "".join(map(record_line, [*records, FAILED]))
        path.write_text(text, encoding="utf-8", newline="")
        assert list(read_records(path)) == [*records, FAILED]
        assert len(text.splitlines()) == len(records) + 1


def test_read_records_streams_and_skips_empty_lines(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text("\ufeff" + record_line(FAILED) + "\n  \nbroken", encoding="utf-8")
    stream = read_records(path)
    assert next(stream) == FAILED
    with pytest.raises(ArgumentError) as caught:
        next(stream)
    assert str(caught.value) == (
        f"{path}, line 4: expected a JSON record with path, width, height and detections, or path "
        "and error, got b'broken' (Expecting value: line 1 column 1 (char 0)); "
        "delete the line, or run its picture again"
    )


@pytest.mark.parametrize(
    "line",
    [
        b"[]",
        b"{}",
        b'{"path":1,"error":{}}',
        b'{"path":"a"}',
        b'{"path":"a","width":0,"height":1,"detections":[]}',
        b'{"path":"a","width":1,"height":1,"detections":[1]}',
        json.dumps(record("a", found([0, 1, 2]))).encode(),
        json.dumps(record("a", found([0, 1, 2, math.nan]))).encode(),
        json.dumps(record("a", found("abcd"))).encode(),
        json.dumps(record("a", {**found(None), "class_id": 1.5})).encode(),
        b'{"path":"\xff","error":{}}',
        b"[" * 100_000,
    ],
)
def test_read_records_refuses_what_is_no_record(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "r.jsonl"
    path.write_bytes(line)
    with pytest.raises(ArgumentError) as caught:
        list(read_records(path))
    assert str(caught.value).startswith(f"{path}, line 1: expected a JSON record with path, width")


def test_read_records_of_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError) as caught:
        next(read_records(tmp_path / "none"))
    assert str(caught.value) == (
        f"{tmp_path / 'none'}: cannot be read (No such file or directory); check the path"
    )


def parse_coco(folder: Path) -> tuple[list[str], list[Any]]:
    data = json.loads((folder / "annotations.json").read_text(encoding="utf-8"))
    assert [c["id"] for c in data["categories"]] == [1, 2, 3]
    assert [c["name"] for c in data["categories"]] == LABELS
    names = {image["id"]: image["file_name"] for image in data["images"]}
    assert all((image["width"], image["height"]) == (100, 80) for image in data["images"])
    rows = []
    for note in data["annotations"]:
        x, y, w, h = note["bbox"]
        assert note["area"] == pytest.approx(w * h, abs=0.01)
        assert note["iscrowd"] == 0
        rows.append((names[note["image_id"]], note["category_id"] - 1, (x, y, x + w, y + h)))
    assert len({note["id"] for note in data["annotations"]}) == len(rows)
    return list(names.values()), rows


def parse_yolo(folder: Path) -> tuple[list[str], list[Any]]:
    names, rows = [], []
    for path in sorted((folder / "labels").rglob("*.txt")):
        names.append(path.relative_to(folder / "labels").as_posix()[:-4])
        for line in path.read_text().splitlines():
            at, cx, cy, w, h = map(float, line.split())
            box = ((cx - w / 2) * 100, (cy - h / 2) * 80, (cx + w / 2) * 100, (cy + h / 2) * 80)
            rows.append((names[-1], int(at), box))
    return names, rows


def parse_voc(folder: Path) -> tuple[list[str], list[Any]]:
    names, rows = [], []
    for path in sorted((folder / "Annotations").rglob("*.xml")):
        names.append(path.relative_to(folder / "Annotations").as_posix()[:-4])
        for item in ET.parse(path).getroot().iter("object"):
            low = [int(item.findtext(f"bndbox/{key}", "")) for key in ("xmin", "ymin")]
            high = [int(item.findtext(f"bndbox/{key}", "")) for key in ("xmax", "ymax")]
            box = (low[0] - 1, low[1] - 1, *high)
            rows.append((names[-1], LABELS.index(item.findtext("name", "")), box))
    return names, rows


def parse_csv(folder: Path) -> list[Any]:
    with (folder / "boxes.csv").open(encoding="utf-8", errors="surrogateescape", newline="") as f:
        rows = list(csv.DictReader(f))
    return [
        (r["image"], int(r["class_id"]), tuple(float(r[k]) for k in ("x0", "y0", "x1", "y1")))
        for r in rows
        if r["class"] == LABELS[int(r["class_id"])]
        and (r["width"], r["height"], r["score"]) == ("100", "80", "0.5")
    ]


def same(rows: list[Any], suffix: str = "", tolerance: float = 1e-4) -> bool:
    return len(rows) == len(EXPECTED) and all(
        name == want[0] + suffix and at == want[1] and box == pytest.approx(want[2], abs=tolerance)
        for (name, at, box), want in zip(rows, EXPECTED, strict=True)
    )


def test_every_format_holds_the_same_boxes(tmp_path: Path) -> None:
    for name, write in FORMATS.items():
        out = tmp_path / "deep" / name
        written = write(iter(RECORDS), labels=LABELS, out_dir=out, root=ROOT)
        assert written == Written(pictures=2, boxes=2, failures=1, notes=written.notes)
        assert len(written.notes) == (name in ("yolo", "voc"))  # the pictures are not there
        assert not list(out.rglob(".gapcam-*"))
    deep = tmp_path / "deep"
    assert list(FORMATS) == ["coco", "yolo", "voc", "csv"]
    names, rows = parse_coco(deep / "coco")
    assert names == ["a/cat.jpg", "b, c/cat.jpg"]
    assert same(rows, ".jpg")
    names, rows = parse_yolo(deep / "yolo")
    assert names == ["a/cat", "b, c/cat"]
    assert same(rows)
    names, rows = parse_voc(deep / "voc")
    assert names == ["a/cat", "b, c/cat"]
    assert [box for *_, box in rows] == [(10, 20, 61, 80), (0, 0, 100, 2)]
    assert same(parse_csv(deep / "csv"), ".jpg")


def test_yolo_data_file_quotes_names(tmp_path: Path) -> None:
    write_yolo(RECORDS, LABELS, tmp_path, ROOT)
    lines = (tmp_path / "data.yaml").read_text(encoding="utf-8").splitlines()
    assert lines[:4] == [f'path: "{tmp_path}"', "train: images", "val: images", "names:"]
    pairs = [line.strip().split(": ", 1) for line in lines[4:]]
    assert [(int(at), json.loads(name)) for at, name in pairs] == list(enumerate(LABELS))


@settings(max_examples=40, deadline=None)
@given(name_text, boxes())
def test_odd_names_and_edge_boxes_survive(name: str, box: list[float]) -> None:
    records = [record(f"/data/images/{name}", found(box))]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_coco(records, LABELS, folder / "annotations.json", ROOT)
        write_csv(records, folder / "boxes.csv", ROOT)
        ((coco_name, _, coco_box),) = parse_coco(folder)[1]
        ((csv_name, _, csv_box),) = parse_csv(folder)
        assert coco_name == csv_name == name
        assert coco_box == pytest.approx(box, abs=0.011)
        assert csv_box == tuple(box)
        tree = voc_tree({**records[0], "name": name}, records[0]["detections"])
        text = ET.tostring(tree, encoding="unicode").encode()
        values = [
            int(node.text or "")
            for node in ET.fromstring(text).iter()
            if node.tag[1:4] in ("min", "max")
        ]
        assert 1 <= values[0] <= values[2] <= 100
        assert 1 <= values[1] <= values[3] <= 80
        assert values[0] - 1 <= box[0]
        assert values[2] >= box[2]


def test_voc_shows_what_xml_cannot_hold(tmp_path: Path) -> None:
    write_voc([record("/data/images/a\udcff\x01<&>.jpg")], tmp_path, ROOT)
    (path,) = (tmp_path / "Annotations").iterdir()
    assert os.fsencode(path.name) == b"a\xff\x01<&>.xml"
    assert ET.parse(path).getroot().findtext("filename") == "a\\udcff\\x01<&>.jpg"


def test_pictures_outside_root_go_by_file_name(tmp_path: Path) -> None:
    write_csv([record("/else/where/a.jpg", found([0, 0, 1, 1]))], tmp_path / "boxes.csv", ROOT)
    assert parse_csv(tmp_path)[0][0] == "a.jpg"
    write_csv([record("/else/../a.jpg", found([0, 0, 1, 1]))], tmp_path / "boxes.csv")
    assert parse_csv(tmp_path)[0][0] == "/else/../a.jpg"


def test_relative_paths_meet_a_relative_root(tmp_path: Path) -> None:
    write_yolo([record("photos/../photos/x/a.jpg")], LABELS, tmp_path, "photos")
    assert (tmp_path / "labels/x/a.txt").read_text() == ""


@pytest.mark.parametrize("name", ["yolo", "voc"])
def test_two_pictures_never_share_a_file(tmp_path: Path, name: str) -> None:
    records = [record("/data/images/a.jpg"), record("/data/images/a.png")]
    with pytest.raises(OutputError) as caught:
        FORMATS[name](records, labels=LABELS, out_dir=tmp_path, root=ROOT)
    assert str(caught.value) == (
        "/data/images/a.png: expected an annotation name of its own, got 'a', which "
        "another picture has; rename one of the two, or give their common folder as root"
    )
    for other in ("coco", "csv"):
        FORMATS[other](records, labels=LABELS, out_dir=tmp_path, root=ROOT)


def test_a_record_without_a_file_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError) as caught:
        write_csv([record("")], tmp_path / "boxes.csv", ROOT)
    assert str(caught.value) == "'': expected a file name, got none; leave this record out"
    assert list(tmp_path.iterdir()) == []


def test_labels_must_be_those_of_the_records(tmp_path: Path) -> None:
    records = [record("a.jpg", found([0, 0, 1, 1], 1))]
    for labels, got in ((["x", "y"], "'y'"), (["x"], "None")):
        with pytest.raises(OutputError) as caught:
            write_coco(records, labels, tmp_path / "a.json")
        assert str(caught.value) == (
            f"a.jpg: expected class 1 to be 'crane: yes', got {got}; "
            "give the labels of the model that wrote the records"
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fixed = uuid.UUID(int=1)
    monkeypatch.setattr(uuid, "uuid4", lambda: fixed)
    part = tmp_path / f".gapcam-{fixed.hex}.tmp"
    part.symlink_to("/dev/full")
    with pytest.raises(OutputError) as caught:
        write_csv(RECORDS, tmp_path / "boxes.csv", ROOT)
    assert str(caught.value) == (
        f"{tmp_path / 'boxes.csv'}: cannot be written (No space left on device); "
        "free some space, or choose another output folder"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(OutputError) as caught:
        write_csv(RECORDS, tmp_path / "out/boxes.csv", ROOT)
    assert str(caught.value) == (
        f"{tmp_path / 'out/boxes.csv'}: cannot be written (File exists); "
        "choose another output folder"
    )


def test_a_refused_rename_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "boxes.csv"
    path.write_text("old")

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OutputError) as caught:
        write_csv(RECORDS, path, ROOT)
    assert str(caught.value) == (
        f"{path}: cannot be written (Permission denied); "
        "make the folder writable, or choose another output folder"
    )
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_empty_run_gives_whole_files(tmp_path: Path) -> None:
    for write in FORMATS.values():
        assert write([], labels=LABELS, out_dir=tmp_path, root=ROOT) == Written(0, 0, 0)
    assert parse_coco(tmp_path) == ([], [])
    assert parse_csv(tmp_path) == []
