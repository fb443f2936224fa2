"""Where the axes of a step's input go, and how every tensor lies in the picture. Pure. Ours."""

from __future__ import annotations

from dataclasses import replace
from math import isqrt, prod

from gapcam.models.trace import Layout, Step, Trace
from gapcam.types import SizeHW

Shape = tuple[int, ...]

POOLED = "pooled"
"""In place of a layout: positions of the picture have been reduced away."""
ELEMENTWISE = frozenset({"activation", "scale", "identity", "batch_norm"})
JOINING = frozenset({"add", "multiply"})
REDUCING = frozenset({"mean", "sum", "max"})
ON_PLANES = frozenset({"conv", "pointwise_conv", "average_pool", "max_pool", "resize"})
"""Steps that read `[B, K, h, w]`."""
GUESSED = frozenset({"linear", "norm", "reshape", "transpose", *JOINING})
LARGEST_FRONT = 16
"""Class and register tokens that are believed to stand before the patches."""


def carried(step: Step, shape: Shape, result: Shape) -> dict[int, int]:
    """The axes of a step's first input whose positions it treats alike, and where they end up."""
    rank = len(shape)
    if step.op in ELEMENTWISE or step.op in JOINING:
        behind = len(result) - rank  # a tensor with fewer axes is joined at the last ones
        return {a: a + behind for a in range(rank) if shape[a] == result[a + behind]}
    if step.op == "transpose":
        return {axis: place for place, axis in enumerate(step.axes)}
    if step.op == "reshape":
        return {a[0]: b[0] for a, b in regrouped(shape, result) if len(a) == len(b) == 1}
    mixed = {"pointwise_conv": (1,), "linear": (rank - 1,)}.get(step.op, step.axes)
    if step.op in REDUCING and len(result) < rank:
        kept = [a for a in range(rank) if a not in mixed]
        return dict(zip(kept, range(len(kept)), strict=True))
    if step.op in {"pointwise_conv", "linear", "norm", "softmax", "concat", *REDUCING}:
        return {a: a for a in range(rank) if a not in mixed}
    if step.op == "select":
        gone = len(result) < rank
        return {
            a: a - (gone and a > step.axes[0])
            for a in range(rank)
            if not (gone and a == step.axes[0])
        }
    return {}


def regrouped(shape: Shape, result: Shape) -> list[tuple[list[int], list[int]]]:
    """The smallest groups of axes that a reshape turns into each other; axes of one side are left.

    `[2, 32, 4, 4]` to `[2, 32, 16]` gives `[0] [0]`, `[1] [1]`, `[2, 3] [2]`.
    """
    before = [a for a in range(len(shape)) if shape[a] != 1]
    after = [a for a in range(len(result)) if result[a] != 1]
    groups: list[tuple[list[int], list[int]]] = []
    while before and after:
        left, right = [before.pop(0)], [after.pop(0)]
        while prod(shape[a] for a in left) != prod(result[a] for a in right):
            small = prod(shape[a] for a in left) < prod(result[a] for a in right)
            source, group = (before, left) if small else (after, right)
            if not source:
                return groups
            group.append(source.pop(0))
        groups.append((left, right))
    return groups


def layouts_of(trace: Trace) -> dict[str, Layout]:
    """How the tensors lie whose positions can be followed from the picture on."""
    followed = _Followed(trace)
    for step in trace.steps:
        followed.take(step)
    return {name: found for name, found in followed.layouts.items() if isinstance(found, Layout)}


