"""What the eight pixels around a pixel say about adding it, as tables over their 256 patterns."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

Table: TypeAlias = npt.NDArray[Any]

RING = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))
"""Row and column steps to the neighbours of a pixel, in raster order; neighbour i is bit i."""


class Ring(NamedTuple):
    """Tables over the pattern of neighbours that were added before a pixel.

    Attributes:
        arcs: `uint8 [256]`, one bit for each connected group of neighbours that the pixel touches:
            its first neighbour.
        fills: `int32 [256]`, 1 where the pixel fills a gap of one pixel, else 0.
        areas: `int32 [256]`, what the pixel adds to twice the area of the polygon through the
            pixel centres.
        jumps: `int64 [256]`, from a pixel to each neighbour in a plane's memory, by its bit alone.
        near: `int64 [256]`, the jump to a neighbour in the only group that the pixel touches;
            0 where it touches not just one, or fills a gap.
    """

    arcs: Table
    fills: Table
    areas: Table
    jumps: Table
    near: Table


def ring_tables(connectivity: int, stride: int) -> Ring:
    """The tables for sets in which pixels touch by sides (4) or by sides and corners (8).

    `stride` is the length of the plane's rows.
    """
    arcs, fills, areas = _pattern_tables(connectivity)
    jumps = np.zeros(256, np.int64)
    jumps[[1 << i for i in range(8)]] = [down * stride + right for down, right in RING]
    near = np.where(fills == 0, jumps[arcs], 0)  # 0 too where `arcs` is not one bit
    return Ring(arcs, fills, areas, jumps, near)


@functools.cache
def _pattern_tables(connectivity: int) -> tuple[Table, Table, Table]:
    """What of a `Ring` does not depend on the plane; it takes some milliseconds."""
    reach = 1 if connectivity == 4 else 2
    beside = sum(1 << i for i, step in enumerate(RING) if 0 in step)
    # What lies outside a gap touches the other way: a hole by sides, an island by corners too.
    around = 255 if connectivity == 4 else beside
    groups = [_groups(pattern, reach) for pattern in range(256)]
    arcs = np.array([sum(1 << group[0] for group in each) for each in groups], np.uint8)
    fills = np.array([pattern & around == around for pattern in range(256)], np.int32)
    areas = np.array([_doubled_area(pattern) for pattern in range(256)], np.int32)
    return arcs, fills, areas


def _groups(pattern: int, reach: int) -> list[list[int]]:
    """The connected groups of present neighbours, those of each that touch the pixel."""
    waiting = [i for i in range(8) if pattern >> i & 1]
    groups = []
    while waiting:
        group, edge = [], [waiting.pop(0)]
        while edge:
            here = edge.pop()
            group.append(here)
            edge += [i for i in waiting if _distance(RING[i], RING[here]) <= reach]
            waiting = [i for i in waiting if i not in edge]
        touching = sorted(i for i in group if _distance(RING[i], (0, 0)) <= reach)
        if touching:
            groups.append(touching)
    return groups


def _distance(a: tuple[int, int], b: tuple[int, int]) -> int:
    """Squared: 1 across a side, 2 across a corner, more for pixels that do not touch."""
    return (a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2


def _doubled_area(pattern: int) -> int:
    """How much a pixel adds to twice the area of the polygon through the pixel centres.

    Of every 2 x 2 block, four pixels enclose a square and three a triangle of half its area.
    """
    added = 0
    for down in (-1, 1):
        for right in (-1, 1):
            others = ((down, right), (down, 0), (0, right))
            added += sum(pattern >> RING.index(step) & 1 for step in others) >= 2
    return added
