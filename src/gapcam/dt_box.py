"""The box rule of the code that Zhou et al. released with their paper, for the record.

The paper prints one rule: cut the map at 20 % of its maximum, bound the largest component. The
released pipeline holds another (github.com/zhoubolei/CAM, `bboxgenerator/dt_box.cpp` and `dt.c`,
called by `generate_bbox.m` with the thresholds 20, 100 and 110 of 255). On a map as large as the
picture, divided by its maximum and stored in 8 bits, it takes these steps:

1. For each threshold t: keep the pixels above t; take their Euclidean distances to the nearest
   pixel not kept (beyond the border there is none), scaled so that the largest is 255 and rounded;
   keep the pixels above 10. This peels every region by 4 % of the largest distance and removes the
   regions that are thinner. A map that is above t everywhere stays whole.
2. Take the bounding rectangle of every outer contour and of every hole. The contour of a hole runs
   on the pixels around it, so its rectangle is a pixel larger on each side.
3. Let no rectangle reach into the last 5 columns and the last 5 rows.
4. Pool the rectangles of the three thresholds and sort them by area, the largest first.
5. Go through them from the front and drop each later one that shares with the current one more
   than half the larger area. The loop erases while it counts, so the rectangle right after a
   dropped one is not compared with the current one (a flat map gives its one box twice).

The first rectangle is the released "bbox1", the second "bbox2".

What is the same here: every step above, the skipping of step 5 included. It never touches the
first box; it decides the second, which the paper's top-5 heuristic uses, so a mended loop would
not be the released rule.

What differs, and why:

- The map comes on a grid of a few dozen cells. Steps 1 to 3 count in pixels (one pixel of a coarse
  grid is more than the whole erosion), so it is enlarged bilinearly to `RASTER_HW`. The released
  code saw the picture's own size, which the heat does not know; most ILSVRC pictures are 500
  pixels long.
- No JPEG file lies between map and rule, so no JPEG noise is cut.
- Rectangles that step 3 leaves without area are dropped. The released code gave them sides of
  negative length.
- Rectangles of the same area come in the order threshold, top, left; the released order is
  undefined.
- OpenCV's contours of that time left out the outermost pixels of the map; today's do not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

import cv2
import numpy as np

from gapcam.resample import resample
from gapcam.types import BoolArray, Box, ByteArray, FloatArray, Point, SizeHW

RATIOS = (1.0, 5.0, 5.5)
"""The released thresholds 20, 100 and 110, as multiples of the first."""

RASTER_HW = (500, 500)
"""The size of the map that the rule runs on, pixels."""

MARGIN = 5
"""How many pixels at the right and at the bottom no rectangle enters."""


class _Rectangle(NamedTuple):
    """A bounding rectangle on the raster, half-open, and the pixels of its region or hole."""

    x0: int
    y0: int
    x1: int
    y1: int
    pixels: int

    @property
    def area(self) -> int:
        return (self.x1 - self.x0) * (self.y1 - self.y0)


def released_boxes(
    heat: FloatArray, threshold: float, raster_hw: SizeHW = RASTER_HW
) -> list[tuple[Box, Point, int]]:
    """The boxes of one heat map by the rule of Zhou et al.'s released code (see the module).

    Args:
        heat: `[h, w]`, not negative; its scale does not matter, as the enlarged map is divided by
            its maximum.
        threshold: The first threshold, as a share of the maximum, exclusive; 20/255 as released.
            The others are 5 and 5.5 times as high. Each is rounded to a whole 255th; one at or
            above 1 finds nothing.
        raster_hw: Size that the heat is enlarged to, pixels; a side shorter than the grid's is
            taken as long as the grid's.

    Returns:
        For each box, largest first: the box in grid units (the whole grid is `(0, 0, w, h)`),
        half-open; the centre of the hottest cell whose centre lies in the box, or the centre of a
        box that holds none; the size of the region (of the hole, for the contour of a hole) in
        cells, at least 1. Empty where nothing is positive, or nothing is left of it.
    """
    height, width = max(raster_hw[0], heat.shape[0]), max(raster_hw[1], heat.shape[1])
    levels = _eight_bits(resample(heat, (height, width), "bilinear"))
    found: list[_Rectangle] = []
    for ratio in RATIOS:
        kept = _erode(levels > round(255 * ratio * threshold))
        found += sorted(_rectangles(kept), key=lambda r: (r.y0, r.x0, r.y1, r.x1))
    found.sort(key=lambda r: -r.area)
    return [_on_grid(rectangle, heat, (height, width)) for rectangle in _merge(found)]


def _eight_bits(raster: FloatArray) -> ByteArray:
    """The raster as a share of its maximum, 0..255; halves are rounded up."""
    levels = np.zeros(raster.shape, np.uint8)
    peak = raster.max()
    if peak > 0:
        levels[:] = np.floor(raster / peak * 255 + 0.5)
    return levels


def _erode(hot: BoolArray) -> BoolArray:
    """The pixels whose distance to the cold ones is at least 10.5/255 of the largest there is."""
    if hot.all() or not hot.any():
        return hot
    distance = cv2.distanceTransform(hot.view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    # Squared distances are whole, so a bound half way between two of them is safe from rounding.
    largest = round(float(distance.max()) ** 2)
    least = math.ceil(Fraction(21, 510) ** 2 * largest)
    kept: BoolArray = distance > math.sqrt(least - 0.5)
    return kept


def _rectangles(kept: BoolArray) -> Iterator[_Rectangle]:
    """Around each region (connected at sides and corners) and each hole (at sides), clipped."""
    height, width = kept.shape
    for plane, connectivity, rim in ((kept, 8, 0), (~kept, 4, 1)):
        _, _, stats, _ = cv2.connectedComponentsWithStats(
            plane.view(np.uint8), connectivity=connectivity
        )
        for x, y, w, h, pixels in stats[1:].tolist():
            touches = x == 0 or y == 0 or x + w == width or y + h == height
            if rim and touches:
                continue  # a cold region at the border is outside, no hole
            x1, y1 = min(x + w + rim, width - MARGIN), min(y + h + rim, height - MARGIN)
            if x - rim < x1 and y - rim < y1:
                yield _Rectangle(x - rim, y - rim, x1, y1, pixels)


def _merge(rectangles: list[_Rectangle]) -> list[_Rectangle]:
    """Step 5; the index moves on after an erasure too, as in the released code."""
    left = list(rectangles)
    first = 0
    while first < len(left):
        other = first + 1
        while other < len(left):
            if 2 * _shared(left[first], left[other]) > left[first].area:
                del left[other]
            other += 1
        first += 1
    return left


def _shared(a: _Rectangle, b: _Rectangle) -> int:
    """The area of the intersection, pixels."""
    width = min(a.x1, b.x1) - max(a.x0, b.x0)
    height = min(a.y1, b.y1) - max(a.y0, b.y0)
    return max(width, 0) * max(height, 0)


def _on_grid(rectangle: _Rectangle, heat: FloatArray, raster_hw: SizeHW) -> tuple[Box, Point, int]:
    """A rectangle in the units of the heat, its peak and the cells of its region."""
    height, width = heat.shape
    down, along = height / raster_hw[0], width / raster_hw[1]
    x0, y0 = rectangle.x0 * along, rectangle.y0 * down
    x1, y1 = rectangle.x1 * along, rectangle.y1 * down
    columns = np.flatnonzero((np.arange(width) + 0.5 >= x0) & (np.arange(width) + 0.5 < x1))
    rows = np.flatnonzero((np.arange(height) + 0.5 >= y0) & (np.arange(height) + 0.5 < y1))
    peak = ((x0 + x1) / 2, (y0 + y1) / 2)
    if len(columns) and len(rows):
        inside = heat[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        row, column = divmod(int(inside.argmax()), len(columns))
        peak = (float(columns[column]) + 0.5, float(rows[row]) + 0.5)
    return (x0, y0, x1, y1), peak, max(1, round(rectangle.pixels * down * along))
