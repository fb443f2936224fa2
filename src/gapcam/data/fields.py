"""Text files and the fields in them, bounded and checked."""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TextIO

from gapcam.data.examples import ClassNames
from gapcam.types import PICTURE_SUFFIXES, Box, DataError

MAX_TEXT_BYTES = 2**30
"""A text or JSON file larger than this is refused before it is read (COCO's largest: 0.5 GB)."""

MAX_XML_BYTES = 16 * 2**20
"""The same for an XML file, which holds one picture's boxes."""

_SUFFIXES = (".jpg", ".jpeg", ".png", *sorted(PICTURE_SUFFIXES - {".jpg", ".jpeg", ".png"}))
_SPELLINGS = (".JPEG", *_SUFFIXES, *(suffix.upper() for suffix in _SUFFIXES))


@contextmanager
def open_text(path: Path) -> Iterator[TextIO]:
    """Open a text file as UTF-8, with or without a byte order mark; line ends stay as they are.

    Bytes that are not UTF-8 come as lone surrogates: in a picture's name they are the name.

    Raises:
        DataError: The file cannot be read or is too large.
    """
    check_bytes(path, MAX_TEXT_BYTES)
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            yield file
    except OSError as error:
        raise unreadable(path, error) from error


def read_lines(path: Path, name: str | None = None) -> Iterator[tuple[str, str]]:
    """Every line that is not blank: where it is (`boxes.txt, line 7`), and its text.

    Args:
        path: The file.
        name: What to call it, when not by its own name.

    Raises:
        DataError: The file cannot be read or is too large.
    """
    with open_text(path) as file:
        for number, line in enumerate(file, start=1):
            text = line.rstrip("\r\n")
            if text.strip():
                yield f"{name or path.name}, line {number}", text


def read_bytes(path: Path, limit: int) -> bytes:
    """The bytes of a file of at most `limit` bytes.

    Raises:
        DataError: The file cannot be read or is too large.
    """
    check_bytes(path, limit)
    try:
        return path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from error


def check_bytes(path: Path, limit: int) -> None:
    """Refuse what is not a file or too large.

    Raises:
        DataError: It is.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise unreadable(path, error) from error
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"{path}: expected a file, this is a folder or device; check the path")
    if status.st_size > limit:
        raise DataError(
            f"{path}: expected at most {limit:,} bytes, it has {status.st_size:,}; split it up"
        )


def unreadable(path: Path, error: OSError) -> DataError:
    """The error for a file or folder that the system does not let us read."""
    return DataError(f"{path}: cannot be read ({error.strerror or error}); check the path")


def brief(value: object) -> str:
    """A value as it is shown in messages, cut short where it is long."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def number(value: Any, name: str) -> float:
    """A finite number from text or JSON.

    Raises:
        DataError: It is not one; the message begins with `name`.
    """
    try:
        wrong = isinstance(value, bool) or (isinstance(value, str) and "_" in value)
        result = math.nan if wrong else float(value)
    except (TypeError, ValueError, OverflowError):
        result = math.nan
    if not math.isfinite(result):
        raise DataError(f"{name}: expected a finite number, got {brief(value)}")
    return result


def whole(value: Any, name: str, least: int = 0) -> int:
    """A whole number of at least `least`, from text or JSON; `7.0` is one.

    Raises:
        DataError: It is not one; the message begins with `name`.
    """
    try:
        result = number(value, name)
    except DataError:
        result = math.nan
    if not (result >= least and result.is_integer()):
        raise DataError(f"{name}: expected a whole number of at least {least}, got {brief(value)}")
    return int(result)


def size_of(width: Any, height: Any) -> tuple[int, int]:
    """Width and height in pixels, from text or JSON.

    Raises:
        DataError: They are not whole numbers of at least 1.
    """
    return (whole(width, "width", 1), whole(height, "height", 1))


def corners(values: Any, names: str = "x0 y0 x1 y1") -> Box:
    """Four finite numbers from text or JSON.

    Raises:
        DataError: One is not; the message begins with its name.
    """
    a, b, c, d = (number(v, name) for v, name in zip(values, names.split(), strict=True))
    return (a, b, c, d)


def class_name(value: Any, name: str = "class") -> str:
    """The name of a class.

    Raises:
        DataError: It is empty, no text, or not UTF-8; the message begins with `name`.
    """
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{name}: expected the name of a class, got {brief(value)}")
    if not value.isprintable() and any("\udc80" <= letter <= "\udcff" for letter in value):
        raise DataError(f"{name}: expected UTF-8 text, got {brief(value)}; save the file as UTF-8")
    return value


def names_of(*names: str | int) -> ClassNames:
    """Names without repeats, in their order."""
    return tuple(dict.fromkeys(names))


def with_suffix(folder: Path, stems: tuple[str, ...]) -> str | None:
    """The first picture file below `folder` that has one of the names, plus a picture's suffix."""
    for suffix in _SPELLINGS:
        for stem in stems:
            name = f"{stem}{suffix}"
            if os.path.isfile(os.path.join(folder, name)):  # noqa: PTH113, PTH118 - as in is_file
                return name
    return None


def is_file(path: Path) -> bool:
    """Whether there is such a file; unlike `Path.is_file`, no path makes it raise."""
    return os.path.isfile(path)  # noqa: PTH113


def is_dir(path: Path) -> bool:
    """The same for a folder."""
    return os.path.isdir(path)  # noqa: PTH112


def walk(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """Folders below `root`, relative to it, and the files in each; sorted, links followed.

    Hidden files and folders are left out, and links back to a folder above them.

    Raises:
        DataError: A folder cannot be read.
    """
    for folder, inner, names in os.walk(root, onerror=_raise, followlinks=True):
        above = Path(folder).resolve()
        seen = {above, *above.parents}
        inner[:] = sorted(
            name
            for name in inner
            if not name.startswith(".") and Path(folder, name).resolve() not in seen
        )
        files = sorted(name for name in names if not name.startswith("."))
        yield Path(folder).relative_to(root), files


def _raise(error: OSError) -> NoReturn:
    raise unreadable(Path(error.filename), error) from error


def is_picture(name: str) -> bool:
    """Whether a file is called like a picture."""
    return Path(name).suffix.lower() in PICTURE_SUFFIXES


def images_beside(path: Path) -> Path:
    """The folder `images` beside an annotation file, for when none was named.

    Raises:
        DataError: There is none.
    """
    folder = path.parent / "images"
    if not is_dir(folder):
        raise DataError(
            f"{path}: expected its pictures in {folder}, there is no such folder; name the folder "
            "of the pictures"
        )
    return folder


def plural(count: int, noun: str) -> str:
    """A number with its noun, for notes: `1 box`, `2 boxes`."""
    ending = "es" if noun.endswith("x") else "s"
    return f"{count:,} {noun}{'' if count == 1 else ending}"
