"""What a data set becomes: pictures with the classes that are in them and where they are.

Every reader gives boxes in the package's one convention (half-open, pixels of the picture as it is
shown, after EXIF rotation); what the files say in other conventions is converted by its reader,
and the docstring there says how.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from gapcam.types import Box

ClassNames: TypeAlias = tuple["str | int", ...]


@dataclass(frozen=True, slots=True)
class Target:
    """One class that is in a picture, and where.

    Attributes:
        class_names: What the data calls it, the main name first (WordNet id, then words); a
            number is an index into the model's classes.
        boxes: Its boxes, as `box_xyxy`; empty when the truth is a mask.
        mask_paths: Files whose union is its mask; empty when the truth is boxes.
        ignore_path: A file that marks pixels which do not count, if there is one.
    """

    class_names: ClassNames
    boxes: tuple[Box, ...] = ()
    mask_paths: tuple[Path, ...] = ()
    ignore_path: Path | None = None


@dataclass(frozen=True, slots=True)
class Example:
    """One picture and what is in it.

    Attributes:
        name: The picture as the data names it.
        path: Its file.
        size_wh: Its size as it is shown (after EXIF rotation), pixels.
        orientation: The EXIF orientation of the file, 1 to 8; 1 is upright. Masks that are stored
            like the file are turned by it when they are read.
        targets: A target a class, none twice.
        where: Where the data says so: `boxes.csv, line 7`.
    """

    name: str
    path: Path
    size_wh: tuple[int, int]
    orientation: int
    targets: tuple[Target, ...]
    where: str


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong in a data set.

    Attributes:
        where: File and line.
        what: With what was expected.
        picture: The picture that it concerns, where there is one.
    """

    where: str
    what: str
    picture: str | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


@dataclass(frozen=True, slots=True)
class Dataset:
    """A data set that was read.

    Attributes:
        name: What to call it in results.
        layout: `csv`, `coco`, `voc`, `ilsvrc`, `cub`, `wsol`, `masks` or `yolo`.
        examples: In the order of their names.
        problems: Everything that was wrong; what a problem touches is not in `examples`.
        notes: What was left out by the layout's own rules, in words (objects marked difficult).
        pictures: How many pictures it names, those with problems included.
        inclusive_ends: Whether x1 and y1, kept as written, are the last pixels of a box.
    """

    name: str
    layout: str
    examples: tuple[Example, ...]
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()
    pictures: int = 0
    inclusive_ends: bool = False
