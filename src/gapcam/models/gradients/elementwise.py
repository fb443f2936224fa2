"""Gradients of elementwise ONNX operations; the formulas are those of the operators' definitions.

A rule takes the tape, the node and the cotangent of its output, and gives the cotangents of its
inputs by their index.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeAlias

import numpy as np
from onnx import TensorProto

from gapcam.models.gradients.tape import Call, Tape, refuse

Cotangents: TypeAlias = dict[int, str]
Rule: TypeAlias = Callable[[Tape, Call, str], Cotangents]
Slope: TypeAlias = Callable[[Tape, Call], "str | float"]

SELU_ALPHA, SELU_GAMMA = 1.67326319217681884765625, 1.05070102214813232421875
"""ONNX operator Selu, default attributes."""


def identity(_tape: Tape, _call: Call, cotangent: str) -> Cotangents:
    """The rule of y = x."""
    return {0: cotangent}


def cast(_tape: Tape, call: Call, cotangent: str) -> Cotangents:
    """The rule of y = x, of the same type; the head is float32 throughout."""
    if call.attributes.get("to", TensorProto.FLOAT) != TensorProto.FLOAT:
        refuse(call.node, "the head must be float32 throughout")
    return {0: cotangent}


def dropout(tape: Tape, call: Call, cotangent: str) -> Cotangents:
    """The rule of y = x when not training."""
    if call.has(2) and bool(call.constant(tape, 2)):
        refuse(call.node, "it is in training mode")
    return {0: cotangent}


def by_slope(slope: Slope) -> Rule:
    """The rule of y = f(x) from its slope f'(x)."""

    def rule(tape: Tape, call: Call, cotangent: str) -> Cotangents:
        call.only_first()
        return {0: tape.op("Mul", cotangent, slope(tape, call))}

    return rule


def norm_part(rule: Rule) -> Rule:
    """A rule of an operation that only norms use: nothing flows where norms are frozen."""

    def frozen_or(tape: Tape, call: Call, cotangent: str) -> Cotangents:
        return {} if tape.frozen_norms else rule(tape, call, cotangent)

    return frozen_or


def _float(tape: Tape, condition: str) -> str:
    return tape.op("Cast", condition, to=TensorProto.FLOAT)


def _positive(tape: Tape, x: str) -> str:
    return tape.op("Greater", x, 0.0)


# --- slopes ------------------------------------------------------------------------------------


def _reciprocal(t: Tape, c: Call) -> str:
    return t.op("Neg", t.op("Mul", c.y, c.y))


def _relu(t: Tape, c: Call) -> str:
    return _float(t, _positive(t, c.x))


def _leaky_relu(t: Tape, c: Call) -> str:
    return t.op("Where", _positive(t, c.x), 1.0, c.attributes.get("alpha", 0.01))


def _prelu(t: Tape, c: Call) -> str:
    return t.op("Where", _positive(t, c.x), 1.0, c.inputs[1])


def _elu(t: Tape, c: Call) -> str:
    falling = t.op("Mul", t.op("Exp", c.x), c.attributes.get("alpha", 1.0))
    return t.op("Where", _positive(t, c.x), 1.0, falling)


def _celu(t: Tape, c: Call) -> str:
    falling = t.op("Exp", t.op("Div", c.x, c.attributes.get("alpha", 1.0)))
    return t.op("Where", _positive(t, c.x), 1.0, falling)


def _selu(t: Tape, c: Call) -> str:
    alpha, gamma = c.attributes.get("alpha", SELU_ALPHA), c.attributes.get("gamma", SELU_GAMMA)
    falling = t.op("Mul", t.op("Exp", c.x), alpha * gamma)
    return t.op("Where", _positive(t, c.x), gamma, falling)


def _logistic(t: Tape, y: str) -> str:
    return t.op("Mul", y, t.op("Sub", 1.0, y))


def _sigmoid(t: Tape, c: Call) -> str:
    return _logistic(t, c.y)


