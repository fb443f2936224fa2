"""What every reader returns: rows in the words and numbers of the files, not yet checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from gapcam.data.examples import ClassNames
from gapcam.types import Box

Frame: TypeAlias = Literal["stored", "shown", "fraction"]
"""What coordinates count: pixels of the stored file, pixels of the picture as it is shown (after
EXIF rotation), or fractions of its shown width and height."""


@dataclass(frozen=True, slots=True)
class Row:
    """One box or mask of a class in a picture.

    Attributes:
        where: The file and line that says so.
        picture: The picture's path below the folder of the pictures.
        class_names: See `Target`.
        box: Half-open, in `frame`; None for a mask.
        mask: A file of the mask; None for a box.
        ignore: A file of the pixels that do not count, if there is one.
        size_wh: The picture's width and height as the data gives them, pixels; it also tells
            stored from shown pixels where the two sizes differ.
        size_where: The place that gives it, when it is not `where`.
        frame: What `box` counts in, unless `size_wh` says otherwise.
        mask_scales: The mask may have another size than its picture, with the same aspect.
    """

    where: str
    picture: str
    class_names: ClassNames
    box: Box | None = None
    mask: Path | None = None
    ignore: Path | None = None
    size_wh: tuple[int, int] | None = None
    size_where: str | None = None
    frame: Frame = "stored"
    mask_scales: bool = False


@dataclass(frozen=True, slots=True)
class Flaw:
    """A row that cannot be one; it takes its picture along, where that is known."""

    where: str
    what: str
    picture: str | None = None


@dataclass(frozen=True, slots=True)
class Annotations:
    """What a reader found: the folder of the pictures, rows and flaws as they come, and notes."""

    images: Path
    entries: Sequence[Row | Flaw]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Source:
    """Where to read: the file or folder that was named, and what was named with it."""

    path: Path
    images: Path | None = None
    masks: Path | None = None
    split: str | None = None


@dataclass(frozen=True, slots=True)
class Layout:
    """A way in which data sets are distributed.

    Attributes:
        name: What users type.
        wants: What it is recognized by, in words.
        fits: Whether a file or folder looks like it.
        read: Its reader.
        splits: What `split` may be; none where there are no splits.
        reads_masks: Whether a folder of masks can be named with it.
    """

    name: str
    wants: str
    fits: Callable[[Path], bool]
    read: Callable[[Source], Annotations]
    splits: tuple[str, ...] = ()
    reads_masks: bool = False
