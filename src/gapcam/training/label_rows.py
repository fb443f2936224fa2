"""What both readers of labels return: pictures with the words of the data, not yet checked."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from gapcam.types import DataError

TRAIN, VALIDATION, TEST = 0, 1, 2
PARTS: Mapping[str, int] = {
    **dict.fromkeys(("train", "training"), TRAIN),
    **dict.fromkeys(("val", "valid", "validation"), VALIDATION),
    **dict.fromkeys(("test", "testing"), TEST),
}
"""What folders and cells of the parts are called, in any case."""

Layout: TypeAlias = Literal["folders", "label", "labels", "one-hot"]
"""Class folders, or the CSV file's column of labels, or one column a class."""

_SHOWN = 3


@dataclass(frozen=True, slots=True)
class LabelRow:
    """A picture and its classes.

    Attributes:
        name: As shown: relative to the root where it lies under it.
        path: The file.
        labels: Names of classes, each once.
        part: `TRAIN` or `VALIDATION`; None where the data does not say.
        where: What says so, for messages.
    """

    name: str
    path: Path
    labels: tuple[str, ...]
    part: int | None
    where: str


@dataclass(frozen=True, slots=True)
class LabelRows:
    """All that was read.

    Attributes:
        root: The folder that names go from.
        rows: A picture each, no file twice.
        classes: Every class that the data names, also those without a picture.
        layout: What was read.
        notes: What was chosen for the user, in words.
    """

    root: Path
    rows: Sequence[LabelRow]
    classes: frozenset[str]
    layout: Layout
    notes: tuple[str, ...]


def canonical(name: str) -> str:
    """A class name as it is kept: in Unicode's composed form (NFC), no space around it."""
    return unicodedata.normalize("NFC", name).strip()


def check_alike(names: Iterable[str], where: object) -> None:
    """Refuse names that people would take for one: equal but for case, space or Unicode form.

    Raises:
        DataError: Two are.
    """
    found: dict[str, list[str]] = {}
    for name in sorted(set(names)):
        found.setdefault(canonical(canonical(name).casefold()), []).append(name)
    alike = [" and ".join(map(repr, same)) for same in found.values() if len(same) > 1]
    if alike:
        raise DataError(
            f"{where}: expected class names that differ in more than case, space or Unicode form, "
            f"got {few(alike)}; give them one name, or clearly different ones"
        )


def few(things: Sequence[object], separator: str = ", ") -> str:
    """The first of many, and how many more there are."""
    shown = separator.join(map(str, things[:_SHOWN]))
    more = len(things) - _SHOWN
    return f"{shown}{separator}and {more:,} more" if more > 0 else shown


def counted(count: int, noun: str) -> str:
    """A number with its noun: `1 class`, `2 classes`."""
    ending = "es" if noun.endswith("s") else "s"
    return f"{count:,} {noun}{'' if count == 1 else ending}"
