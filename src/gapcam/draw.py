"""Overlays that can be shown to others: heat, boxes, label and colour scale over the photograph.

The heat is coloured with a perceptually uniform map and its opacity rises with the heat, so cold
parts are the plain photograph, pixel for pixel. A class with no positive evidence gets no heat.
Shape letters: H, W the canvas; h, w a heat map. `rect` is (x0, y0, x1, y1) in canvas pixels, ints,
half-open. Text uses Pillow's built-in font, which is Latin only: accents are dropped, other
letters become "?".
"""

from __future__ import annotations

import math
import unicodedata
from typing import TypeAlias

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from gapcam.images import load_picture
from gapcam.types import (
    ArgumentError,
    Box,
    ByteArray,
    Detection,
    FloatArray,
    Localization,
    PictureError,
    SizeHW,
)

Rect: TypeAlias = tuple[int, int, int, int]
Font: TypeAlias = "ImageFont.FreeTypeFont | ImageFont.ImageFont"

INK, SLATE = (24, 24, 27), (113, 113, 122)
MIST, PAPER = (228, 228, 231), (255, 255, 255)

_READABLE_SIDE = 320  # smaller pictures are enlarged, so that text fits
_ENLARGED_SIDE = 2048  # ... but never beyond this longer side
_SMALLEST_FONT = 7
_BAND_ROWS = 256


def draw_localization(
    found: Localization,
    *,
    index: int = 0,
    opacity: float = 0.6,
    boxes: bool = True,
    labels: bool = True,
    scale: bool = True,
    max_side: int | None = None,
) -> Image.Image:
    """Draw what was found over its picture.

    The canvas is the original picture, upright. Pictures with a shorter side below 320 pixels are
    enlarged by a whole factor so that text fits; `max_side` shrinks large ones.

    Args:
        found: The localization; its `source` is read again.
        index: The detection whose heat is shown; boxes of the same class are drawn with it.
        opacity: Opacity of the hottest point, 0..1; it falls to 0 with the heat.
        boxes: Whether to draw the boxes.
        labels: Whether to draw the label with its score.
        scale: Whether to draw the colour scale, 0 to 100 % of the peak, ticked at the threshold.
        max_side: The most pixels the longer side of the result may have.

    Returns:
        An RGB image.

    Raises:
        ArgumentError: `index`, `opacity` or `max_side` is out of range.
        PictureError: The picture cannot be read again, or its size changed since.
    """
    check_range(f"index (of {found.name})", index, 0, max(len(found.detections) - 1, 0))
    check_range("opacity", opacity, 0, 1)
    check_range("max_side", math.inf if max_side is None else max_side, 1)
    canvas = _canvas(found, max_side)
    shown = found.detections[index] if found.detections else None
    if shown is not None and shown.box_xyxy is not None:
        blend(canvas, shown.heat, opacity)
    rects = _rects(found, shown, canvas.shape[:2])  # the shown one first
    taken = rects if boxes else []
    for rect in taken:
        _draw_box(canvas, rect)
    image = Image.fromarray(canvas)
    if labels:
        tag = _draw_tag(image, tag_text(shown, len(rects)), taken[0] if taken else None)
        taken = [*taken, tag] if tag else taken
    if scale and shown is not None and rects:
        _draw_scale(image, shown.threshold, taken)
    return image


def check_range(name: str, value: float, least: float, most: float = math.inf) -> None:
    """Raise an ArgumentError that names the range, unless the value is in it."""
    if not least <= value <= most:
        span = f"at least {least}" if most == math.inf else f"{least} to {most}"
        raise ArgumentError(f"{name}: expected {span}, got {value}; give a value in that range")


def _canvas_hw(size_hw: SizeHW, max_side: int | None) -> SizeHW:
    """Shrink to `max_side`, or enlarge by a whole factor until text fits."""
    longer, shorter = max(size_hw), min(size_hw)
    if max_side is not None and longer > max_side:
        factor = max_side / longer
    else:
        room = min(_ENLARGED_SIDE, max_side or _ENLARGED_SIDE) // longer
        factor = max(1, min(math.ceil(_READABLE_SIDE / shorter), room))
    height, width = (max(1, round(side * factor)) for side in size_hw)
    return height, width


