"""Random changes of training pictures that keep their class labels true; none needs a box.

Pictures are `uint8` RGB `[H, W, 3]`. Every function takes its randomness from the generator it is
given, so that a picture's changes depend on nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from gapcam.images import resize_picture
from gapcam.types import Box, ByteArray, FloatArray, SizeHW

CROP_AREA = (0.35, 1.0)
"""The share of the picture that a random crop shows.

ImageNet classifiers are trained with 0.08 to 1 (Szegedy et al., CVPR 2015), on pictures that their
object fills. A crop of 8 % often shows none of a small object and keeps its label; from 35 % on,
every crop holds most of the picture's middle.
"""
CROP_ASPECT = (3 / 4, 4 / 3)
_CROP_TRIES = 10

COLOUR_CHANGE = 0.4
"""Saturation, contrast and brightness are multiplied by 1 - this to 1 + this."""
_GREY = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, as in Pillow's "L"

HIDDEN_CELLS = (0, 16, 32, 44, 56)
"""Sides of the hidden cells in pixels of a picture 224 wide; 0 hides nothing."""
HIDDEN_SHARE = 0.5


def augment_picture(
    pixels: ByteArray,
    size_hw: SizeHW,
    names: Collection[str],
    fill: tuple[int, int, int],
    generator: np.random.Generator,
) -> ByteArray:
    """Change one picture and bring it to the network's size.

    Args:
        pixels: `[H, W, 3]`.
        size_hw: The size wanted, pixels.
        names: Some of `crop`, `flip`, `colour`, `hide-and-seek`; others do not change pictures.
        fill: What hidden cells show, RGB.
        generator: Where chance comes from.

    Returns:
        `[h, w, 3]`, C-contiguous.
    """
    if "crop" in names:
        changed = crop_and_resize(pixels, random_crop(pixels.shape[:2], generator), size_hw)
    else:
        changed = resize_picture(pixels, size_hw)
    if "flip" in names and generator.random() < 0.5:
        changed = changed[:, ::-1]
    if "colour" in names:
        low, high = 1 - COLOUR_CHANGE, 1 + COLOUR_CHANGE
        changed = change_colour(changed, *generator.uniform(low, high, 3).tolist())
    if "hide-and-seek" in names:
        cell = HIDDEN_CELLS[generator.integers(len(HIDDEN_CELLS))]
        changed = hide_cells(changed, round(cell * size_hw[1] / 224), fill, generator)
    return np.ascontiguousarray(changed)


def random_crop(size_hw: SizeHW, generator: np.random.Generator) -> Box:
    """A random part of the picture, half-open, pixels.

    Area and aspect are drawn as Szegedy et al. (CVPR 2015) do, with one difference (ours): the
    aspect is relative to the picture's. A localizer squashes whole pictures to the network's size,
    so crops are squashed by up to 4/3 more or less than that.
    """
    height, width = size_hw
    low, high = math.log(CROP_ASPECT[0]), math.log(CROP_ASPECT[1])
    for _ in range(_CROP_TRIES):
        area = generator.uniform(*CROP_AREA)
        aspect = math.exp(generator.uniform(low, high))
        share_x, share_y = math.sqrt(area * aspect), math.sqrt(area / aspect)
        if max(share_x, share_y) <= 1:
            break
    share_x, share_y = min(share_x, 1.0), min(share_y, 1.0)
    x0 = generator.uniform(0, 1 - share_x) * width
    y0 = generator.uniform(0, 1 - share_y) * height
    return x0, y0, min(x0 + share_x * width, width), min(y0 + share_y * height, height)


def crop_and_resize(pixels: ByteArray, box_xyxy: Box, size_hw: SizeHW) -> ByteArray:
    """The box's part at the size wanted: antialiased bilinear, half-pixel centres."""
    height, width = size_hw
    bilinear = Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(pixels).resize((width, height), bilinear, box=box_xyxy))


