"""Small data sets for scoring, of the sample photographs and others made from them."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

import gapcam
from gapcam.data import Dataset, read_dataset

HEADER = ("image", "class", "width", "height", "x0", "y0", "x1", "y1")


def sample(name: str) -> Image.Image:
    path = next(path for path in gapcam.sample_pictures() if path.name == f"{name}.jpg")
    return Image.open(path).convert("RGB")


def made_pictures() -> list[tuple[str, Image.Image, list[tuple[str, tuple[float, ...]]]]]:
    """Name, picture, and the classes with their boxes; sizes, counts and classes of all kinds."""
    cat, coffee, rocket = sample("cat"), sample("coffee"), sample("rocket")
    corner = Image.new("RGB", (700, 500), (90, 120, 60))
    corner.paste(cat.resize((160, 110)), (500, 360))
    pair = Image.new("RGB", (600, 260), (30, 30, 40))
    pair.paste(cat.resize((280, 220)), (10, 20))
    pair.paste(ImageOps.mirror(cat).resize((280, 220)), (310, 20))
    both = Image.new("RGB", (640, 320), (120, 110, 100))
    both.paste(cat.resize((300, 240)), (10, 40))
    both.paste(coffee.resize((300, 200)), (330, 60))
    return [
        ("a/cat.png", cat, [("Egyptian cat", (0, 0, 378, 300))]),
        ("a/flipped.png", ImageOps.mirror(cat), [("Egyptian cat", (73, 0, 451, 300))]),
        ("b/coffee.png", coffee, [("espresso", (172, 17, 414, 306))]),
        ("b/cup.png", coffee.crop((150, 0, 450, 330)), [("espresso", (22, 17, 264, 306))]),
        ("rocket.png", rocket, [("missile", (308, 127, 337, 410))]),
        ("corner.png", corner, [("tabby", (500, 360, 640, 470))]),
        (
            "pair.png",
            pair,
            [("Egyptian cat", (10, 20, 245, 240)), ("Egyptian cat", (355.5, 20, 590, 240))],
        ),
        (
            "both.png",
            both,
            [("Egyptian cat", (10, 40, 262, 280)), ("espresso", (416, 68, 537, 213))],
        ),
    ]


def write_rows(path: Path, rows: list[tuple[object, ...]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([HEADER, *rows])


def write_boxes(folder: Path) -> tuple[Path, Path]:
    """Pictures and boxes.csv below the folder."""
    images, rows = folder / "images", []
    for name, picture, boxes in made_pictures():
        (images / name).parent.mkdir(parents=True, exist_ok=True)
        picture.save(images / name)
        rows += [(name, label, *picture.size, *box) for label, box in boxes]
    write_rows(folder / "boxes.csv", rows)
    return images, folder / "boxes.csv"


def boxed_set(folder: Path) -> Dataset:
    return read_dataset(*write_boxes(folder))


def write_masks(folder: Path) -> tuple[Path, Path]:
    """Class folders with mask files: ellipses in the boxes."""
    images, masks = folder / "pictures", folder / "masks"
    for name, picture, boxes in made_pictures():
        if len({label for label, _ in boxes}) > 1:
            continue
        width, height = picture.size
        y, x = np.mgrid[:height, :width] + 0.5
        mask = np.zeros((height, width), bool)
        for _, (x0, y0, x1, y1) in boxes:
            mask |= ((2 * x - x0 - x1) / (x1 - x0)) ** 2 + ((2 * y - y0 - y1) / (y1 - y0)) ** 2 < 1
        for root, shown in ((images, picture), (masks, Image.fromarray(mask))):
            target = root / boxes[0][0] / Path(name).name
            target.parent.mkdir(parents=True, exist_ok=True)
            shown.save(target)
    return images, masks
