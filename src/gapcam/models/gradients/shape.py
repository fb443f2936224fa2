"""Gradients of ONNX operations that move values: each sends its cotangents back where they were."""

from __future__ import annotations

import numpy as np

from gapcam.models.gradients.elementwise import Cotangents, Rule
from gapcam.models.gradients.tape import Call, Tape, refuse


def reshape(tape: Tape, call: Call, cotangent: str) -> Cotangents:
    """Same values in the same order: Reshape, Flatten, Squeeze, Unsqueeze."""
    return {0: tape.like(cotangent, call.x)}


def transpose(tape: Tape, call: Call, cotangent: str) -> Cotangents:
    """The rule of y = x with its axes permuted."""
    rank = tape.rank(call.x)
    order = call.attributes.get("perm", list(reversed(range(rank))))
    back = [0, *(int(i) + 1 for i in np.argsort(order))]
    return {0: tape.op("Transpose", cotangent, perm=back)}


def pad_axis(tape: Tape, cotangent: str, primal: str, axis: int, start: int) -> str:
    """Zeros around a cotangent that covers the positions of one axis from `start` on.

    Args:
        tape: Is written to.
        cotangent: `[n, ...]`, shorter than `primal` along the axis.
        primal: The tensor whose cotangent is wanted.
        axis: Of `primal`, not negative.
        start: Where it begins; negative counts from the end.
    """
    full = tape.sides(primal, axis, axis + 1)
    before = tape.integers([start])
    if start < 0:
        before = tape.op("Add", full, before)
    own = tape.sides(cotangent, axis + 1, axis + 2)
    after = tape.op("Sub", tape.op("Sub", full, before), own)
    pads = tape.op("Concat", before, after, axis=0)
    return tape.op("Pad", cotangent, pads, "", tape.integers([axis - tape.rank(primal)]))


def slice_(tape: Tape, call: Call, cotangent: str) -> Cotangents:
    """The rule of y = some positions of x, upwards; the others get zero."""
    call.only_first()
    starts = [int(i) for i in call.constant(tape, 1)]
    steps = [int(i) for i in call.constant(tape, 4)] if call.has(4) else [1] * len(starts)
    rank = tape.rank(call.x)
    axes = [int(i) % rank for i in call.constant(tape, 3)] if call.has(3) else range(len(starts))
    for axis, start, step in zip(axes, starts, steps, strict=True):
        if step < 1:
            refuse(call.node, f"it steps backwards, by {step}")
        if step > 1:
            cotangent = _apart(tape, cotangent, axis + 1, rank + 1, step)
        cotangent = pad_axis(tape, cotangent, call.x, axis, start)
    return {0: cotangent}


def _apart(tape: Tape, tensor: str, axis: int, rank: int, step: int) -> str:
    """A tensor with `step - 1` zeros after each position of an axis."""
    deep = tape.op("Unsqueeze", tensor, tape.integers([axis + 1]))
    pads = tape.integers([0, step - 1])
    deep = tape.op("Pad", deep, pads, "", tape.integers([axis + 1]))
    parts = [tape.sides(tensor, 0, axis), tape.integers([-1])]
    if axis + 1 < rank:
        parts.append(tape.sides(tensor, axis + 1))
    return tape.reshape(deep, *parts)


def gather(tape: Tape, call: Call, cotangent: str) -> Cotangents:
    """The rule of y = the positions of one axis of x that an array of indices names."""
    call.only_first()
    rank = tape.rank(call.x)
    axis = call.attributes.get("axis", 0) % rank
    index = tape.value(call.inputs[1])
    if index is not None and index.size == 1 and index.ndim < 2:
        if index.ndim == 0:
            cotangent = tape.op("Unsqueeze", cotangent, tape.integers([axis + 1]))
        return {0: pad_axis(tape, cotangent, call.x, axis, int(index.item()))}
    return {0: _scatter(tape, cotangent, call, axis)}


