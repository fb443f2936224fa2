"""What the steps after a tensor do with its positions. Pure. Ours.

Positions are followed through the steps that treat them alike until one reads them: a mean, a
maximum, a flattening, attention, or a selection that leaves a single one.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise, product
from math import prod
from typing import Literal

from gapcam.models.heads.axes import REDUCING, Shape, carried, regrouped
from gapcam.models.trace import Layout, Step, Trace

End = Literal["mean", "max", "flatten", "token", "attention", "other"]
"""How positions end: `mean` is a sum too; `token`: one position is left."""
Range = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Held:
    """A tensor that still holds positions of the one that is followed.

    Attributes:
        axes: Where each of its position axes lies now; None: one position is left, no axis.
        ranges: Which positions are left, an axis each.
    """

    axes: tuple[int | None, ...]
    ranges: tuple[Range, ...]

    @property
    def single(self) -> bool:
        """Whether one position is left."""
        return all(stop - start == 1 for start, stop in self.ranges)


@dataclass(frozen=True, slots=True)
class Reading:
    """What is done with the positions of a tensor.

    Attributes:
        ends: How they end, each with the positions that are read there.
        before: Steps that keep positions apart.
        after: Steps that read them, and those on what is left.
        used: The flat indices of the positions that any step reads.
    """

    ends: tuple[tuple[End, Held], ...]
    before: tuple[Step, ...]
    after: tuple[Step, ...]
    used: frozenset[int]


def steps_after(trace: Trace, tensor: str) -> tuple[Step, ...]:
    """The steps that depend on a tensor."""
    reached, steps = {tensor}, []
    for step in trace.steps:
        if reached.intersection(step.inputs):
            reached.update(step.outputs)
            steps.append(step)
    return tuple(steps)


def reading_of(trace: Trace, tensor: str, layout: Layout) -> Reading:
    """Follow a tensor's positions to where they are read.

    Args:
        trace: The network.
        tensor: One that every path from the picture to the logits passes.
        layout: Of `tensor`.
    """
    shape = trace.shapes[tensor]
    sides = tuple(shape[a] for a in layout.position_axes)
    held = {tensor: Held(layout.position_axes, tuple((0, side) for side in sides))}
    ends: list[tuple[End, Held]] = []
    before: list[Step] = []
    after: list[Step] = []
    for step in steps_after(trace, tensor):
        given = {name: held[name] for name in step.inputs if name in held}
        passed = _passed(step, given, trace) if given else None
        if passed is None:
            ends.extend((_end(step, one, trace), one) for one in given.values())
        else:
            held.update(dict.fromkeys(step.outputs, passed))
            if trace.logits in step.outputs:
                ends.append(("token", passed))
        apart = passed is not None and (step.op == "select" or not passed.single)
        (before if apart else after).append(step)
    used = {i for _, one in ends for i in _indices(one.ranges, sides)}
    return Reading(tuple(ends), tuple(before), tuple(after), frozenset(used))


def patches_read(reading: Reading, layout: Layout) -> int:
    """How many positions of the grid the steps after a tensor read."""
    return sum(i >= layout.first_patch for i in reading.used)


def _indices(ranges: tuple[Range, ...], sides: tuple[int, ...]) -> list[int]:
    weights = [prod(sides[i + 1 :]) for i in range(len(sides))]
    places = product(*(range(start, stop) for start, stop in ranges))
    return [sum(w * p for w, p in zip(weights, place, strict=True)) for place in places]


def _passed(step: Step, given: dict[str, Held], trace: Trace) -> Held | None:
    """What the step's output holds; None where it reads positions."""
    result = trace.shapes.get(step.outputs[0], ())
    if step.op == "concat" and any(one.axes == step.axes for one in given.values()):
        return _side_by_side(step, given, result)
    found = {_moved(step, one, trace.shapes[name], result) for name, one in given.items()}
    return found.pop() if len(found) == 1 else None


def _side_by_side(step: Step, given: dict[str, Held], result: Shape) -> Held | None:
    """Positions put together again in their order; None where something else is among them."""
    if len(given) != len(set(step.inputs)):
        return None
    ranges = [given[name].ranges[0] for name in step.inputs]
    ordered = all(a[1] == b[0] for a, b in pairwise(ranges))
    whole = ranges[0][0], ranges[-1][1]
    if not ordered or whole[1] - whole[0] != result[step.axes[0]]:
        return None
    return Held(step.axes, (whole,))


def _moved(step: Step, held: Held, shape: Shape, result: Shape) -> Held | None:
    if step.op == "reshape" and len(held.axes) == 2:
        merged = _merged(held, shape, result)
        if merged is not None:
            return merged
    to = carried(step, shape, result)
    ranges = list(held.ranges)
    axes: list[int | None] = []
    for i, axis in enumerate(held.axes):
        if step.op == "select" and axis is not None and step.axes == (axis,):
            start = held.ranges[i][0]
            ranges[i] = start + step.kept[0], start + step.kept[1]
        goes = None if axis is None else to.get(axis)
        if goes is None and ranges[i][1] - ranges[i][0] != 1:
            return None
        axes.append(goes)
    return Held(tuple(axes), tuple(ranges))


def _merged(held: Held, shape: Shape, result: Shape) -> Held | None:
    """Rows and columns laid one after the other as tokens."""
    for left, right in regrouped(shape, result):
        if tuple(left) == held.axes and len(right) == 1:
            whole = all((0, shape[a]) == kept for a, kept in zip(left, held.ranges, strict=True))
            return Held((right[0],), ((0, result[right[0]]),)) if whole else None
    return None


def _end(step: Step, held: Held, trace: Trace) -> End:
    live = {a for a in held.axes if a is not None}
    if held.single:
        return "token"
    if step.op in REDUCING:
        return _pooled(step, live, trace)
    if step.op in ("matmul", "attention", "softmax"):
        return "attention"
    result = trace.shapes.get(step.outputs[0], ())
    if step.op == "reshape" and sum(side > 1 for side in result[1:]) <= 1:
        return "flatten"
    if step.op == "conv" and prod(result[2:]) == 1:
        return "flatten"
    return "other"


def _pooled(step: Step, live: set[int], trace: Trace) -> End:
    """A pooling over all positions, or over one axis of two with a like one after it."""
    op: End = "max" if step.op == "max" else "mean"
    if live <= set(step.axes):
        return op
    here, axes = step, set(step.axes)
    while live - axes:
        readers = [s for s in trace.steps if here.outputs[0] in s.inputs]
        if len(readers) != 1 or readers[0].op != step.op:
            return "other"
        shape, result = (trace.shapes[n] for n in (here.inputs[0], here.outputs[0]))
        back = {new: old for old, new in carried(here, shape, result).items()}
        if here is not step:
            return "other"
        axes |= {back[a] for a in readers[0].axes if a in back}
        here = readers[0]
    return op
