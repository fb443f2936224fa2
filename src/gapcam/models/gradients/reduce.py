"""Gradients of ONNX operations that sum, average, compare or normalize over axes.

A norm whose statistics are frozen (`Tape.frozen_norms`) is affine: its deviation, RMS or length is
a constant of the picture and only its mean moves with the tensor.
"""

from __future__ import annotations

from onnx import TensorProto

from gapcam.models.gradients.elementwise import Cotangents, Rule, norm_part
from gapcam.models.gradients.tape import Call, Tape, refuse

PER_CHANNEL_GROUP_NORM = 21
"""From this opset on, GroupNormalization has a scale for each channel, not for each group."""

# --- reductions --------------------------------------------------------------------------------


def _axes(tape: Tape, call: Call) -> list[int]:
    """The axes that a reduction reduces, negative."""
    rank = tape.rank(call.x)
    if call.node.op_type.endswith("Pool"):
        return list(range(2 - rank, 0))
    axes = [int(i) for i in call.constant(tape, 1)] if call.has(1) else []
    if not axes and call.attributes.get("noop_with_empty_axes", 0):
        return []
    return sorted(i % rank - rank for i in axes) or list(range(-rank, 0))


def _kept(tape: Tape, call: Call, tensor: str) -> str:
    """A reduction's result or its cotangent with the reduced axes back, of length 1."""
    if call.node.op_type.endswith("Pool") or call.attributes.get("keepdims", 1):
        return tensor
    axes = _axes(tape, call)
    return tape.op("Unsqueeze", tensor, tape.integers(axes)) if axes else tensor


def reduce_sum(tape: Tape, call: Call, cotangent: str) -> Cotangents:
    """The rule of y = sum x."""
    return {0: tape.spread(_kept(tape, call, cotangent), call.x)}


def reduce_mean(tape: Tape, call: Call, cotangent: str) -> Cotangents:
    """The rule of y = mean x."""
    places = tape.integers([i + tape.rank(call.x) for i in _axes(tape, call)])
    sides = tape.op("Gather", tape.sides(call.x), places, axis=0)
    number = tape.op("Cast", tape.op("ReduceProd", sides, keepdims=0), to=TensorProto.FLOAT)
    share = tape.op("Div", _kept(tape, call, cotangent), number)
    return {0: tape.spread(share, call.x)}


def reduce_extreme(tape: Tape, call: Call, cotangent: str) -> Cotangents:
    """The rule of y = max x or min x; positions that are equal share the cotangent."""
    hit = tape.op("Equal", call.x, _kept(tape, call, call.y))
    hits = tape.op("Cast", hit, to=TensorProto.FLOAT)
    weights = tape.op("Div", hits, tape.sum(hits, _axes(tape, call)))
    return {0: tape.op("Mul", _kept(tape, call, cotangent), weights)}


def max_pool(tape: Tape, call: Call, cotangent: str) -> Cotangents:
    """The rule of y = max x over the whole plane."""
    window, plane = list(call.attributes["kernel_shape"]), list(tape.shape(call.x)[2:])
    if window != plane or any(call.attributes.get("pads", [])):
        refuse(call.node, f"its window is {window}; only the whole plane, {plane}, is known")
    return reduce_extreme(tape, call, cotangent)


def reduce_l1(tape: Tape, call: Call, cotangent: str) -> Cotangents:
    """The rule of y = sum |x|."""
    return {0: tape.op("Mul", _kept(tape, call, cotangent), tape.op("Sign", call.x))}


def reduce_l2(tape: Tape, call: Call, cotangent: str) -> Cotangents:
    """The rule of y = sqrt(sum x^2): dy/dx = x / y."""
    over = tape.op("Div", _kept(tape, call, cotangent), _kept(tape, call, call.y))
    return {0: tape.op("Mul", over, call.x)}