def _canvas(found: Localization, max_side: int | None) -> ByteArray:
    """Read the picture again and bring a copy of it to canvas size."""
    height, width = _canvas_hw(found.size_hw, max_side)
    picture = load_picture(found.source, at_least_hw=(height, width))
    if picture.size_hw != found.size_hw:
        then, now = (f"{w}x{h}" for h, w in (found.size_hw, picture.size_hw))
        message = f"{found.name}: expected {then} pixels as when it was localized, got {now}"
        raise PictureError(f"{message}; localize it again")
    if picture.pixels.shape[:2] == (height, width):
        return picture.pixels.copy()
    shrinks = max(height, width) < max(found.size_hw)
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LANCZOS4
    return np.asarray(cv2.resize(picture.pixels, (width, height), interpolation=method), np.uint8)


def _colours() -> ByteArray:
    """Return the colour map, `[256, 3]` RGB."""
    ramp = np.arange(256, dtype=np.uint8)[:, None]
    return np.asarray(cv2.applyColorMap(ramp, cv2.COLORMAP_INFERNO)[:, 0, ::-1], np.uint8)


def blend(canvas: ByteArray, heat: FloatArray, opacity: float) -> None:
    """Lay `heat [h, w]` over `canvas [H, W, 3]`, in place, band by band to bound memory."""
    rows, columns = canvas.shape[:2]
    shrinks = heat.shape[0] > rows or heat.shape[1] > columns
    method = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC  # both with half-pixel centres
    large = cv2.resize(heat.astype(np.float32), (columns, rows), interpolation=method)
    alpha = opacity * np.linspace(0, 1, 256, dtype=np.float32)[:, None]
    light = alpha * _colours()
    for start in range(0, rows, _BAND_ROWS):
        band = canvas[start : start + _BAND_ROWS]
        level = np.rint(large[start : start + _BAND_ROWS].clip(0, 1) * 255).astype(np.uint8)
        band[:] = np.rint(band * (1 - alpha)[level] + light[level])


def _rects(found: Localization, shown: Detection | None, canvas_hw: SizeHW) -> list[Rect]:
    """Return the boxes of the shown class on the canvas, the shown one first."""
    if shown is None or shown.box_xyxy is None:
        return []
    alike = [d for d in found.detections if d.class_id == shown.class_id and d is not shown]
    boxes = [d.box_xyxy for d in (shown, *alike) if d.box_xyxy is not None]
    return [to_rect(box, found.size_hw, canvas_hw) for box in boxes]


def to_rect(box: Box, size_hw: SizeHW, canvas_hw: SizeHW) -> Rect:
    """Scale a box to whole canvas pixels, at least one pixel large and inside the canvas."""
    (height, width), (rows, columns) = size_hw, canvas_hw
    x0 = min(max(round(box[0] * columns / width), 0), columns - 1)
    y0 = min(max(round(box[1] * rows / height), 0), rows - 1)
    x1 = min(max(round(box[2] * columns / width), x0 + 1), columns)
    y1 = min(max(round(box[3] * rows / height), y0 + 1), rows)
    return x0, y0, x1, y1


