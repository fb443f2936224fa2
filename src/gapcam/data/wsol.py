"""The layout `wsol`: the metadata folders of Choe et al. (CVPR 2020; wsolevaluation).

Comma-separated tables: `image_ids.txt` (`path`), `class_labels.txt` (`path,class`),
`image_sizes.txt` (`path,width,height`; OpenImages has none) and `localization.txt`, with a line a
box, `path,x0,y0,x1,y1`, or a line a mask, `path,mask,ignore`, where `ignore` may be empty and is
given once a picture. The class is an index into the model's classes. Boxes are taken as they are
written. Masks may have another size than their picture with the same aspect, as in OpenImages.

`test`, `val` and `train` are folders beside each other; of these `test` is read unless another is
named. The boxes of ImageNetV2 and CUBV2 are the `val` folders of ILSVRC and CUB.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from gapcam.data.fields import (
    brief,
    corners,
    images_beside,
    is_file,
    plural,
    read_lines,
    size_of,
    whole,
)
from gapcam.data.pictures import path_below
from gapcam.data.rows import Annotations, Flaw, Layout, Row, Source
from gapcam.types import DataError

_IDS, _LABELS = "image_ids.txt", "class_labels.txt"
_SIZES, _PLACES = "image_sizes.txt", "localization.txt"
_SPLITS = ("test", "val", "train")


def _fits(path: Path) -> bool:
    return any(_has_tables(folder) for folder in (_root(path), *(path / name for name in _SPLITS)))


def _has_tables(folder: Path) -> bool:
    return is_file(folder / _PLACES) and is_file(folder / _LABELS)


def _root(path: Path) -> Path:
    return path.parent if path.name == _PLACES else path


@dataclass(frozen=True, slots=True)
class _Tables:
    """Class, size, and the place that gives the size, by picture; `flaws` are broken lines."""

    classes: dict[str, int]
    sizes: dict[str, tuple[tuple[int, int], str]]
    flaws: dict[str, Flaw]


def _read(source: Source) -> Annotations:
    folder, notes = _folder(_root(source.path), source.split)
    images = source.images or images_beside(folder / _PLACES)
    listed = _listed(folder / _IDS)
    tables = _tables(folder)
    entries: list[Row | Flaw] = [*tables.flaws.values()]
    seen, unlisted = set(tables.flaws), 0
    for where, text in read_lines(folder / _PLACES):
        cells = text.split(",")
        seen.add(cells[0])
        if listed is not None and cells[0] not in listed:
            unlisted += 1
        elif cells[0] not in tables.flaws:
            entries.append(_entry(where, cells, tables, source.masks or images))
    for picture, where in (listed or {}).items():
        if picture not in seen:
            entries.append(Flaw(where, f"expected a line in {_PLACES}, there is none", picture))
    if unlisted:
        notes.append(f"{plural(unlisted, 'line')} of {_PLACES} left out, not in {_IDS}")
    return Annotations(images, entries, tuple(notes))


def _folder(path: Path, split: str | None) -> tuple[Path, list[str]]:
    """The folder of the tables, and a note on those beside it that are not read."""
    if _has_tables(path):
        if split not in (None, path.name):
            raise DataError(f"{path}: expected the split {split!r}, this is {path.name!r}")
        return path, []
    there = [name for name in _SPLITS if _has_tables(path / name)]
    chosen = split or next(iter(there), "test")
    if chosen not in there:
        names = " and ".join(there) or "none"
        raise DataError(f"{path}: expected the split {chosen!r} with {_PLACES}, there is {names}")
    return path / chosen, [f"split {chosen!r} read, {n!r} left out" for n in there if n != chosen]


def _listed(path: Path) -> dict[str, str] | None:
    """Where each picture of the split is listed; None when there is no list."""
    if not is_file(path):
        return None
    return {text: where for where, text in read_lines(path)}


def _tables(folder: Path) -> _Tables:
    tables = _Tables({}, {}, {})
    for where, text in read_lines(folder / _LABELS):
        picture, _, label = text.rpartition(",")
        try:
            _add_class(tables.classes, picture, label)
        except DataError as error:
            tables.flaws[picture] = Flaw(where, str(error), picture)
    lines = read_lines(folder / _SIZES) if is_file(folder / _SIZES) else iter(())
    for where, text in lines:
        picture, *size = text.rsplit(",", 2)
        try:
            tables.sizes[picture] = (_size(size), where)
        except DataError as error:
            tables.flaws[picture] = Flaw(where, str(error), picture)
    return tables


def _add_class(classes: dict[str, int], picture: str, label: str) -> None:
    number = whole(label, "class")
    before = classes.setdefault(picture, number)
    if before != number:
        raise DataError(f"expected one class a picture, {brief(picture)} has {before} before")


def _size(cells: list[str]) -> tuple[int, int]:
    if len(cells) != 2:
        raise DataError(f"expected 3 columns, path,width,height, got {len(cells) + 1}")
    return size_of(*cells)


def _entry(where: str, cells: list[str], tables: _Tables, masks: Path) -> Row | Flaw:
    try:
        return _row(where, cells, tables, masks)
    except DataError as error:
        return Flaw(where, str(error), cells[0])


def _row(where: str, cells: list[str], tables: _Tables, masks: Path) -> Row:
    picture, *rest = cells
    if picture not in tables.classes:
        raise DataError(f"expected the picture's class in {_LABELS}, {brief(picture)} is not there")
    names, (size, size_where) = (tables.classes[picture],), tables.sizes.get(picture, (None, None))
    row = Row(where, picture, names, size_wh=size, size_where=size_where, mask_scales=True)
    if len(rest) == 4:
        return replace(row, box=corners(rest))
    if len(rest) == 2:
        ignore = path_below(masks, rest[1]) if rest[1].strip() else None
        return replace(row, mask=path_below(masks, rest[0]), ignore=ignore)
    raise DataError(
        f"expected 5 columns, path,x0,y0,x1,y1, or 3, path,mask,ignore, got {len(cells)}"
    )


LAYOUT = Layout(
    "wsol",
    f"a folder with {_PLACES} and {_LABELS}, or one that holds such folders as test, val or train",
    _fits,
    _read,
    splits=_SPLITS,
    reads_masks=True,
)
