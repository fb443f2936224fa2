"""What goes into an annotation set, and what came of it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from gapcam.formats.names import Names, Root
from gapcam.formats.records import Record
from gapcam.formats.rows import csv_line
from gapcam.outputs import replacing
from gapcam.types import OutputError

LEFT_OUT = "without_boxes.csv"
"""The list of what has no box in a set, beside the set."""

_LEFT_OUT_HEADER = "image,class,score,reason,left_out\n"


@dataclass(frozen=True, slots=True)
class Written:
    """What a writer wrote.

    Attributes:
        pictures: In the set, also those without a box.
        boxes: In the set.
        failures: Records of pictures that failed, left out.
        below: Boxes below the score floor, left out.
        rejected: Boxes that a reviewer rejected, left out.
        left_out: Pictures that show something but have no box left, left out.
        notes: What the user should know, in words.
    """

    pictures: int
    boxes: int
    failures: int
    below: int = 0
    rejected: int = 0
    left_out: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Keep:
    """What goes into a set to train a detector with.

    A picture that shows something but has no box left is left out: a detector would learn that
    nothing is there. One that is known to show nothing stays, as an example of that. Both, and
    classes without a box in pictures that stay, are listed in `without_boxes.csv`.

    Attributes:
        min_score: Boxes with a lower score are left out, 0..1.
        classes: The class ids that the set has, numbered from 0 in this order; None: all of the
            model's.
        placeless: Class ids that mean that nothing is there.
        rejected: Boxes that a reviewer rejected, by their `box_key`.
    """

    min_score: float = 0.0
    classes: tuple[int, ...] | None = None
    placeless: tuple[int, ...] = ()
    rejected: frozenset[str] = frozenset()

    def why_not(self, record: Mapping[str, Any], found: Mapping[str, Any]) -> str:
        """Why a detection gives no box: `empty`, `below`, `rejected`; nothing when it does."""
        if found["box"] is None:
            return "empty"
        if found["score"] < self.min_score:
            return "below"
        if self.rejected and box_key(record["path"], found) in self.rejected:
            return "rejected"
        return ""

    def shows_nothing(self, record: Mapping[str, Any]) -> bool:
        """Whether a picture is known to show nothing."""
        return all(found["class_id"] in self.placeless for found in record["detections"])


class Writer(Protocol):
    """The one signature of `FORMATS`; the writer chooses the file names inside `out_dir`."""

    def __call__(
        self,
        records: Iterable[Record],
        *,
        labels: Sequence[str],
        out_dir: Path,
        root: Root,
        keep: Keep | None = None,
    ) -> Written:
        """Write the records below `out_dir`."""


def box_key(path: str, found: Mapping[str, Any]) -> str:
    """What a box is called in review lists: 16 hex digits of its picture, class and corners."""
    text = f"\0{found['class_id']}\0{found['box']}"
    return hashlib.sha256(os.fsencode(path) + text.encode()).hexdigest()[:16]


class Tally:
    """Passes on what goes into a set and counts it; names every picture.

    Args:
        folder: Where the list of what has no box goes.
        root: What names are below; None: a picture's name is its path as it is.
        keep: What goes into the set; None: every box and every picture, and no list.
        labels: The model's class names, in order, to check records with; None: not checked.
        drop_suffix: Whether an annotation is called like the picture without its suffix.
    """

    def __init__(
        self,
        folder: Path,
        root: Root | None,
        keep: Keep | None,
        labels: Sequence[str] | None = None,
        *,
        drop_suffix: bool = False,
    ) -> None:
        self.pictures = self.boxes = self.failures = 0
        self._counts = dict.fromkeys(("empty", "below", "rejected", "left_out"), 0)
        self._path = folder / LEFT_OUT
        self._keep = keep or Keep()
        self._listing = keep is not None
        self._labels = labels
        self._names = Names(root, drop_suffix=drop_suffix)
        self._stack = ExitStack()
        self._list: Any = None
        ids = self._keep.classes
        self._places = None if ids is None else {at: i for i, at in enumerate(ids)}

    def __enter__(self) -> Tally:
        """Open the list of what has no box."""
        if self._listing:
            self._list = self._stack.enter_context(replacing(self._path))
            self._list.write(_LEFT_OUT_HEADER)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Put the list in place, unless something failed."""
        self._stack.__exit__(kind, error, trace)

    def named(self, records: Iterable[Record]) -> Iterator[Record]:
        """Pass on the records that did not fail, with `name`, `stem`, `boxes` and `stays`.

        `boxes` are the detections that go into the set; `stays` says whether the picture does.

        Raises:
            OutputError: Two pictures have one name, or labels are not those of the records.
        """
        for record in records:
            if "error" in record:
                self.failures += 1
                continue
            name, stem = self._names.claim(record["path"])
            boxes, without = self._sorted_out({**record, "name": name})
            stays = bool(boxes) or not self._listing or self._keep.shows_nothing(record)
            self.pictures += stays
            self._counts["left_out"] += not stays
            self._note(name, without, stays=stays, empty=not record["detections"])
            yield {**record, "name": name, "stem": stem, "boxes": boxes, "stays": stays}

    def written(self, *notes: str) -> Written:
        """What was counted."""
        counts = self._counts
        missing = len(self._keep.rejected) - counts["rejected"]
        if missing > 0:
            boxes = "1 rejected box is" if missing == 1 else f"{missing:,} rejected boxes are"
            notes = (*notes, f"{boxes} not among the results: reviewed in another run?")
        return Written(
            self.pictures,
            self.boxes,
            self.failures,
            below=counts["below"],
            rejected=counts["rejected"],
            left_out=counts["left_out"],
            notes=notes,
        )

    def place(self, class_id: int) -> int:
        """The number of a class in the set, from 0."""
        return class_id if self._places is None else self._places[class_id]

    def class_names(self) -> list[str]:
        """The classes of the set, in order."""
        labels, ids = self._labels or (), self._keep.classes
        return list(labels) if ids is None else [labels[i] for i in ids]

    def _sorted_out(self, record: Record) -> tuple[list[Record], list[tuple[Record, str]]]:
        boxes, without = [], []
        for found in record["detections"]:
            self._check(found, record["path"])
            why = self._keep.why_not(record, found)
            if why:
                self._counts[why] += 1
                without.append((found, why))
            else:
                boxes.append(found)
        self.boxes += len(boxes)
        return boxes, without

    def _check(self, found: Record, path: str) -> None:
        at, label = found["class_id"], found["label"]
        if self._labels is not None:
            there = self._labels[at] if 0 <= at < len(self._labels) else None
            if there != label:
                raise OutputError(
                    f"{path}: expected class {at} to be {label!r}, got {there!r}; "
                    "give the labels of the model that wrote the records"
                )
        if self._places is not None and at not in self._places and found["box"] is not None:
            raise OutputError(
                f"{path}: expected one of the {len(self._places)} classes of the set, got a box "
                f"of {label!r}; give the labels that the pictures were localized with"
            )

    def _note(
        self, name: str, without: list[tuple[Record, str]], *, stays: bool, empty: bool
    ) -> None:
        """List what has no box; a picture that shows nothing has a row without a class."""
        if self._list is None:
            return
        left_out = "no" if stays else "yes"
        if empty:
            self._list.write(csv_line((name, "", "", "known to show nothing", left_out)))
        for found, why in without:
            row = (name, found["label"], found["score"], self._words(found, why), left_out)
            self._list.write(csv_line(row))

    def _words(self, found: Record, why: str) -> str:
        if why == "below":
            return f"score below {self._keep.min_score:g}"
        if why == "rejected":
            return "rejected in review"
        nothing = found["class_id"] in self._keep.placeless
        return "means that nothing is there" if nothing else "no positive evidence"
