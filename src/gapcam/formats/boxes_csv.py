"""Boxes as a table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from gapcam.formats.names import Root
from gapcam.formats.records import AnyPath, Record
from gapcam.formats.rows import csv_line
from gapcam.formats.sets import Keep, Tally, Written
from gapcam.outputs import replacing

_HEADER = "image,class_id,class,width,height,x0,y0,x1,y1,score\n"


def write_csv(
    records: Iterable[Record],
    path: AnyPath,
    root: Root | None = None,
    labels: Sequence[str] | None = None,
    keep: Keep | None = None,
) -> Written:
    """Write a row a box: `image,class_id,class,width,height,x0,y0,x1,y1,score`, in pixels.

    `class_id` is the model's, whichever classes the set has. With `root=None`, `image` is the path
    as it is.

    Raises:
        OutputError: See the package.
    """
    path = Path(path)
    tally = Tally(path.parent, root, keep, labels)
    with replacing(path) as out, tally:
        out.write(_HEADER)
        for record in tally.named(records):
            size = (record["width"], record["height"])
            for found in record["boxes"]:
                row = (record["name"], found["class_id"], found["label"], *size)
                out.write(csv_line((*row, *found["box"], found["score"])))
    return tally.written()
