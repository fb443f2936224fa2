"""Components that grow as pixels are added, compiled: their boxes, areas and IoU at every level.

At step s the pixels of value 255 - s are added. A component is a node; of two that meet, the
younger is joined to the elder. Node 0 is the main component, the eldest: most pixels are known to
belong to it and are never added, and it is measured otherwise (`score_main`).
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from gapcam.metrics.level_sets_numba import part
from gapcam.metrics.level_sets_planes import Flood, Survey
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
        labels: `int32` plane: a node of every pixel that was added; 0 before and after use.
        parents: `int32 [n]`, the union-find over nodes.
        nodes: `int32 [n, COLUMNS]`.
        ious: `float64 [n]`, best with any true box since the step `SINCE`.
        roots: `int32 [n]`, the nodes but 0 that are not joined to another.
        counts: `int64 [2]`: nodes ever made, 0 among them; roots.
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
        multi: `float64 [255]`, best IoU of all components; only ever raised.
        single: `float64 [255]`, IoU of the largest component.
        boxes: `int64 [255, 4]`, its box.
        areas: `int64 [255]`, its doubled area; -1 where there is none.
        firsts: `int64 [255]`, its first pixel on the plane.
    """

    multi: Array
    single: Array
    boxes: Array
    areas: Array
    firsts: Array


@part
def grow(
    flood: Flood, ring: Ring, reach: int, forest: Forest, truths: Array, scores: Scores
) -> bool:
    """Add the queued pixels and score all components but the main one.

    Args:
        flood: The pixels; `joined` becomes exact.
        ring: How they touch.
        reach: How many pixels the boxes reach further on all sides.
        forest: Scratch.
        truths: `int64 [m, 4]`, true boxes, inclusive.
        scores: Where the results go.

    Returns:
        Whether some component lies around something else at the end of some step.
    """
    forest.parents[0] = 0
    forest.counts[0], forest.counts[1] = 1, 0
    size_wh = flood.values.shape[1] - 2, flood.values.shape[0] - 2
    loops = False
    begin = 0
    for step in range(STEPS):
        end = flood.ends[STEPS - step]
        if end > begin or step == 0:
            _add_pixels(flood.order[begin:end], flood.patterns, ring, step, forest, scores.multi)
            loops |= _close_step(forest, step, reach, size_wh, truths, scores)
        else:
            _copy_step(scores, step)
        begin = end
    for i in range(forest.counts[1]):
        _credit(forest, forest.roots[i], STEPS - 1, scores.multi)
        forest.nodes[forest.roots[i], HEIR] = -1
    _settle(flood.order[:begin], flood, forest)
    return loops


@part
def _add_pixels(
    order: Array, patterns: Array, ring: Ring, step: int, forest: Forest, multi: Array
) -> None:
    rings, labels = patterns.reshape(-1), forest.labels.reshape(-1)
    for entry in order:
        y, x, proven = entry >> 32, entry >> 1 & 0x7FFFFFFF, entry & 1
        pixel = y * patterns.shape[1] + x
        pattern = rings[pixel]
        near = ring.near[pattern]
        if near:
            label = _find(forest.parents, labels[pixel + near])
            if proven and label:
                _merge(forest, 0, label, step, multi)
                label = 0
        elif proven or ring.arcs[pattern]:
            label = _join(forest, ring, pixel, pattern, step, proven - 1, multi)
        else:
            label = _start(forest, step)
        if label:
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
def _start(forest: Forest, step: int) -> int:
    """A new component, empty."""
    label: int = forest.counts[0]
    forest.roots[forest.counts[1]] = label
    forest.counts[0] += 1
    forest.counts[1] += 1
    forest.parents[label] = label
    forest.ious[label] = 0
    node = forest.nodes[label]
    for column in (X0, Y0, FIRST):
        node[column] = 2**31 - 1
    for column in (X1, Y1, AREA, LOOPS):
        node[column] = 0
    node[SINCE] = step
    return label


@part
def _join(
    forest: Forest, ring: Ring, pixel: int, pattern: int, step: int, label: int, multi: Array
) -> int:
    """Join all that a pixel touches to a component, -1: the eldest of them; count its loops."""
    labels = forest.labels.reshape(-1)
    loops = -ring.fills[pattern]
    arcs = np.int64(ring.arcs[pattern])
    while arcs:
        other = _find(forest.parents, labels[pixel + ring.jumps[arcs & -arcs]])
        arcs &= arcs - 1
        if other == label:
            loops += 1
        elif label < 0:
            label = other
        else:
            label, other = min(label, other), max(label, other)
            _merge(forest, label, other, step, multi)
    if label:
        forest.nodes[label, LOOPS] += loops
    return label


