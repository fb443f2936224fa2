"""Pictures in: a file, bytes, a PIL image or an array becomes upright RGB pixels.

Everything a user may throw at the library is turned into one thing, `gapcam.types.Picture`, or
into one error, `gapcam.types.PictureError`. What had to be chosen on the way (white behind
transparent parts, the first frame of an animation) is said in `Picture.notes`.

Pillow does the decoding: its JPEG draft mode decodes at 1/2, 1/4 or 1/8 of the size almost for
free, and decoders and resizing run outside the interpreter lock, so threads scale.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Final, cast

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from gapcam.types import (
    ArgumentError,
    ByteArray,
    GapcamError,
    Picture,
    PictureError,
    PictureSource,
    SizeHW,
)

# Only these are tried, common ones first. Others start programs (EPS), or pass a file that was cut
# short as a whole one (JPEG 2000).
_FORMATS: Final = ("JPEG", "PNG", "GIF", "BMP", "PPM", "WEBP", "TIFF", "AVIF")
_FORMAT_WORDS: Final = "JPEG, PNG, GIF, BMP, PPM, WebP, TIFF, AVIF"

_TO_UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS: Final = frozenset((5, 6, 7, 8))

_NOTE_WHITE: Final = "transparent parts shown on white"
_NOTE_16_BIT: Final = "16-bit values scaled to 8"
_NOTE_EXIF: Final = "unreadable EXIF data ignored, shown as stored"


@dataclass(frozen=True, slots=True)
class Limits:
    """How large a picture may be; checked before it is decoded.

    Attributes:
        max_pixels: Height times width. The default is where Pillow itself refuses
            (`2 * PIL.Image.MAX_IMAGE_PIXELS`); a larger value has no effect unless that is raised.
        max_bytes: Size of the file or of the bytes given.
    """

    max_pixels: int = 178_956_970
    max_bytes: int = 512 * 2**20


DEFAULT_LIMITS: Final = Limits()


def load_picture(
    source: PictureSource,
    *,
    at_least_hw: SizeHW | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> Picture:
    """Read a picture, upright and in RGB.

    Args:
        source: A path, the bytes of a picture file, a PIL image, or a `uint8` array `[H, W]`,
            `[H, W, 1]` (grey), `[H, W, 3]` (RGB) or `[H, W, 4]` (RGBA). A PIL image is taken at
            the frame it stands on, and is neither changed nor closed (Pillow loads it when it was
            not loaded yet).
        at_least_hw: A JPEG may be decoded smaller than it is, but neither side below this,
            pixels of the upright picture. None decodes every pixel.
        limits: What is refused as too large. Arrays are in memory already and not checked.

    Returns:
        The picture. `pixels` always shows all of it and may be read-only; an RGB array that is
        contiguous is used as it is, not copied. `size_hw` is the size of the original.

    Raises:
        PictureError: When it cannot be read, is broken, cut short, too large, or has values or a
            shape with no fixed meaning as a picture.
        ArgumentError: When `at_least_hw` has a side below 1.
    """
    if at_least_hw is not None and min(at_least_hw) < 1:
        raise ArgumentError(f"at_least_hw: expected two sides of 1 or more, got {at_least_hw}")
    if isinstance(source, np.ndarray):
        return _from_array(source)
    name = name_of(source)
    _check_kind(name, source)
    try:
        if isinstance(source, Image.Image):
            return _from_image(name, source, limits)
        data = source if isinstance(source, bytes) else _read_file(name, source, limits)
        return _from_bytes(name, data, at_least_hw, limits)
    except GapcamError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PictureError(f"{name}: too many pixels ({error}); make it smaller") from error
    except Exception as error:  # a malformed file makes Pillow raise almost anything
        raise PictureError(
            f"{name}: expected a whole picture, but it is broken or cut short "
            f"({type(error).__name__}: {error}); get or save the file again"
        ) from error


def resize_picture(pixels: ByteArray, size_hw: SizeHW) -> ByteArray:
    """Squash a picture to a size: antialiased bilinear, half-pixel centres, aspect ignored.

    Args:
        pixels: `uint8` RGB `[H, W, 3]`.
        size_hw: The size wanted, pixels.

    Returns:
        `uint8` RGB `[h, w, 3]`, C-contiguous: `pixels` itself when it has that size already. May
        be read-only.

    Raises:
        ArgumentError: When a side of `size_hw` is below 1.
    """
    height, width = size_hw
    if height < 1 or width < 1:
        raise ArgumentError(f"size_hw: expected two sides of 1 or more, got {(height, width)}")
    if pixels.shape[:2] == (height, width):
        return np.ascontiguousarray(pixels)
    bilinear = Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(pixels).resize((width, height), bilinear, reducing_gap=None))


def name_of(source: object) -> str:
    """What a source is called in results and messages: its path, or what kind of thing it is."""
    if isinstance(source, (str, Path)):
        return str(source) or "''"
    kinds = {bytes: "<bytes>", Image.Image: "<image>", np.ndarray: "<array>"}
    for kind, name in kinds.items():
        if isinstance(source, kind):
            return name
    return f"<{type(source).__name__}>"


def _check_kind(name: str, source: object) -> None:
    if not isinstance(source, (str, Path, bytes, Image.Image)):
        kind = type(source)
        raise PictureError(
            f"{name}: expected a path (str or Path), bytes, a PIL image or a uint8 numpy "
            f"array [H, W, 3], got {kind.__module__}.{kind.__qualname__}; convert it first "
            "(a tensor: .permute(1, 2, 0) to [H, W, 3], to uint8, then .cpu().numpy())"
        )


def _read_file(name: str, source: str | Path, limits: Limits) -> bytes:
    path = Path(source)
    try:
        _check_file(name, path.stat(), limits)
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise PictureError(
            f"{name}: expected a picture file, there is no such file; check the path"
        ) from error
    except PermissionError as error:
        raise PictureError(
            f"{name}: no permission to read this file; change its or its folder's permissions"
        ) from error
    except (OSError, ValueError) as error:  # ValueError: a path with a zero byte
        raise PictureError(f"{name!r}: cannot be read ({error}); check the path") from error


def _check_file(name: str, status: os.stat_result, limits: Limits) -> None:
    """Before a byte is read."""
    if stat.S_ISDIR(status.st_mode):
        raise PictureError(
            f"{name}: expected a picture file, this is a folder; name the files in it"
        )
    if not stat.S_ISREG(status.st_mode):
        raise PictureError(
            f"{name}: expected a picture file, this is a pipe or device; save it to a file"
        )
    _check_bytes(name, status.st_size, limits)


def _check_bytes(name: str, size: int, limits: Limits) -> None:
    if size == 0:
        raise PictureError(
            f"{name}: expected a picture, this is empty (0 bytes); get the file again"
        )
    if size > limits.max_bytes:
        raise PictureError(
            f"{name}: expected at most {limits.max_bytes:,} bytes, it has {size:,}; save it smaller"
        )


def _check_pixels(name: str, size_wh: tuple[int, int], limits: Limits) -> None:
    width, height = size_wh
    if width < 1 or height < 1:
        raise PictureError(f"{name}: expected at least one pixel, it is {width}x{height}")
    if width * height > limits.max_pixels:
        raise PictureError(
            f"{name}: expected at most {limits.max_pixels:,} pixels, it is {width}x{height}, too "
            "many pixels; make it smaller"
        )


def _open(name: str, data: bytes) -> Image.Image:
    """Reads the header only."""
    try:
        return Image.open(BytesIO(data), formats=_FORMATS)
    except UnidentifiedImageError as error:
        raise PictureError(
            f"{name}: expected a picture ({_FORMAT_WORDS}), this is not one or its header is "
            f"broken (it starts with {data[:12]!r}); convert it to JPEG or PNG, or leave it out"
        ) from error


def _from_bytes(name: str, data: bytes, at_least_hw: SizeHW | None, limits: Limits) -> Picture:
    _check_bytes(name, len(data), limits)
    image = _open(name, data)
    _check_pixels(name, image.size, limits)
    size_wh = image.size
    frames = _frames_note(image)
    if at_least_hw is not None:
        height, width = at_least_hw
        if _orientation(image)[0] in _SIDEWAYS:  # draft comes before the rotation
            height, width = width, height
        image.draft("", (width, height))
    return _upright(name, image, size_wh, frames)


def _from_image(name: str, image: Image.Image, limits: Limits) -> Picture:
    _check_pixels(name, image.size, limits)
    return _upright(name, image, image.size, ())


def _upright(
    name: str, image: Image.Image, size_wh: tuple[int, int], notes: tuple[str, ...]
) -> Picture:
    """Decode, then convert to RGB and turn; `size_wh` is the stored size before any draft."""
    image.load()
    # After load: Pillow turns TIFFs itself on the way, and a PNG's EXIF may follow its pixels.
    orientation, exif_notes = _orientation(image)
    rgb, colour_notes = _to_rgb(name, image)
    if orientation in _TO_UPRIGHT:
        rgb = rgb.transpose(_TO_UPRIGHT[orientation])
    width, height = size_wh
    size_hw = (width, height) if orientation in _SIDEWAYS else (height, width)
    return Picture(name, np.asarray(rgb), size_hw, notes + exif_notes + colour_notes)


def _frames_note(image: Image.Image) -> tuple[str, ...]:
    """Says that frames are left out; not for MPO, where they are the camera's extras."""
    count = 1 if image.format == "MPO" else int(getattr(image, "n_frames", 1))
    return (f"first of {count} frames",) if count > 1 else ()


