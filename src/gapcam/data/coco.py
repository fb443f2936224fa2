"""The layout `coco`: a JSON file with images, annotations and categories (Lin et al., ECCV 2014).

`bbox` is `[x, y, width, height]` in pixels, x and y from 0: the box is `(x, y, x + width,
y + height)`. Annotations of crowds (`iscrowd`) are left out and counted. A class goes by its
category's name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from gapcam.data.fields import (
    MAX_TEXT_BYTES,
    brief,
    class_name,
    corners,
    images_beside,
    is_file,
    plural,
    read_bytes,
    size_of,
    unreadable,
)
from gapcam.data.rows import Annotations, Flaw, Frame, Layout, Row, Source
from gapcam.types import Box, DataError

_Object: TypeAlias = dict[str, Any]
_Id: TypeAlias = "int | str"
_Images: TypeAlias = dict[_Id, "_Image | None"]
_Value = TypeVar("_Value")

_KEYS = ("images", "annotations", "categories")
_PEEK = 2**16


def _fits(path: Path) -> bool:
    return path.suffix.lower() == ".json" if is_file(path) else bool(_files(path))


def _files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.glob("*.json")) if _looks_like_coco(path)]


def _looks_like_coco(path: Path) -> bool:
    """Whether one of COCO's keys is near the beginning or the end."""
    try:
        with path.open("rb") as file:
            start = file.read(_PEEK)
            file.seek(max(path.stat().st_size - _PEEK, 0))
            ends = start + file.read(_PEEK)
    except OSError as error:
        raise unreadable(path, error) from error
    return any(f'"{key}"'.encode() in ends for key in _KEYS[1:])


def _read(source: Source) -> Annotations:
    path = _file(source.path)
    content = _load(path)
    categories = _categories(path, content["categories"])
    entries: list[Row | Flaw] = []
    images = _images(path, content["images"], entries)
    frame: Frame = "shown" if _is_ours(content) else "stored"
    for place, note in enumerate(content["annotations"], start=1):
        entry = _entry(path.name, place, note, images, categories, frame)
        if entry is not None:
            entries.append(entry)
    crowds = sum(map(_is_crowd, content["annotations"]))
    notes = tuple(_notes(images, entries, crowds))
    return Annotations(source.images or images_beside(path), entries, notes)


def _file(path: Path) -> Path:
    if is_file(path):
        return path
    files = _files(path)
    if len(files) != 1:
        names = ", ".join(file.name for file in files) or "none"
        raise DataError(f"{path}: expected one COCO file (*.json), found {names}; name the file")
    return files[0]


