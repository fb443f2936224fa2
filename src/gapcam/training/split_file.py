"""The split of a run as a CSV file: `image,labels,part,near_duplicates`.

`part` is `train`, `validation` or `unreadable`; `near_duplicates` is the number of the picture's
group, if it is in one. Rows are in the order of the data.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gapcam.data.boxes_csv import csv_rows
from gapcam.outputs import replacing
from gapcam.training.inspect import Inspection
from gapcam.training.labelled import LabelledSet
from gapcam.training.split import Split, split_of
from gapcam.types import DataError

_HEADER = ["image", "labels", "part", "near_duplicates"]
_PARTS = ("train", "validation", "unreadable")


def write_split(path: Path, data: LabelledSet, split: Split, inspection: Inspection) -> None:
    """Write the file, whole or not at all.

    Raises:
        OutputError: It cannot be written.
    """
    parts = dict.fromkeys(split.train.tolist(), _PARTS[0])
    parts |= dict.fromkeys(split.validation.tolist(), _PARTS[1])
    parts |= dict.fromkeys(inspection.unreadable, _PARTS[2])
    groups = {i: number for number, group in enumerate(split.duplicates, 1) for i in group}
    with replacing(path) as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(_HEADER)
        for i, row in enumerate(_described(data)):
            writer.writerow([*row, parts[i], groups.get(i, "")])


def read_split(path: Path, data: LabelledSet) -> Split:
    """Read the split that was written for this data.

    Raises:
        DataError: The file cannot be read, is no split, or was written for other data.
    """
    rows = [cells for _, cells in csv_rows(path)]
    if not rows or rows[0] != _HEADER or any(not _fits(row) for row in rows[1:]):
        raise DataError(
            f"{path}: expected a split ({','.join(_HEADER)}, as training writes it), this is not "
            "one; start a new run"
        )
    _check_same(path, data, rows[1:])
    part = np.array([row[2] for row in rows[1:]])
    groups: dict[int, list[int]] = {}
    for i, row in enumerate(rows[1:]):
        if row[3]:
            groups.setdefault(int(row[3]), []).append(i)
    duplicates = tuple(tuple(groups[number]) for number in sorted(groups))
    return split_of(data, part == _PARTS[0], part == _PARTS[1], duplicates)


def _described(data: LabelledSet) -> list[list[str]]:
    return [[name, ";".join(data.labels_of(i))] for i, name in enumerate(data.names)]


def _fits(row: Sequence[str]) -> bool:
    return len(row) == len(_HEADER) and row[2] in _PARTS and (not row[3] or row[3].isdecimal())


def _check_same(path: Path, data: LabelledSet, rows: Sequence[Sequence[str]]) -> None:
    now, then = _described(data), [list(row[:2]) for row in rows]
    if now == then:
        return
    pairs = zip(then, now, strict=False)  # the first difference is enough to say
    old, new = next((pair for pair in pairs if pair[0] != pair[1]), (None, None))
    what = f"{len(then):,} pictures then and {len(now):,} now"
    if old and new:
        what += f"; the first that differs: {old[0]!r} ({old[1]}) then, {new[0]!r} ({new[1]}) now"
    raise DataError(
        f"{path}: the data changed since this run began ({what}); start a new run, or put the data "
        "back as it was"
    )