def change_colour(
    pixels: ByteArray, saturation: float, contrast: float, brightness: float
) -> ByteArray:
    """Multiply saturation, then contrast, then brightness; 1 leaves each.

    Saturation blends with the pixel's grey, contrast with the picture's mean grey, brightness with
    black (Krizhevsky's and Howard's jitter, arXiv 1312.5402). All three are linear, so one 3x4
    matrix does them at once and values are rounded and cut to 0..255 once.
    """
    blend = saturation * np.eye(3) + (1 - saturation) * np.tile(_GREY, (3, 1))
    mean_grey = float(_GREY @ np.asarray(cv2.mean(pixels)[:3]))
    matrix = np.empty((3, 4))
    matrix[:, :3] = brightness * contrast * blend
    matrix[:, 3] = brightness * (1 - contrast) * mean_grey
    changed = cv2.transform(pixels.astype(np.float32), matrix)  # of uint8 it rounds coarsely
    rounded: ByteArray = np.rint(changed.clip(0, 255)).astype(np.uint8)
    return rounded


def hide_cells(
    pixels: ByteArray, cell: int, fill: tuple[int, int, int], generator: np.random.Generator
) -> ByteArray:
    """Hide-and-Seek (Singh and Lee, ICCV 2017): each cell of a grid is hidden with probability .5.

    Args:
        pixels: `[H, W, 3]`; not changed.
        cell: The cells' side, pixels; 0 hides nothing.
        fill: What hidden cells show: the mean of training pictures (section 3.2 there), so that
            features keep their expected values when nothing is hidden at test time.
        generator: Where chance comes from.
    """
    if cell < 1:
        return pixels
    height, width = pixels.shape[:2]
    grid = generator.random((-(-height // cell), -(-width // cell))) < HIDDEN_SHARE
    hidden = grid.repeat(cell, 0).repeat(cell, 1)[:height, :width]
    return np.where(hidden[..., None], np.array(fill, np.uint8), pixels)


def cut_mix(
    pixels: ByteArray, targets: FloatArray, generator: np.random.Generator
) -> tuple[ByteArray, FloatArray]:
    """CutMix (Yun et al., ICCV 2019): paste a box of another picture; mix labels by its area.

    The box is one for the batch, its area is uniform in 0..1 (Beta(1, 1)) before the part outside
    the picture is cut off. For several classes a picture, the mixed targets are as soft.

    Args:
        pixels: `[B, H, W, 3]`.
        targets: `[B, C]`.
        generator: Where chance comes from.
    """
    count, height, width = pixels.shape[:3]
    partner = generator.permutation(count)
    x0, y0, x1, y1 = random_box((height, width), generator)
    mixed = pixels.copy()
    mixed[:, y0:y1, x0:x1] = pixels[partner, y0:y1, x0:x1]
    share = np.float32((y1 - y0) * (x1 - x0) / (height * width))
    return mixed, (1 - share) * targets + share * targets[partner]


def random_box(size_hw: SizeHW, generator: np.random.Generator) -> tuple[int, int, int, int]:
    """CutMix's box: centre uniform, sides `sqrt(1 - lambda)` of the picture's, cut to it."""
    side = math.sqrt(1 - generator.random())  # lambda ~ Beta(1, 1), which is uniform
    edges: list[tuple[int, int]] = []
    for length in size_hw:
        centre, half = int(generator.integers(length)), int(side * length) // 2
        edges.append((max(centre - half, 0), min(centre + half, length)))
    (y0, y1), (x0, x1) = edges
    return x0, y0, x1, y1


def mean_colour(
    mean: npt.ArrayLike, channels: str, grey: tuple[int, int, int] = (127, 127, 127)
) -> tuple[int, int, int]:
    """A network's mean of training pictures, as RGB of 0..255; mid grey where it is zero."""
    values = np.asarray(mean, float)
    if not values.any():
        return grey
    red, green, blue = values[::-1] if channels == "bgr" else values
    return round(red), round(green), round(blue)