def _orientation(image: Image.Image) -> tuple[int, tuple[str, ...]]:
    """The EXIF orientation, 1..8; pixels are worth more than broken EXIF, so that is only noted."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
        return (int(value) if value in _TO_UPRIGHT else 1), ()
    except Exception:  # like its decoders, Pillow's EXIF reader may raise almost anything
        return 1, (_NOTE_EXIF,)


def _to_rgb(name: str, image: Image.Image) -> tuple[Image.Image, tuple[str, ...]]:
    if image.mode == "F":
        raise PictureError(
            f"{name}: expected 8 or 16 bits a channel, it has 32-bit floats, whose black and white "
            "are not fixed; scale it to 0..255 and save it as 8-bit"
        )
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _from_16_bit(name, image), (_NOTE_16_BIT,)
    if image.has_transparency_data:
        return _on_white(image)
    return (image if image.mode == "RGB" else image.convert("RGB")), ()


def _from_16_bit(name: str, image: Image.Image) -> Image.Image:
    """Grey of 0..65535 to 0..255, rounded: the full range, so that equal pictures stay equal."""
    values = np.asarray(image)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise PictureError(
            f"{name}: expected values of 0..65535, it has 32-bit integers from {low} to {high}; "
            "scale it to 0..255 and save it as 8-bit"
        )
    grey = ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return Image.fromarray(grey).convert("RGB")


def _on_white(image: Image.Image) -> tuple[Image.Image, tuple[str, ...]]:
    straight = {"La": "LA", "RGBa": "RGBA"}.get(image.mode)  # from premultiplied alpha
    rgba = (image.convert(straight) if straight else image).convert("RGBA")
    alpha = rgba.getchannel("A")
    lowest, _ = cast("tuple[int, int]", alpha.getextrema())
    if lowest == 255:
        return rgba.convert("RGB"), ()
    canvas = Image.new("RGB", rgba.size, "white")
    canvas.paste(rgba, mask=alpha)
    return canvas, (_NOTE_WHITE,)


def _from_array(array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> Picture:
    name = name_of(array)
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise PictureError(
            f"{name}: expected shape [H, W], [H, W, 1], [H, W, 3] or [H, W, 4], "
            f"got {list(array.shape)}; {_shape_hint(array.shape)}"
        )
    if array.dtype != np.uint8:
        raise PictureError(
            f"{name}: expected uint8 values of 0..255, got {array.dtype}; "
            f"{_dtype_hint(array.dtype)}"
        )
    if array.size == 0:
        raise PictureError(f"{name}: expected at least one pixel, got shape {list(array.shape)}")
    pixels = cast("ByteArray", array)
    notes: tuple[str, ...] = ()
    if pixels.ndim == 2 or pixels.shape[2] == 1:
        pixels = np.repeat(pixels.reshape(*pixels.shape[:2], 1), 3, axis=2)
    elif pixels.shape[2] == 4:
        rgb, notes = _on_white(Image.fromarray(pixels))
        pixels = np.asarray(rgb)
    return Picture(name, np.ascontiguousarray(pixels), (array.shape[0], array.shape[1]), notes)


def _shape_hint(shape: tuple[int, ...]) -> str:
    if len(shape) == 3 and shape[0] in (1, 3, 4) and shape[2] > 4:
        return "channels come last here: transpose it with array.transpose(1, 2, 0)"
    if len(shape) == 4:
        return "give the pictures of a batch one by one"
    return "give one picture, channels last"


def _dtype_hint(dtype: np.dtype[np.generic]) -> str:
    if dtype.kind == "f":
        return (
            "for values of 0..1 multiply by 255 and convert: "
            "(array * 255).round().astype(numpy.uint8)"
        )
    if dtype == np.uint16:
        return "scale it: (array // 257).astype(numpy.uint8)"
    if dtype.kind == "b":
        return "convert it: array.astype(numpy.uint8) * 255"
    return "scale it to 0..255 and convert: array.astype(numpy.uint8)"
