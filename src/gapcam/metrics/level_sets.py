"""The boxes of every level set {gray > t} of a map, found in one pass; needs numba.

Pixels are added one by one, the highest first, and a union-find keeps the 8-connected components:
their bounding boxes, and twice the area of the polygon through the pixel centres, which grows by
what `level_sets_rings` says of the neighbours that are already there. That this equals tracing
contours at every level rests on two facts:

- Outer contours enclose their holes, so areas are those of the map with its holes filled, each up
  to the value at which it opens to the outside. Filling and cutting commute.
- A hole is a 4-connected component of {gray <= t} that does not reach the frame, and its contour
  runs on the pixels around it. Adding pixels from the lowest up finds the holes, and where they
  open.

Filled level sets have no holes, so their Euler number counts their components. Where that is one,
its box follows from the maxima of rows and columns, and no pixel is added by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from gapcam.metrics import level_sets_growth, level_sets_planes, level_sets_rings
from gapcam.metrics.level_sets_growth import COLUMNS, STEPS, Forest, Scores, fill_holes, grow
from gapcam.metrics.level_sets_numba import fingerprint, kernel, part
from gapcam.metrics.level_sets_planes import (
    Queue,
    Ranks,
    Survey,
    queue_hollows,
    queue_values,
)
from gapcam.metrics.level_sets_rings import Ring, ring_tables
from gapcam.types import ByteArray, IntArray

Array: TypeAlias = npt.NDArray[Any]


class Scratch(NamedTuple):
    """All that maps of one size need, used again for every map; one for each thread."""

    gray: Array
    ranks: Ranks
    queue: Queue
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
        gray=np.zeros(plane, np.uint8),
        ranks=Ranks(rank=np.zeros(plane, np.uint16), rows=np.zeros(plane[0], np.bool_)),
        queue=Queue(
            patterns=np.zeros(plane, np.uint8),
            busy=np.zeros(256, np.bool_),
            order=np.zeros(height * width, np.int64),
            ends=np.zeros(256, np.int64),
        ),
        survey=Survey(
            plane=np.zeros(plane, np.uint8),
            sums=np.zeros((257, 3), np.int32),
            spans=np.zeros((256, 4), np.int32),
        ),
        forest=Forest(
            labels=np.zeros(plane, np.int32),
            parents=np.zeros(most, np.int32),
            nodes=np.zeros((most, COLUMNS), np.int32),
            ious=np.zeros(most),
            roots=np.zeros(most, np.int32),
            counts=np.zeros(2, np.int64),
        ),
        holes=Scores(np.zeros(STEPS), np.zeros(STEPS), np.zeros((STEPS, 4), np.int64)),
        scores=Scores(np.zeros(STEPS), np.zeros(STEPS), np.zeros((STEPS, 4), np.int64)),
        sides=ring_tables(4, plane[1]),
        corners=ring_tables(8, plane[1]),
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
        gray, ranks, queue, survey, forest, holes, scores, sides, corners = scratch
        for i in range(len(grays)):
            own = truths[starts[i] : starts[i + 1]]
            _start(grays[i], gray, holes, scores)
            if queue_hollows(gray, survey, ranks, queue, sides.adds):
                nested = grow(queue, sides, 1, survey, forest, own, holes)
                fill_holes(gray, ranks.rows, forest, survey.plane)
                if nested:  # the filled map lacks what lies inside of holes
                    queue_values(gray, False, survey, ranks, queue, corners.adds)
                    grow(queue, corners, 0, survey, forest, own, scores)
            queue_values(survey.plane, True, survey, ranks, queue, corners.adds)
            grow(queue, corners, 0, survey, forest, own, scores)
            _store(holes, scores, single[i], multi[i], boxes[i])

    return scan


@part
def _start(values: Array, gray: Array, holes: Scores, scores: Scores) -> None:
    """Put a map into the frame, and clear what is only ever raised."""
    for y in range(values.shape[0]):
        for x in range(values.shape[1]):
            gray[y + 1, x + 1] = values[y, x]
    for step in range(STEPS):
        holes.multi[step] = 0
        scores.multi[step] = 0


@part
def _store(holes: Scores, scores: Scores, single: Array, multi: Array, boxes: Array) -> None:
    """From steps to levels: holes were found rising, all else falling."""
    for level in range(STEPS):
        step = STEPS - 1 - level
        single[level] = scores.single[step]
        multi[level] = max(scores.multi[step], holes.multi[level])
        for i in range(4):
            boxes[level, i] = scores.boxes[step, i]


_scan = _compile_scan()
