"""Rows held against their pictures: what fits becomes examples, what does not becomes problems."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from gapcam.data.examples import ClassNames, Dataset, Example, Problem, Target
from gapcam.data.fields import plural
from gapcam.data.masks import check_mask
from gapcam.data.pictures import Stamp, path_below, read_stamp, turn_box
from gapcam.data.rows import Annotations, Flaw, Frame, Row
from gapcam.types import Box, DataError, GapcamError

TOLERANCE = 1.0
"""How far a box may stick out of its picture on each side, pixels. Tools count ends differently
and round; such a box stays as it is written, is never clipped, and is counted in the notes."""

INCLUSIVE = frozenset({"ilsvrc", "wsol"})
"""Layouts whose boxes are kept as written, and whose protocols count the last pixel in."""

_ROUNDING = 0.05  # pixels beyond the edge that are not worth a note


@dataclass(slots=True)
class _Findings:
    """What is collected on the way; problems carry the place of their row, to sort them by."""

    problems: list[tuple[int, Problem]] = field(default_factory=list)
    spoilt: set[str] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, place: int, where: str, what: str, picture: str | None = None) -> None:
        self.problems.append((place, Problem(where, what, picture)))
        if picture:
            self.spoilt.add(_key(picture))


def gather(name: str, layout: str, found: Annotations) -> Dataset:
    """Check rows against their pictures and make examples of them.

    A picture with a bad row is left out whole, because scoring it without that row would be
    another truth; only of a row that is there twice, one counts.

    Args:
        name: The data set's name.
        layout: Its layout's name.
        found: What its reader found.
    """
    findings = _Findings()
    pictures: dict[str, list[tuple[int, Row]]] = {}
    for place, entry in enumerate(found.entries):
        if isinstance(entry, Flaw):
            findings.add(place, entry.where, entry.what, entry.picture)
        else:
            pictures.setdefault(_key(entry.picture), []).append((place, entry))
    examples = []
    for picture in sorted(pictures):
        example = _example(found, picture, pictures[picture], findings)
        if example is not None and picture not in findings.spoilt:
            examples.append(example)
    return Dataset(
        name,
        layout,
        tuple(examples),
        tuple(problem for _, problem in sorted(findings.problems, key=lambda found: found[0])),
        (*found.notes, *_notes(findings.counts, len(findings.spoilt))),
        pictures=len(pictures.keys() | findings.spoilt),
        inclusive_ends=layout in INCLUSIVE,
    )


def _key(picture: str) -> str:
    """One name a file: `./a.jpg` is `a.jpg`."""
    return os.path.normpath(picture).replace(os.sep, "/") if picture else ""


def _example(
    found: Annotations, picture: str, rows: Sequence[tuple[int, Row]], findings: _Findings
) -> Example | None:
    place, first = rows[0]
    try:
        stamp = read_stamp(path_below(found.images, picture))
    except GapcamError as error:
        rest = f" ({plural(len(rows), 'row')} of this picture left out)" if len(rows) > 1 else ""
        findings.add(place, first.where, f"{error}{rest}", picture)
        return None
    targets = _targets(rows, stamp, findings)
    return Example(picture, stamp.path, stamp.shown_wh, stamp.orientation, targets, first.where)


@dataclass(slots=True)
class _Parts:
    """The boxes or masks of one class in one picture, and where each was said first."""

    boxes: dict[Box, str] = field(default_factory=dict)
    masks: dict[str, Row] = field(default_factory=dict)

    def target(self, class_names: ClassNames) -> Target:
        rows = self.masks.values()
        paths = tuple(row.mask for row in rows if row.mask is not None)
        ignored = next((row.ignore for row in rows if row.ignore is not None), None)
        return Target(class_names, tuple(self.boxes), paths, ignored)


def _targets(
    rows: Iterable[tuple[int, Row]], stamp: Stamp, findings: _Findings
) -> tuple[Target, ...]:
    classes: dict[ClassNames, _Parts] = {}
    said = set()
    for place, row in rows:
        parts = classes.setdefault(row.class_names, _Parts())
        try:
            again = _add_box(parts, row, stamp, findings.counts)
            again = again or _add_mask(parts, row, stamp, findings.counts)
        except GapcamError as error:
            where = row.size_where if isinstance(error, _WrongSizeError) else None
            problem = (where or row.where, str(error))
            if problem not in said:  # a picture's size may come once for all its rows
                findings.add(place, *problem, row.picture)
            said.add(problem)
        else:
            if again is not None:
                what = f"expected every row once, {again} says the same; delete one (one counts)"
                findings.add(place, row.where, what)
    return tuple(parts.target(names) for names, parts in classes.items())


def _add_box(parts: _Parts, row: Row, stamp: Stamp, counts: Counter[str]) -> str | None:
    """Add a row's box, if it has one; the place that had it before, if one did."""
    if row.box is None:
        return None
    frame = _frame(row, stamp)
    box = _placed(row.box, frame, stamp)
    if box in parts.boxes:
        return parts.boxes[box]
    parts.boxes[box] = row.where
    counts["out"] += _beyond(box, stamp.shown_wh) > _ROUNDING
    counts["shown"] += row.frame == "stored" and frame == "shown"
    return None


