"""Labels from a CSV file, kept small: 12 bytes a row once it is read."""

from __future__ import annotations

import os
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gapcam.data.boxes_csv import csv_rows
from gapcam.data.fields import brief
from gapcam.formats.names import hash_of
from gapcam.known_labels.inputs import Inputs, Item, Reader, identity, items_of
from gapcam.training.label_rows import few
from gapcam.training.labels_table import Columns, columns_of, labels_in
from gapcam.types import DataError

_CHUNK = 4096


@dataclass(frozen=True, slots=True, eq=False)
class LabelTable:
    """A table of labels: of each row the hash of its picture's name, by either base, and its set.

    Attributes:
        below_root: `[R]`, relative paths taken from the root of all inputs.
        beside: `[R]`, relative paths taken from the table's own folder.
        places: `[R]`, an index into `sets`.
        sets: Labels as they are written.
    """

    below_root: npt.NDArray[np.uint64]
    beside: npt.NDArray[np.uint64]
    places: npt.NDArray[np.int32]
    sets: list[tuple[str, ...]]


@dataclass(frozen=True, slots=True, eq=False)
class Base:
    """What a table says when its paths are taken from one base; how many pictures it knows."""

    numbers: npt.NDArray[np.uint64]
    places: npt.NDArray[np.int32]
    found: int
    rows_found: int


def read_table(path: Path) -> LabelTable:
    """Read a CSV file of labels in any of the forms of `gapcam.training.labels_table`.

    Raises:
        DataError: The file cannot be read, has not the columns, or a cell cannot be meant.
    """
    lines = csv_rows(path)
    _, header = next(lines, ("", []))
    columns = columns_of(path, header)
    hashes, places = (array("Q"), array("Q")), array("i")
    sets: dict[tuple[str, ...], int] = {}
    flaws: list[str] = []
    for where, cells in lines:
        try:
            image, labels = _row(cells, columns)
        except DataError as error:
            flaws.append(f"{where.removeprefix(f'{path.name}, ')}: {error}")
            continue
        for column, number in zip(hashes, _numbers_of_row(image, path.parent), strict=True):
            column.append(number)
        places.append(sets.setdefault(labels, len(sets)))
    if flaws:
        raise DataError(f"{path}: {few(flaws, '; ')}")
    below, beside = (np.array(column, np.uint64) for column in hashes)
    return LabelTable(below, beside, np.array(places, np.int32), [*sets])


def _row(cells: Sequence[str], columns: Columns) -> tuple[str, tuple[str, ...]]:
    if len(cells) != columns.count:
        raise DataError(f"expected {columns.count} columns as in the header, got {len(cells)}")
    image = cells[columns.image].strip()
    if not image or "\0" in image:
        raise DataError(f"image: expected the path of a picture, got {brief(image)}")
    return image, tuple(dict.fromkeys(labels_in(cells, columns)))


def _numbers_of_row(image: str, folder: Path) -> tuple[int, int]:
    if "://" in image or Path(image).is_absolute():
        number = hash_of(f"whole\0{identity(image)}")
        return number, number
    return _below_root(image), hash_of(f"whole\0{identity(str(folder / image))}")


def numbers_of(item: Item, reader: Reader) -> tuple[int, int]:
    """The hashes by which a picture may be found in a table, the surer one first."""
    below = reader.relative(item.name).as_posix()
    return hash_of(f"whole\0{identity(item.name)}"), _below_root(below)


def _below_root(path: str) -> int:
    return hash_of(f"below\0{os.path.normpath(path)}")


def best_base(table: LabelTable, inputs: Inputs) -> tuple[Base, int]:
    """The base that more pictures are found by; the root of the inputs where both do as well."""
    tables = []
    for column in (table.below_root, table.beside):
        order = np.argsort(column, kind="stable")
        tables.append((column[order], table.places[order]))
    seen = [np.zeros(len(table.places), np.bool_) for _ in tables]
    found, pictures = [0, 0], 0
    items = items_of(inputs)
    while chunk := list(islice(items, _CHUNK)):
        pictures += len(chunk)
        numbers = np.array([numbers_of(item, inputs.reader) for item in chunk], np.uint64)
        for i, (column, _) in enumerate(tables):
            at = np.searchsorted(column, numbers)
            at[at == len(column)] = 0
            hits = (column[at] == numbers) if len(column) else np.zeros_like(at, np.bool_)
            found[i] += int(hits.any(1).sum())
            seen[i][at[hits]] = True
    best = int(found[1] > found[0])
    return Base(*tables[best], found[best], int(seen[best].sum())), pictures


def merged(
    numbers: npt.NDArray[np.uint64], places: npt.NDArray[np.int32], sets: list[tuple[int, ...]]
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int32]]:
    """A table with one row a picture: rows of the same one are put together, into new `sets`."""
    unique, first, counts = np.unique(numbers, return_index=True, return_counts=True)
    merged = places[first].copy()
    known = {ids: i for i, ids in enumerate(sets)}
    for i in np.flatnonzero(counts > 1):
        rows = places[first[i] : first[i] + counts[i]]
        ids = tuple(dict.fromkeys(one for place in rows for one in sets[place]))
        if ids not in known:
            known[ids] = len(sets)
            sets.append(ids)
        merged[i] = known[ids]
    return unique, merged
