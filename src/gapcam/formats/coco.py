"""COCO data sets: one JSON file (Lin et al., ECCV 2014)."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO

from gapcam.formats.names import Root
from gapcam.formats.records import AnyPath, Record, json_text
from gapcam.formats.rle import area_of
from gapcam.formats.sets import Keep, Tally, Written
from gapcam.outputs import output_errors, replacing

_IN_MEMORY = 2**16


def write_coco(
    records: Iterable[Record],
    labels: Sequence[str],
    path: AnyPath,
    root: Root | None = None,
    keep: Keep | None = None,
) -> Written:
    """Write a COCO data set: images, annotations, categories.

    Category ids count from 1 in the order of the set's classes; `bbox` is `[x, y, width, height]`
    in pixels, 2 decimals. Where records have masks, `segmentation` is the mask as compressed run
    lengths and `area` its pixels; else `area` is that of the box. Each annotation also has its
    `score`. With `root=None`, `file_name` is the path as it is.

    Raises:
        OutputError: See the package.
    """
    path = Path(path)
    tally = Tally(path.parent, root, keep, labels)
    with replacing(path) as out, tally, _spool() as images:
        out.write('{"info":{"description":"gapcam"},"annotations":[')
        written = bare = 0
        for record in tally.named(records):
            if not record["stays"]:
                continue
            images.write((",\n" if tally.pictures > 1 else "\n") + _image(record, tally.pictures))
            for found in record["boxes"]:
                written += 1
                bare += "segmentation" not in found
                note = _annotation(found, written, tally.pictures, tally.place(found["class_id"]))
                out.write((",\n" if written > 1 else "\n") + json_text(note))
        out.write('],\n"images":[')
        images.seek(0)
        shutil.copyfileobj(images, out)
        names = enumerate(tally.class_names(), start=1)
        categories = [json_text({"id": i, "name": label}) for i, label in names]
        out.write('],\n"categories":[' + ",\n".join(categories) + "]}\n")
    return tally.written(*_notes(bare, written, keep))


def _spool() -> IO[str]:
    """The images wait here: annotations come first, and neither is held in memory."""
    with output_errors(Path(tempfile.gettempdir())):
        return tempfile.SpooledTemporaryFile(
            _IN_MEMORY, "w+", encoding="utf-8", errors="surrogateescape", newline=""
        )


def _notes(bare: int, boxes: int, keep: Keep | None) -> tuple[str, ...]:
    if not bare or keep is None:
        return ()
    return (f"{bare:,} of {boxes:,} boxes have no mask: their results were made without",)


def _image(record: Record, at: int) -> str:
    size = {"width": record["width"], "height": record["height"]}
    return json_text({"id": at, "file_name": record["name"], **size})


def _annotation(found: Record, at: int, image_id: int, place: int) -> Record:
    x0, y0, x1, y1 = found["box"]
    width, height = round(x1 - x0, 2), round(y1 - y0, 2)
    note: Record = {"id": at, "image_id": image_id, "category_id": place + 1}
    note |= {"bbox": [x0, y0, width, height], "area": round(width * height, 2)}
    mask = found.get("segmentation")
    if mask is not None:
        note |= {"segmentation": mask, "area": area_of(mask["counts"])}
    return {**note, "iscrowd": 0, "score": found["score"]}
