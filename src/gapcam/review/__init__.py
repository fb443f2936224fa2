"""Which boxes to look at: a list of the least certain, and pages to skim them.

What a reviewer rejects there goes back into the next run (`Keep.rejected`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gapcam.formats import Keep, Record
from gapcam.review.doubt import (
    HEADER,
    Doubtful,
    doubt_of,
    most_doubtful,
    read_rejected,
    write_list,
)
from gapcam.review.page import PAGE_SIZE, write_pages
from gapcam.review.thumbs import OpenPicture
from gapcam.types import ArgumentError

__all__ = [
    "HEADER",
    "LIST",
    "MOST",
    "PAGE_SIZE",
    "Doubtful",
    "Reviewed",
    "doubt_of",
    "most_doubtful",
    "read_rejected",
    "write_doubtful",
    "write_list",
    "write_review",
]

LIST = "review.csv"
MOST = 100_000
"""The most boxes to list: they are held in memory, and make 200 pages."""


@dataclass(frozen=True, slots=True)
class Reviewed:
    """What was written to be reviewed.

    Attributes:
        boxes: How many boxes there are.
        listed: How many of them are listed.
        written: The list and the pages.
    """

    boxes: int
    listed: int
    written: tuple[Path, ...]


def write_review(
    records: Iterable[Record],
    out_dir: Path,
    count: int = 200,
    keep: Keep | None = None,
    open_picture: OpenPicture | None = None,
) -> Reviewed:
    """Write `review.csv` and `review.html`: the least certain boxes of a set.

    Records stream; `count` boxes and one page are held.

    Args:
        records: Failures among them are passed over.
        out_dir: Where they go.
        count: How many boxes, 1 to `MOST`; what doubt is see `doubt_of`.
        keep: What the set has; boxes that are not in it are not listed. None: every box.
        open_picture: Gives what a picture is read from, by the name that its record has; None:
            names are paths.

    Raises:
        ArgumentError: `count` is out of range.
        OutputError: A file cannot be written.
    """
    if not 1 <= count <= MOST:
        raise ArgumentError(f"review: expected 1 to {MOST:,} boxes, got {count:,}")
    doubtful, boxes = most_doubtful(records, count, keep or Keep())
    return write_doubtful(doubtful, boxes, out_dir, open_picture)


def write_doubtful(
    doubtful: Sequence[Doubtful],
    boxes: int,
    out_dir: Path,
    open_picture: OpenPicture | None = None,
) -> Reviewed:
    """Write the list and the pages of what `most_doubtful` found; see `write_review`.

    Raises:
        OutputError: A file cannot be written.
    """
    write_list(out_dir / LIST, doubtful)
    pages = write_pages(out_dir, doubtful, boxes, open_picture)
    return Reviewed(boxes, len(doubtful), (out_dir / LIST, *pages))
