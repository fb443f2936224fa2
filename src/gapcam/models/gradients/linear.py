"""Gradients of ONNX operations that multiply by matrices and kernels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gapcam.models.gradients.elementwise import Cotangents, Rule
from gapcam.models.gradients.tape import Call, Tape, refuse

LETTERS = "abcdefghijklmnopqrstuvwxyz"

# --- matrices ----------------------------------------------------------------------------------


def matmul(tape: Tape, call: Call, cotangent: str) -> Cotangents:
    """Y = A B: dA = G B^T, dB = A^T G, summed over the axes that were broadcast."""
    a, b = call.inputs
    ranks = tape.rank(a), tape.rank(b)
    if 1 in ranks:
        return _with_vector(tape, call, cotangent)
    found = {}
    if 0 in call.wanted:
        product = tape.op("MatMul", cotangent, tape.swap(b, ranks[1]))
        found[0] = _sum_batches(tape, call, product, a)
    if 1 in call.wanted:
        product = tape.op("MatMul", tape.swap(a, ranks[0]), cotangent)
        found[1] = _sum_batches(tape, call, product, b)
    return found


def _sum_batches(tape: Tape, call: Call, product: str, operand: str) -> str:
    """Sums over the axes before the last two that were broadcast."""
    sides, total = tape.shape(operand), tape.shape(call.y)
    extra = len(total) - len(sides)
    pairs = zip(sides[:-2], total[extra:-2], strict=True)
    repeated = [i - len(sides) for i, (side, full) in enumerate(pairs) if side == 1 != full]
    if repeated:
        product = tape.sum(product, repeated)
    if extra:
        product = tape.sum(product, list(range(1, 1 + extra)), keep=False)
    return product


def _with_vector(tape: Tape, call: Call, cotangent: str) -> Cotangents:
    """The rule of y = A b for a vector b that does not depend on the features."""
    call.only_first()
    if tape.rank(call.inputs[1]) != 1 or tape.rank(call.x) == 1:
        refuse(call.node, "its first operand is a vector")
    deep = tape.op("Unsqueeze", cotangent, tape.integers([-1]))
    return {0: tape.op("Mul", deep, call.inputs[1])}


def gemm(tape: Tape, call: Call, cotangent: str) -> Cotangents:
    """Y = alpha op(A) op(B) + beta C, where op may transpose."""
    alpha, beta = call.attributes.get("alpha", 1.0), call.attributes.get("beta", 1.0)
    a, b = call.inputs[:2]
    across = call.attributes.get("transA", 0), call.attributes.get("transB", 0)
    scaled = cotangent if alpha == 1 else tape.op("Mul", cotangent, alpha)
    found = {}
    if 0 in call.wanted:
        product = tape.op("MatMul", scaled, b if across[1] else tape.swap(b, 2))
        found[0] = tape.swap(product, 3) if across[0] else product
    if 1 in call.wanted:
        product = tape.op("MatMul", a if across[0] else tape.swap(a, 2), scaled)
        found[1] = tape.swap(product, 3) if across[1] else product
    if 2 in call.wanted:
        whole = cotangent if beta == 1 else tape.op("Mul", cotangent, beta)
        found[2] = tape.unbroadcast(whole, call.inputs[2], call.y)
    return found


def einsum(tape: Tape, call: Call, cotangent: str) -> Cotangents:
    """Swaps the result with the operand: "ik,kj->ij" gives dA by "zij,kj->zik"."""
    text = call.attributes["equation"].decode().replace(" ", "")
    given, arrow, result = text.partition("->")
    operands = given.split(",")
    if not arrow or "." in text or any(len(set(o)) < len(o) for o in [*operands, result]):
        refuse(call.node, f"its equation is {text!r}")
    free = next(letter for letter in LETTERS if letter not in text)
    found = {}
    for i in call.wanted:
        others = [j for j in range(len(operands)) if j != i]
        known = set(result).union(*(operands[j] for j in others))
        if not set(operands[i]) <= known:
            refuse(call.node, f"its equation {text!r} sums one operand alone")
        terms = ",".join([free + result, *(operands[j] for j in others)])
        equation = f"{terms}->{free}{operands[i]}"
        names = [call.inputs[j] for j in others]
        found[i] = tape.op("Einsum", cotangent, *names, equation=equation)
    return found


# --- kernels -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Window:
    """How a kernel moves over a plane; one number an axis."""

    sides: list[int]
    strides: list[int]
    dilations: list[int]
    before: list[int]
    after: list[int]

    @property
    def keeps_size(self) -> bool:
        """Whether the transposed convolution gives the plane back whatever its size."""
        return set(self.strides) == {1}


def _window(call: Call, sides: Sequence[int]) -> _Window:
    axes = len(sides)
    attributes = call.attributes
    strides = list(attributes.get("strides", [1] * axes))
    dilations = list(attributes.get("dilations", [1] * axes))
    pads = list(attributes.get("pads", [0] * 2 * axes))
    mode = attributes.get("auto_pad", b"NOTSET").decode()
    if mode.startswith("SAME"):
        if set(strides) != {1}:
            refuse(call.node, f"auto_pad {mode} with strides {strides}")
        reach = [d * (s - 1) for d, s in zip(dilations, sides, strict=True)]
        less, more = [r // 2 for r in reach], [r - r // 2 for r in reach]
        pads = less + more if mode == "SAME_UPPER" else more + less
    return _Window(list(sides), strides, dilations, pads[:axes], pads[axes:])


def _transposed(
    tape: Tape, folded: str, kernel: str, window: _Window, primal: str, group: int
) -> str:
    """The transposed convolution of `[n B, M, ...]`, cut to the plane of `primal [B, C, ...]`."""
    settings: dict[str, Any] = {
        "strides": window.strides,
        "dilations": window.dilations,
        "group": group,
    }
    if window.keeps_size:
        pads = window.before + window.after
        return tape.op("ConvTranspose", folded, kernel, pads=pads, **settings)
    wide = tape.op("ConvTranspose", folded, kernel, **settings)
    before = tape.integers([-i for i in window.before])
    missing = tape.op("Sub", tape.sides(primal, 2), tape.sides(wide, 2))
    after = tape.op("Sub", missing, before)
    around = tape.op("Concat", before, after, axis=0)
    axes = tape.integers(list(range(-len(window.sides), 0)))
    return tape.op("Pad", wide, around, "", axes)


def conv(tape: Tape, call: Call, cotangent: str) -> Cotangents:
    """Y = W * X: dX is the transposed convolution of G, the n classes folded into the batch."""
    call.only_first()
    weights = call.inputs[1]
    window = _window(call, tape.shape(weights)[2:])
    folded = tape.reshape(cotangent, tape.integers([-1]), tape.sides(call.y, 1))
    back = _transposed(tape, folded, weights, window, call.x, call.attributes.get("group", 1))
    return {0: tape.like(back, call.x)}


def average_pool(tape: Tape, call: Call, cotangent: str) -> Cotangents:
    """The rule of y = mean of a window, or of its part inside the plane."""
    sides = list(call.attributes["kernel_shape"])
    window = _window(call, sides)
    if call.attributes.get("ceil_mode", 0):
        refuse(call.node, "ceil_mode")
    if any(window.before + window.after) and not call.attributes.get("count_include_pad", 0):
        cotangent = tape.op("Div", cotangent, _share_inside(tape, call, window))
    kernel = tape.array(np.full((1, 1, *sides), 1 / math.prod(sides), np.float32))
    one = tape.integers([1])
    folded = tape.reshape(cotangent, tape.integers([-1]), one, tape.sides(call.y, 2))
    return {0: tape.like(_transposed(tape, folded, kernel, window, call.x, 1), call.x)}


def _share_inside(tape: Tape, call: Call, window: _Window) -> str:
    """Which share of each window lies inside the plane, `[1, 1, ...]`."""
    shape = tape.op("Concat", tape.integers([1, 1]), tape.sides(call.x, 2), axis=0)
    ones = tape.op("Expand", 1.0, shape)
    return tape.op(
        "AveragePool",
        ones,
        kernel_shape=window.sides,
        strides=window.strides,
        pads=window.before + window.after,
        count_include_pad=1,
    )


LINEAR_RULES: dict[str, Rule] = {
    "MatMul": matmul,
    "Gemm": gemm,
    "Einsum": einsum,
    "Conv": conv,
    "AveragePool": average_pool,
}
