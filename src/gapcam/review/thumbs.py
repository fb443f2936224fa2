"""Small pictures of doubtful boxes, as text that a page can hold."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from gapcam.images import load_picture
from gapcam.parallel import in_chunks
from gapcam.review.doubt import Doubtful
from gapcam.types import GapcamError, PictureSource

SIDE = 240
"""The longer side of a small picture, pixels."""

OpenPicture = Callable[[str], PictureSource]
"""Gives what a picture is read from, by the name that its record has."""

_QUALITY = 72


@dataclass(frozen=True, slots=True)
class Thumb:
    """A box with its small picture.

    Attributes:
        box: What is shown.
        source: The picture as a data URI; empty when it cannot be read.
        size_wh: Its size, pixels; None when it cannot be read.
        error: Why it cannot be read.
    """

    box: Doubtful
    source: str = ""
    size_wh: tuple[int, int] | None = None
    error: str = ""

    @property
    def places(self) -> tuple[float, float, float, float]:
        """Left, top, width and height of the box, percent of the picture."""
        (x0, y0, x1, y1), (width, height) = self.box.box, self.box.size_wh
        sides = (x0 / width, y0 / height, (x1 - x0) / width, (y1 - y0) / height)
        left, top, wide, high = (round(100 * side, 3) for side in sides)
        return left, top, wide, high


def thumbs(
    boxes: Sequence[Doubtful], open_picture: OpenPicture | None = None
) -> Generator[Thumb, None, None]:
    """Small pictures of boxes, in order, read in threads a few at a time.

    Args:
        boxes: What to show.
        open_picture: None: names are paths.
    """

    def work(chunk: Sequence[Doubtful]) -> list[Thumb]:
        return [_thumb(box, open_picture) for box in chunk]

    yield from in_chunks(work, boxes)


def _thumb(box: Doubtful, open_picture: OpenPicture | None) -> Thumb:
    width, height = box.size_wh
    scale = min(1.0, SIDE / max(width, height))
    size_wh = (max(1, round(width * scale)), max(1, round(height * scale)))
    try:
        source = open_picture(box.path) if open_picture else box.path
        pixels = load_picture(source, at_least_hw=size_wh[::-1]).pixels
    except GapcamError as error:
        return Thumb(box, error=str(error))
    small = cv2.resize(pixels, size_wh, interpolation=cv2.INTER_AREA)
    data = io.BytesIO()
    Image.fromarray(np.asarray(small, np.uint8)).save(data, "JPEG", quality=_QUALITY)
    text = base64.b64encode(data.getvalue()).decode("ascii")
    return Thumb(box, f"data:image/jpeg;base64,{text}", size_wh)