def _add_mask(parts: _Parts, row: Row, stamp: Stamp, counts: Counter[str]) -> str | None:
    """The same for its mask."""
    if row.mask is None:
        return None
    known = parts.masks.get(str(row.mask))
    if known is not None:
        return known.where
    counts["scaled"] += check_mask(row.mask, stamp, scales=row.mask_scales)
    if row.ignore is not None:
        if any(other.ignore is not None for other in parts.masks.values()):
            raise DataError(f"expected one file of ignored pixels a picture, got {row.ignore} too")
        check_mask(row.ignore, stamp, scales=row.mask_scales, may_be_empty=True)
    parts.masks[str(row.mask)] = row
    return None


class _WrongSizeError(DataError):
    """The size that the data gives a picture is not that of its file."""


def _frame(row: Row, stamp: Stamp) -> Frame:
    """What a row's box counts in: its size decides where stored and shown size differ."""
    if row.size_wh is None:
        return row.frame
    fits: tuple[Frame, ...] = ()
    fits += ("stored",) if row.size_wh == stamp.size_wh else ()
    fits += ("shown",) if row.size_wh == stamp.shown_wh else ()
    if not fits:
        width, height = row.size_wh
        stored = f"{stamp.size_wh[0]}x{stamp.size_wh[1]}"
        raise _WrongSizeError(
            f"expected the size of {stamp.path}, {stored} pixels, got {width}x{height}; the boxes "
            "may be of another version of the picture"
        )
    return row.frame if row.frame in fits else fits[0]


def _placed(box: Box, frame: Frame, stamp: Stamp) -> Box:
    """A box in pixels of the picture as it is shown, checked."""
    width, height = stamp.shown_wh
    if frame == "fraction":
        x0, y0, x1, y1 = box
        box = (x0 * width, y0 * height, x1 * width, y1 * height)
    seen = stamp.size_wh if frame == "stored" else stamp.shown_wh
    if not (box[0] < box[2] and box[1] < box[3]):
        raise DataError(f"expected a box with x0 < x1 and y0 < y1, got {_text(box)} in pixels")
    if _beyond(box, seen) > TOLERANCE:
        raise DataError(
            f"expected a box inside the picture, {seen[0]}x{seen[1]} pixels, or at most "
            f"{TOLERANCE:g} pixel beyond its edges, got {_text(box)}"
        )
    return turn_box(box, stamp.size_wh, stamp.orientation) if frame == "stored" else box


def _text(box: Box) -> str:
    return "(" + ", ".join(f"{value:.6g}" for value in box) + ")"


def _beyond(box: Box, size_wh: tuple[int, int]) -> float:
    """How far a box sticks out of the picture, on the side where it does most, pixels."""
    return max(-box[0], -box[1], box[2] - size_wh[0], box[3] - size_wh[1])


def _notes(counts: Counter[str], left_out: int) -> list[str]:
    said = [
        (left_out, "picture", "with a problem left out, with all that is said of them"),
        (counts["out"], "box", f"up to {TOLERANCE:g} pixel beyond the picture, taken as written"),
        (counts["shown"], "box", "in pixels of the picture as it is shown, as its size there says"),
        (counts["scaled"], "mask", "of another size than the picture, scaled to it"),
    ]
    return [f"{plural(count, noun)} {what}" for count, noun, what in said if count]