def _hard_sigmoid(t: Tape, c: Call) -> str:
    inside = t.op("And", t.op("Greater", c.y, 0.0), t.op("Less", c.y, 1.0))
    return t.op("Mul", _float(t, inside), c.attributes.get("alpha", 0.2))


def _hard_swish(t: Tape, c: Call) -> str:
    inside = _float(t, t.op("Less", t.op("Abs", c.x), 3.0))
    gate = t.op("HardSigmoid", c.x, alpha=1 / 6, beta=0.5)
    return t.op("Add", gate, t.op("Mul", t.op("Div", c.x, 6.0), inside))


def _softsign(t: Tape, c: Call) -> str:
    below = t.op("Add", t.op("Abs", c.x), 1.0)
    return t.op("Reciprocal", t.op("Mul", below, below))


def _one_minus_square(t: Tape, y: str) -> str:
    return t.op("Sub", 1.0, t.op("Mul", y, y))


def _tanh(t: Tape, c: Call) -> str:
    return _one_minus_square(t, c.y)


def _erf(t: Tape, c: Call) -> str:
    bell = t.op("Exp", t.op("Neg", t.op("Mul", c.x, c.x)))
    return t.op("Mul", bell, 2 / math.sqrt(math.pi))


def _gelu(t: Tape, c: Call) -> str:
    """Hendrycks and Gimpel, arXiv 1606.08415: x times the normal distribution's Phi(x)."""
    square = t.op("Mul", c.x, c.x)
    if c.attributes.get("approximate", b"none") == b"tanh":
        root = math.sqrt(2 / math.pi)
        inner = t.op("Mul", t.op("Mul", c.x, root), t.op("Add", t.op("Mul", square, 0.044715), 1.0))
        y = t.op("Tanh", inner)
        rise = t.op("Mul", t.op("Add", t.op("Mul", square, 3 * 0.044715), 1.0), root)
        bend = t.op("Mul", t.op("Mul", c.x, _one_minus_square(t, y)), rise)
        return t.op("Mul", t.op("Add", t.op("Add", y, 1.0), bend), 0.5)
    phi = t.op("Mul", t.op("Add", t.op("Erf", t.op("Mul", c.x, math.sqrt(0.5))), 1.0), 0.5)
    bell = t.op("Mul", t.op("Exp", t.op("Mul", square, -0.5)), 1 / math.sqrt(2 * math.pi))
    return t.op("Add", phi, t.op("Mul", c.x, bell))


def _mish(t: Tape, c: Call) -> str:
    gate = t.op("Tanh", t.op("Softplus", c.x))
    bend = t.op("Mul", t.op("Mul", c.x, t.op("Sigmoid", c.x)), _one_minus_square(t, gate))
    return t.op("Add", gate, bend)


def _swish(t: Tape, c: Call) -> str:
    alpha = c.attributes.get("alpha", 1.0)
    gate = t.op("Sigmoid", t.op("Mul", c.x, alpha))
    return t.op("Add", gate, t.op("Mul", t.op("Mul", c.x, alpha), _logistic(t, gate)))


def _clip(t: Tape, c: Call) -> str | float:
    bounds = [(1, "GreaterOrEqual"), (2, "LessOrEqual")]
    masks = [_float(t, t.op(kind, c.x, c.inputs[i])) for i, kind in bounds if c.has(i)]
    if not masks:
        return 1.0
    return masks[0] if len(masks) == 1 else t.op("Mul", *masks)


# --- several operands --------------------------------------------------------------------------


def _operands(tape: Tape, call: Call, parts: Mapping[int, Callable[[], str]]) -> Cotangents:
    """The cotangents of the operands that need one, summed over where they were broadcast."""
    return {i: tape.unbroadcast(parts[i](), call.inputs[i], call.y) for i in call.wanted}


def add(tape: Tape, call: Call, cotangent: str) -> Cotangents:
    """The rule of y = a + b + ..."""
    return _operands(tape, call, dict.fromkeys(call.wanted, lambda: cotangent))


