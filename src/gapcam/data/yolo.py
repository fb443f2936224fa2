"""The layout `yolo`: `data.yaml` and `labels/<picture's path>.txt` (as Ultralytics trainers read).

A line is `class cx cy w h`, fractions of the picture as it is shown; the class is an index into
`names` of `data.yaml`. Pictures are in the folder that was named, else in the `path` of `data.yaml`
when that is a folder, else in `images` beside it. Of YAML only what such files hold is understood:
keys with a value on their line, and `names` as a block or a list in brackets.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Set
from pathlib import Path

from gapcam.data.fields import (
    brief,
    check_bytes,
    corners,
    images_beside,
    is_dir,
    is_file,
    plural,
    read_lines,
    walk,
    whole,
)
from gapcam.data.rows import Annotations, Flaw, Layout, Row, Source
from gapcam.types import PICTURE_SUFFIXES, Box, DataError

MAX_YAML_BYTES = 2**20
"""A larger `data.yaml` is refused before it is read."""

_NAMES = ("data.yaml", "data.yml")
_SPLITS = ("train", "val", "test")


def _fits(path: Path) -> bool:
    file = _file(path)
    return file is not None and is_dir(file.parent / "labels")


def _file(path: Path) -> Path | None:
    if is_file(path):
        return path if path.suffix.lower() in (".yaml", ".yml") else None
    return next((path / name for name in _NAMES if is_file(path / name)), None)


def _read(source: Source) -> Annotations:
    file = _file(source.path)
    labels = None if file is None else file.parent / "labels"
    if file is None or labels is None or not is_dir(labels):
        raise DataError(f"{source.path}: expected data.yaml, and the folder labels beside it")
    values, names = parse_yaml(file)
    part = "" if source.split in (None, "all") else _part(file, values, str(source.split))
    images = source.images or _images(file, values)
    pictures = _by_stem(images, part, PICTURE_SUFFIXES)
    entries: list[Row | Flaw] = []
    bare = 0
    for stem in _by_stem(labels, part, {".txt"}):
        rows = list(_entries(labels / f"{stem}.txt", stem, pictures.pop(stem, []), names))
        entries += rows
        bare += not rows
    bare += sum(map(len, pictures.values()))
    notes = (f"{plural(bare, 'picture')} without a box left out",) if bare else ()
    return Annotations(images, entries, notes)


def _entries(
    path: Path, stem: str, pictures: list[str], names: dict[int, str]
) -> Iterator[Row | Flaw]:
    file = f"labels/{stem}.txt"
    picture = pictures[0] if pictures else f"{stem}.jpg"
    if len(pictures) > 1:
        what = f"expected one picture with these labels, there are {' and '.join(pictures)}"
        yield Flaw(file, what, picture)
    for where, text in read_lines(path, file):
        yield _entry(where, text, picture, names)


def _entry(where: str, text: str, picture: str, names: dict[int, str]) -> Row | Flaw:
    try:
        name, box = _label(text.split(), names)
        return Row(where, picture, (name,), box, frame="fraction")
    except DataError as error:
        return Flaw(where, str(error), picture)


def _label(words: list[str], names: dict[int, str]) -> tuple[str, Box]:
    if len(words) != 5:
        raise DataError(f"expected 5 columns, class cx cy w h, got {len(words)}")
    class_id = whole(words[0], "class")
    if class_id not in names:
        raise DataError(f"class: expected an index into names of data.yaml, got {class_id}")
    x, y, width, height = corners(words[1:], "cx cy w h")
    return names[class_id], (x - width / 2, y - height / 2, x + width / 2, y + height / 2)


def _by_stem(root: Path, part: str, suffixes: Set[str]) -> dict[str, list[str]]:
    """Files below `root/part` by their path below `root` without suffix; sorted."""
    files: dict[str, list[str]] = {}
    for below, names in walk(root / part):
        for name in names:
            path = Path(part) / below / name
            if path.suffix.lower() in suffixes:
                files.setdefault(path.with_suffix("").as_posix(), []).append(path.as_posix())
    return dict(sorted(files.items()))


def _images(file: Path, values: Mapping[str, str]) -> Path:
    """The folder that labels mirror: `path`, or its `images` where the splits are in there."""
    root = file.parent / values["path"] if "path" in values else None
    if root is None or not is_dir(root):
        return images_beside(file)
    inner = [values[key] for key in _SPLITS if values.get(key, "").startswith("images")]
    return root / "images" if inner else root


def _part(file: Path, values: Mapping[str, str], split: str) -> str:
    """The subfolder of `images` and of `labels` that holds a split."""
    value = values.get(split, "").removeprefix("./").rstrip("/")
    if value == "." or (value.startswith("images") and ".." not in value):
        return value.removeprefix(".").removeprefix("images").removeprefix("/")
    raise DataError(
        f"{file}: expected {split}: images/<folder> for the split {split!r}, got {brief(value)}; "
        "name another split, or none"
    )


def parse_yaml(path: Path) -> tuple[dict[str, str], dict[int, str]]:
    """Read the plain values of a `data.yaml` by their key, and its class names by index.

    Raises:
        DataError: The file cannot be read, or has no names that are understood.
    """
    check_bytes(path, MAX_YAML_BYTES)
    blocks: dict[str, list[str]] = {}
    block: list[str] = []
    for _, line in read_lines(path):
        key = re.match(r"([A-Za-z_][\w-]*):(?:\s+|$)", line)
        if key:
            block = blocks.setdefault(key[1], [])
            line = line[key.end() :]
        if line.strip() and not line.lstrip().startswith("#"):
            block.append(line.strip())
    try:
        names = _names(blocks.get("names", []))
        values = {key: _scalar(blocks[key][0]) for key in ("path", *_SPLITS) if blocks.get(key)}
    except DataError as error:
        raise DataError(
            f"{path}: {error}; write it as `path: folder`, and the names as `names:` and lines "
            "`  0: name`"
        ) from error
    return values, names


def _names(lines: list[str]) -> dict[int, str]:
    """Class names from `0: name` lines, `- name` lines, or a list in brackets."""
    if lines and lines[0].startswith("["):
        return dict(enumerate(_listed(" ".join(lines))))
    names: dict[int, str] = {}
    for line in lines:
        entry = re.match(r"(?:-|(\d+):)\s+", line)
        index = len(names) if entry is None or entry[1] is None else int(entry[1])
        if entry is None or index in names:
            raise DataError(f"names: expected `index: name` or `- name`, got {brief(line)}")
        names[index] = _scalar(line[entry.end() :])
    if not names:
        raise DataError("names: expected the names of the classes, got none")
    return names


def _listed(text: str) -> list[str]:
    pattern = r"""("(?:[^"\\]|\\.)*"|'(?:[^']|'')*'|[^\s,\[\]"'{}][^,\[\]{}]*)\s*"""
    if not re.fullmatch(rf"\[\s*{pattern}(,\s*{pattern})*,?\s*\](\s+#.*)?", text):
        raise DataError(f"names: expected a list of names, got {brief(text)}")
    return [_scalar(item) for item in re.findall(pattern, text[1 : text.rindex("]")])]


def _scalar(text: str) -> str:
    """A plain or quoted value; a comment may follow."""
    quoted = re.match(r"""("(?:[^"\\]|\\.)*"|'(?:[^']|'')*')\s*(?:#|$)""", text)
    value = quoted[1] if quoted else text.partition(" #")[0].partition("\t#")[0].rstrip()
    if quoted and value[0] == "'":
        return value[1:-1].replace("''", "'")
    if quoted:
        try:
            return str(json.loads(value))
        except ValueError:
            value = ""
    if not value or value[0] in "&*!|>%@`{[#-?:,\"'" or ": " in value:
        raise DataError(f"expected a plain or quoted value, got {brief(text)}")
    return value


LAYOUT = Layout(
    "yolo",
    "data.yaml, or a folder with it and with the folder labels",
    _fits,
    _read,
    splits=("test", "val", "train", "all"),
)
