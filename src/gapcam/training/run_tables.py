"""The small files of a run folder: tables of typed rows, and JSON. Each is written whole or not.

Bytes of odd file names that are no UTF-8 (lone surrogates in Python) are kept: as those bytes in
CSV, as escapes in JSON.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, get_type_hints

import numpy as np

from gapcam.outputs import replacing
from gapcam.types import DataError, IntArray

Row = TypeVar("Row")

CORNER = r"true \ predicted"
_SURROGATE = re.compile("[\ud800-\udfff]")


class HeadPoint(NamedTuple):
    """A head-only fit at one strength of regularization; a row of `head.csv`.

    Attributes:
        decay: The strength.
        train_loss: Mean over the training pictures.
        validation_loss: Mean over the validation pictures.
        validation_accuracy: Top-1; several classes a picture: mean average precision.
        chosen: Whether the kept head was fitted with it.
    """

    decay: float
    train_loss: float
    validation_loss: float
    validation_accuracy: float
    chosen: bool


class Unreadable(NamedTuple):
    """A picture that cannot be read, and why; a row of `unreadable.csv`."""

    image: str
    reason: str


def write_rows(path: Path, kind: type[Row], rows: Iterable[Row]) -> None:
    """Write a table with a column for every field of `kind`, in their order.

    Floats are written so that reading gives the same value; None is an empty cell, a truth `yes`
    or `no`.

    Args:
        path: The file; replaced when the new one is whole.
        kind: A dataclass or named tuple of text, numbers and truths.
        rows: Of this kind.

    Raises:
        OutputError: The file cannot be written.
    """
    fields = tuple(get_type_hints(kind))
    _write_csv(path, fields, ([_cell(getattr(row, field)) for field in fields] for row in rows))


def read_rows(path: Path, kind: type[Row], *, growing: bool = False) -> list[Row]:
    """Read what `write_rows` wrote; no file: no rows.

    Args:
        path: The file.
        kind: As it was written.
        growing: Rows are added while a run goes on: a last line that was cut off is left out.

    Raises:
        DataError: The file cannot be read, or has other columns or values.
    """
    hints = get_type_hints(kind)
    lines = _read_csv(path, growing=growing)
    if lines and tuple(lines[0]) != tuple(hints):
        raise DataError(f"{path}: expected columns {','.join(hints)}, got {','.join(lines[0])}")
    rows = []
    for number, cells in enumerate(lines[1:], start=2):
        try:
            values = {
                field: _value(cell, hint)
                for (field, hint), cell in zip(hints.items(), cells, strict=True)
            }
        except ValueError as error:
            raise DataError(
                f"{path}: row {number} cannot be read ({error}); restore the file, or start anew "
                "in another folder"
            ) from error
        rows.append(kind(**values))
    return rows


def write_counts(path: Path, classes: Sequence[str], counts: IntArray) -> None:
    """Write a confusion matrix: a row for every true class, a column for every predicted one.

    Args:
        path: The file.
        classes: C names.
        counts: `[C, C]`, a row the true class.

    Raises:
        OutputError: The file cannot be written.
    """
    rows = ([label, *map(str, row)] for label, row in zip(classes, counts.tolist(), strict=True))
    _write_csv(path, (CORNER, *classes), rows)


def read_counts(path: Path) -> tuple[tuple[str, ...], IntArray] | None:
    """Read what `write_counts` wrote: the C classes and counts `[C, C]`; None: there is no file.

    Raises:
        DataError: The file cannot be read, or is no such matrix.
    """
    lines = _read_csv(path)
    if not lines:
        return None
    classes = tuple(lines[0][1:])
    try:
        counts = np.array([[int(cell) for cell in line[1:]] for line in lines[1:]], np.int64)
    except ValueError as error:
        raise DataError(f"{path}: expected counts ({error})") from error
    if tuple(line[0] for line in lines[1:]) != classes or counts.shape != (len(classes),) * 2:
        raise DataError(f"{path}: expected a row and a column for each of {len(classes)} classes")
    return classes, counts


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a mapping; text stays readable.

    Raises:
        OutputError: The file cannot be written.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    with replacing(path) as out:
        out.write(_SURROGATE.sub(lambda odd: ascii(odd[0])[1:-1], text) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a mapping.

    Raises:
        DataError: The file is missing, or holds no mapping.
    """
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    if not isinstance(value, dict):
        raise DataError(f"{path}: expected a mapping, got {type(value).__name__}")
    return value


def as_json(value: Any) -> Any:
    """A value as it comes back from JSON: tuples are lists, dataclasses mappings."""
    return json.loads(json.dumps(value, default=_plain))


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"a run folder holds text, numbers and truths, not {type(value).__name__}")


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    with replacing(path) as out:
        for row in (header, *rows):
            text = io.StringIO()  # carriage returns are quoted only where a line ends with them
            csv.writer(text, lineterminator="\r\n").writerow(row)
            out.write(text.getvalue()[:-2] + "\n")


def _read_csv(path: Path, *, growing: bool = False) -> list[list[str]]:
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            text = file.read()
        if growing:
            text = text[: text.rfind("\n") + 1]
        return list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except FileNotFoundError:
        return []
    except (OSError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return repr(float(value)) if isinstance(value, float) else str(value)


def _value(cell: str, hint: Any) -> Any:
    if hint is str:
        return cell
    if hint is bool:
        return {"yes": True, "no": False}[cell] if cell in ("yes", "no") else _refuse(cell)
    if hint is int:
        return int(cell)
    return float(cell) if cell or hint is float else None


def _refuse(cell: str) -> bool:
    raise ValueError(f"expected yes or no, got {cell!r}")
