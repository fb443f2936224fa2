"""The layout `cub`: CUB-200-2011 as distributed (Wah et al., CNS-TR-2011-001).

Text tables keyed by image id: `images.txt` (`id path`), `image_class_labels.txt` (`id class`),
`classes.txt` (`class name`), `bounding_boxes.txt` (`id x y width height`) and
`train_test_split.txt` (`id is_training`). The box is `(x, y, x + width, y + height)`, as written.
Pictures are below `images`. The test split is read unless another is named. A class goes by its
name as distributed, `001.Black_footed_Albatross`, and by the bare words.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

from gapcam.data.examples import ClassNames
from gapcam.data.fields import (
    brief,
    corners,
    images_beside,
    is_file,
    names_of,
    plural,
    read_lines,
)
from gapcam.data.rows import Annotations, Flaw, Layout, Row, Source
from gapcam.types import Box, DataError

_Table: TypeAlias = dict[str, tuple[str, str]]
"""Where a line is and what it says after its key, by the key."""

_IMAGES, _LABELS, _CLASSES = "images.txt", "image_class_labels.txt", "classes.txt"
_BOXES, _SPLIT = "bounding_boxes.txt", "train_test_split.txt"
_SPLITS = {"test": "0", "train": "1"}  # what is in `train_test_split.txt`


def _fits(path: Path) -> bool:
    return all(is_file(_root(path) / name) for name in (_IMAGES, _LABELS, _CLASSES, _BOXES))


def _root(path: Path) -> Path:
    return path.parent if path.name in (_IMAGES, _BOXES) else path


def _read(source: Source) -> Annotations:
    root, split = _root(source.path), source.split or "test"
    flaws: list[tuple[str, Flaw]] = []
    images = _table(root / _IMAGES, flaws)
    others = {name: _table(root / name, flaws) for name in (_LABELS, _CLASSES, _BOXES)}
    wanted = list(images)
    notes: tuple[str, ...] = ()
    if split != "all":
        parts = _table(root / _SPLIT, flaws)
        # A picture without a part is not left out: `_entry` reports it.
        wanted = [key for key in images if key not in parts or parts[key][1] == _SPLITS[split]]
        notes = (
            f"{plural(len(images) - len(wanted), 'picture')} outside the {split} split left out",
        )
        others[_SPLIT] = parts
    entries = [Flaw(f.where, f.what, images.get(key, ("", None))[1]) for key, f in flaws]
    entries += _strangers(images, others)
    found = [_entry(key, *images[key], others) for key in wanted]
    return Annotations(source.images or images_beside(root / _IMAGES), [*entries, *found], notes)


def _table(path: Path, flaws: list[tuple[str, Flaw]]) -> _Table:
    """Read lines `key rest`; what is wrong is added to `flaws`, with its key."""
    table: _Table = {}
    for where, text in read_lines(path):
        key, _, rest = text.strip().partition(" ")
        if not rest.strip():
            flaws.append((key, Flaw(where, f"expected two columns or more, got {brief(text)}")))
        elif key in table:
            flaws.append((key, Flaw(where, f"expected every id once, {table[key][0]} has {key}")))
        else:
            table[key] = (where, rest.strip())
    return table


def _strangers(images: _Table, tables: dict[str, _Table]) -> Iterator[Flaw]:
    """Lines about pictures that `images.txt` does not have."""
    for name in (_LABELS, _BOXES):
        for key, (where, _) in tables[name].items():
            if key not in images:
                yield Flaw(where, f"expected an image id of {_IMAGES}, got {brief(key)}")


def _entry(key: str, where: str, picture: str, tables: dict[str, _Table]) -> Row | Flaw:
    for name in tables:
        if name != _CLASSES and key not in tables[name]:
            return Flaw(where, f"expected image {key} in {name}, it is not there", picture)
    label_where, label = tables[_LABELS][key]
    if label not in tables[_CLASSES]:
        return Flaw(label_where, f"expected a class id of {_CLASSES}, got {brief(label)}", picture)
    box_where, numbers = tables[_BOXES][key]
    try:
        return Row(box_where, picture, _class_names(tables[_CLASSES][label][1]), _box(numbers))
    except DataError as error:
        return Flaw(box_where, str(error), picture)


def _class_names(name: str) -> ClassNames:
    bare = name.partition(".")[2] or name
    return names_of(name, bare, bare.replace("_", " "))


def _box(numbers: str) -> Box:
    values = numbers.split()
    if len(values) != 4:
        raise DataError(f"expected 5 columns, id x y width height, got {len(values) + 1}")
    x, y, width, height = corners(values, "x y width height")
    return (x, y, x + width, y + height)


LAYOUT = Layout(
    "cub",
    f"a folder with {_IMAGES}, {_LABELS}, {_CLASSES} and {_BOXES}",
    _fits,
    _read,
    splits=("test", "train", "all"),
)