def _load(path: Path) -> _Object:
    try:
        content = json.loads(read_bytes(path, MAX_TEXT_BYTES).decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: expected JSON in UTF-8 ({error}); get the file again") from error
    if not isinstance(content, dict) or not all(isinstance(content.get(k), list) for k in _KEYS):
        keys = ", ".join(content) if isinstance(content, dict) else type(content).__name__
        raise DataError(
            f"{path}: expected an object with the lists images, annotations and categories, "
            f"got {keys[:100] or 'none'}; name the file that holds the truth"
        )
    return content


def _is_ours(content: _Object) -> bool:
    """Whether `gapcam localize --format coco` wrote the file, in pixels as they are shown."""
    info = content.get("info")
    return isinstance(info, dict) and info.get("description") == "gapcam"


def _categories(path: Path, entries: list[Any]) -> dict[_Id, str]:
    """Names by id. A broken table breaks every annotation, so it is an error, not a problem."""
    names: dict[_Id, str] = {}
    for place, entry in enumerate(entries, start=1):
        category_id = entry.get("id") if isinstance(entry, dict) else None
        if not isinstance(category_id, int | str) or category_id in names:
            raise DataError(
                f"{path}, category {place}: expected an id of its own, got {brief(entry)}"
            )
        try:
            names[category_id] = class_name(entry.get("name"), "name")
        except DataError as error:
            raise DataError(f"{path}, category id {category_id}: {error}") from error
    return names


@dataclass(frozen=True, slots=True)
class _Image:
    where: str
    name: str
    size_wh: tuple[int, int] | None


def _images(path: Path, listed: list[Any], flaws: list[Row | Flaw]) -> _Images:
    """Pictures by id, None for one that is wrong; what is wrong is added to `flaws`."""
    images: _Images = {}
    taken: dict[str, str] = {}
    for place, entry in enumerate(listed, start=1):
        where, name = f"{path.name}, image {place}", None
        try:
            where, name = _identity(path.name, "image", entry), entry.get("file_name")
            _claim_id(images, entry["id"], flaws)
            images[entry["id"]] = _image(where, entry, taken)
        except DataError as error:
            flaws.append(Flaw(where, str(error), name if isinstance(name, str) else None))
    return images


def _image(where: str, entry: _Object, taken: dict[str, str]) -> _Image:
    name, size = entry.get("file_name"), (entry.get("width"), entry.get("height"))
    if not isinstance(name, str) or not name:
        raise DataError(f"file_name: expected the path of a picture, got {brief(name)}")
    other = taken.setdefault(name, where)
    if other != where:
        raise DataError(f"expected a file_name of its own, {other} has {brief(name)} too")
    return _Image(where, name, None if size == (None, None) else size_of(*size))


def _claim_id(images: _Images, image_id: _Id, flaws: list[Row | Flaw]) -> None:
    """Of two pictures with one id, neither can be told from the other."""
    if image_id in images:
        first = images[image_id]
        if first is not None:
            flaws.append(Flaw(first.where, "expected an id of its own, others have it", first.name))
        raise DataError("expected an id of its own, others have it")
    images[image_id] = None


def _identity(file: str, noun: str, entry: Any) -> str:
    """How an entry is called in messages: by its id."""
    if not isinstance(entry, dict):
        raise DataError(f"expected an object, got {brief(entry)}")
    if not isinstance(entry.get("id"), int | str):
        raise DataError(f"id: expected a number or text, got {brief(entry.get('id'))}")
    return f"{file}, {noun} id {entry['id']}"


def _entry(
    file: str,
    place: int,
    note: Any,
    images: _Images,
    categories: dict[_Id, str],
    frame: Frame,
) -> Row | Flaw | None:
    """One annotation; None for a crowd, or for one of a picture that is wrong already."""
    where, image = f"{file}, annotation {place}", None
    try:
        where = _identity(file, "annotation", note)
        image = _of(images, note, "image_id", "images")
        if image is None or _is_crowd(note):
            return None
        name = _of(categories, note, "category_id", "categories")
        box, size = _box(note.get("bbox")), image.size_wh
        return Row(
            *(where, image.name, (name,), box), size_wh=size, size_where=image.where, frame=frame
        )
    except DataError as error:
        return Flaw(where, str(error), image.name if image else None)


def _of(table: dict[_Id, _Value], note: _Object, key: str, listed: str) -> _Value:
    value = note.get(key)
    if not isinstance(value, int | str) or value not in table:
        raise DataError(f"{key}: expected an id that is in {listed}, got {brief(value)}")
    return table[value]


def _box(bbox: Any) -> Box:
    if not isinstance(bbox, list) or len(bbox) != 4:
        raise DataError(f"bbox: expected [x, y, width, height], got {brief(bbox)}")
    x, y, width, height = corners(bbox, "x y width height")
    return (x, y, x + width, y + height)


def _is_crowd(note: Any) -> bool:
    return isinstance(note, dict) and note.get("iscrowd") in (1, True)


def _notes(images: _Images, entries: list[Row | Flaw], crowds: int) -> Iterator[str]:
    if crowds:
        yield f"{plural(crowds, 'annotation')} of crowds left out (iscrowd)"
    bare = {image.name for image in images.values() if image} - {entry.picture for entry in entries}
    if bare:
        yield f"{plural(len(bare), 'picture')} without a box left out"


LAYOUT = Layout("coco", "a COCO file (*.json), or a folder with one", _fits, _read)
