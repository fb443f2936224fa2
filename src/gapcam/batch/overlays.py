"""Overlays of a run's pictures, the contact sheet, and how to tell them from pictures to do."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image

from gapcam.batch.plan import Inputs, Reader, absolute
from gapcam.outputs import replacing
from gapcam.paths import Expansion
from gapcam.types import PICTURE_SUFFIXES, Failure

JPEG_QUALITY = 92
OVERLAYS = "overlays"
OVERLAY_END = "_cam.jpg"
SHEET = "contact_sheet.jpg"
LONGEST_NAME = 255
LONGEST_JPEG_SIDE = 65_500


def overlay_path(reader: Reader | Expansion, name: str, out_dir: Path) -> Path:
    """Where the overlay of a picture goes: `cat.jpg` to `overlays/cat_cam.jpg`.

    Other suffixes stay in the name (`cat.png` to `cat_png_cam.jpg`), and so does that of
    `cat_png.jpg`, so that no two meet. Names too long for a file are cut and get a hash, and so
    do those without the suffix of a picture.
    """
    relative = reader.relative(name)
    digest = hashlib.sha256(os.fsencode(relative.name)).hexdigest()[:12]
    stem, suffix = relative.stem, relative.suffix
    like_another = f".{stem.rpartition('_')[2].lower()}" in PICTURE_SUFFIXES
    kept = "" if suffix == ".jpg" and not like_another else suffix.replace(".", "_")
    if suffix.lower() not in PICTURE_SUFFIXES:
        kept = f"_{digest}"
    file = f"{stem}{kept}{OVERLAY_END}"
    if len(os.fsencode(file)) > LONGEST_NAME:
        start = os.fsencode(stem)[: LONGEST_NAME // 2].decode("utf-8", "ignore")
        file = f"{start}_{digest}{OVERLAY_END}"
    return out_dir / OVERLAYS / relative.with_name(file)


def save_jpeg(picture: Image.Image, path: Path) -> None:
    """Write a JPEG, smaller where the format cannot hold its size.

    Raises:
        OutputError: It cannot be written.
    """
    if max(picture.size) > LONGEST_JPEG_SIDE:
        picture.thumbnail((LONGEST_JPEG_SIDE, LONGEST_JPEG_SIDE))
    with replacing(path, binary=True) as out:
        picture.save(out, "JPEG", quality=JPEG_QUALITY)


def is_result(path: str, out_dir: Path) -> bool:
    """Whether a file is a picture that a run wrote into `out_dir`."""
    whole = absolute(path)
    below = absolute(out_dir / OVERLAYS) + os.sep
    overlay = whole.startswith(below) and whole.endswith(OVERLAY_END)
    return overlay or whole == absolute(out_dir / SHEET)


def without_results(inputs: Expansion, out_dir: Path) -> Expansion:
    """The inputs less the pictures that an earlier run wrote into `out_dir`, counted as ignored."""
    paths = tuple(path for path in inputs.paths if not is_result(path, out_dir))
    return replace(inputs, paths=paths, ignored=inputs.ignored + len(inputs.paths) - len(paths))


@dataclass(slots=True)
class WithoutResults:
    """Inputs less the pictures that an earlier run wrote into `out_dir`; streams.

    Args:
        inputs: What to leave them out of.
        out_dir: The run's folder.
    """

    inputs: Inputs
    out_dir: Path
    _left_out: int = field(default=0, init=False)

    @property
    def reader(self) -> Reader:
        """As it is."""
        return self.inputs.reader

    @property
    def root(self) -> Path:
        """As it is."""
        return self.inputs.root

    @property
    def failures(self) -> Sequence[Failure]:
        """As they are."""
        return self.inputs.failures

    @property
    def ignored(self) -> int:
        """With the results."""
        return self.inputs.ignored + self._left_out

    def __iter__(self) -> Iterator[Any]:
        """Items that are no results."""
        self._left_out = 0
        for entry in self.inputs:
            if not isinstance(entry, Failure) and is_result(entry.name, self.out_dir):
                self._left_out += 1
            else:
                yield entry

    def count(self) -> int | None:
        """With the results, which are not known before they come."""
        return self.inputs.count()
