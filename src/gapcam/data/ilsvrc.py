"""The layout `ilsvrc`: ImageNet CLS-LOC (Russakovsky et al., IJCV 2015), as distributed.

Either the folder of XML files, `Annotations/CLS-LOC/val/*.xml` (and `train/<WordNet id>/*.xml`), or
Kaggle's `LOC_val_solution.csv`, whose `PredictionString` repeats `id x0 y0 x1 y1`. The numbers are
taken as they are written, `(xmin, ymin, xmax, ymax)`, as Choe et al. (CVPR 2020) take them. The
picture has the XML file's own name, because some files name none (`%s`).

A class is named by its WordNet id and, where `LOC_synset_mapping.txt` is found beside or above the
annotations, by all of its words and by each of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from gapcam.data.boxes_csv import csv_rows, is_solution
from gapcam.data.examples import ClassNames
from gapcam.data.fields import (
    brief,
    corners,
    images_beside,
    is_dir,
    is_file,
    names_of,
    read_lines,
    with_suffix,
)
from gapcam.data.rows import Annotations, Flaw, Layout, Row, Source
from gapcam.data.xml_files import Dialect, find_base, first_class, mirrored, read_files, xml_names
from gapcam.types import DataError

_MAPPING = "LOC_synset_mapping.txt"
_LEVELS = 5  # folders above the annotations where the mapping is looked for


def is_wordnet_id(name: str) -> bool:
    """Whether a class is named like `n01440764`."""
    return re.fullmatch(r"n\d{8}", name, re.ASCII) is not None


def _fits(path: Path) -> bool:
    if is_file(path):
        return path.suffix.lower() == ".csv" and is_solution(path)
    return is_wordnet_id(first_class(find_base(path)) or "") or is_file(_solution(path, None))


def _solution(folder: Path, split: str | None) -> Path:
    return folder / f"LOC_{split or 'val'}_solution.csv"


def _read(source: Source) -> Annotations:
    if is_file(source.path):
        if source.split is not None:
            raise DataError(f"{source.path}: expected no split, this is one; leave out split")
        return _read_solution(source, source.path)
    base = find_base(source.path)
    if first_class(base) is None:
        return _read_solution(source, _solution(source.path, source.split))
    base = base / "CLS-LOC" if is_dir(base / "CLS-LOC") else base
    images = source.images or mirrored(base, "Data")
    if images is None:
        raise DataError(
            f"{base}: expected the pictures in the folder Data beside Annotations, there is none; "
            "name the folder of the pictures"
        )
    parts, notes = _parts(base, source.split)
    names = (f"{part}{name}" for part in parts for name in xml_names(base / part))
    dialect = Dialect(0, lambda name, _: _picture(images, base.name, name), _namer(base))
    return read_files(base, names, images, dialect, notes)


def _parts(base: Path, split: str | None) -> tuple[list[str], list[str]]:
    """The subfolders to read, with a slash; val is what results are published on."""
    there = [name for name in ("val", "train") if is_dir(base / name)]
    if split == "all" or not there:
        if split not in (None, "all", base.name):
            raise DataError(f"{base}: expected the split {split!r}, there is no such folder")
        return [f"{name}/" for name in there] or [""], []
    chosen = split or there[0]
    if chosen not in there:
        raise DataError(f"{base}: expected the split {chosen!r}, there is {' and '.join(there)}")
    notes = [f"split {chosen!r} read, {name!r} left out" for name in there if name != chosen]
    return [f"{chosen}/"], notes


def _picture(images: Path, base: str, name: str) -> str:
    """The picture of an XML file, whichever folder of the tree was named as that of pictures."""
    stems = (name, name.rpartition("/")[2], f"{base}/{name}")
    return with_suffix(images, stems) or f"{name}.JPEG"


def _namer(start: Path) -> Callable[[str], ClassNames]:
    """Makes all names of a class from its WordNet id."""
    words = _words(start)

    def names(wordnet_id: str) -> ClassNames:
        if words and wordnet_id not in words:
            raise DataError(f"name: expected a class of {_MAPPING}, got {brief(wordnet_id)}")
        every = words.get(wordnet_id, "")
        return names_of(wordnet_id, *([every, *every.split(", ")] if every else []))

    return names


def _words(start: Path) -> dict[str, str]:
    """The words of each class, `tench, Tinca tinca`; none when there is no such file."""
    whole = start.absolute()
    for folder in (whole, *whole.parents)[: _LEVELS + 1]:
        if is_file(folder / _MAPPING):
            lines = (text.strip().partition(" ") for _, text in read_lines(folder / _MAPPING))
            return {wordnet_id: words.strip() for wordnet_id, _, words in lines}
    return {}


def _read_solution(source: Source, path: Path) -> Annotations:
    places = (path.parent / "ILSVRC" / "Data" / "CLS-LOC", path.parent / "Data" / "CLS-LOC")
    images = source.images or next((place for place in places if is_dir(place)), None)
    images = images or images_beside(path)
    namer, entries = _namer(path.parent), list[Row | Flaw]()
    rows = csv_rows(path)
    next(rows, None)
    for where, cells in rows:
        stem = cells[0]
        stems = (stem, f"val/{stem}", *(f"{top}{stem[:9]}/{stem}" for top in ("", "train/")))
        picture = with_suffix(images, stems) or f"{stem}.JPEG"
        try:
            entries += _boxes(where, picture, cells, namer)
        except DataError as error:
            entries.append(Flaw(where, str(error), picture))
    return Annotations(images, entries)


def _boxes(
    where: str, picture: str, cells: list[str], namer: Callable[[str], ClassNames]
) -> list[Row | Flaw]:
    if len(cells) != 2:
        raise DataError(f"expected 2 columns, ImageId,PredictionString, got {len(cells)}")
    words = cells[1].split()
    if len(words) % 5 or not words:
        raise DataError(
            f"PredictionString: expected `id x0 y0 x1 y1` again and again, got {brief(cells[1])}"
        )
    groups = [words[i : i + 5] for i in range(0, len(words), 5)]
    return [Row(where, picture, namer(name), corners(box)) for name, *box in groups]


LAYOUT = Layout(
    "ilsvrc",
    "annotations (*.xml) whose classes are WordNet ids, or LOC_val_solution.csv",
    _fits,
    _read,
    splits=("val", "train", "all"),
)
