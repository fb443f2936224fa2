"""Photographs with heat, predicted and true boxes: what the numbers look like.

Prediction and truth differ in colour and in line style, and both have a dark halo, so that they
are told apart on any photograph and by any eye.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import cv2
import numpy as np
from PIL import Image

from gapcam.draw import INK, PAPER, blend, check_range, to_rect
from gapcam.types import ArgumentError, BoolArray, Box, ByteArray, FloatArray, SizeHW

Group: TypeAlias = Literal["best", "worst", "random"]
Rect: TypeAlias = tuple[int, int, int, int]
Colour: TypeAlias = tuple[int, int, int]

TRUTH = (86, 204, 255)
"""The colour of true boxes and outlines, sky blue: the heat's colours hold none. Predictions are
white."""

_GROUPS: tuple[tuple[Group, str, str], ...] = (
    ("best", "Best", "Where prediction and truth agree most."),
    ("worst", "Worst", "Where they agree least: what to look at first."),
    ("random", "Random", "Drawn by chance: what to expect."),
)
_OPACITY = 0.5
_TALLEST = 2  # times the width
_JPEG_QUALITY = 80


@dataclass(frozen=True, slots=True, eq=False)
class GalleryItem:
    """One picture of the gallery.

    Attributes:
        group: Why it is shown: `best`, `worst` or `random`.
        name: The picture as the data names it.
        image: What `comparison_image` drew.
        truth_label: The class that is in the picture.
        predicted_label: The model's best class.
        predicted_score: Its softmax probability, 0..1.
        iou: Of the predicted box with the true one; None where there are no boxes.
        note: Anything worth saying about it.
    """

    group: Group
    name: str
    image: Image.Image
    truth_label: str
    predicted_label: str
    predicted_score: float
    iou: float | None
    note: str = ""


class GalleryGroup(NamedTuple):
    """The pictures of one group, with its title and a sentence about it."""

    key: Group
    title: str
    words: str
    items: list[dict[str, Any]]


def comparison_image(
    pixels: ByteArray,
    heat: FloatArray,
    size_hw: SizeHW,
    predicted: Box | None,
    truths: Sequence[Box],
    truth_mask: BoolArray | None,
    width: int = 320,
) -> Image.Image:
    """Draw a photograph with its heat, the predicted box (solid, white) and the truth (dashed).

    Args:
        pixels: The photograph, `uint8` RGB `[h, w, 3]`, of any size that shows the whole picture.
        heat: `[hh, ww]` in 0..1, over the whole picture.
        size_hw: The original picture's size: the units of boxes and mask, pixels.
        predicted: The predicted `box_xyxy`, or None.
        truths: The true boxes.
        truth_mask: The true mask `[H, W]`, drawn as an outline, or None.
        width: Of the result, pixels, at least 16; a picture more than twice as high as wide gets
            less, to be twice that high.

    Raises:
        ArgumentError: `width` is too small, or the mask's size is not `size_hw`.
    """
    check_range("width", width, 16)
    if truth_mask is not None and truth_mask.shape != size_hw:
        shape = truth_mask.shape
        raise ArgumentError(
            f"truth_mask: expected the picture's size {size_hw}, got {shape}; read both upright"
        )
    canvas = _resized(pixels, _canvas_hw(size_hw, width))
    canvas_hw = (canvas.shape[0], canvas.shape[1])
    blend(canvas, heat, _OPACITY)
    if truth_mask is not None:
        _draw_outline(canvas, truth_mask)
    if predicted is not None:
        _draw_frame(canvas, to_rect(predicted, size_hw, canvas_hw), PAPER, dashed=False)
    for truth in truths:  # on top: its gaps show a prediction that lies under it
        _draw_frame(canvas, to_rect(truth, size_hw, canvas_hw), TRUTH, dashed=True)
    return Image.fromarray(canvas)


def gallery_groups(items: Sequence[GalleryItem]) -> list[GalleryGroup]:
    """The groups that have pictures, in the order best, worst, random."""
    groups = [
        GalleryGroup(key, title, words, [_view(item) for item in items if item.group == key])
        for key, title, words in _GROUPS
    ]
    return [group for group in groups if group.items]


def _view(item: GalleryItem) -> dict[str, Any]:
    return {
        "item": item,
        "source": _data_uri(item.image),
        "width": item.image.width,
        "height": item.image.height,
    }


def _data_uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=_JPEG_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _canvas_hw(size_hw: SizeHW, width: int) -> SizeHW:
    height = round(size_hw[0] * width / size_hw[1])
    if height > _TALLEST * width:
        height, width = _TALLEST * width, round(_TALLEST * width * size_hw[1] / size_hw[0])
    return max(1, height), max(1, width)


def _resized(pixels: ByteArray, size_hw: SizeHW) -> ByteArray:
    if pixels.shape[:2] == size_hw:
        return pixels.copy()
    shrinks = pixels.shape[0] > size_hw[0]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LANCZOS4
    return np.asarray(cv2.resize(pixels, size_hw[::-1], interpolation=method), np.uint8)


def _line_width(canvas: ByteArray) -> int:
    width: int = canvas.shape[1]
    return max(2, round(width / 120))


def _draw_frame(canvas: ByteArray, rect: Rect, colour: Colour, *, dashed: bool) -> None:
    """Draw a frame whose outer edge is the box's edge, a dark halo around each stroke."""
    line = _line_width(canvas)
    strokes = [stroke for side in _sides(rect, line) for stroke in _dashes(side, line, dashed)]
    for x0, y0, x1, y1 in strokes:
        canvas[max(y0 - 1, 0) : y1 + 1, max(x0 - 1, 0) : x1 + 1] = INK
    for x0, y0, x1, y1 in strokes:
        canvas[y0:y1, x0:x1] = colour