def reduce_sum_square(tape: Tape, call: Call, cotangent: str) -> Cotangents:
    """The rule of y = sum x^2."""
    twice = tape.op("Mul", call.x, 2.0)
    return {0: tape.op("Mul", _kept(tape, call, cotangent), twice)}


def reduce_log_sum_exp(tape: Tape, call: Call, cotangent: str) -> Cotangents:
    """The rule of y = log sum exp x: dy/dx = exp(x - y)."""
    share = tape.op("Exp", tape.op("Sub", call.x, _kept(tape, call, call.y)))
    return {0: tape.op("Mul", _kept(tape, call, cotangent), share)}


# --- softmax -----------------------------------------------------------------------------------


def _axis(tape: Tape, call: Call) -> int:
    rank = tape.rank(call.x)
    return int(call.attributes.get("axis", -1)) % rank - rank


def softmax(tape: Tape, call: Call, cotangent: str) -> Cotangents:
    """The rule dx = y (g - sum g y)."""
    weighted = tape.op("Mul", cotangent, call.y)
    total = tape.sum(weighted, [_axis(tape, call)])
    return {0: tape.op("Sub", weighted, tape.op("Mul", total, call.y))}


def log_softmax(tape: Tape, call: Call, cotangent: str) -> Cotangents:
    """The rule dx = g - exp(y) sum g."""
    total = tape.sum(cotangent, [_axis(tape, call)])
    return {0: tape.op("Sub", cotangent, tape.op("Mul", total, tape.op("Exp", call.y)))}


# --- norms -------------------------------------------------------------------------------------


def _inverse_rms(tape: Tape, x: str, axes: list[int], epsilon: float) -> str:
    power = tape.mean(tape.op("Mul", x, x), axes)
    return tape.op("Reciprocal", tape.op("Sqrt", tape.op("Add", power, epsilon)))


def _centred_norm(tape: Tape, x: str, cotangent: str, axes: list[int], epsilon: float) -> str:
    """The rule of y = (x - mean x) / sigma: dx = (g - mean g - y mean(g y)) / sigma.

    With sigma frozen the last term is zero.
    """
    apart = tape.op("Sub", x, tape.mean(x, axes))
    inverse = _inverse_rms(tape, apart, axes, epsilon)
    inner = tape.op("Sub", cotangent, tape.mean(cotangent, axes))
    if not tape.frozen_norms:
        y = tape.op("Mul", apart, inverse)
        along = tape.mean(tape.op("Mul", cotangent, y), axes)
        inner = tape.op("Sub", inner, tape.op("Mul", along, y))
    return tape.op("Mul", inner, inverse)


def layer_norm(tape: Tape, call: Call, cotangent: str) -> Cotangents:
    """Ba et al., arXiv 1607.06450."""
    call.only_first()
    axes, epsilon = list(range(_axis(tape, call), 0)), call.attributes.get("epsilon", 1e-5)
    scaled = tape.op("Mul", cotangent, call.inputs[1])
    return {0: _centred_norm(tape, call.x, scaled, axes, epsilon)}


def rms_norm(tape: Tape, call: Call, cotangent: str) -> Cotangents:
    """Zhang and Sennrich, arXiv 1910.07467: y = g x / rms(x)."""
    call.only_first()
    axes, epsilon = list(range(_axis(tape, call), 0)), call.attributes.get("epsilon", 1e-5)
    inverse = _inverse_rms(tape, call.x, axes, epsilon)
    inner = tape.op("Mul", cotangent, call.inputs[1])
    if not tape.frozen_norms:
        y = tape.op("Mul", call.x, inverse)
        along = tape.mean(tape.op("Mul", inner, y), axes)
        inner = tape.op("Sub", inner, tape.op("Mul", along, y))
    return {0: tape.op("Mul", inner, inverse)}


def _per_channel(tape: Tape, vector: str, rank: int) -> str:
    """`[C]` as `[C, 1, 1, ...]`, to broadcast against `[B, C, ...]`."""
    return tape.reshape(vector, tape.integers([-1, *[1] * (rank - 2)]))


