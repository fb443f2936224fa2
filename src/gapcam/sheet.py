"""Contact sheets: many results as one grid of small overlays."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import PurePath

from PIL import Image, ImageDraw, ImageFont

from gapcam.draw import (
    INK,
    MIST,
    PAPER,
    SLATE,
    check_range,
    draw_localization,
    elide,
    plain,
    tag_text,
)
from gapcam.types import Failure, GapcamError, Localization


def tile_image(item: Localization | Failure, tile: int = 320) -> Image.Image:
    """Draw one tile of a contact sheet: the overlay in a square, file name and top label under it.

    A picture that failed, or that can no longer be read, gives a grey tile with the reason.

    Args:
        item: What came out for one picture.
        tile: Side of the square, pixels; at least 32.

    Returns:
        An RGB image, `tile` wide and `tile` plus two lines of text high.

    Raises:
        ArgumentError: `tile` is too small.
    """
    check_range("tile", tile, 32)
    if isinstance(item, Failure):
        return _failure_tile(item, tile)
    try:
        picture = draw_localization(item, labels=False, scale=False, max_side=tile)
    except GapcamError as error:
        return _failure_tile(Failure(item.name, error), tile)
    card = Image.new("RGB", (tile, tile), MIST)
    card.paste(picture, ((tile - picture.width) // 2, (tile - picture.height) // 2))
    return _captioned(card, item.name, tag_text(next(iter(item.detections), None), 1))


def contact_sheet(
    pictures: Iterable[Localization | Failure],
    *,
    columns: int | None = None,
    tile: int = 320,
    max_tiles: int = 100,
) -> Image.Image:
    """Draw many results as one grid, an RGB image.

    Reads `pictures` as a stream and holds tiles only. When more than `max_tiles` come, the last
    line of the sheet says how many are not shown.

    Args:
        pictures: Localizations and failures, in order.
        columns: Tiles a row; by default a grid somewhat wider than high.
        tile: Side of a tile's square, pixels.
        max_tiles: The most tiles drawn.

    Raises:
        ArgumentError: `columns`, `tile` or `max_tiles` is out of range.
    """
    check_range("max_tiles", max_tiles, 1)
    stream = iter(pictures)
    tiles = [tile_image(item, tile) for item in islice(stream, max_tiles)]
    total = len(tiles) + sum(1 for _ in stream)
    return contact_sheet_from_tiles(tiles, total=total, columns=columns)


def contact_sheet_from_tiles(
    tiles: Sequence[Image.Image], *, total: int | None = None, columns: int | None = None
) -> Image.Image:
    """Join tiles that were drawn as results came (see `tile_image`) into one RGB image.

    Args:
        tiles: Tiles of one size.
        total: How many pictures there were; what is beyond the tiles is counted in the last line.
        columns: Tiles a row; by default a grid somewhat wider than high.

    Raises:
        ArgumentError: `columns` is below 1.
    """
    check_range("columns", math.inf if columns is None else columns, 1)
    more = (total or 0) - len(tiles)
    width, height = tiles[0].size if tiles else (320, 0)
    across = min(columns or math.ceil(math.sqrt(1.6 * len(tiles))), len(tiles)) or 1
    gap = max(4, width // 16)
    text = f"and {more} more, not shown" if more > 0 else "" if tiles else "no pictures"
    font = ImageFont.load_default(max(10, width // 22))
    line = 2 * int(font.getlength("M")) if text else 0
    size = (
        across * (width + gap) + gap,
        math.ceil(len(tiles) / across) * (height + gap) + gap + line,
    )
    sheet = Image.new("RGB", size, PAPER)
    for i, card in enumerate(tiles):
        row, column = divmod(i, across)
        sheet.paste(card, (gap + column * (width + gap), gap + row * (height + gap)))
    note = elide(text, "", font, sheet.width - 2 * gap)
    ImageDraw.Draw(sheet).text((gap, size[1] - gap), note, SLATE, font, anchor="ls")
    return sheet


def _captioned(card: Image.Image, name: str, text: tuple[str, str]) -> Image.Image:
    size = max(9, round(0.05 * card.width))
    font, line = ImageFont.load_default(size), round(1.45 * size)
    tile = Image.new("RGB", (card.width, card.height + 2 * line + size // 2), PAPER)
    tile.paste(card)
    draw = ImageDraw.Draw(tile)
    file = elide(plain(PurePath(name).name or name), "", font, card.width, middle=True)
    draw.text((0, card.height + line), file, INK, font, anchor="ls")
    draw.text((0, card.height + 2 * line), elide(*text, font, card.width), SLATE, font, "ls")
    return tile


def _failure_tile(failure: Failure, tile: int) -> Image.Image:
    card = Image.new("RGB", (tile, tile), MIST)
    size = max(9, round(0.05 * tile))
    font, pad = ImageFont.load_default(size), round(0.08 * tile)
    letters = max(8, int((tile - 2 * pad) / font.getlength("n")))
    lines = textwrap.wrap(plain(str(failure.error)), letters, max_lines=6, placeholder=" …")
    top = (tile - round(1.45 * size) * (len(lines) - 1)) // 2
    draw = ImageDraw.Draw(card)
    for i, line in enumerate(lines):
        at = (tile // 2, top + i * round(1.45 * size))
        draw.text(at, elide(line, "", font, tile), SLATE, font, anchor="mm")
    return _captioned(card, failure.name, (f"failed: {failure.error.kind}", ""))
