"""Sweeps over whole maps, compiled: holes, the order of the pixels, what is known without joining.

Planes are `[H + 2, W + 2]`: the map in a frame of one pixel, which is 0.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from gapcam.metrics.level_sets_numba import part

Array: TypeAlias = npt.NDArray[Any]


class Queue(NamedTuple):
    """The pixels to add, in turn.

    Attributes:
        patterns: `uint8` plane: the neighbours that come before each pixel.
        busy: `bool [256]`: the values whose pixels are added one by one.
        order: `int64`, `y << 32 | x` on the plane, the highest value first.
        ends: `int64 [256]`: where the pixels of each value end in `order`.
    """

    patterns: Array
    busy: Array
    order: Array
    ends: Array


class Survey(NamedTuple):
    """What is known of {plane >= value} for every value without joining any pixels.

    Attributes:
        plane: `uint8`, a map with its holes filled.
        sums: `int32 [257, 3]`: pixels, doubled area, components.
        spans: `int32 [256, 4]`, its box: first column and row, last column and row.
    """

    plane: Array
    sums: Array
    spans: Array


class Ranks(NamedTuple):
    """Scratch: the order of the pixels before they are sorted.

    Attributes:
        rank: `uint16` plane, twice the value; odd where a pixel is not to be added, being there
            before all that are equal.
        rows: `bool [H + 2]`, rows with pixels to add.
    """

    rank: Array
    rows: Array


@part
def queue_hollows(gray: Array, survey: Survey, ranks: Ranks, queue: Queue, adds: Array) -> bool:
    """Queue what may be holes of a map, to rise: their value is 255 - gray.

    Args:
        gray: The map, a plane.
        survey: Written: a `plane` that is `gray` wherever nothing is queued, and `sums`.
        ranks: Written.
        queue: Written.
        adds: Of `level_sets_rings.Ring`.

    Returns:
        Whether anything is queued.
    """
    _bound_holes(gray, survey.plane)
    found = _rank_hollows(gray, survey.plane, ranks)
    if found:
        _queue_ranked(False, survey, ranks, queue, adds)
    return found


@part
def queue_values(
    values: Array, filled: bool, survey: Survey, ranks: Ranks, queue: Queue, adds: Array
) -> None:
    """Queue a map, to fall.

    Args:
        values: The map, a plane.
        filled: Whether it has no holes. Then `survey` is written whole, and only those values are
            queued that make or leave several components.
        survey: Written.
        ranks: Written.
        queue: Written.
        adds: Of `level_sets_rings.Ring`.
    """
    _rank_values(values, ranks)
    _queue_ranked(filled, survey, ranks, queue, adds)
    if filled:
        _span_values(values, survey.spans)


@part
def _queue_ranked(filled: bool, survey: Survey, ranks: Ranks, queue: Queue, adds: Array) -> None:
    """Queue what is ranked; components that cannot be counted are several: 2."""
    sums = survey.sums
    _look_around(ranks, queue.patterns)
    _add_up(ranks, queue.patterns, adds, sums)
    for value in range(1, 256):
        if filled:
            queue.busy[value] = sums[value, 2] > 1 or sums[value + 1, 2] > 1
        else:
            queue.busy[value] = sums[value, 0] > sums[value + 1, 0]
    if not filled:
        for value in range(257):
            sums[value, 2] = 2
    _sort_pixels(ranks, sums, queue)


@part
def _bound_holes(gray: Array, bound: Array) -> None:
    """Bound `gray` with its holes filled from above, tightly but for a few pixels.

    Each bound is the height of some way out to the frame, one that runs down or up and at most
    one pixel sideways in each row.
    """
    way = np.zeros(gray.shape[1], np.uint8)
    for y in range(1, gray.shape[0] - 1):
        for x in range(1, gray.shape[1] - 1):
            bound[y, x] = 255
        _lower(gray[y], bound[y - 1], way, bound[y])
    for y in range(gray.shape[0] - 2, 0, -1):
        _lower(gray[y], bound[y + 1], way, bound[y])


@part
def _lower(gray: Array, beside: Array, way: Array, bound: Array) -> None:
    for x in range(1, gray.size - 1):
        way[x] = max(gray[x], min(bound[x], beside[x]))
    for x in range(1, gray.size - 1):
        bound[x] = max(gray[x], min(way[x], min(way[x - 1], way[x + 1])))


@part
def _rank_hollows(gray: Array, bound: Array, ranks: Ranks) -> bool:
    """Rank for rising what is below its bound, and what is beside that; is there anything?

    All other pixels are outside, from their own gray on. So is the frame, from the start.
    """
    rank, rows = ranks
    _frame(rank, 512)
    hollow = np.zeros(gray.shape, np.uint8)
    for y in range(1, gray.shape[0] - 1):
        for x in range(1, gray.shape[1] - 1):
            hollow[y, x] = bound[y, x] > gray[y, x]
    found = False
    for y in range(1, gray.shape[0] - 1):
        above, row, below = hollow[y - 1], hollow[y], hollow[y + 1]
        some = np.uint8(0)
        for x in range(1, gray.shape[1] - 1):
            inside = row[x] | row[x - 1] | row[x + 1] | above[x] | below[x]
            rank[y, x] = np.uint16(511) - np.uint16(2) * gray[y, x] - inside
            some |= inside
        rows[y] = some > 0
        found = found or bool(rows[y])
    return found


@part
def _rank_values(values: Array, ranks: Ranks) -> None:
    rank, rows = ranks
    _frame(rank, 0)
    for y in range(1, rank.shape[0] - 1):
        rows[y] = True
        for x in range(1, rank.shape[1] - 1):
            rank[y, x] = np.uint16(2) * values[y, x]


@part
def _frame(rank: Array, value: int) -> None:
    for y in range(rank.shape[0]):
        rank[y, 0] = value
        rank[y, rank.shape[1] - 1] = value
    for x in range(rank.shape[1]):
        rank[0, x] = value
        rank[rank.shape[0] - 1, x] = value


@part
def _look_around(ranks: Ranks, patterns: Array) -> None:
    """Which neighbours come before each pixel: those of higher rank, and earlier equals."""
    rank, rows = ranks
    one = np.uint8(1)
    for y in range(1, rank.shape[0] - 1):
        above, row, below = rank[y - 1], rank[y], rank[y + 1]
        if rows[y]:
            for x in range(1, rank.shape[1] - 1):
                own = row[x]
                patterns[y, x] = (
                    np.uint8(above[x - 1] >= own)
                    | np.uint8(above[x] >= own) << one
                    | np.uint8(above[x + 1] >= own) << np.uint8(2)
                    | np.uint8(row[x - 1] >= own) << np.uint8(3)
                    | np.uint8(row[x + 1] > own) << np.uint8(4)
                    | np.uint8(below[x - 1] > own) << np.uint8(5)
                    | np.uint8(below[x] > own) << np.uint8(6)
                    | np.uint8(below[x + 1] > own) << np.uint8(7)
                )


@part
def _add_up(ranks: Ranks, patterns: Array, adds: Array, sums: Array) -> None:
    """What all pixels of each value and above add: writes `sums`, see `Survey`."""
    rank, rows = ranks
    for value in range(257):
        for i in range(3):
            sums[value, i] = 0
    band = max(1, 2**20 // rank.shape[1])  # so many rows cannot overflow a packed number
    for top in range(1, rank.shape[0] - 1, band):
        # Two tables in turn: neighbours are often equal, and adding to one place twice is slow.
        packed = np.zeros((2, 513), np.int64)
        for y in range(top, min(top + band, rank.shape[0] - 1)):
            if rows[y]:
                for x in range(1, rank.shape[1] - 1):
                    packed[x & 1, rank[y, x]] += adds[patterns[y, x]]
        for value in range(256):
            number = packed[0, 2 * value] + packed[1, 2 * value]
            sums[value, 0] += number & (2**21 - 1)
            sums[value, 1] += number >> 21 & (2**22 - 1)
            sums[value, 2] += number >> 43
    for value in range(254, -1, -1):
        for i in range(3):
            sums[value, i] += sums[value + 1, i]


@part
def _sort_pixels(ranks: Ranks, sums: Array, queue: Queue) -> None:
    """List the pixels of busy values, ties in raster order: writes `order` and `ends`."""
    rank, rows = ranks
    _, busy, order, ends = queue
    total = 0
    for value in range(255, 0, -1):
        ends[value] = total
        if busy[value]:
            total += sums[value, 0] - sums[value + 1, 0]
    wanted = np.zeros(513, np.bool_)  # by rank: even ones only
    for value in range(256):
        wanted[2 * value] = busy[value]
    for y in range(1, rank.shape[0] - 1):
        if rows[y]:
            for x in range(1, rank.shape[1] - 1):
                if wanted[rank[y, x]]:
                    value = rank[y, x] >> 1
                    order[ends[value]] = y << 32 | x
                    ends[value] += 1


@part
def _span_values(values: Array, spans: Array) -> None:
    """The box of {values >= v} for every v, from the maxima of rows and columns: `spans`."""
    height, width = values.shape
    columns = np.zeros(width, np.uint8)
    for value in range(256):
        spans[value, 0], spans[value, 1] = width, height
        spans[value, 2], spans[value, 3] = 0, 0
    for y in range(1, height - 1):
        highest = np.uint8(0)
        for x in range(1, width - 1):
            columns[x] = max(columns[x], values[y, x])
            highest = max(highest, values[y, x])
        spans[highest, 1] = min(spans[highest, 1], y)
        spans[highest, 3] = y
    for x in range(1, width - 1):
        spans[columns[x], 0] = min(spans[columns[x], 0], x)
        spans[columns[x], 2] = x
    for value in range(254, -1, -1):
        for i in range(2):
            spans[value, i] = min(spans[value, i], spans[value + 1, i])
            spans[value, i + 2] = max(spans[value, i + 2], spans[value + 1, i + 2])