def batch_norm(tape: Tape, call: Call, cotangent: str) -> Cotangents:
    """Ioffe and Szegedy, arXiv 1502.03167, in evaluation mode: affine."""
    call.only_first()
    if call.attributes.get("training_mode", 0):
        refuse(call.node, "it is in training mode")
    variance = tape.op("Add", call.inputs[4], call.attributes.get("epsilon", 1e-5))
    slope = tape.op("Div", call.inputs[1], tape.op("Sqrt", variance))
    return {0: tape.op("Mul", cotangent, _per_channel(tape, slope, tape.rank(call.x)))}


def instance_norm(tape: Tape, call: Call, cotangent: str) -> Cotangents:
    """Ulyanov et al., arXiv 1607.08022."""
    call.only_first()
    rank = tape.rank(call.x)
    scaled = tape.op("Mul", cotangent, _per_channel(tape, call.inputs[1], rank))
    epsilon = call.attributes.get("epsilon", 1e-5)
    return {0: _centred_norm(tape, call.x, scaled, list(range(2 - rank, 0)), epsilon)}


def group_norm(tape: Tape, call: Call, cotangent: str) -> Cotangents:
    """Wu and He, arXiv 1803.08494."""
    call.only_first()
    groups, epsilon = call.attributes["num_groups"], call.attributes.get("epsilon", 1e-5)
    split = tape.integers([groups, -1])
    x = tape.reshape(call.x, tape.sides(call.x, 0, 1), split)
    if tape.opset >= PER_CHANNEL_GROUP_NORM:
        slope = _per_channel(tape, call.inputs[1], tape.rank(call.x))
        cotangent = tape.op("Mul", cotangent, slope)
    front = tape.sides(cotangent, 0, 1), tape.sides(call.x, 0, 1)
    grouped = tape.reshape(cotangent, *front, split)
    if tape.opset < PER_CHANNEL_GROUP_NORM:
        grouped = tape.op("Mul", grouped, tape.reshape(call.inputs[1], tape.integers([-1, 1])))
    return {0: tape.like(_centred_norm(tape, x, grouped, [-1], epsilon), call.x)}


def lp_norm(tape: Tape, call: Call, cotangent: str) -> Cotangents:
    """The rule of y = x / length(x); zero where the length is zero, as the operator has it."""
    axis, order = [_axis(tape, call)], call.attributes.get("p", 2)
    reduction = "ReduceL1" if order == 1 else "ReduceL2"
    length = tape.op(reduction, call.x, tape.integers(axis), keepdims=1)
    inner = cotangent
    if not tape.frozen_norms:
        along = tape.sum(tape.op("Mul", cotangent, call.y), axis)
        rise = tape.op("Sign", call.x) if order == 1 else call.y
        inner = tape.op("Sub", inner, tape.op("Mul", along, rise))
    empty = tape.op("Equal", length, 0.0)
    return {0: tape.op("Where", empty, 0.0, tape.op("Div", inner, length))}


REDUCE_RULES: dict[str, Rule] = {
    "ReduceSum": reduce_sum,
    "ReduceMean": reduce_mean,
    "GlobalAveragePool": reduce_mean,
    "ReduceMax": reduce_extreme,
    "ReduceMin": reduce_extreme,
    "GlobalMaxPool": reduce_extreme,
    "MaxPool": max_pool,
    "ReduceL1": norm_part(reduce_l1),
    "ReduceL2": norm_part(reduce_l2),
    "ReduceSumSquare": reduce_sum_square,
    "ReduceLogSumExp": reduce_log_sum_exp,
    "Softmax": softmax,
    "LogSoftmax": log_softmax,
    "LayerNormalization": layer_norm,
    "RMSNormalization": rms_norm,
    "BatchNormalization": batch_norm,
    "InstanceNormalization": instance_norm,
    "GroupNormalization": group_norm,
    "LpNormalization": lp_norm,
}
