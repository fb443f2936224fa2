"""Draws pictures before and after each step of refinement, a row a picture.

    python benchmarks/recipe_pictures.py OUT.jpg [--data DIR] [--count 24] [--seed 0]

Without `--data`, the photographs that gapcam ships; this is how `docs/images/recipes.jpg` is made.
With it (see `localization.py`), pictures drawn at random with their true class and true boxes
(white; ours are cyan).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import gapcam
from gapcam.draw import draw_localization
from gapcam.recipes import BEST, DEFAULT, PAPER
from gapcam.types import Box, Recipe
from localization import read_examples

TILE, GAP, HEADING = 240, 6, 26
STEPS: dict[str, Recipe] = {
    "paper: map, cut at 20 %": PAPER,
    "spread over the affinity": replace(DEFAULT, name="centred", centring=1.0, threshold=0.46),
    "less centring: default": DEFAULT,
    "second pass at 448: best": BEST,
}
Job = tuple[Path, int, Sequence[Box]]


def main() -> None:
    """Draw and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--count", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    jobs = list(shipped() if arguments.data is None else drawn_at_random(arguments))
    width = (TILE + GAP) * (len(STEPS) + 1) - GAP
    sheet = Image.new("RGB", (width, HEADING + len(jobs) * (TILE + GAP) - GAP), "white")
    font = ImageFont.load_default(15)
    for column, name in enumerate(["picture", *STEPS]):
        ImageDraw.Draw(sheet).text((column * (TILE + GAP) + 2, 3), name, "black", font)
    localizers = [gapcam.load(recipe=recipe) for recipe in STEPS.values()]
    for row, job in enumerate(jobs):
        for column, tile in enumerate(tiles(job, localizers)):
            sheet.paste(tile, (column * (TILE + GAP), HEADING + row * (TILE + GAP)))
    sheet.save(arguments.out, quality=85)


def shipped() -> Iterator[Job]:
    """The shipped photographs, each with the class the network finds."""
    localizer = gapcam.load()
    for path in gapcam.sample_pictures():
        yield path, localizer(path, top=1).detections[0].class_id, ()


def drawn_at_random(arguments: argparse.Namespace) -> Iterator[Job]:
    """Pictures of the data set, each with its class and true boxes."""
    examples = read_examples(arguments.data, gapcam.load())
    chosen = np.random.default_rng(arguments.seed).permutation(len(examples))[: arguments.count]
    for i in chosen.tolist():
        yield examples[i].path, examples[i].class_id, examples[i].boxes


def tiles(job: Job, localizers: Sequence[gapcam.Localizer]) -> Iterator[Image.Image]:
    """The picture itself, then every step's heat and box over it."""
    path, class_id, truths = job
    with Image.open(path) as opened:
        picture = opened.convert("RGB")
    size_wh = picture.size
    yield _tile(picture, size_wh, truths, ())
    for localizer in localizers:
        found = localizer(path, classes=[class_id])
        overlay = draw_localization(found, labels=False, scale=False, boxes=False)
        own = [d.box_xyxy for d in found.detections if d.box_xyxy is not None]
        yield _tile(overlay, size_wh, truths, own)


def _tile(
    picture: Image.Image, size_wh: tuple[int, int], truths: Sequence[Box], own: Sequence[Box]
) -> Image.Image:
    tile = picture.resize((TILE, TILE), Image.Resampling.LANCZOS)
    pen = ImageDraw.Draw(tile)
    scale = (TILE - 1) / size_wh[0], (TILE - 1) / size_wh[1]
    for boxes, colour in ((truths, "white"), (own, "cyan")):
        for x0, y0, x1, y1 in boxes:
            corners = (x0 * scale[0], y0 * scale[1], x1 * scale[0], y1 * scale[1])
            pen.rectangle(corners, outline=colour, width=3)
    return tile


if __name__ == "__main__":
    main()
