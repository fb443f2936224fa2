"""One look at every picture before training: can it be read, and what does it look like?

The look is what near-duplicates are found with: a 64-bit difference hash (Krawetz, "Kind of Like
That", hackerfactor.com, 2013) and a thumbnail.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from gapcam.images import load_picture, resize_picture
from gapcam.parallel import in_chunks
from gapcam.training.labelled import LabelledSet
from gapcam.training.plan import Progress
from gapcam.types import ByteArray, PictureError

THUMBNAIL = 16
"""The side of a thumbnail, pixels."""

_LEAST_HW = (64, 64)  # JPEGs may be decoded this small: four pixels for one of the thumbnail
_HASH_WH = (9, 8)


@dataclass(frozen=True, slots=True, eq=False)
class Inspection:
    """What was seen.

    Attributes:
        hashes: `uint64 [n]`; 0 for pictures that cannot be read.
        thumbnails: RGB `uint8 [n, 16, 16, 3]`, the whole picture squashed; 77 MB for 100,000.
        unreadable: Why a picture cannot be read, by its index.
    """

    hashes: npt.NDArray[np.uint64]
    thumbnails: ByteArray
    unreadable: Mapping[int, str]


def inspect_pictures(data: LabelledSet, progress: Progress) -> Inspection:
    """Decode every picture once, small, in threads.

    Args:
        data: The pictures.
        progress: Called after each, with `reading pictures`.

    Returns:
        What was seen; pictures that cannot be read are named there, never raised.
    """
    count = len(data.paths)
    hashes = np.zeros(count, np.uint64)
    thumbnails = np.zeros((count, THUMBNAIL, THUMBNAIL, 3), np.uint8)
    unreadable: dict[int, str] = {}
    for i, look in enumerate(in_chunks(_looks, data.paths)):
        if isinstance(look, str):
            unreadable[i] = look
        else:
            hashes[i], thumbnails[i] = look
        progress("reading pictures", i + 1, count)
    return Inspection(hashes, thumbnails, unreadable)


def _looks(paths: Sequence[Path]) -> list[tuple[int, ByteArray] | str]:
    return [_look(path) for path in paths]


def _look(path: Path) -> tuple[int, ByteArray] | str:
    try:
        pixels = load_picture(path, at_least_hw=_LEAST_HW).pixels
    except PictureError as error:
        return str(error)
    return difference_hash(pixels), resize_picture(pixels, (THUMBNAIL, THUMBNAIL))


def difference_hash(pixels: ByteArray) -> int:
    """The difference hash of a picture.

    In grey and squashed to 9 by 8 pixels, every bit says whether a pixel is darker than its right
    neighbour; row by row, the first bit the highest. It survives scaling, compression, and changes
    of brightness and contrast.

    Args:
        pixels: `uint8` RGB `[H, W, 3]`.

    Returns:
        64 bits; 0 for a picture of one colour.
    """
    small = Image.fromarray(pixels).convert("L").resize(_HASH_WH, Image.Resampling.BOX)
    grey = np.asarray(small)
    return int.from_bytes(np.packbits(grey[:, :-1] < grey[:, 1:]).tobytes(), "big")