def subtract(tape: Tape, call: Call, cotangent: str) -> Cotangents:
    """The rule of y = a - b."""
    return _operands(tape, call, {0: lambda: cotangent, 1: lambda: tape.op("Neg", cotangent)})


def multiply(tape: Tape, call: Call, cotangent: str) -> Cotangents:
    """The rule of y = a b."""
    a, b = call.inputs
    return _operands(
        tape,
        call,
        {0: lambda: tape.op("Mul", cotangent, b), 1: lambda: tape.op("Mul", cotangent, a)},
    )


def divide(tape: Tape, call: Call, cotangent: str) -> Cotangents:
    """The rule of y = a / b."""
    b = call.inputs[1]
    over = tape.op("Div", cotangent, b)
    return _operands(
        tape,
        call,
        {0: lambda: over, 1: lambda: tape.op("Neg", tape.op("Mul", over, call.y))},
    )


def power(tape: Tape, call: Call, cotangent: str) -> Cotangents:
    """The rule of y = x ** p for a constant p; a square root is a norm's."""
    call.only_first()
    exponent = call.constant(tape, 1).astype(np.float32)
    if tape.frozen_norms and np.all(np.abs(exponent) == np.float32(0.5)):
        return {}
    slope = tape.op("Pow", call.x, tape.array(np.asarray(exponent - 1)))
    rise = tape.op("Mul", slope, tape.array(exponent))
    return {0: tape.unbroadcast(tape.op("Mul", cotangent, rise), call.x, call.y)}


def extreme(tape: Tape, call: Call, cotangent: str) -> Cotangents:
    """The rule of y = the largest or smallest operand; operands that are equal share."""
    hits = [_float(tape, tape.op("Equal", x, call.y)) for x in call.inputs]
    total = tape.op("Sum", *hits)
    share = tape.op("Div", cotangent, total)
    parts = {i: partial(tape.op, "Mul", share, hits[i]) for i in call.wanted}
    return _operands(tape, call, parts)


def where(tape: Tape, call: Call, cotangent: str) -> Cotangents:
    """The rule of y = a where the condition holds, else b."""
    condition = call.inputs[0]
    parts = {
        1: lambda: tape.op("Where", condition, cotangent, 0.0),
        2: lambda: tape.op("Where", condition, 0.0, cotangent),
    }
    return _operands(tape, call, parts)


ELEMENTWISE_RULES: dict[str, Rule] = {
    "Identity": identity,
    "Cast": cast,
    "Dropout": dropout,
    "Add": add,
    "Sum": add,
    "Sub": subtract,
    "Mul": multiply,
    "Div": divide,
    "Pow": power,
    "Min": extreme,
    "Max": extreme,
    "Where": where,
    "Neg": by_slope(lambda _t, _c: -1.0),
    "Sqrt": norm_part(by_slope(lambda t, c: t.op("Div", 0.5, c.y))),
    "Reciprocal": by_slope(_reciprocal),
    "Exp": by_slope(lambda _t, c: c.y),
    "Log": by_slope(lambda t, c: t.op("Reciprocal", c.x)),
    "Abs": by_slope(lambda t, c: t.op("Sign", c.x)),
    "Relu": by_slope(_relu),
    "LeakyRelu": by_slope(_leaky_relu),
    "PRelu": by_slope(_prelu),
    "Elu": by_slope(_elu),
    "Selu": by_slope(_selu),
    "Celu": by_slope(_celu),
    "Sigmoid": by_slope(_sigmoid),
    "HardSigmoid": by_slope(_hard_sigmoid),
    "HardSwish": by_slope(_hard_swish),
    "Softplus": by_slope(lambda t, c: t.op("Sigmoid", c.x)),
    "Softsign": by_slope(_softsign),
    "Tanh": by_slope(_tanh),
    "Erf": by_slope(_erf),
    "Gelu": by_slope(_gelu),
    "Mish": by_slope(_mish),
    "Swish": by_slope(_swish),
    "Clip": by_slope(_clip),
}
