"""Picture files, looked at without decoding: where, how large, and how EXIF turns them."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from gapcam.types import Box, DataError, GapcamError, PictureError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from PIL import Image

# Pillow is imported where it is used: `import gapcam.data` stays light. The formats are those
# that gapcam.images reads.
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "PPM", "WEBP", "TIFF", "AVIF")
_ORIENTATION = 0x0112
_SIDEWAYS = frozenset((5, 6, 7, 8))


@dataclass(frozen=True, slots=True)
class Stamp:
    """What a picture file says of itself before it is decoded.

    Attributes:
        path: The file.
        size_wh: Width and height as stored, pixels.
        orientation: EXIF orientation, 1 to 8; 1 is upright.
    """

    path: Path
    size_wh: tuple[int, int]
    orientation: int

    @property
    def shown_wh(self) -> tuple[int, int]:
        """Width and height as shown, pixels."""
        width, height = self.size_wh
        return (height, width) if self.orientation in _SIDEWAYS else (width, height)


def path_below(folder: Path, name: str) -> Path:
    """The file of that name below a folder, never beside or above it.

    Raises:
        DataError: The name is empty, absolute, or leads out of the folder.
    """
    normal = os.path.normpath(name)
    if not name or "\0" in name or Path(name).anchor or normal in (".", ".."):
        raise DataError(f"{name!r}: expected the path of a file below {folder}")
    if normal.startswith(f"..{os.sep}"):
        raise DataError(f"{name!r}: expected a path below {folder}, this one leads out of it")
    return folder / normal


def read_stamp(path: Path) -> Stamp:
    """Read a picture's size and orientation from its header.

    Raises:
        PictureError: There is no such file, or it is not a picture that can be read.
    """
    with open_picture(path) as (file, image):
        return stamp_of(path, file, image)


def stamp_of(path: Path, file: BinaryIO, image: Image.Image) -> Stamp:
    """The same for a picture that is open and not decoded yet."""
    orientation = _orientation(file, image)
    width, height = image.size
    if image.format == "TIFF" and orientation in _SIDEWAYS:
        width, height = height, width  # for this format Pillow gives the shown size
    return Stamp(path, (width, height), orientation)


@contextmanager
def open_picture(path: Path) -> Iterator[tuple[BinaryIO, Image.Image]]:
    """Open a picture file for what is done with it inside; nothing is decoded yet.

    Raises:
        PictureError: There is no such file, it has too many pixels (Pillow's own bound), is not a
            picture, or is broken.
    """
    from PIL import Image

    try:
        _check_is_file(path)  # a pipe or device would block
        with path.open("rb") as file, Image.open(file, formats=_FORMATS) as image:
            yield file, image
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PictureError(f"{path}: too many pixels ({error}); make it smaller") from error
    except GapcamError:
        raise
    except Exception as error:  # a malformed file makes Pillow raise almost anything
        raise PictureError(
            f"{path}: expected a whole picture, it cannot be read ({type(error).__name__}: "
            f"{error}); get the file again"
        ) from error


def _check_is_file(path: Path) -> None:
    if not path.is_file():
        raise PictureError(f"{path}: expected a picture file, there is none; check the path")


def turn_box(box_xyxy: Box, size_wh: tuple[int, int], orientation: int) -> Box:
    """A box in stored pixels, in pixels of the picture as it is shown.

    Args:
        box_xyxy: Half-open, pixels of the stored file.
        size_wh: Width and height of the stored file, pixels.
        orientation: EXIF orientation, 1 to 8.
    """
    x0, y0, x1, y1 = box_xyxy
    width, height = size_wh
    if orientation in (2, 3, 7, 8):
        x0, x1 = width - x1, width - x0
    if orientation in (3, 4, 6, 7):
        y0, y1 = height - y1, height - y0
    return (y0, x0, y1, x1) if orientation in _SIDEWAYS else (x0, y0, x1, y1)


def _orientation(file: BinaryIO, image: Image.Image) -> int:
    """The EXIF orientation, 1..8; broken EXIF data counts as none, as when pictures are shown."""
    from PIL import Image

    try:
        if image.format == "PNG" and not _png_has_late_text(file):
            value = Image.Image.getexif(image).get(_ORIENTATION, 1)  # the PNG's own one decodes
        else:
            value = image.getexif().get(_ORIENTATION, 1)
        return int(value) if value in range(1, 9) else 1
    except Exception:  # like its decoders, Pillow's EXIF reader may raise almost anything
        return 1


def _png_has_late_text(file: BinaryIO) -> bool:
    """Whether EXIF or text follows a PNG's pixels, which Pillow finds only when it decodes."""
    back, pixels_passed = file.tell(), False
    try:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            kind = head[4:]
            pixels_passed |= kind == b"IDAT"
            if pixels_passed and kind in (b"eXIf", b"tEXt", b"zTXt", b"iTXt"):
                return True
            file.seek(int.from_bytes(head[:4], "big") + 4, os.SEEK_CUR)
        return False
    finally:
        file.seek(back)