class _Followed:
    """Follows positions from the picture through the steps."""

    def __init__(self, trace: Trace) -> None:
        self._shapes = trace.shapes
        self._batch = trace.shapes[trace.picture][0]
        picture = trace.shapes[trace.picture]
        first = picture[1] == 3
        axes = (2, 3) if first else (1, 2)
        grid = picture[axes[0]], picture[axes[1]]
        self.layouts: dict[str, Layout | str] = {
            trace.picture: Layout(1 if first else 3, axes, grid)
        }
        self._grids: list[SizeHW] = []
        """Of tensors that lie known, the last one last."""

    def take(self, step: Step) -> None:
        """Find how a step's outputs lie."""
        for output in step.outputs:
            found = self._found(step, self._shapes.get(output, ()))
            if found is None:
                continue
            self.layouts[output] = found
            whole = step.op != "select" and self._shapes[output][0] == self._batch
            if isinstance(found, Layout) and whole and found.grid_hw not in self._grids[-1:]:
                self._grids.append(found.grid_hw)

    def _found(self, step: Step, result: Shape) -> Layout | str | None:
        if step.op in ON_PLANES and len(result) == 4:
            return Layout(1, (2, 3), (result[2], result[3]))
        if step.op in JOINING:
            return self._joined(step, result)
        if step.op == "concat":
            return self._concatenated(step, result)
        before = self.layouts.get(step.inputs[0])
        shape = self._shapes.get(step.inputs[0], ())
        if before is None or isinstance(before, str):
            return before or self._guessed(step, result)
        if step.op == "other":
            return _resampled(before, shape, result)
        if step.op == "reshape":
            return _reshaped(before, shape, result) or self._guessed(step, result)
        moved = self._moved(step, before, shape, result)
        return moved if moved is not None else self._guessed(step, result)

    def _moved(
        self, step: Step, before: Layout, shape: Shape, result: Shape
    ) -> Layout | str | None:
        """Through a step that keeps, permutes, cuts or reduces axes."""
        if step.op in REDUCING and set(step.axes) & set(before.position_axes):
            return POOLED
        to = carried(step, shape, result)
        if step.op in ("pointwise_conv", "linear", "norm"):
            to.setdefault(before.channel_axis, before.channel_axis)
        axes = (before.channel_axis, *before.position_axes)
        if not all(a in to for a in axes):
            return POOLED if step.op == "select" else None
        kept = _cut(step, before, shape)
        if kept is None:
            return None
        positions = tuple(to[a] for a in before.position_axes)
        return replace(kept, channel_axis=to[before.channel_axis], position_axes=positions)

    def _joined(self, step: Step, result: Shape) -> Layout | str | None:
        """As the operand of the result's own shape lies, else pooled where one is."""
        found = [self.layouts.get(name) for name in step.inputs]
        for name, layout in zip(step.inputs, found, strict=True):
            if isinstance(layout, Layout) and self._shapes.get(name) == result:
                return layout
        return POOLED if POOLED in found else self._guessed(step, result)

    def _concatenated(self, step: Step, result: Shape) -> Layout | str | None:
        (axis,) = step.axes
        start = step.kept[0] if step.kept != (0, 0) else None
        sides = [self._shapes[name][axis] for name in step.inputs]
        place = result[axis] - sum(sides) if start is None else start
        found: Layout | str | None = None
        for name, side in zip(step.inputs, sides, strict=True):
            layout = self.layouts.get(name)
            if isinstance(layout, Layout) and axis == layout.channel_axis:
                return layout
            if isinstance(layout, Layout) and layout.position_axes == (axis,):
                last = place + side == result[axis]
                found = replace(layout, first_patch=place + layout.first_patch) if last else None
            elif isinstance(layout, str) and found is None:
                found = layout
            place += side
        return found

    def _guessed(self, step: Step, result: Shape) -> Layout | None:
        """Where the way here is lost: as many positions as in a grid seen before, or a square."""
        flat = step.op == "reshape" and len(self._shapes.get(step.inputs[0], ())) == 2
        if step.op not in GUESSED or flat:
            return None
        if len(result) == 4:
            return self._guessed_plane(step, result)
        grid = self._grid_of(result[1]) if len(result) == 3 else None
        if grid is None or prod(grid) < 2:
            return None
        return Layout(2, (1,), grid, result[1] - prod(grid))

    def _guessed_plane(self, step: Step, result: Shape) -> Layout | None:
        for grid in reversed(self._grids):
            if result[2:] == grid:
                return Layout(1, (2, 3), grid)
            if result[1:3] == grid:
                return Layout(3, (1, 2), grid)
        if step.op == "linear" or (step.op == "norm" and step.axes == (3,)):
            return Layout(3, (1, 2), (result[1], result[2]))
        return None

    def _grid_of(self, tokens: int) -> SizeHW | None:
        side = isqrt(tokens)
        near = [g for g in reversed(self._grids) if 0 <= tokens - prod(g) <= LARGEST_FRONT]
        exact = [g for g in near if prod(g) == tokens]
        if exact or side * side == tokens:
            return exact[0] if exact else (side, side)
        return near[0] if near and prod(near[0]) > tokens // 2 else None


def _cut(step: Step, layout: Layout, shape: Shape) -> Layout | None:
    """A layout after a selection along one of its position axes."""
    if step.op != "select" or step.axes[0] not in layout.position_axes:
        return layout
    start, stop = step.kept
    if len(layout.position_axes) == 1:
        whole = stop == shape[step.axes[0]] and start <= layout.first_patch
        return replace(layout, first_patch=layout.first_patch - start) if whole else None
    rows, columns = layout.grid_hw
    first = step.axes[0] == layout.position_axes[0]
    grid = (stop - start, columns) if first else (rows, stop - start)
    return replace(layout, grid_hw=grid)


def _reshaped(layout: Layout, shape: Shape, result: Shape) -> Layout | str | None:
    groups = {tuple(a): tuple(b) for a, b in regrouped(shape, result)}
    channel = groups.get((layout.channel_axis,), ())
    if len(channel) != 1:
        return None
    if len(layout.position_axes) == 1:
        positions = groups.get(layout.position_axes, ())
        if len(positions) == 2 and layout.first_patch == 0:
            return Layout(channel[0], positions, (result[positions[0]], result[positions[1]]))
        return (
            replace(layout, channel_axis=channel[0], position_axes=positions)
            if len(positions) == 1
            else None
        )
    rows, columns = layout.position_axes
    merged = groups.get((rows, columns), ())
    if len(merged) == 1:
        return Layout(channel[0], merged, layout.grid_hw)
    apart = (*groups.get((rows,), ()), *groups.get((columns,), ()))
    return Layout(channel[0], apart, layout.grid_hw) if len(apart) == 2 else None


def _resampled(layout: Layout, shape: Shape, result: Shape) -> Layout | None:
    """Strided slices, padding: the same axes with other sides along the positions."""
    if len(layout.position_axes) != 2 or len(result) != len(shape):
        return None
    fixed = [a for a in range(len(shape)) if a not in layout.position_axes]
    if any(shape[a] != result[a] for a in fixed):
        return None
    rows, columns = layout.position_axes
    return replace(layout, grid_hw=(result[rows], result[columns]))
