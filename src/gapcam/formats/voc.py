"""Pascal VOC data sets (Everingham et al., IJCV 2010)."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from gapcam.formats.links import Links, remove
from gapcam.formats.names import Root
from gapcam.formats.records import AnyPath, Record
from gapcam.formats.sets import Keep, Tally, Written
from gapcam.outputs import replacing

_NOT_IN_XML = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def write_voc(
    records: Iterable[Record],
    folder: AnyPath,
    root: Root,
    labels: Sequence[str] | None = None,
    keep: Keep | None = None,
) -> Written:
    """Write a Pascal VOC data set into `folder`.

    - `Annotations/<path below root>.xml`: VOC counts whole pixels from 1, both ends included:
      `xmin = floor(x0) + 1`, `xmax = ceil(x1)`, kept inside the picture, so the VOC box is the
      smallest that covers the box. Each object also has its `score`.
    - `ImageSets/Main/trainval.txt`: what is in the set, a path below `Annotations` without suffix
      a line. A name with a line break cannot be listed and is counted.
    - `JPEGImages/<path below root>`: links to the pictures, whatever their format.
    - `labels.txt`: the classes, a line each, when `labels` is given.

    Raises:
        OutputError: See the package.
    """
    folder = Path(folder)
    tally = Tally(folder, root, keep, labels, drop_suffix=True)
    links = Links(folder / "JPEGImages", root)
    unlisted = 0
    with tally, replacing(folder / "ImageSets" / "Main" / "trainval.txt") as listed:
        for record in tally.named(records):
            path = folder / "Annotations" / f"{record['stem']}.xml"
            if not record["stays"]:
                remove(path)
                links.drop(record["name"])
                continue
            with replacing(path) as out:
                out.write(ET.tostring(voc_tree(record, record["boxes"]), encoding="unicode") + "\n")
            links.add(record["path"], record["name"])
            broken = len(f"{record['stem']}.".splitlines()) > 1
            unlisted += broken
            listed.write("" if broken else f"{record['stem']}\n")
    if labels is not None:
        with replacing(folder / "labels.txt") as out:
            out.writelines(f"{_on_a_line(name)}\n" for name in tally.class_names())
    more = (f"{unlisted:,} not in trainval.txt: a line break in the name",) if unlisted else ()
    return tally.written(*links.notes(), *more)


def voc_tree(record: Record, boxes: Iterable[Record]) -> ET.Element:
    """The annotation of a picture; the record has its `name`."""
    width, height, path = record["width"], record["height"], PurePosixPath(record["name"])
    tree = ET.Element("annotation")
    _add(tree, folder=path.parent, filename=path.name)
    _add(ET.SubElement(tree, "source"), database="gapcam")
    _add(ET.SubElement(tree, "size"), width=width, height=height, depth=3)
    _add(tree, segmented=0)
    for found in boxes:
        x0, y0, x1, y1 = found["box"]
        xmin, ymin = min(max(math.floor(x0), 0) + 1, width), min(max(math.floor(y0), 0) + 1, height)
        xmax, ymax = max(min(math.ceil(x1), width), xmin), max(min(math.ceil(y1), height), ymin)
        item = ET.SubElement(tree, "object")
        _add(item, name=found["label"], pose="Unspecified", truncated=0, difficult=0)
        _add(ET.SubElement(item, "bndbox"), xmin=xmin, ymin=ymin, xmax=xmax, ymax=ymax)
        _add(item, score=found["score"])
    ET.indent(tree)
    return tree


def _add(parent: ET.Element, **children: object) -> None:
    for tag, value in children.items():
        text = _NOT_IN_XML.sub(lambda odd: ascii(odd[0])[1:-1], str(value))
        ET.SubElement(parent, tag).text = text


def _on_a_line(name: str) -> str:
    """A class name without line breaks, which XML's readers turn into spaces too."""
    return " ".join(name.splitlines())
