r"""Records and annotation files: JSONL, COCO, YOLO, Pascal VOC, CSV.

A record is the JSON object of one picture, `{"path", "width", "height", "model", "recipe",
"detections"}`, or `{"path", "error"}` for a failure. A run streams records to a JSONL file; the
writers turn records into what other tools read. All writers alike

- take `records` as a stream, `labels` (the model's class names, in order) and `root` (the folder
  of the pictures), return a `Written`, leave failures out and count them;
- name a picture by its path below `root`, with `/`; a picture outside `root` goes by its file
  name alone. Two pictures with one name are an error, never an overwrite;
- write each file under a temporary name beside it and rename it when it is whole;
- raise OutputError when that fails, when names clash, or when class id and label disagree.

Odd file names: bytes that are not UTF-8 come from Python as lone surrogates. JSON holds them as
`\udcXX` escapes, so the file is valid UTF-8 and reads back the same; CSV holds the bytes
themselves (read it with `errors="surrogateescape"`); XML cannot hold them, nor control
characters, and shows them as `\xXX` or `\uXXXX`.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, TypeAlias, cast

from gapcam.outputs import replacing
from gapcam.types import ArgumentError, Detection, Failure, Localization, OutputError

Record: TypeAlias = dict[str, Any]
AnyPath: TypeAlias = "Path | str"

_CSV_HEADER = "image,class_id,class,width,height,x0,y0,x1,y1,score\n"
# JSON may hold these as they are, but UTF-8 (surrogates), YAML or line readers may not.
_ESCAPED_IN_JSON = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff\ud800-\udfff]")
_NOT_IN_XML = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True, slots=True)
class Written:
    """What a writer wrote: pictures (also those without a box), boxes, and failures left out."""

    pictures: int
    boxes: int
    failures: int


class Writer(Protocol):
    """The one signature of `FORMATS`; the writer chooses the file names inside `out_dir`."""

    def __call__(
        self, records: Iterable[Record], *, labels: Sequence[str], out_dir: Path, root: Path
    ) -> Written:
        """Write the records below `out_dir`."""


def to_record(found: Localization) -> Record:
    """Make the JSON-ready record of one picture.

    Coordinates are original pixels rounded to 2 decimals, scores to 6. `box` and `peak` are None
    where the class has no positive evidence; `notes` is there only when there are notes.
    """
    record: Record = {
        "path": found.name,
        "width": int(found.size_hw[1]),
        "height": int(found.size_hw[0]),
        "model": found.model,
        "recipe": found.recipe,
        "detections": [_detection_record(d) for d in found.detections],
    }
    return record | ({"notes": list(found.notes)} if found.notes else {})


def failure_record(failure: Failure) -> Record:
    """Make the record of a picture that failed: `{"path", "error": {"kind", "message"}}`."""
    error = failure.error
    return {"path": failure.name, "error": {"kind": error.kind, "message": str(error)}}


def record_line(record: Record) -> str:
    """Write a record as one line of compact JSON, newline included.

    Text stays readable; only what UTF-8 or line readers cannot hold (lone surrogates of odd file
    names, control characters) is escaped, and reads back the same.

    Raises:
        OutputError: A number is not finite, which JSON cannot hold.
    """
    try:
        return _json(record) + "\n"
    except ValueError as error:
        message = f"{record.get('path')}: expected finite numbers ({error}); check the model"
        raise OutputError(message) from error


def read_records(path: AnyPath) -> Iterator[Record]:
    """Stream the records of a JSONL file, checked for what the writers need; skip empty lines.

    Raises:
        ArgumentError: The file cannot be read, or a line is not a record; names file and line.
    """
    try:
        with Path(path).open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield _parse(line, f"{path}, line {number}")
    except OSError as error:
        raise ArgumentError(f"{path}: cannot be read ({error.strerror}); check the path") from error


def write_coco(
    records: Iterable[Record], labels: Sequence[str], path: AnyPath, root: AnyPath | None = None
) -> Written:
    """Write a COCO data set: images, annotations, categories.

    Category ids are `class_id + 1`; `bbox` is `[x, y, width, height]` in pixels, 2 decimals;
    each annotation also has its `score`. With `root=None`, `file_name` is the path as it is.

    Raises:
        OutputError: See the module.
    """
    tally = _Tally(root)
    images = []
    with replacing(Path(path)) as out:
        out.write('{"info":{"description":"gapcam"},"annotations":[')
        for record in tally.named(records):
            size = {"width": record["width"], "height": record["height"]}
            images.append(_json({"id": tally.pictures, "file_name": record["name"], **size}))
            for found in tally.boxes_of(record, labels):
                note = _coco_annotation(found, tally.boxes, tally.pictures)
                out.write((",\n" if tally.boxes > 1 else "\n") + _json(note))
        categories = [_json({"id": i, "name": label}) for i, label in enumerate(labels, start=1)]
        for key, entries in (("images", images), ("categories", categories)):
            out.write(f'],\n"{key}":[' + ",\n".join(entries))
        out.write("]}\n")
    return tally.written()


def write_yolo(
    records: Iterable[Record], labels: Sequence[str], folder: AnyPath, root: AnyPath
) -> Written:
    """Write YOLO labels into `folder`: `labels/<path below root>.txt` and `data.yaml`.

    A line is `class cx cy w h`, fractions of the picture, 6 decimals; a picture without a box gets
    an empty file. `data.yaml` names the classes and points `train` and `val` at `root`; trainers
    that look for `labels` beside `images` want `root` to be `<folder>/images`.

    Raises:
        OutputError: See the module.
    """
    tally = _Tally(root, drop_suffix=True)
    for record in tally.named(records):
        lines = [_yolo_line(found, record) for found in tally.boxes_of(record, labels)]
        with replacing(Path(folder) / "labels" / f"{record['stem']}.txt") as out:
            out.writelines(lines)
    with replacing(Path(folder) / "data.yaml") as out:
        # A JSON string is a YAML string too, whatever is in the name.
        out.write(f"path: {_json(str(_absolute(root)))}\ntrain: .\nval: .\nnames:\n")
        out.writelines(f"  {i}: {_json(label)}\n" for i, label in enumerate(labels))
    return tally.written()


def write_voc(records: Iterable[Record], folder: AnyPath, root: AnyPath) -> Written:
    """Write Pascal VOC into `folder`: `Annotations/<path below root>.xml`.

    VOC counts whole pixels from 1, both ends included: `xmin = floor(x0) + 1`, `xmax = ceil(x1)`,
    kept inside the picture, so the VOC box is the smallest that covers the box. Each object also
    has its `score`.

    Raises:
        OutputError: See the module.
    """
    tally = _Tally(root, drop_suffix=True)
    for record in tally.named(records):
        tree = _voc_tree(record, tally.boxes_of(record))
        with replacing(Path(folder) / "Annotations" / f"{record['stem']}.xml") as out:
            out.write(ET.tostring(tree, encoding="unicode") + "\n")
    return tally.written()


def write_csv(records: Iterable[Record], path: AnyPath, root: AnyPath | None = None) -> Written:
    """Write a row a box: `image,class_id,class,width,height,x0,y0,x1,y1,score`, in pixels.

    With `root=None`, `image` is the path as it is.

    Raises:
        OutputError: See the module.
    """
    tally = _Tally(root)
    with replacing(Path(path)) as out:
        out.write(_CSV_HEADER)
        for record in tally.named(records):
            size = (record["width"], record["height"])
            for found in tally.boxes_of(record):
                row = (record["name"], found["class_id"], found["label"], *size)
                out.write(_csv_line((*row, *found["box"], found["score"])))
    return tally.written()


class _Tally:
    """Counts what passes, and gives every picture a name of its own."""

    def __init__(self, root: AnyPath | None, *, drop_suffix: bool = False) -> None:
        self.pictures = self.boxes = self.failures = 0
        self._root = None if root is None else _absolute(root)
        self._drop_suffix = drop_suffix
        self._taken: dict[str, str] = {}

    def named(self, records: Iterable[Record]) -> Iterator[Record]:
        """Pass on the records that did not fail, with their `name` and `stem`."""
        for record in records:
            if "error" in record:
                self.failures += 1
                continue
            self.pictures += 1
            name = record["path"] if self._root is None else _below(record["path"], self._root)
            stem = self._claim(name, record["path"])
            yield {**record, "name": name, "stem": stem}

    def boxes_of(self, record: Record, labels: Sequence[str] | None = None) -> Iterator[Record]:
        """Pass on the detections that have a box; with `labels`, check that they fit."""
        for found in record["detections"]:
            if labels is not None:
                _check_label(found, labels, record["path"])
            if found["box"] is not None:
                self.boxes += 1
                yield found

    def written(self) -> Written:
        return Written(self.pictures, self.boxes, self.failures)

    def _claim(self, name: str, path: str) -> str:
        if not PurePosixPath(name).name:
            raise OutputError(f"{path!r}: expected a file name, got none; leave this record out")
        stem = PurePosixPath(name).with_suffix("").as_posix() if self._drop_suffix else name
        other = self._taken.setdefault(stem, path)
        if len(self._taken) < self.pictures:
            raise OutputError(
                f"{path}: expected an annotation name of its own, got {stem!r}, which {other} has; "
                "rename one of the two, or give their common folder as root"
            )
        return stem


def _absolute(path: AnyPath) -> Path:
    """Make absolute and take out `..`; links stay as they were named."""
    return Path(os.path.normpath(Path(path).absolute()))


def _below(path: str, root: Path) -> str:
    whole = _absolute(path)
    inside = whole != root and whole.is_relative_to(root)
    return whole.relative_to(root).as_posix() if inside else Path(path).name


def _check_label(found: Record, labels: Sequence[str], path: str) -> None:
    at, label = found["class_id"], found["label"]
    there = labels[at] if 0 <= at < len(labels) else None
    if there != label:
        raise OutputError(
            f"{path}: expected class {at} to be {label!r}, got {there!r}; "
            "give the labels of the model that wrote the records"
        )


def _detection_record(found: Detection) -> Record:
    return {
        "label": found.label,
        "class_id": int(found.class_id),
        "score": round(float(found.score), 6),
        "box": None if found.box_xyxy is None else [round(float(v), 2) for v in found.box_xyxy],
        "peak": None if found.peak_xy is None else [round(float(v), 2) for v in found.peak_xy],
    }


def _json(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return _ESCAPED_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _parse(line: bytes, where: str) -> Record:
    why, record = "", None
    try:
        record = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        why = f" ({error})"
    if not _is_record(record):
        raise ArgumentError(
            f"{where}: expected a JSON record with path, width, height and detections, or path and "
            f"error, got {line[:40]!r}{why}; delete the line, or run its picture again"
        )
    return cast("Record", record)


def _is_record(value: object) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("path"), str):
        return False
    sizes, found = (value.get("width"), value.get("height")), value.get("detections")
    sized = all(isinstance(side, int) and side > 0 for side in sizes)
    return "error" in value or (sized and isinstance(found, list) and all(map(_is_found, found)))


def _is_found(value: object) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("label"), str):
        return False
    box = value.get("box", ())
    numbers = [value.get("score"), *(box if isinstance(box, list) else ())]
    numeric = all(isinstance(n, int | float) and math.isfinite(n) for n in numbers)
    return numeric and isinstance(value.get("class_id"), int) and (box is None or len(numbers) == 5)


def _coco_annotation(found: Record, at: int, image_id: int) -> Record:
    x0, y0, x1, y1 = found["box"]
    ids = {"id": at, "image_id": image_id, "category_id": found["class_id"] + 1}
    width, height = round(x1 - x0, 2), round(y1 - y0, 2)
    area = {"bbox": [x0, y0, width, height], "area": round(width * height, 2)}
    return {**ids, **area, "iscrowd": 0, "score": found["score"]}


def _yolo_line(found: Record, record: Record) -> str:
    (x0, y0, x1, y1), width, height = found["box"], record["width"], record["height"]
    centre = ((x0 + x1) / 2 / width, (y0 + y1) / 2 / height)
    values = (*centre, (x1 - x0) / width, (y1 - y0) / height)
    return " ".join([str(found["class_id"]), *(f"{value:.6f}" for value in values)]) + "\n"


def _voc_tree(record: Record, boxes: Iterable[Record]) -> ET.Element:
    width, height, path = record["width"], record["height"], PurePosixPath(record["name"])
    tree = ET.Element("annotation")
    _add(tree, folder=path.parent, filename=path.name)
    _add(ET.SubElement(tree, "source"), database="gapcam")
    _add(ET.SubElement(tree, "size"), width=width, height=height, depth=3)
    _add(tree, segmented=0)
    for found in boxes:
        x0, y0, x1, y1 = found["box"]
        xmin, ymin = min(max(math.floor(x0), 0) + 1, width), min(max(math.floor(y0), 0) + 1, height)
        xmax, ymax = max(min(math.ceil(x1), width), xmin), max(min(math.ceil(y1), height), ymin)
        item = ET.SubElement(tree, "object")
        _add(item, name=found["label"], pose="Unspecified", truncated=0, difficult=0)
        _add(ET.SubElement(item, "bndbox"), xmin=xmin, ymin=ymin, xmax=xmax, ymax=ymax)
        _add(item, score=found["score"])
    ET.indent(tree)
    return tree


def _add(parent: ET.Element, **children: object) -> None:
    for tag, value in children.items():
        text = _NOT_IN_XML.sub(lambda odd: ascii(odd[0])[1:-1], str(value))
        ET.SubElement(parent, tag).text = text


def _csv_line(row: Iterable[object]) -> str:
    """Quote as RFC 4180, but end with a plain newline."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerow(row)  # quotes carriage returns only then
    return text.getvalue()[:-2] + "\n"


FORMATS: Mapping[str, Writer] = {
    "coco": lambda records, *, labels, out_dir, root: write_coco(
        records, labels, out_dir / "annotations.json", root
    ),
    "yolo": lambda records, *, labels, out_dir, root: write_yolo(records, labels, out_dir, root),
    "voc": lambda records, *, out_dir, root, **_: write_voc(records, out_dir, root),
    "csv": lambda records, *, out_dir, root, **_: write_csv(records, out_dir / "boxes.csv", root),
}
"""Converters by name. JSONL is not one: it is what a run streams and the converters read."""
