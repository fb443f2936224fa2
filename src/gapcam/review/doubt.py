"""Which boxes are the least certain, and the list of them."""

from __future__ import annotations

import csv
import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gapcam.formats import Keep, Record, box_key
from gapcam.formats.rows import csv_line
from gapcam.outputs import replacing
from gapcam.types import ArgumentError, Box

SMALL, LARGE = 0.3, 0.9
"""Boxes that cover a smaller or larger share of the picture are doubtful for their size."""

TOUCHES = 0.5
"""A box that comes this near to a border, in pixels, touches it."""

PLAIN = 0.5
"""From here on a doubt about borders or size is named."""

HEADER = ("key", "path", "class", "class_id", "score", "x0", "y0", "x1", "y1", "doubt", "reason")
"""The columns of `review.csv`."""

KEY_DIGITS = 16


@dataclass(frozen=True, slots=True)
class Doubtful:
    """A box to look at.

    Attributes:
        key: What the box is called (`gapcam.formats.box_key`).
        path: Its picture.
        label: Its class.
        class_id: The class's index in the model's labels.
        score: 0..1.
        box: `box_xyxy` in pixels.
        size_wh: Of the picture, pixels.
        doubt: 0..1, see `doubt_of`.
        reason: What the doubt is about, in words.
    """

    key: str
    path: str
    label: str
    class_id: int
    score: float
    box: Box
    size_wh: tuple[int, int]
    doubt: float
    reason: str


def doubt_of(
    score: float, box_xyxy: Sequence[float], size_wh: tuple[int, int]
) -> tuple[float, str]:
    """How doubtful a box is, 0..1, and why: the mean of three doubts, in words the large ones.

    - *score*: 1 less the score of its class;
    - *borders*: how many of the picture's four borders it touches, over 4;
    - *size*: 0 where it covers `SMALL` to `LARGE` of the picture, growing to 1 at nothing and at
      the whole picture.

    It costs no second pass and is a hint, no more: of the doubtful fifth, 44 % of the boxes were
    wrong (IoU < .5) where 27 % of all were (630 ILSVRC validation pictures, default recipe, class
    known; the two sizes were chosen on them), and 54 % where 37 % were (254 others of ten classes).
    A wrong box is more doubtful than a right one with a chance of .63 on either set; how well two
    views agree (`gapcam.agreement`) tells more, at twice the time.

    Args:
        score: 0..1.
        box_xyxy: In pixels.
        size_wh: Of the picture, pixels.
    """
    x0, y0, x1, y1 = box_xyxy
    width, height = size_wh
    share = (x1 - x0) * (y1 - y0) / (width * height)
    borders = sum((x0 <= TOUCHES, y0 <= TOUCHES, x1 >= width - TOUCHES, y1 >= height - TOUCHES))
    size = max(1 - share / SMALL, (share - LARGE) / (1 - LARGE), 0.0)
    others = {
        f"touches {borders} {'border' if borders == 1 else 'borders'}": borders / 4,
        f"{share:.{0 if share >= 0.1 else 1}%} of the picture": size,
    }
    doubts = (1 - score, *others.values())
    reasons = [words for words, doubt in others.items() if doubt >= PLAIN]
    doubt = min(max(sum(doubts) / len(doubts), 0.0), 1.0)
    return round(doubt, 4), ", ".join([f"score {score:.2f}", *reasons])


def most_doubtful(records: Iterable[Record], count: int, keep: Keep) -> tuple[list[Doubtful], int]:
    """The most doubtful boxes of a set, most doubtful first, and how many boxes there are.

    Holds `count` boxes at a time, however many records there are; of equal doubts the earlier
    come first.
    """
    heap: list[tuple[float, int, Doubtful]] = []
    boxes = 0
    for record in records:
        for found in record.get("detections", ()):
            if keep.why_not(record, found):
                continue
            boxes += 1
            one = _doubtful(record, found)
            push = heapq.heappush if len(heap) < count else heapq.heappushpop
            push(heap, (one.doubt, -boxes, one))
    return [one for *_, one in sorted(heap, reverse=True)], boxes


def write_list(path: Path, boxes: Iterable[Doubtful]) -> None:
    """Write `review.csv`: a row a box, as many columns as `HEADER`.

    Raises:
        OutputError: It cannot be written.
    """
    with replacing(path) as out:
        out.write(csv_line(HEADER))
        for one in boxes:
            start = (one.key, one.path, one.label, one.class_id, one.score)
            out.write(csv_line((*start, *one.box, one.doubt, one.reason)))


def read_rejected(paths: Iterable[Path]) -> frozenset[str]:
    """The keys of rejected boxes, for `Keep.rejected`.

    Args:
        paths: What the review page saved, or `review.csv` less the rows of boxes that are good:
            CSV files with a column `key`.

    Raises:
        ArgumentError: A file cannot be read, or is not such a list.
    """
    return frozenset(key for path in paths for key in _keys(path))


def _keys(path: Path) -> list[str]:
    keys = []
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            for number, row in enumerate(csv.DictReader(file), start=1):
                keys.append(_key(row, f"{path}, row {number}"))
            return keys
    except OSError as error:
        raise ArgumentError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except csv.Error as error:
        raise ArgumentError(f"{path}: expected a CSV file ({error}); save it again") from error


def _key(row: Mapping[str, Any], where: str) -> str:
    key = (row.get("key") or "").strip()
    if len(key) != KEY_DIGITS or set(key) - set("0123456789abcdef"):
        raise ArgumentError(
            f"{where}: expected a column key with {KEY_DIGITS} hex digits, got {key[:40]!r}; give "
            "what the review page saved, or rows of review.csv"
        )
    return key


def _doubtful(record: Mapping[str, Any], found: Mapping[str, Any]) -> Doubtful:
    size_wh = (record["width"], record["height"])
    x0, y0, x1, y1 = found["box"]
    doubt, reason = doubt_of(found["score"], found["box"], size_wh)
    return Doubtful(
        key=box_key(record["path"], found),
        path=record["path"],
        label=found["label"],
        class_id=found["class_id"],
        score=found["score"],
        box=(x0, y0, x1, y1),
        size_wh=size_wh,
        doubt=doubt,
        reason=reason,
    )
