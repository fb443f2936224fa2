"""Class labels from a CSV file.

Three forms, told apart by the header; `image` is in each, and columns come in any order:

- `image,label`: a class a row; a picture with several classes has several rows.
- `image,labels`: the same, and a cell may hold several classes with `;` or `|` between them (a
  cell of `label` too).
- `image,crack,dent,...`: a column a class, 1 where the picture shows it and 0 where it does not.

A column `split` or `part` says `train`, `val` (`valid`, `validation`) or `test` for each row.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gapcam.data.boxes_csv import csv_rows
from gapcam.data.fields import brief, class_name, is_dir, is_file
from gapcam.training.label_rows import (
    PARTS,
    TEST,
    LabelRow,
    LabelRows,
    Layout,
    canonical,
    check_alike,
    counted,
    few,
)
from gapcam.types import DataError

_HEADERS = "image,label or image,labels, or image and a column a class with 0 and 1, with commas"
_PART_COLUMNS = ("split", "part")
_SHOWS = {"1": True, "1.0": True, "true": True, "0": False, "0.0": False, "false": False}


@dataclass(frozen=True, slots=True)
class Columns:
    """Where what is, in the header.

    Attributes:
        layout: Which form the file has.
        count: How many columns there are.
        image: The column of the pictures' paths.
        labels: The column of the labels; None: a column a class.
        part: The column of the parts, if there is one.
        classes: With a column a class: where each is.
        unused: Columns that say nothing here.
    """

    layout: Layout
    count: int
    image: int
    labels: int | None
    part: int | None
    classes: dict[str, int]
    unused: tuple[str, ...]


@dataclass(slots=True)
class _Picture:
    """What all rows of a picture say."""

    path: Path
    where: list[str] = field(default_factory=list)
    labels: dict[str, None] = field(default_factory=dict)
    parts: set[int | None] = field(default_factory=set)


def read_table(path: Path, images: Path | None = None) -> LabelRows:
    """The pictures in a CSV file, in its order; rows of the same picture are put together.

    Args:
        path: The file, UTF-8 with or without a byte order mark.
        images: The folder that relative paths go from; None: the file's own.

    Raises:
        DataError: The file cannot be read, has not the columns, names files that are not there,
            has a cell that cannot be meant, or puts a picture in two parts.
    """
    root = images if images is not None else path.parent
    if not is_dir(root):
        raise DataError(f"{root}: expected the folder of the pictures, there is none; check it")
    lines = csv_rows(path)
    _, header = next(lines, ("", []))
    columns = columns_of(path, header)
    pictures: dict[str, _Picture] = {}
    flaws: list[str] = []
    for where, cells in lines:
        line = where.removeprefix(f"{path.name}, ")
        try:
            _add(pictures, root, line, cells, columns)
        except DataError as error:
            flaws.append(f"{line}: {error}")
    if flaws:
        raise DataError(f"{path}: {few(flaws, '; ')}")
    return _put_together(path, root, columns, pictures)


def _put_together(
    path: Path, root: Path, columns: Columns, pictures: dict[str, _Picture]
) -> LabelRows:
    _check_parts(path, pictures)
    used = [picture for picture in pictures.values() if TEST not in picture.parts]
    _check_files(path, root, used)
    classes = {*columns.classes, *(label for picture in used for label in picture.labels)}
    check_alike(classes, path)
    notes = []
    if len(used) < len(pictures):
        count = counted(len(pictures) - len(used), "test picture")
        notes.append(f"{count} in {path.name} left alone: training uses the other parts only")
    if columns.unused:
        notes.append(f"columns of {path.name} left alone: {few(columns.unused)}")
    rows = [_row(root, picture) for picture in used]
    return LabelRows(root, rows, frozenset(classes), columns.layout, tuple(notes))


def _row(root: Path, picture: _Picture) -> LabelRow:
    path, above = Path(os.path.normpath(picture.path)), os.path.normpath(root)
    name = (path.relative_to(above) if path.is_relative_to(above) else path).as_posix()
    (part,) = picture.parts
    return LabelRow(
        name, picture.path, tuple(picture.labels), part, f"{name} ({few(picture.where)})"
    )


def columns_of(path: Path, header: Sequence[str]) -> Columns:
    """Where what is, by a file's header.

    Raises:
        DataError: It has not the columns.
    """
    names = [canonical(name) for name in header]
    keys = [name.casefold() for name in names]
    labels = [i for i, key in enumerate(keys) if key in ("label", "labels")]
    parts = [i for i, key in enumerate(keys) if key in _PART_COLUMNS]
    images = [i for i, key in enumerate(keys) if key == "image"]
    rest = [i for i in range(len(keys)) if i not in (*labels, *parts, *images)]
    if len(images) != 1 or len(labels) > 1 or len(parts) > 1 or not (labels or rest):
        raise DataError(
            f"{path}: expected the columns {_HEADERS}, in UTF-8 (and at most one of split and "
            f"part), got the header {','.join(header)[:200]!r}; mend the header"
        )
    part = parts[0] if parts else None
    if labels:
        layout: Layout = "label" if keys[labels[0]] == "label" else "labels"
        unused = tuple(names[i] for i in rest)
        return Columns(layout, len(names), images[0], labels[0], part, {}, unused)
    classes = {class_name(names[i], f"{path}: column {i + 1}"): i for i in rest}
    if len(classes) < len(rest):
        raise DataError(
            f"{path}: expected every class once, got the header {','.join(header)[:200]!r}; take "
            "one of the columns with the same name out"
        )
    return Columns("one-hot", len(names), images[0], None, part, classes, ())


def _add(
    pictures: dict[str, _Picture], root: Path, where: str, cells: Sequence[str], columns: Columns
) -> None:
    """Put one row to what is known of its picture."""
    if len(cells) != columns.count:
        raise DataError(f"expected {columns.count} columns as in the header, got {len(cells)}")
    image = cells[columns.image].strip()
    if not image or "\0" in image:
        raise DataError(f"image: expected the path of a picture, got {brief(image)}")
    labels = labels_in(cells, columns)
    part = None if columns.part is None else _part(cells[columns.part])
    picture = pictures.setdefault(os.path.normpath(root / image), _Picture(root / image))
    picture.where.append(where)
    picture.labels.update(dict.fromkeys(labels))
    picture.parts.add(part)


def labels_in(cells: Sequence[str], columns: Columns) -> list[str]:
    """The labels of a row, as they are kept; the same one may come twice.

    Raises:
        DataError: A cell holds no label, or is neither 0 nor 1.
    """
    if columns.labels is None:
        return [name for name, i in columns.classes.items() if _shows(name, cells[i])]
    cell = cells[columns.labels]
    if not cell.strip():
        return []
    return [canonical(class_name(name, "label")) for name in re.split(r"[;|]", cell)]


def _shows(name: str, cell: str) -> bool:
    shows = _SHOWS.get(cell.strip().lower())
    if shows is None:
        raise DataError(
            f"column {name!r}: expected 0 or 1 (a column a class), got {brief(cell)}; take the "
            "column out if it is no class, or call it label if it holds the classes"
        )
    return shows


def _part(cell: str) -> int:
    part = PARTS.get(cell.strip().casefold())
    if part is None:
        raise DataError(f"part: expected train, val (valid, validation) or test, got {brief(cell)}")
    return part


def _check_parts(path: Path, pictures: dict[str, _Picture]) -> None:
    torn = [
        f"{picture.path.name} ({few(picture.where)})"
        for picture in pictures.values()
        if len(picture.parts) > 1
    ]
    if torn:
        raise DataError(
            f"{path}: expected every picture in one part, in several are {few(torn, '; ')}; keep "
            "the rows of one part"
        )


def _check_files(path: Path, root: Path, used: Sequence[_Picture]) -> None:
    missing = [
        f"{picture.path} ({few(picture.where)})" for picture in used if not is_file(picture.path)
    ]
    if missing:
        slashes = (
            r" (a \ does not part folders here: write /)"
            if os.sep == "/" and any("\\" in words for words in missing)
            else ""
        )
        raise DataError(
            f"{path}: expected its pictures below {root}, {len(missing):,} of {len(used):,} are "
            f"not there: {few(missing, '; ')}; name the folder that the paths go from, or mend "
            f"them{slashes}"
        )
