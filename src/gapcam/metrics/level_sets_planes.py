"""Sweeps over whole maps, compiled: what need not be joined pixel by pixel.

Planes are `[H + 2, W + 2]`, a map in a frame of one pixel. Rows are worked on as slices: that is
what makes LLVM handle many pixels at once.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from gapcam.metrics.level_sets_numba import part

Array: TypeAlias = npt.NDArray[Any]

SWEEPS = 3


class Flood(NamedTuple):
    """A map whose pixels are added by falling value, and one main component of it.

    Attributes:
        values: `uint8` plane; the frame is 255 where it belongs to the main component, else 0.
        joined: `uint8` plane: the value at which each pixel gets into the main component, which
            may be its own; 0 for never. The frame is as in `values`.
        rank: `uint16` plane, twice the value; odd for pixels that are proven to be in the main
            component from their own value on, and so there before all that are equal.
        rows: `bool [H + 2]`, rows with queued pixels: those not proven, and those beside them.
        patterns: `uint8` plane: which neighbours are there before a queued pixel.
        order: `int64`: the queued pixels, `y << 32 | x << 1 | proven`, the highest first.
        ends: `int64 [256]`: where the pixels of each value end in `order`.
        spare: `uint8` plane, scratch.
        found: `int64`, scratch.
    """

    values: Array
    joined: Array
    rank: Array
    rows: Array
    patterns: Array
    order: Array
    ends: Array
    spare: Array
    found: Array


class Survey(NamedTuple):
    """What the main component, without holes, is at every value.

    Attributes:
        areas: `int64 [257]`, doubled area.
        spans: `int32 [256, 4]`: first column and row, last column and row on the plane.
    """

    areas: Array
    spans: Array


@part
def load_inverted(plane: Array, flood: Flood) -> None:
    """Make 255 minus a plane the map whose pixels are to be added; nothing has joined yet."""
    for y in range(1, plane.shape[0] - 1):
        values, joined, row = flood.values[y], flood.joined[y], plane[y]
        for x in range(1, row.size - 1):
            values[x] = np.uint8(255) - row[x]
            joined[x] = 0


@part
def start_at_highest(flood: Flood) -> None:
    """Let the main component be that of the highest pixel, the first if there are several."""
    columns = np.zeros(flood.values.shape[1], np.uint8)
    highest, top = 0, 1
    for y in range(1, flood.values.shape[0] - 1):
        value = _raise(flood.values[y], columns)
        if value > highest:
            highest, top = value, y
    x = 1
    while flood.values[top, x] < highest:
        x += 1
    flood.joined[top, x] = highest


@part
def queue_pixels(flood: Flood) -> None:
    """Prove by sweeps what is in the main component; queue all else, and what is beside that.

    Before that, `joined` is 0 but in the frame and where the main component starts.
    """
    values, joined, rank, patterns = flood.values, flood.joined, flood.rank, flood.patterns
    last = values.shape[0] - 2
    for sweep in range(SWEEPS):
        for i in range(last):
            y, before = (i + 1, i) if sweep % 2 == 0 else (last - i, last - i + 1)
            _sweep(values[y], joined[before], joined[y])
    for y in range(1, last + 1):
        _mark(values[y], joined[y], patterns[y])
        _widen(patterns[y], flood.spare[y])
    for y in range(1, last + 1):
        flood.rows[y] = _queue(flood.spare[y - 1], flood.spare[y], flood.spare[y + 1], patterns[y])
        _rank(values[y], patterns[y], rank[y])
    total = _collect(flood)
    for y in range(1, last + 1):
        if flood.rows[y]:
            _look_around(rank[y - 1], rank[y], rank[y + 1], patterns[y])
    _sort(flood, total)


@part
def _sweep(values: Array, beside: Array, joined: Array) -> None:
    """Raise what is proven of a row: by a step from the row beside, and one sideways."""
    for x in range(1, values.size - 1):
        left, right = min(values[x - 1], beside[x - 1]), min(values[x + 1], beside[x + 1])
        best = max(max(joined[x], beside[x]), max(left, right))
        joined[x] = min(values[x], best)


@part
def _mark(values: Array, joined: Array, marks: Array) -> None:
    """Mark what is not proven."""
    for x in range(1, values.size - 1):
        marks[x] = np.uint8(joined[x] < values[x])


@part
def _widen(marks: Array, wide: Array) -> None:
    for x in range(1, marks.size - 1):
        wide[x] = marks[x - 1] | marks[x] | marks[x + 1]


@part
def _queue(above: Array, wide: Array, below: Array, marks: Array) -> bool:
    """Turn marks into kinds: 2 where not proven, 1 beside that, else 0; is there any?"""
    some = np.uint8(0)
    for x in range(1, marks.size - 1):
        marks[x] += above[x] | wide[x] | below[x]
        some |= marks[x]
    return bool(some > 0)


@part
def _rank(values: Array, kinds: Array, rank: Array) -> None:
    for x in range(1, values.size - 1):
        rank[x] = np.uint16(2) * values[x] + np.uint16(kinds[x] < 2)


@part
def _collect(flood: Flood) -> int:
    """List the pixels to queue in raster order; how many are they?"""
    ends, total = flood.ends, 0
    for value in range(256):
        ends[value] = 0
    for y in range(1, flood.values.shape[0] - 1):
        if flood.rows[y]:
            kinds, values = flood.patterns[y], flood.values[y]
            for x in range(1, kinds.size - 1):
                if kinds[x] and values[x]:
                    flood.found[total] = y << 32 | x << 1 | (kinds[x] & 1)
                    total += 1
                    ends[values[x]] += 1
    return total


@part
def _sort(flood: Flood, total: int) -> None:
    """Put the listed pixels in order, ties as they are."""
    ends, place = flood.ends, 0
    for value in range(255, -1, -1):
        count = ends[value]
        ends[value] = place
        place += count
    for i in range(total):
        pixel = flood.found[i]
        value = flood.values[pixel >> 32, pixel >> 1 & 0x7FFFFFFF]
        flood.order[ends[value]] = pixel
        ends[value] += 1


@part
def _look_around(above: Array, row: Array, below: Array, patterns: Array) -> None:
    """Which neighbours come before each pixel of a row: higher ones, and earlier equals."""
    for x in range(1, row.size - 1):
        own = row[x]
        patterns[x] = (
            np.uint8(above[x - 1] >= own)
            | np.uint8(above[x] >= own) << np.uint8(1)
            | np.uint8(above[x + 1] >= own) << np.uint8(2)
            | np.uint8(row[x - 1] >= own) << np.uint8(3)
            | np.uint8(row[x + 1] > own) << np.uint8(4)
            | np.uint8(below[x - 1] > own) << np.uint8(5)
            | np.uint8(below[x] > own) << np.uint8(6)
            | np.uint8(below[x + 1] > own) << np.uint8(7)
        )


@part
def survey_joined(flood: Flood, ring_areas: Array, survey: Survey) -> None:
    """Measure the main component at every value, where it has no holes."""
    _span(flood.joined, survey.spans)
    areas = survey.areas
    for value in range(257):
        areas[value] = 0
    # Two sums in turn: neighbours are often equal, and adding to one place twice in a row is slow.
    both = np.zeros((2, 256), np.int64)
    patterns = np.zeros(flood.joined.shape[1], np.uint8)
    for y in range(1, flood.joined.shape[0] - 1):
        row = flood.joined[y]
        _look_around(flood.joined[y - 1], row, flood.joined[y + 1], patterns)
        for x in range(1, row.size - 1):
            both[x & 1, row[x]] += ring_areas[patterns[x]]
    for value in range(255, -1, -1):
        areas[value] = areas[value + 1] + both[0, value] + both[1, value]


@part
def _span(joined: Array, spans: Array) -> None:
    """The boxes of the main component, from the maxima of rows and columns."""
    height, width = joined.shape
    columns = np.zeros(width, np.uint8)
    for value in range(256):
        spans[value, 0], spans[value, 1] = width, height
        spans[value, 2], spans[value, 3] = 0, 0
    for y in range(1, height - 1):
        highest = _raise(joined[y], columns)
        spans[highest, 1] = min(spans[highest, 1], y)
        spans[highest, 3] = y
    for x in range(1, width - 1):
        spans[columns[x], 0] = min(spans[columns[x], 0], x)
        spans[columns[x], 2] = x
    for value in range(254, -1, -1):
        for i in range(2):
            spans[value, i] = min(spans[value, i], spans[value + 1, i])
            spans[value, i + 2] = max(spans[value, i + 2], spans[value + 1, i + 2])


@part
def _raise(row: Array, columns: Array) -> int:
    """Raise the maxima of columns by a row, and give the row's own."""
    highest = np.uint8(0)
    for x in range(1, row.size - 1):
        columns[x] = max(columns[x], row[x])
        highest = max(highest, row[x])
    return int(highest)