def _scatter(tape: Tape, cotangent: str, call: Call, axis: int) -> str:
    """Cotangents added up at the places they were gathered from.

    ScatterND indexes leading axes, so the gathered axes go to the front and the result goes back.
    """
    deep, rank = tape.rank(call.inputs[1]), tape.rank(call.x)
    own = list(range(axis + 1, axis + 1 + deep))
    others = [i for i in range(rank + deep) if i not in own]
    updates = tape.op("Transpose", cotangent, perm=own + others)
    rest = tape.op("Gather", tape.sides(cotangent), tape.integers(others), axis=0)
    shape = tape.op("Concat", tape.sides(call.x, axis, axis + 1), rest, axis=0)
    zeros = tape.op("Expand", 0.0, shape)
    places = tape.op("Unsqueeze", call.inputs[1], tape.integers([-1]))
    total = tape.op("ScatterND", zeros, places, updates, reduction="add")
    back = [*range(1, axis + 2), 0, *range(axis + 2, rank + 1)]
    return tape.op("Transpose", total, perm=back)


def concat(tape: Tape, call: Call, cotangent: str) -> Cotangents:
    """The rule of y = tensors one after another."""
    axis = call.attributes["axis"] % tape.rank(call.y)
    lengths = [tape.sides(name, axis, axis + 1) for name in call.inputs]
    found = {}
    for i in call.wanted:
        start = _total(tape, lengths[:i])
        stop = tape.op("Add", start, lengths[i])
        found[i] = tape.op("Slice", cotangent, start, stop, tape.integers([axis + 1]))
    return found


def _total(tape: Tape, lengths: list[str]) -> str:
    total = tape.integers([0])
    for length in lengths:
        total = tape.op("Add", total, length)
    return total


def expand(tape: Tape, call: Call, cotangent: str) -> Cotangents:
    """The rule of y = x repeated along axes of length 1."""
    return {0: tape.unbroadcast(cotangent, call.x, call.y)}


def tile(tape: Tape, call: Call, cotangent: str) -> Cotangents:
    """The rule of y = x repeated as a whole along axes."""
    call.only_first()
    repeats = [int(i) for i in call.constant(tape, 1)]
    parts = [tape.integers([-1])]
    for axis, times in enumerate(repeats):
        parts += [tape.integers([times]), tape.sides(call.x, axis, axis + 1)]
    deep = tape.reshape(cotangent, *parts)
    return {0: tape.sum(deep, list(range(1, 2 * len(repeats), 2)), keep=False)}


def pad(tape: Tape, call: Call, cotangent: str) -> Cotangents:
    """The rule of y = x with a constant around it, which is cut off again."""
    call.only_first()
    if call.attributes.get("mode", b"constant") != b"constant":
        refuse(call.node, "it pads with other values than a constant")
    pads = tape.integers([-int(i) for i in call.constant(tape, 1)])
    rank = tape.rank(call.x)
    axes = [int(i) for i in call.constant(tape, 3)] if call.has(3) else list(range(rank))
    back = tape.integers([i % rank - rank for i in axes])
    return {0: tape.op("Pad", cotangent, pads, "", back)}


def resize(tape: Tape, call: Call, cotangent: str) -> Cotangents:
    """The rule of y = x with every position repeated by whole factors (nearest)."""
    call.only_first()
    if call.attributes.get("mode", b"nearest") != b"nearest" or not call.has(2):
        refuse(call.node, "only nearest with constant scales is known")
    axes = call.attributes.get("axes")
    scales = np.ones(tape.rank(call.x))
    scales[list(axes) if axes else slice(None)] = call.constant(tape, 2)
    if np.any(scales != np.round(scales)) or np.any(scales < 1):
        refuse(call.node, f"its scales {scales.tolist()} are not whole numbers")
    parts = [tape.integers([-1])]
    for axis, times in enumerate(scales):
        parts += [tape.sides(call.x, axis, axis + 1), tape.integers([int(times)])]
    deep = tape.reshape(cotangent, *parts)
    return {0: tape.sum(deep, list(range(2, 2 * len(scales) + 1, 2)), keep=False)}


SHAPE_RULES: dict[str, Rule] = {
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), reshape),
    "Transpose": transpose,
    "Slice": slice_,
    "Gather": gather,
    "Concat": concat,
    "Expand": expand,
    "Tile": tile,
    "Pad": pad,
    "Resize": resize,
}
