r"""Records: the JSON object of one picture, and JSONL files of them.

Bytes of file names that are not UTF-8 come from Python as lone surrogates; JSON holds them as
`\udcXX` escapes, so the file is valid UTF-8 and reads back the same.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias, cast

from gapcam.formats.rle import encode_mask
from gapcam.types import ArgumentError, Detection, Failure, Localization, OutputError

Record: TypeAlias = dict[str, Any]
AnyPath: TypeAlias = "Path | str"

# JSON may hold these as they are, but UTF-8 (surrogates), YAML or line readers may not.
_ESCAPED_IN_JSON = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff\ud800-\udfff]")


def to_record(found: Localization, *, masks: bool = False) -> Record:
    """Make the JSON-ready record of one picture.

    Coordinates are original pixels rounded to 2 decimals, scores to 6. `box` and `peak` are None
    where the class has no positive evidence; `notes` is there only when there are notes.

    Args:
        found: What was found.
        masks: Give each detection with a box its `segmentation`, the mask as COCO holds it:
            `{"size": [H, W], "counts": text}` (`gapcam.formats.rle`).
    """
    record: Record = {
        "path": found.name,
        "width": int(found.size_hw[1]),
        "height": int(found.size_hw[0]),
        "model": found.model,
        "recipe": found.recipe,
        "detections": [_detection_record(d, masks) for d in found.detections],
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
        return json_text(record) + "\n"
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


def json_text(value: object) -> str:
    """Compact JSON, readable, with escapes for what UTF-8 or line readers cannot hold.

    Raises:
        ValueError: A number is not finite.
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return _ESCAPED_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _detection_record(found: Detection, masks: bool) -> Record:
    record: Record = {
        "label": found.label,
        "class_id": int(found.class_id),
        "score": round(float(found.score), 6),
        "box": None if found.box_xyxy is None else [round(float(v), 2) for v in found.box_xyxy],
        "peak": None if found.peak_xy is None else [round(float(v), 2) for v in found.peak_xy],
    }
    masked = masks and found.box_xyxy is not None
    return record | ({"segmentation": encode_mask(found.mask)} if masked else {})


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
