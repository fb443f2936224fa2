"""The layout `csv`: `boxes.csv`, one row a box.

The header is `image,class_id|class,width,height,x0,y0,x1,y1`, in any order; both class columns and
further columns may be there. `image` is the path below the folder of the pictures, `class_id` an
index into the model's classes, `class` a name. Boxes are half-open, in pixels of the stored file.
They are in pixels of the picture as it is shown where width and height say so (EXIF may swap the
two), and in a file with the very header that `gapcam localize --format csv` writes.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from gapcam.data.examples import ClassNames
from gapcam.data.fields import (
    brief,
    class_name,
    corners,
    images_beside,
    is_dir,
    is_file,
    open_text,
    size_of,
    whole,
)
from gapcam.data.rows import Annotations, Flaw, Frame, Layout, Row, Source
from gapcam.types import DataError

_NEEDED = ("image", "width", "height", "x0", "y0", "x1", "y1")
_CLASSES = ("class", "class_id")  # names are surer than numbers of another model
_WRITTEN = ("image", "class_id", "class", "width", "height", "x0", "y0", "x1", "y1", "score")
_HEADER = "image,class_id,width,height,x0,y0,x1,y1 (or class in place of class_id)"


def _fits(path: Path) -> bool:
    file = path / "boxes.csv" if is_dir(path) else path
    return file.suffix.lower() == ".csv" and is_file(file) and not is_solution(file)


def is_solution(path: Path) -> bool:
    """Whether a CSV file has the header of Kaggle's LOC_val_solution.csv."""
    with open_text(path) as file:
        return file.readline(100).strip() == "ImageId,PredictionString"


def _read(source: Source) -> Annotations:
    path = source.path / "boxes.csv" if is_dir(source.path) else source.path
    lines = csv_rows(path)
    _, header = next(lines, ("", []))
    columns = _columns(path, header)
    frame: Frame = "shown" if tuple(columns) == _WRITTEN else "stored"
    known: dict[str | int, ClassNames] = {}
    entries: list[Row | Flaw] = []
    for where, cells in lines:
        at = columns["image"]
        picture = cells[at] if at < len(cells) else None
        try:
            entries.append(_row(where, _cells(columns, cells), frame, known))
        except DataError as error:
            entries.append(Flaw(where, str(error), picture))
    return Annotations(source.images or images_beside(path), entries)


def csv_rows(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Where each row of a CSV file begins (`boxes.csv, line 7`), and its cells; not blank rows.

    Raises:
        DataError: The file cannot be read, or is not CSV.
    """
    with open_text(path) as file:
        reader = csv.reader(file, strict=True)
        line = 1
        try:
            for cells in reader:
                if cells:
                    yield f"{path.name}, line {line}", cells
                line = reader.line_num + 1
        except csv.Error as error:
            message = f"{path}, line {line}: expected comma-separated values ({error}); mend the "
            raise DataError(message + "quotes, or save the file as CSV again") from error


def _columns(path: Path, header: Sequence[str]) -> dict[str, int]:
    """Where each column is, in the file's order."""
    names = [name.strip() for name in header]
    missing = [name for name in _NEEDED if name not in names]
    if missing or not set(_CLASSES) & set(names) or len(set(names)) < len(names):
        raise DataError(
            f"{path}: expected the header {_HEADER} in UTF-8, got {','.join(header)[:200]!r}"
        )
    return {name: i for i, name in enumerate(names)}


def _cells(columns: dict[str, int], cells: Sequence[str]) -> dict[str, str]:
    if len(cells) != len(columns):
        raise DataError(f"expected {len(columns)} columns as in the header, got {len(cells)}")
    return dict(zip(columns, cells, strict=True))


def _row(
    where: str, cells: dict[str, str], frame: Frame, known: dict[str | int, ClassNames]
) -> Row:
    size = size_of(cells["width"], cells["height"])
    box = corners([cells[name] for name in ("x0", "y0", "x1", "y1")])
    if not cells["image"].strip():
        raise DataError(f"image: expected the path of a picture, got {brief(cells['image'])}")
    return Row(where, cells["image"], _class_names(cells, known), box, size_wh=size, frame=frame)


def _class_names(cells: dict[str, str], known: dict[str | int, ClassNames]) -> ClassNames:
    """The row's class; its name and its number must go together in every row."""
    names: ClassNames = ()
    if "class" in cells:
        names += (class_name(cells["class"]),)
    if "class_id" in cells:
        names += (whole(cells["class_id"], "class_id"),)
    for name in names:
        before = known.setdefault(name, names)
        if before != names:
            here, there = (f"{brief(name)} with {number}" for name, number in (names, before))
            raise DataError(
                f"expected class and class_id to go together, got {here} here and {there} before"
            )
    return names


LAYOUT = Layout("csv", "a CSV file, or a folder with boxes.csv", _fits, _read)
