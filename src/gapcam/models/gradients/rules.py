"""Which ONNX operations have a gradient, which stop it, and which leave an axis's positions apart.

Source of the rules: each operator's definition (github.com/onnx/onnx, docs/Operators.md) and the
chain rule.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import TensorProto, helper

from gapcam.models.gradients.elementwise import ELEMENTWISE_RULES, Rule
from gapcam.models.gradients.linear import LINEAR_RULES
from gapcam.models.gradients.reduce import REDUCE_RULES
from gapcam.models.gradients.shape import SHAPE_RULES
from gapcam.models.gradients.tape import Tape

RULES: dict[str, Rule] = {**ELEMENTWISE_RULES, **SHAPE_RULES, **REDUCE_RULES, **LINEAR_RULES}
"""The rule of each operation; `Split` is a set of slices, see `gapcam.models.gradients`."""

STOPS = frozenset(
    {
        *("Shape", "Size", "ConstantOfShape", "Equal", "Greater", "GreaterOrEqual", "Less"),
        *("LessOrEqual", "Not", "And", "Or", "Xor", "IsNaN", "IsInf", "ArgMax", "ArgMin"),
        *("NonZero",),
    }
)
"""Operations whose results do not move with the values they read: shapes, truths and places."""

FLOATS = frozenset(
    {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16}
)

_OWN_AXIS = frozenset({"Softmax", "LogSoftmax", "LpNormalization"})
_FROM_AXIS = frozenset({"LayerNormalization", "RMSNormalization"})
_SAME_ORDER = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze"})


def attributes_of(node: onnx.NodeProto) -> dict[str, object]:
    """A node's attributes as plain values."""
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def stops(node: onnx.NodeProto) -> bool:
    """Whether no gradient flows through a node, whatever it reads."""
    if node.op_type == "Cast":
        return attributes_of(node)["to"] not in FLOATS
    return node.op_type in STOPS


def carry(tape: Tape, node: onnx.NodeProto, axis: int) -> dict[int, int] | None:
    """Where one axis of a node's result lies in its inputs, if the node keeps positions apart.

    It does when position p of the result along the axis depends on position p of those inputs
    alone (and on all of the inputs that do not have the axis). A cotangent that covers only some
    positions then goes back through the node without the others.

    Args:
        tape: Knows the shapes.
        node: The node.
        axis: Of its first output, not negative.

    Returns:
        The axis in each input that has it, by the input's index; None when positions mix or a
        shape is not known.
    """
    shapes = [tape.known_shape(name) for name in node.input if name]
    out = tape.known_shape(node.output[0])
    if out is None or None in shapes or len(shapes) < len(node.input):
        return None
    sides = [shape for shape in shapes if shape is not None]
    kind, attributes = node.op_type, attributes_of(node)
    if kind in ELEMENTWISE_RULES or kind == "Expand":
        return _aligned(sides if kind != "Expand" else sides[:1], out, axis)
    if kind in _SAME_ORDER:
        return _unmoved(sides[0], out, axis)
    if kind in _OWN_AXIS | _FROM_AXIS:
        own = _number(attributes.get("axis", -1)) % len(out)
        apart = axis != own if kind in _OWN_AXIS else axis < own
        return {0: axis} if apart else None
    if kind == "Transpose":
        order = attributes.get("perm", list(reversed(range(len(out)))))
        return {0: list(order)[axis]}  # type: ignore[call-overload]
    if kind == "Gemm" and axis == 0 and not attributes.get("transA", 0):
        return {0: 0, **{i: 0 for i in (2,) if len(sides) > i and sides[i][:-1] == out[:1]}}
    if kind == "MatMul" and min(len(s) for s in sides) > 1 and axis < len(out) - 1:
        return _matrix_axis(sides, out, axis)
    return None


def _number(value: object) -> int:
    return int(value)  # type: ignore[call-overload, no-any-return]


def _aligned(sides: Sequence[tuple[int, ...]], out: tuple[int, ...], axis: int) -> dict[int, int]:
    """Elementwise: shapes are aligned at their ends; operands of length 1 are broadcast."""
    found = {}
    for i, shape in enumerate(sides):
        own = axis - (len(out) - len(shape))
        if own >= 0 and shape[own] == out[axis]:
            found[i] = own
    return found


def _unmoved(shape: tuple[int, ...], out: tuple[int, ...], axis: int) -> dict[int, int] | None:
    """Reshape: an axis is unmoved when as many values lie before and after it."""
    before, after = _product(out[:axis]), _product(out[axis + 1 :])
    for own, side in enumerate(shape):
        kept = _product(shape[:own]) == before and _product(shape[own + 1 :]) == after
        if kept and side == out[axis]:
            return {0: own}
    return None


def _matrix_axis(
    sides: Sequence[tuple[int, ...]], out: tuple[int, ...], axis: int
) -> dict[int, int]:
    """MatMul: rows come from the first operand, the axes before them from both."""
    if axis == len(out) - 2:
        return {0: len(sides[0]) - 2}
    return _aligned(sides, out, axis)


def _product(sides: Sequence[int]) -> int:
    total = 1
    for side in sides:
        total *= side
    return total