@part
def _merge(forest: Forest, label: int, other: int, step: int, multi: Array) -> None:
    _credit(forest, other, step - 1, multi)
    forest.parents[other] = label
    node, gone = forest.nodes[label], forest.nodes[other]
    gone[HEIR], gone[END] = label, step
    if not label:
        return
    for column in (X0, Y0, FIRST):
        node[column] = min(node[column], gone[column])
    for column in (X1, Y1):
        node[column] = max(node[column], gone[column])
    node[AREA] += gone[AREA]
    node[LOOPS] += gone[LOOPS]


@part
def _find(parents: Array, label: int) -> int:
    while parents[label] != label:
        parents[label] = parents[parents[label]]
        label = parents[label]
    return label


@part
def _credit(forest: Forest, label: int, last: int, multi: Array) -> None:
    """Raise every step up to the last at which a component had its box."""
    for step in range(forest.nodes[label, SINCE], last + 1):
        multi[step] = max(multi[step], forest.ious[label])


@part
def _close_step(
    forest: Forest,
    step: int,
    reach: int,
    size_wh: tuple[int, int],
    truths: Array,
    scores: Scores,
) -> bool:
    """Score what changed, drop what was joined, note the largest; are there new loops?"""
    nodes, kept, largest, loops = forest.nodes, 0, 0, False
    scores.areas[step] = -1
    for i in range(forest.counts[1]):
        label = forest.roots[i]
        if forest.parents[label] == label:
            node = nodes[label]
            forest.roots[kept] = label
            kept += 1
            if node[STAMP] == step:
                loops |= node[LOOPS] > 0
                iou = _best_iou(_corners(node, reach, size_wh), truths)
                if iou != forest.ious[label]:
                    _credit(forest, label, step - 1, scores.multi)
                    forest.ious[label] = iou
                    node[SINCE] = step
            if _is_larger(node[AREA], node[FIRST], scores, step):
                largest = label
                scores.areas[step], scores.firsts[step] = node[AREA], node[FIRST]
    forest.counts[1] = kept
    if largest:
        _note(forest.ious[largest], _corners(nodes[largest], reach, size_wh), scores, step)
    return loops


@part
def _copy_step(scores: Scores, step: int) -> None:
    """Nothing happened at this step."""
    scores.single[step] = scores.single[step - 1]
    scores.areas[step] = scores.areas[step - 1]
    scores.firsts[step] = scores.firsts[step - 1]
    for i in range(4):
        scores.boxes[step, i] = scores.boxes[step - 1, i]


@part
def _is_larger(area: int, first: int, scores: Scores, step: int) -> bool:
    """Of equally large components the one whose first pixel is last, as OpenCV lists it first."""
    if area != scores.areas[step]:
        return bool(area > scores.areas[step])
    return bool(first > scores.firsts[step])


@part
def _note(iou: float, box: Corners, scores: Scores, step: int) -> None:
    scores.single[step] = iou
    for i in range(4):
        scores.boxes[step, i] = box[i]


@part
def _settle(order: Array, flood: Flood, forest: Forest) -> None:
    """Write when every queued pixel got into the main component, and clear the labels."""
    nodes = forest.nodes
    for label in range(1, forest.counts[0]):
        heir = nodes[label, HEIR]
        if heir < 0:
            nodes[label, END] = STEPS
        elif heir > 0:
            nodes[label, END] = nodes[heir, END]  # the heir is older, so its end is known
    for entry in order:
        y, x = entry >> 32, entry >> 1 & 0x7FFFFFFF
        label = forest.labels[y, x]
        flood.joined[y, x] = STEPS - nodes[label, END] if label else flood.values[y, x]
        forest.labels[y, x] = 0


@part
def score_main(survey: Survey, joined: Array, truths: Array, scores: Scores) -> None:
    """Score the main component too; where there is none the box is (0, 0, 0, 0)."""
    size_wh = joined.shape[1] - 2, joined.shape[0] - 2
    for step in range(STEPS):
        value = STEPS - step
        box, area, first = (0, 0, 0, 0), 0, 0
        if survey.spans[value, X1] > 0:
            box, area = _corners(survey.spans[value], 0, size_wh), int(survey.areas[value])
            if area == scores.areas[step]:
                first = _first(joined, survey.spans[value], value)
        iou = _best_iou(box, truths)
        scores.multi[step] = max(scores.multi[step], iou)
        if _is_larger(area, first, scores, step):
            _note(iou, box, scores, step)


@part
def _first(joined: Array, span: Array, value: int) -> int:
    """The first pixel of the main component in raster order."""
    x, y = span[X0], span[Y0]
    while joined[y, x] < value:
        x += 1
    return int(y * joined.shape[1] + x)


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
