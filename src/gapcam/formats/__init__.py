r"""Records and annotation files: JSONL, COCO, YOLO, Pascal VOC, CSV.

A record is the JSON object of one picture, `{"path", "width", "height", "model", "recipe",
"detections"}`, or `{"path", "error"}` for a failure. A run streams records to a JSONL file; the
writers turn records into what other tools read and detectors are trained on. All writers alike

- take `records` as a stream and hold none of them (16 bytes a picture, to tell names apart),
  `labels` (the model's class names, in order), `root` (the folder of the pictures, or a function
  that gives a picture's path below it) and `keep` (what goes into the set), return a `Written`,
  leave failures out and count them;
- write boxes in pixels of the picture as it is shown, after EXIF rotation;
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

from collections.abc import Mapping

from gapcam.formats.boxes_csv import write_csv
from gapcam.formats.coco import write_coco
from gapcam.formats.records import (
    AnyPath,
    Record,
    failure_record,
    read_records,
    record_line,
    to_record,
)
from gapcam.formats.sets import LEFT_OUT, Keep, Writer, Written, box_key
from gapcam.formats.voc import write_voc
from gapcam.formats.yolo import write_yolo

__all__ = [
    "FORMATS",
    "LEFT_OUT",
    "AnyPath",
    "Keep",
    "Record",
    "Writer",
    "Written",
    "box_key",
    "failure_record",
    "read_records",
    "record_line",
    "to_record",
    "write_coco",
    "write_csv",
    "write_voc",
    "write_yolo",
]

FORMATS: Mapping[str, Writer] = {
    "coco": lambda records, *, labels, out_dir, root, keep=None: write_coco(
        records, labels, out_dir / "annotations.json", root, keep
    ),
    "yolo": lambda records, *, labels, out_dir, root, keep=None: write_yolo(
        records, labels, out_dir, root, keep
    ),
    "voc": lambda records, *, labels, out_dir, root, keep=None: write_voc(
        records, out_dir, root, labels, keep
    ),
    "csv": lambda records, *, labels, out_dir, root, keep=None: write_csv(
        records, out_dir / "boxes.csv", root, labels, keep
    ),
}
"""Converters by name. JSONL is not one: it is what a run streams and the converters read."""