def _sides(rect: Rect, line: int) -> tuple[Rect, Rect, Rect, Rect]:
    """The four sides of a frame as filled rectangles."""
    x0, y0, x1, y1 = rect
    inner_x, inner_y = min(x0 + line, x1), min(y0 + line, y1)
    outer_x, outer_y = max(x1 - line, x0), max(y1 - line, y0)
    return (
        (x0, y0, x1, inner_y),
        (x0, outer_y, x1, y1),
        (x0, y0, inner_x, y1),
        (outer_x, y0, x1, y1),
    )


def _dashes(side: Rect, line: int, dashed: bool) -> Iterator[Rect]:
    """Cut a side into dashes about three strokes long, one at each end, gaps of two strokes."""
    x0, y0, x1, y1 = side
    along = x1 - x0 >= y1 - y0
    length = x1 - x0 if along else y1 - y0
    dashes = max(1, round((length / line + 2) / 5)) if dashed else 1
    dash = length if dashes == 1 else length * 3 / (5 * dashes - 2)
    pitch = 0.0 if dashes == 1 else (length - dash) / (dashes - 1)
    for i in range(dashes):
        start, end = round(i * pitch), round(i * pitch + dash)
        yield (x0 + start, y0, x0 + end, y1) if along else (x0, y0 + start, x1, y0 + end)


def _draw_outline(canvas: ByteArray, mask: BoolArray) -> None:
    """Draw the border of a mask, on its inside, with a dark halo."""
    size_wh = (canvas.shape[1], canvas.shape[0])
    method = cv2.INTER_AREA if mask.shape[0] > size_wh[1] else cv2.INTER_NEAREST
    covered = cv2.resize(mask.astype(np.float32), size_wh, interpolation=method)
    inside = (covered > 0).astype(np.uint8)  # so that a thin object does not vanish
    line = _line_width(canvas)
    padded = np.pad(inside, line)  # what reaches the border of the picture is outlined there too
    eroded = cv2.erode(padded, _disc(line))[line:-line, line:-line]
    border = (inside > 0) & (eroded == 0)
    canvas[cv2.dilate(border.astype(np.uint8), _disc(1)) > 0] = INK
    canvas[border] = TRUTH


def _disc(radius: int) -> ByteArray:
    side = 2 * radius + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)), np.uint8)
