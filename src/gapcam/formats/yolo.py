"""YOLO data sets: `data.yaml`, `images/` and `labels/` (as Ultralytics trainers read them)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from gapcam.formats.links import Links, remove
from gapcam.formats.names import Root, absolute
from gapcam.formats.records import AnyPath, Record, json_text
from gapcam.formats.sets import Keep, Tally, Written
from gapcam.outputs import replacing


def write_yolo(
    records: Iterable[Record],
    labels: Sequence[str],
    folder: AnyPath,
    root: Root,
    keep: Keep | None = None,
) -> Written:
    """Write a YOLO data set into `folder`.

    - `labels/<path below root>.txt`: a line is `class cx cy w h`, fractions of the picture, 6
      decimals; a picture without a box gets an empty file.
    - `images/<path below root>`: links to the pictures. Trainers find the labels of a picture by
      writing `labels` for the last `images` in its path, so a list of paths would not do.
    - `data.yaml`: the classes and where the set is; `train` and `val` are both the whole set.

    Raises:
        OutputError: See the package.
    """
    folder = Path(folder)
    tally = Tally(folder, root, keep, labels, drop_suffix=True)
    links = Links(folder / "images", root)
    with tally:
        for record in tally.named(records):
            path = folder / "labels" / f"{record['stem']}.txt"
            if not record["stays"]:
                remove(path)
                links.drop(record["name"])
                continue
            with replacing(path) as out:
                boxes = record["boxes"]
                out.writelines(
                    _line(found, record, tally.place(found["class_id"])) for found in boxes
                )
            links.add(record["path"], record["name"])
    _write_yaml(folder, tally.class_names())
    return tally.written(*links.notes())


def _write_yaml(folder: Path, names: Sequence[str]) -> None:
    with replacing(folder / "data.yaml") as out:
        # A JSON string is a YAML string too, whatever is in the name.
        out.write(f"path: {json_text(str(absolute(folder)))}\ntrain: images\nval: images\nnames:\n")
        out.writelines(f"  {i}: {json_text(label)}\n" for i, label in enumerate(names))


def _line(found: Record, record: Record, place: int) -> str:
    (x0, y0, x1, y1), width, height = found["box"], record["width"], record["height"]
    centre = ((x0 + x1) / 2 / width, (y0 + y1) / 2 / height)
    values = (*centre, (x1 - x0) / width, (y1 - y0) / height)
    return " ".join([str(place), *(f"{value:.6f}" for value in values)]) + "\n"
