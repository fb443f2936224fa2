"""Pictures and the classes that they show, from class folders or a CSV file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from gapcam.data.fields import is_dir, is_file
from gapcam.training.folders import read_folders
from gapcam.training.label_rows import PARTS, TRAIN, VALIDATION, LabelRow, LabelRows, counted, few
from gapcam.training.labels_table import read_table
from gapcam.types import ArgumentError, BoolArray, DataError, IntArray

GivenSplit: TypeAlias = npt.NDArray[np.int8]
"""The part of every picture where the data says so: 0 train, 1 validation."""


@dataclass(frozen=True, slots=True, eq=False)
class LabelledSet:
    """Pictures with the classes in them; no places, none are needed.

    Attributes:
        root: The folder that names go from.
        names: Of n pictures, as shown: relative to `root` where they lie under it.
        paths: Their files.
        classes: C names, sorted by code point.
        targets: Which classes a picture shows, `bool [n, C]`; one in every row when `single`.
        single: One class a picture (softmax); else any number of them (a sigmoid each).
        given: The part of every picture, `int8 [n]`: 0 train, 1 validation; None: not given.
        notes: What was chosen for the user, in words.
    """

    root: Path
    names: tuple[str, ...]
    paths: tuple[Path, ...]
    classes: tuple[str, ...]
    targets: BoolArray
    single: bool
    given: GivenSplit | None
    notes: tuple[str, ...] = ()

    @property
    def class_ids(self) -> IntArray:
        """The class of every picture, `int64 [n]`.

        Raises:
            ArgumentError: Pictures may show several classes.
        """
        if not self.single:
            raise ArgumentError("class_ids: expected one class a picture, this data is multi-label")
        ids: IntArray = np.argmax(self.targets, axis=1).astype(np.int64)
        return ids

    def labels_of(self, index: int) -> tuple[str, ...]:
        """The names of the classes in a picture."""
        return tuple(self.classes[i] for i in np.flatnonzero(self.targets[index]))


def read_labelled(
    data: Path, *, images: Path | None = None, multi_label: bool | None = None
) -> LabelledSet:
    """Read class labels from a folder (`read_folders`) or a CSV file (`read_table`).

    Args:
        data: The folder or file.
        images: The folder that a CSV file's pictures go from; None: the file's own.
        multi_label: Whether a picture may show several classes or none. None: as the data says: it
            is multi-label when some picture has not exactly one class. A CSV file whose column is
            called `label` is refused then: a forgotten label or a row too many must not change
            how a net is trained.

    Returns:
        The pictures in the order of their names (folders) or of the file, classes sorted by name.

    Raises:
        DataError: The data cannot be read, or there is nothing to learn from it: one class only, a
            class without pictures, or with too few for training and validation.
        ArgumentError: `images` for a folder.
    """
    found = _read(Path(data), images)
    if not found.rows:
        raise DataError(f"{data}: expected pictures to train on, there is none; check the path")
    notes = list(found.notes)
    single = _is_single(found, multi_label, notes)
    classes = tuple(sorted(found.classes))
    labelled = LabelledSet(
        found.root,
        tuple(row.name for row in found.rows),
        tuple(row.path for row in found.rows),
        classes,
        _targets(found.rows, classes),
        single,
        _given(found.rows),
        tuple(notes),
    )
    _check(Path(data), labelled)
    return labelled


def _read(data: Path, images: Path | None) -> LabelRows:
    if is_dir(data):
        if images is not None:
            raise ArgumentError(
                f"images: expected nothing beside a folder of class folders, got {images}; it is "
                "for a CSV file"
            )
        return read_folders(data)
    if not is_file(data):
        raise DataError(
            f"{data}: expected a folder of class folders or a CSV file, there is no such path; "
            "check the path"
        )
    if data.suffix.lower() != ".csv":
        raise DataError(
            f"{data}: expected a folder of class folders or a .csv file, this is another file; "
            "check the path"
        )
    return read_table(data, images)


def _is_single(found: LabelRows, multi_label: bool | None, notes: list[str]) -> bool:
    odd = [row for row in found.rows if len(row.labels) != 1]
    if multi_label is True:
        return False
    if not odd:
        return True
    said = [f"{row.where}: {', '.join(map(repr, row.labels)) or 'none'}" for row in odd]
    if multi_label is False:
        raise DataError(
            f"expected one class a picture, got {few(said, '; ')}; mend these, or train multi-label"
        )
    if found.layout == "label":
        raise DataError(
            f"expected one class for every picture in the column label, got {few(said, '; ')}; "
            "mend these, or train multi-label (call the column labels, or --multi-label) if a "
            "picture may show several classes or none"
        )
    count = f"{len(odd):,} of {counted(len(found.rows), 'picture')}"
    notes.append(f"multi-label: {count} have not exactly one class ({few(said[:1])})")
    return False


def _targets(rows: Sequence[LabelRow], classes: tuple[str, ...]) -> BoolArray:
    number = {name: i for i, name in enumerate(classes)}
    targets = np.zeros((len(rows), len(classes)), np.bool_)
    for target, row in zip(targets, rows, strict=True):
        target[[number[label] for label in row.labels]] = True
    return targets


def _given(rows: Sequence[LabelRow]) -> GivenSplit | None:
    if not any(row.part == VALIDATION for row in rows):
        return None
    return np.array([row.part for row in rows], np.int8)


def _check(data: Path, found: LabelledSet) -> None:
    count, classes = found.targets.shape
    if classes < 2 and found.targets.all():
        raise DataError(_one_class(data, found))
    per_class = found.targets.sum(axis=0)
    _refuse(data, found, per_class == 0, "a picture of every class", "none of")
    if found.given is not None:
        for part, words in ((TRAIN, "training"), (VALIDATION, "validation")):
            lacking = found.targets[found.given == part].sum(axis=0) == 0
            _refuse(data, found, lacking, f"every class in {words}", f"no {words} picture of")
    elif count < classes:
        raise DataError(
            f"{data}: expected at least two pictures of every class, got {count} pictures of "
            f"{classes} classes; add pictures, or check that the folders are classes"
        )
    else:
        few_words = "two pictures of every class or more, one to train and one to validate with"
        _refuse(data, found, per_class == 1, few_words, "a single one of")


def _refuse(data: Path, found: LabelledSet, wrong: BoolArray, expected: str, came: str) -> None:
    names = [repr(name) for name, bad in zip(found.classes, wrong, strict=True) if bad]
    if names:
        raise DataError(
            f"{data}: expected {expected}, got {came} {few(names)}; add pictures, or take the "
            "class out"
        )


def _one_class(data: Path, found: LabelledSet) -> str:
    message = f"{data}: expected two classes or more, got only {found.classes[0]!r}"
    parts = [Path(name).parts for name in found.names]
    inner = sorted({part[1] for part in parts if len(part) > 2})
    if is_dir(data) and inner and found.given is None and parts[0][0] not in PARTS:
        return (
            f"{message}, with the folders {few(inner)} in it; name {data / parts[0][0]} if these "
            "are the classes, or add another class"
        )
    return f"{message}; add pictures that do not show it, as a class of their own"