def _draw_box(canvas: ByteArray, rect: Rect) -> None:
    """Draw a light line whose outer edge is the box's edge, between two dark ones."""
    line = _line_width(canvas.shape[:2])
    edge = max(1, line // 3)
    x0, y0, x1, y1 = rect
    deep = line + edge
    inside = canvas[y0 + deep : max(y1 - deep, 0), x0 + deep : max(x1 - deep, 0)]
    kept = inside.copy()
    canvas[max(y0 - edge, 0) : y1 + edge, max(x0 - edge, 0) : x1 + edge] = INK
    canvas[y0:y1, x0:x1] = PAPER
    canvas[y0 + line : max(y1 - line, 0), x0 + line : max(x1 - line, 0)] = INK
    inside[:] = kept


def _line_width(canvas_hw: SizeHW) -> int:
    return max(1, round(0.004 * math.sqrt(canvas_hw[0] * canvas_hw[1])))


def plain(text: str) -> str:
    """Keep to what the built-in font can draw."""
    bare = (c for c in unicodedata.normalize("NFKD", text[:500]) if not unicodedata.combining(c))
    return "".join(c if " " <= c <= "~" else " " if c.isspace() else "?" for c in bare)


def _percent(score: float) -> str:
    if 0 < score < 0.005:
        return "<1 %"
    return ">99 %" if 0.995 <= score < 1 else f"{score:.0%}".replace("%", " %")


def tag_text(shown: Detection | None, count: int) -> tuple[str, str]:
    """Return the label, which may be shortened, and what follows it, which may not."""
    if shown is None:
        return "no detections", ""
    score = f" {_percent(shown.score)}"
    if shown.box_xyxy is None:
        return plain(shown.label), f"{score}: no positive evidence"
    return plain(shown.label), score + (f", {count} boxes" if count > 1 else "")


def elide(head: str, tail: str, font: Font, width: float, *, middle: bool = False) -> str:
    """Shorten `head` until it fits with `tail`; then `tail` alone; then nothing."""
    for keep in range(len(head), 0, -1):
        end = keep // 2 if middle else 0
        short = f"{head[: keep - end].rstrip()}…{head[len(head) - end :].lstrip()}"
        text = (head if keep == len(head) else short) + tail
        if font.getlength(text) <= width:
            return text
    return tail.strip() if font.getlength(tail.strip()) <= width else ""


def _font_size(image: Image.Image) -> int:
    return min(max(13, round(0.03 * math.sqrt(image.width * image.height))), image.height // 2)


def _draw_tag(image: Image.Image, text: tuple[str, str], anchor: Rect | None) -> Rect | None:
    """Draw the label in a filled tag above the box, or inside it; return where, if it fits."""
    size = _font_size(image)
    if size < _SMALLEST_FONT:
        return None
    if ImageFont.load_default(size).getlength("".join(text)) > image.width - 2 * size:
        size = min(size, max(12, round(0.8 * size)))
    font, pad = ImageFont.load_default(size), round(0.5 * size)
    words = elide(*text, font, image.width - 4 * pad)
    if not words:
        return None
    width, height = math.ceil(font.getlength(words)) + 2 * pad, round(1.6 * size)
    x0, y0 = _place(image, width, height, anchor)
    x1, y1 = x0 + width, y0 + height
    edge = max(1, _line_width((image.height, image.width)) // 3)
    under = 0 if anchor and y1 <= anchor[1] else edge  # above a box, the tag joins its line
    draw = ImageDraw.Draw(image)
    draw.rectangle((x0 - edge, y0 - edge, x1 - 1 + edge, y1 - 1 + under), INK)
    draw.rectangle((x0, y0, x1 - 1, y1 - 1), PAPER)
    low = y0 + round((height + font.getmask("H").size[1]) / 2)  # capitals are centred
    draw.text((x0 + pad, low), words, INK, font, anchor="ls")
    return x0, y0, x1, y1


def _place(image: Image.Image, width: int, height: int, anchor: Rect | None) -> tuple[int, int]:
    x0 = y0 = height // 2
    if anchor is not None:
        x0, y0 = anchor[0], anchor[1] - (height if anchor[1] >= height else 0)
    right, low = image.width - width - height // 4, image.height - height
    return max(0, min(x0, right)), max(0, min(y0, low))


def _draw_scale(image: Image.Image, threshold: float, taken: list[Rect]) -> None:
    """Draw the colour scale into the corner that hides least; not at all where it cannot fit."""
    size = max(_SMALLEST_FONT + 3, round(0.75 * _font_size(image)))
    width, height = 12 * size, round(3.6 * size)
    if 2 * width > image.width + size or 3 * height > image.height:
        return
    gap = size // 2
    xs, ys = (image.width - width - gap, gap), (image.height - height - gap, gap)
    corners = [(x, y, x + width, y + height) for y in ys for x in xs]
    place = min(corners, key=lambda corner: sum(_overlap(corner, rect) for rect in taken))
    panel = Image.blend(image.crop(place), Image.new("RGB", (width, height), INK), 0.75)
    _paint_scale(panel, size, threshold)
    image.paste(panel, place[:2])


def _overlap(a: Rect, b: Rect) -> int:
    across = min(a[2], b[2]) - max(a[0], b[0])
    return max(0, across) * max(0, min(a[3], b[3]) - max(a[1], b[1]))


def _paint_scale(panel: Image.Image, size: int, threshold: float) -> None:
    pad, font, draw = round(0.9 * size), ImageFont.load_default(size), ImageDraw.Draw(panel)
    length, thick = panel.width - 2 * pad, round(0.7 * size)
    ramp = Image.fromarray(_colours()[None]).resize((length, thick), Image.Resampling.BILINEAR)
    panel.paste(ramp, (pad, pad))
    at, line, base = pad + round(threshold * (length - 1)), max(1, size // 8), panel.height - pad
    draw.rectangle((at, pad - size // 4, at + line - 1, pad + thick - 1 + size // 4), PAPER)
    draw.text((pad, base), "0", MIST, font, anchor="ls")
    draw.text((pad + length, base), "100 %", MIST, font, anchor="rs")
    half, label = font.getlength("00") / 2, f"{100 * threshold:.0f}"
    first, last = pad + 2 * half + size // 2, pad + length - font.getlength("100 %") - size // 2
    if first <= at - half and at + half <= last:
        draw.text((at, base), label, PAPER, font, anchor="ms")
