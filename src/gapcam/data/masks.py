"""Mask files: pixels that belong to a class, and pixels that do not count."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

import numpy as np
import numpy.typing as npt

from gapcam.data.pictures import Stamp, open_picture, stamp_of
from gapcam.types import ArgumentError, BoolArray, ByteArray, DataError, PictureError

if TYPE_CHECKING:
    from PIL import Image

    from gapcam.data.examples import Example, Target

_Pixel = TypeVar("_Pixel", bound=np.generic)

FOREGROUND = 127
"""A pixel of a mask file is foreground when its grey value is above this, of 255."""


def load_mask(target: Target, example: Example) -> tuple[BoolArray, BoolArray | None]:
    """Read the mask of one target, upright and at the size of its picture.

    The mask is the union of the target's files. Pixels to ignore are those of its ignore file that
    are not in the mask (Choe et al., "Evaluating Weakly Supervised Object Localization Methods
    Right", CVPR 2020, section 4). A file of another size but the same aspect, to one pixel of
    rounding, is scaled to the picture: each pixel takes the value at its centre.

    Args:
        target: A target with `mask_paths`.
        example: The picture it is in.

    Returns:
        `bool [H, W]`, the mask, and the same for the pixels to ignore or None without any; in
        pixels of the picture as it is shown.

    Raises:
        PictureError: A file is missing, no picture, too large, or has a mode that is no mask.
        DataError: A file's size is not that of the picture.
        ArgumentError: The target has no mask.
    """
    if not target.mask_paths:
        raise ArgumentError(f"{example.name}: expected a target with masks, this one has boxes")
    width, height = example.size_wh
    stored = (height, width) if example.orientation >= 5 else (width, height)
    stamp = Stamp(example.path, stored, example.orientation)
    mask = np.zeros((height, width), np.bool_)
    for path in target.mask_paths:
        mask |= _read(path, stamp)
    if target.ignore_path is None:
        return mask, None
    return mask, _read(target.ignore_path, stamp) & ~mask


def check_mask(path: Path, stamp: Stamp, *, scales: bool, may_be_empty: bool = False) -> bool:
    """Refuse a mask file that cannot be the mask of a picture.

    Args:
        path: The mask file.
        stamp: Its picture.
        scales: Another size with the same aspect will do.
        may_be_empty: It need not have any foreground.

    Returns:
        Whether it has another size.

    Raises:
        PictureError: It is missing, no picture, too large, or has a mode that is no mask.
        DataError: Its size is wrong, or no pixel is foreground.
    """
    grey, is_stored = _read_grey(path, stamp, scales=scales)
    top = int(grey.max())
    if top <= FOREGROUND and not may_be_empty:
        raise DataError(
            f"{path}: expected foreground, grey values above {FOREGROUND}, the highest is {top}; "
            "save foreground as white (255), or leave out what is empty"
        )
    width, height = stamp.size_wh if is_stored else stamp.shown_wh
    return grey.shape != (height, width)


def _read(path: Path, stamp: Stamp) -> BoolArray:
    """One file's foreground, upright, at the picture's size."""
    grey, is_stored = _read_grey(path, stamp, scales=True)
    upright = turn_pixels(grey > FOREGROUND, stamp.orientation if is_stored else 1)
    width, height = stamp.shown_wh
    if upright.shape == (height, width):
        return upright
    rows = (np.arange(height) * 2 + 1) * upright.shape[0] // (2 * height)
    columns = (np.arange(width) * 2 + 1) * upright.shape[1] // (2 * width)
    return cast("BoolArray", upright[rows[:, np.newaxis], columns])


def _read_grey(path: Path, picture: Stamp, *, scales: bool) -> tuple[ByteArray, bool]:
    """Grey values `[h, w]`, turned by the file's own orientation, and `_is_stored`."""
    with open_picture(path) as (file, image):
        stamp = stamp_of(path, file, image)
        is_stored = _is_stored(stamp, picture, scales=scales)
        image.load()
        _check_mode(path, image)
        own = 1 if image.format == "TIFF" else stamp.orientation  # Pillow has turned a TIFF
        return turn_pixels(np.asarray(image.convert("L")), own), is_stored


def _is_stored(mask: Stamp, picture: Stamp, *, scales: bool) -> bool:
    """Whether a mask lies like the stored picture; else it lies like the shown one.

    A mask with an orientation of its own is turned by that, so it lies like the shown picture.
    """
    if mask.orientation == 1 and _same_shape(mask.size_wh, picture.size_wh, scales=scales):
        return True
    if _same_shape(mask.shown_wh, picture.shown_wh, scales=scales):
        return False
    aspect = ", or another size with that aspect" if scales else ""
    raise DataError(
        f"{mask.path}: expected the size of its picture, {_text(picture.size_wh)} pixels{aspect}, "
        f"got {_text(mask.size_wh)}; save the mask at that size"
    )


def _same_shape(a: tuple[int, int], b: tuple[int, int], *, scales: bool) -> bool:
    return a == b or (scales and abs(a[0] * b[1] - a[1] * b[0]) <= max(b))


def _check_mode(path: Path, image: Image.Image) -> None:
    if image.mode not in ("1", "L", "P", "RGB", "LA", "PA", "RGBA"):
        raise PictureError(
            f"{path}: expected a mask of 8 bits a channel or 1 bit, it has mode {image.mode}; "
            "save it as 8-bit grey, background 0 and foreground 255"
        )
    if image.has_transparency_data:
        lowest, _ = cast("tuple[int, int]", image.convert("RGBA").getchannel("A").getextrema())
        if lowest < 255:
            raise PictureError(
                f"{path}: expected a mask without transparent parts, it has some; "
                "save it as 8-bit grey, background 0 and foreground 255"
            )


def turn_pixels(pixels: npt.NDArray[_Pixel], orientation: int) -> npt.NDArray[_Pixel]:
    """Turn stored pixels `[h, w]` as EXIF orientation 1 to 8 says they are shown."""
    if orientation in (2, 3, 7, 8):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 6, 7):
        pixels = pixels[::-1]
    return pixels.T if orientation >= 5 else pixels


def _text(size_wh: tuple[int, int]) -> str:
    return f"{size_wh[0]}x{size_wh[1]}"
