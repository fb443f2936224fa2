"""Components that grow as pixels are added, compiled: their boxes, areas and IoU at every level.

At step s the pixels of value 255 - s are added. A component is a node; of two that meet, the
younger is joined to the elder. Label 0 is the eldest of all. Rising, it is the outside. Falling, it
is the trunk: the one component of every level that has but one. Such levels are not busy, so their
pixels are not added, and keep label 0.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy.typing as npt

from gapcam.metrics.level_sets_numba import part
from gapcam.metrics.level_sets_planes import Queue, Survey
from gapcam.metrics.level_sets_rings import Ring

Array: TypeAlias = npt.NDArray[Any]
Corners: TypeAlias = tuple[int, int, int, int]

STEPS = 255
X0, Y0, X1, Y1, FIRST, AREA, STAMP, SINCE, LOOPS, HEIR, END, COLUMNS = range(12)
"""A node: the first and last column and row and the first pixel on the plane, doubled area, the
step that last touched it, the step since which its IoU holds, loops that it makes around others,
what it was joined to (-1: nothing) and at which step."""


class Forest(NamedTuple):
    """The components, in arrays that are used again for every map.

    Attributes:
        labels: `int32` plane: a node of every pixel that was added, else 0.
        parents: `int32 [n]`, the union-find over nodes.
        nodes: `int32 [n, COLUMNS]`.
        ious: `float64 [n]`, best with any true box since the step `SINCE`.
        roots: `int32 [n]`, the nodes not joined to another.
        counts: `int64 [2]`: nodes ever made, label 0 among them; roots.
    """

    labels: Array
    parents: Array
    nodes: Array
    ious: Array
    roots: Array
    counts: Array


class Scores(NamedTuple):
    """What is found, by step.

    Attributes:
        single: `float64 [255]`, IoU of the largest component.
        multi: `float64 [255]`, best IoU of all components; only ever raised.
        boxes: `int64 [255, 4]`, of the largest component.
    """

    single: Array
    multi: Array
    boxes: Array


@part
def grow(
    queue: Queue,
    ring: Ring,
    reach: int,
    survey: Survey,
    forest: Forest,
    truths: Array,
    scores: Scores,
) -> bool:
    """Add the pixels in their order and score the components of every step.

    Args:
        queue: The pixels.
        ring: How they touch.
        reach: How many pixels the boxes reach further on all sides.
        survey: What is known of all pixels of a value and above.
        forest: Scratch; `labels` and the nodes' `HEIR` and `END` can be read afterwards.
        truths: `int64 [m, 4]`, true boxes, inclusive.
        scores: Where the results go.

    Returns:
        Whether some component lies around something else at the end of some step.
    """
    labels = forest.labels.reshape(-1)
    for pixel in range(labels.size):
        labels[pixel] = 0
    forest.parents[0] = 0
    forest.counts[0], forest.counts[1] = 1, 0
    size_wh = survey.plane.shape[1] - 2, survey.plane.shape[0] - 2
    loops = False
    begin = 0
    for step in range(STEPS):
        value = STEPS - step
        if queue.busy[value]:
            if survey.sums[value + 1, 2] == 1:
                _seat_trunk(forest, survey, step, size_wh, truths)
            end = queue.ends[value]
            _add_pixels(queue.order[begin:end], queue.patterns, ring, step, forest, scores.multi)
            begin = end
            loops |= _close_step(forest, step, reach, size_wh, truths, scores)
            if survey.sums[value, 2] == 1:
                _retire_trunk(forest, step, scores.multi)
        elif survey.sums[value, 2] < 2:
            _score_calm(survey, step, size_wh, truths, scores)
    for i in range(forest.counts[1]):
        _credit(forest, forest.roots[i], STEPS - 1, scores.multi)
        forest.nodes[forest.roots[i], HEIR] = -1
    return loops


@part
def _add_pixels(
    order: Array, patterns: Array, ring: Ring, step: int, forest: Forest, multi: Array
) -> None:
    rings, labels = patterns.reshape(-1), forest.labels.reshape(-1)
    for entry in order:
        y, x = entry >> 32, entry & 0xFFFFFFFF
        pixel = y * patterns.shape[1] + x
        pattern = rings[pixel]
        near = ring.near[pattern]
        if near:
            label = _find(forest.parents, labels[pixel + near])
        elif ring.arcs[pattern]:
            label = _join(forest, ring, pixel, pattern, step, multi)
        else:
            label = _start(forest, x, y, pixel, step)
        labels[pixel] = label
        node = forest.nodes[label]
        node[X0] = min(node[X0], x)
        node[Y0] = min(node[Y0], y)
        node[X1] = max(node[X1], x)
        node[Y1] = max(node[Y1], y)
        node[FIRST] = min(node[FIRST], pixel)
        node[AREA] += ring.areas[pattern]
        node[STAMP] = step


@part
def _start(forest: Forest, x: int, y: int, pixel: int, step: int) -> int:
    """A new component."""
    label: int = forest.counts[0]
    forest.roots[forest.counts[1]] = label
    forest.counts[0] += 1
    forest.counts[1] += 1
    forest.parents[label] = label
    forest.ious[label] = 0
    node = forest.nodes[label]
    node[X0], node[Y0], node[X1], node[Y1], node[FIRST] = x, y, x, y, pixel
    node[AREA], node[SINCE], node[LOOPS] = 0, step, 0
    return label


@part
def _join(forest: Forest, ring: Ring, pixel: int, pattern: int, step: int, multi: Array) -> int:
    """Make one component of all that a pixel touches; count loops that it closes or fills."""
    labels = forest.labels.reshape(-1)
    label, loops = -1, -ring.fills[pattern]
    for i in range(8):
        if ring.arcs[pattern] >> i & 1:
            other = _find(forest.parents, labels[pixel + ring.jumps[i]])
            if other == label:
                loops += 1
            elif label < 0:
                label = other
            else:
                label, other = min(label, other), max(label, other)
                _merge(forest, label, other, step, multi)
    forest.nodes[label, LOOPS] += loops
    return label


@part
def _merge(forest: Forest, label: int, other: int, step: int, multi: Array) -> None:
    _credit(forest, other, step - 1, multi)
    forest.parents[other] = label
    node, gone = forest.nodes[label], forest.nodes[other]
    for column in (X0, Y0, FIRST):
        node[column] = min(node[column], gone[column])
    for column in (X1, Y1):
        node[column] = max(node[column], gone[column])
    node[AREA] += gone[AREA]
    node[LOOPS] += gone[LOOPS]
    gone[HEIR], gone[END] = label, step


@part
def _find(parents: Array, label: int) -> int:
    while parents[label] != label:
        parents[label] = parents[parents[label]]
        label = parents[label]
    return label


@part
def _seat_trunk(
    forest: Forest, survey: Survey, step: int, size_wh: tuple[int, int], truths: Array
) -> None:
    """Make label 0 the only component that there was before a step."""
    value = STEPS - step + 1
    span = survey.spans[value]
    x, y = span[X0], span[Y0]
    while survey.plane[y, x] < value:
        x += 1
    node = forest.nodes[0]
    node[X0], node[Y0], node[X1], node[Y1] = span[X0], span[Y0], span[X1], span[Y1]
    node[FIRST], node[AREA] = y * survey.plane.shape[1] + x, survey.sums[value, 1]
    node[STAMP], node[SINCE], node[LOOPS] = -1, step, 0
    forest.parents[0] = 0
    forest.ious[0] = _best_iou(_corners(span, 0, size_wh), truths)
    forest.roots[0], forest.counts[1] = 0, 1


@part
def _retire_trunk(forest: Forest, step: int, multi: Array) -> None:
    """Let label 0 stand for the only component that there is after a step."""
    root = forest.roots[0]
    _credit(forest, root, step, multi)
    forest.parents[root] = 0
    forest.counts[1] = 0


@part
def _score_calm(
    survey: Survey, step: int, size_wh: tuple[int, int], truths: Array, scores: Scores
) -> None:
    """Score a step after which there is one component, or none: the box (0, 0, 0, 0)."""
    value = STEPS - step
    box = (0, 0, 0, 0)
    if survey.sums[value, 2] == 1:
        box = _corners(survey.spans[value], 0, size_wh)
    iou = _best_iou(box, truths)
    scores.single[step] = iou
    scores.multi[step] = max(scores.multi[step], iou)
    for i in range(4):
        scores.boxes[step, i] = box[i]


@part
def _close_step(
    forest: Forest,
    step: int,
    reach: int,
    size_wh: tuple[int, int],
    truths: Array,
    scores: Scores,
) -> bool:
    """Score what changed, drop what was joined, note the largest; are there new loops?

    Of equally large ones the one whose first pixel is last, as OpenCV lists it first.
    """
    nodes, kept, largest, loops = forest.nodes, 0, -1, False
    for i in range(forest.counts[1]):
        label = forest.roots[i]
        if forest.parents[label] == label:
            forest.roots[kept] = label
            kept += 1
            if nodes[label, STAMP] == step:
                loops |= nodes[label, LOOPS] > 0
                iou = _best_iou(_corners(nodes[label], reach, size_wh), truths)
                if iou != forest.ious[label]:
                    _credit(forest, label, step - 1, scores.multi)
                    forest.ious[label] = iou
                    nodes[label, SINCE] = step
            if largest < 0 or _is_larger(nodes[label], nodes[largest]):
                largest = label
    forest.counts[1] = kept
    if largest >= 0:
        scores.single[step] = forest.ious[largest]
        box = _corners(nodes[largest], reach, size_wh)
        for i in range(4):
            scores.boxes[step, i] = box[i]
    return loops


@part
def _is_larger(node: Array, other: Array) -> bool:
    if node[AREA] != other[AREA]:
        return bool(node[AREA] > other[AREA])
    return bool(node[FIRST] > other[FIRST])


@part
def _credit(forest: Forest, label: int, last: int, multi: Array) -> None:
    """Raise every step up to the last at which a component had its box."""
    for step in range(forest.nodes[label, SINCE], last + 1):
        multi[step] = max(multi[step], forest.ious[label])


@part
def fill_holes(gray: Array, rows: Array, forest: Forest, filled: Array) -> None:
    """Write `filled` in those rows: `gray`, but in a hole that rose the value where it opened."""
    nodes = forest.nodes
    for label in range(1, forest.counts[0]):
        heir = nodes[label, HEIR]
        if heir < 0:
            nodes[label, END] = STEPS
        elif heir > 0:
            nodes[label, END] = nodes[heir, END]  # the heir is older, so its end is known
    for y in range(1, gray.shape[0] - 1):
        if rows[y]:
            for x in range(1, gray.shape[1] - 1):
                label = forest.labels[y, x]
                filled[y, x] = nodes[label, END] if label else gray[y, x]


@part
def _corners(node: Array, reach: int, size_wh: tuple[int, int]) -> Corners:
    """The box as the protocol writes it: to x + w and y + h, but not past the map."""
    return (
        int(node[X0]) - 1 - reach,
        int(node[Y0]) - 1 - reach,
        min(int(node[X1]) + reach, size_wh[0] - 1),
        min(int(node[Y1]) + reach, size_wh[1] - 1),
    )


@part
def _best_iou(box: Corners, truths: Array) -> float:
    """The best inclusive IoU of one box with any true box."""
    best = 0.0
    area = (box[2] - box[0] + 1) * (box[3] - box[1] + 1)
    for i in range(len(truths)):
        x0, y0, x1, y1 = truths[i, 0], truths[i, 1], truths[i, 2], truths[i, 3]
        width = min(box[2], x1) - max(box[0], x0) + 1
        height = min(box[3], y1) - max(box[1], y0) + 1
        if width > 0 and height > 0:
            shared = width * height
            best = max(best, shared / (area + (x1 - x0 + 1) * (y1 - y0 + 1) - shared))
    return best
