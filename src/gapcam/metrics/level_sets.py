"""The boxes of every level set {gray > t} of a map, found in one pass; needs numba.

Pixels are added one by one, the highest first, and a union-find keeps the 8-connected components:
their bounding boxes, and twice the area of the polygon through the pixel centres, which grows by
what `level_sets_rings` says of the neighbours that are already there. That this equals tracing
contours at every level rests on two facts:

- Outer contours enclose their holes, so areas are those of the map with its holes filled, each up
  to the value at which it opens to the outside. Filling and cutting commute.
- A hole is a 4-connected component of {gray <= t} that does not reach the frame, and its contour
  runs on the pixels around it. So holes are the components of the map upside down, but for the
  main one, which is the outside; and where they get joined to it they open.

Most pixels need not be joined: a few sweeps prove that they belong to the main component from
their own value on, and that is measured by sums and maxima (`level_sets_planes`). What remains are
the hills and the hollows (`level_sets_growth`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from gapcam.metrics import level_sets_growth, level_sets_planes, level_sets_rings
from gapcam.metrics.level_sets_growth import COLUMNS, STEPS, Forest, Scores, grow, score_main
from gapcam.metrics.level_sets_numba import fingerprint, kernel, part
from gapcam.metrics.level_sets_planes import (
    Flood,
    Survey,
    load_inverted,
    queue_pixels,
    start_at_highest,
    survey_joined,
)
from gapcam.metrics.level_sets_rings import Ring, ring_tables
from gapcam.types import ByteArray, IntArray

Array: TypeAlias = npt.NDArray[Any]


class Scratch(NamedTuple):
    """All that maps of one size need, used again for every map; one for each thread.

    Attributes:
        rising: The map upside down; its main component is the outside, the others are holes.
        falling: The map; its main component is that of the highest pixel.
        survey: Of the latter.
        forest: For both.
        holes: By rising step.
        scores: By falling step.
        sides: How holes are connected.
        corners: How all else is.
    """

    rising: Flood
    falling: Flood
    survey: Survey
    forest: Forest
    holes: Scores
    scores: Scores
    sides: Ring
    corners: Ring


def make_scratch(height: int, width: int) -> Scratch:
    """Scratch for maps of that size."""
    plane = (height + 2, width + 2)
    most = height * width // 2 + 3  # no two neighbours both start a component
    return Scratch(
        rising=_make_flood(plane, frame=255),
        falling=_make_flood(plane, frame=0),
        survey=Survey(areas=np.zeros(257, np.int64), spans=np.zeros((256, 4), np.int32)),
        forest=Forest(
            labels=np.zeros(plane, np.int32),
            parents=np.zeros(most, np.int32),
            nodes=np.zeros((most, COLUMNS), np.int32),
            ious=np.zeros(most),
            roots=np.zeros(most, np.int32),
            counts=np.zeros(2, np.int64),
        ),
        holes=_make_scores(),
        scores=_make_scores(),
        sides=ring_tables(4, plane[1]),
        corners=ring_tables(8, plane[1]),
    )


def _make_flood(plane: tuple[int, int], frame: int) -> Flood:
    return Flood(
        values=np.full(plane, frame, np.uint8),
        joined=np.full(plane, frame, np.uint8),
        rank=np.full(plane, 2 * frame + 2 if frame else 0, np.uint16),  # before all or never
        rows=np.zeros(plane[0], np.bool_),
        patterns=np.zeros(plane, np.uint8),
        order=np.zeros(plane[0] * plane[1], np.int64),
        ends=np.zeros(256, np.int64),
        spare=np.zeros(plane, np.uint8),
        found=np.zeros(plane[0] * plane[1], np.int64),
    )


def _make_scores() -> Scores:
    return Scores(
        multi=np.zeros(STEPS),
        single=np.zeros(STEPS),
        boxes=np.zeros((STEPS, 4), np.int64),
        areas=np.zeros(STEPS, np.int64),
        firsts=np.zeros(STEPS, np.int64),
    )


def score_maps(
    grays: ByteArray, truths: Sequence[IntArray], scratch: Scratch
) -> tuple[Array, Array, Array]:
    """Score every level of every map, without the GIL.

    Args:
        grays: `uint8 [n, H, W]`, n >= 1.
        truths: For each map its true boxes, `int64 [m, 4]`, inclusive.
        scratch: For maps of that size.

    Returns:
        By map and level t = 0..254: IoU of the box of the largest contour `[n, 255]`, best IoU of
        the boxes of all contours `[n, 255]`, box of the largest contour `int64 [n, 255, 4]`.
    """
    starts = np.cumsum([0, *map(len, truths)], dtype=np.int64)
    single, multi = np.zeros((2, len(grays), STEPS))
    boxes = np.zeros((len(grays), STEPS, 4), np.int64)
    _scan(
        np.ascontiguousarray(grays), np.concatenate(truths), starts, scratch, single, multi, boxes
    )
    return single, multi, boxes


def _compile_scan() -> Callable[..., None]:
    """The loop over maps: what `score_maps` does, once all arrays are there."""
    sources = fingerprint(level_sets_growth, level_sets_planes, level_sets_rings)

    @kernel
    def scan(
        grays: Array,
        truths: Array,
        starts: Array,
        scratch: Scratch,
        single: Array,
        multi: Array,
        boxes: Array,
    ) -> None:
        _ = sources
        rising, falling, survey, forest, holes, scores, sides, corners = scratch
        for i in range(len(grays)):
            own = truths[starts[i] : starts[i + 1]]
            _start(grays[i], falling.values, holes.multi, scores.multi)
            load_inverted(falling.values, rising)
            queue_pixels(rising)
            nested = grow(rising, sides, 1, forest, own, holes)
            # What lies inside of holes is not in the filled map: then the map itself comes first.
            for filled in range(0 if nested else 1, 2):
                load_inverted(rising.joined if filled else rising.values, falling)
                start_at_highest(falling)
                queue_pixels(falling)
                grow(falling, corners, 0, forest, own, scores)
                survey_joined(falling, corners.areas, survey)
                score_main(survey, falling.joined, own, scores)
            _store(holes.multi, scores, single[i], multi[i], boxes[i])

    return scan


@part
def _start(gray: Array, plane: Array, holes: Array, multi: Array) -> None:
    """Put a map into its frame, and clear what is only ever raised."""
    for y in range(gray.shape[0]):
        for x in range(gray.shape[1]):
            plane[y + 1, x + 1] = gray[y, x]
    for step in range(STEPS):
        holes[step] = 0
        multi[step] = 0


@part
def _store(holes: Array, scores: Scores, single: Array, multi: Array, boxes: Array) -> None:
    """From steps to levels: holes were found rising, all else falling."""
    for level in range(STEPS):
        step = STEPS - 1 - level
        single[level] = scores.single[step]
        multi[level] = max(scores.multi[step], holes[level])
        for i in range(4):
            boxes[level, i] = scores.boxes[step, i]


_scan = _compile_scan()
