"""Every rule of the ONNX gradients against `torch.autograd` in float64."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from onnx import TensorProto, helper

from gapcam.models.gradients.rules import RULES
from gapcam.models.gradients.tape import Call, Tape
from gapcam.types import ModelError
from gradient_tools import CLASSES, Case, check, differentiated, ints, model_of, normal, run, width


def _hard_sigmoid(x):
    return torch.clamp(0.2 * x + 0.5, 0, 1)


UNARY = {
    "Identity": Case("y = Identity(x)", lambda x: x),
    "Cast": Case("y = Cast<to=1>(x)", lambda x: x),
    "Dropout": Case("y = Dropout(x)", lambda x: x),
    "Neg": Case("y = Neg(x)", torch.neg),
    "Sqrt": Case("y = Sqrt(x)", torch.sqrt, positive=True),
    "Reciprocal": Case("y = Reciprocal(x)", torch.reciprocal, positive=True),
    "Exp": Case("y = Exp(x)", torch.exp),
    "Log": Case("y = Log(x)", torch.log, positive=True),
    "Abs": Case("y = Abs(x)", torch.abs),
    "Relu": Case("y = Relu(x)", torch.relu),
    "LeakyRelu": Case("y = LeakyRelu<alpha=0.2>(x)", lambda x: F.leaky_relu(x, 0.2)),
    "LeakyRelu-default": Case("y = LeakyRelu(x)", lambda x: F.leaky_relu(x, 0.01)),
    "Elu": Case("y = Elu<alpha=0.7>(x)", lambda x: F.elu(x, 0.7)),
    "Selu": Case("y = Selu(x)", torch.selu),
    "Celu": Case("y = Celu<alpha=0.7>(x)", lambda x: F.celu(x, 0.7)),
    "Sigmoid": Case("y = Sigmoid(x)", torch.sigmoid),
    "HardSigmoid": Case("y = HardSigmoid(x)", _hard_sigmoid),
    "HardSwish": Case(
        "t = Mul(x, c); y = HardSwish(t)",
        lambda x, c: F.hardswish(x * c),
        constants={"c": np.float32(3) * np.ones(1, np.float32)},
    ),
    "Softplus": Case("y = Softplus(x)", F.softplus),
    "Softsign": Case("y = Softsign(x)", F.softsign),
    "Tanh": Case("y = Tanh(x)", torch.tanh),
    "Erf": Case("y = Erf(x)", torch.erf),
    "Gelu": Case("y = Gelu(x)", F.gelu, opset=20),
    "Gelu-tanh": Case(
        'y = Gelu<approximate="tanh">(x)', lambda x: F.gelu(x, approximate="tanh"), opset=20
    ),
    "Mish": Case("y = Mish(x)", F.mish),
    "Clip": Case(
        "y = Clip(x, lo, hi)",
        lambda x, lo, hi: x.clamp(lo, hi),
        constants={"lo": np.float32(-0.5).reshape(()), "hi": np.float32(0.7).reshape(())},
    ),
    "Clip-above": Case(
        "y = Clip(x, , hi)",
        lambda x, hi: x.clamp(max=hi),
        constants={"hi": np.array(0.7, np.float32)},
    ),
    "Clip-free": Case("y = Clip(x)", lambda x: x),
    "PRelu": Case(
        "y = PRelu(x, s)", lambda x, s: torch.where(x > 0, x, s * x), constants={"s": normal(3, 1)}
    ),
    "Pow": Case(
        "y = Pow(x, p)",
        lambda x, p: x**p,
        positive=True,
        constants={"p": np.array(2.5, np.float32)},
    ),
    "Pow-square": Case("y = Pow(x, p)", lambda x, p: x**2, constants={"p": ints(2).reshape(())}),
    "Pow-half": Case(
        "y = Pow(x, p)",
        lambda x, p: x**p,
        positive=True,
        constants={"p": np.array(-0.5, np.float32)},
    ),
    "Opset22": Case("y = Elu(x)", F.elu, opset=22),
}

BINARY = {
    "Add": Case("y = Add(x, c)", lambda x, c: x + c, constants={"c": normal(1, 3, 1)}),
    "Add-transposed": Case(
        "t = Transpose<perm=[0, 2, 1]>(x); y = Add(t, x)", lambda x: x.mT + x, (1, 4)
    ),
    "Sub": Case("t = Exp(x); y = Sub(t, x)", lambda x: x.exp() - x),
    "Sub-reversed": Case("y = Sub(c, x)", lambda x, c: c - x, constants={"c": normal(4)}),
    "Mul": Case("t = Exp(x); y = Mul(t, x)", lambda x: x.exp() * x),
    "Mul-itself": Case("y = Mul(x, x)", lambda x: x * x),
    "Mul-broadcast": Case(
        "t = ReduceSum(x, a); y = Mul(t, x)",
        lambda x, a: x.sum((1, 2), keepdim=True) * x,
        constants={"a": ints(1, 2)},
    ),
    "Div": Case("t = Exp(x); y = Div(x, t)", lambda x: x / x.exp()),
    "Div-broadcast": Case(
        "t = ReduceSum(x, a); y = Div(x, t)",
        lambda x, a: x / x.sum(1, keepdim=True),
        constants={"a": ints(1)},
        positive=True,
    ),
    "Sum": Case("t = Exp(x); y = Sum(x, t, x)", lambda x: x + x.exp() + x),
    "Min": Case(
        "t = Mul(x, x); y = Min(t, x, c)",
        lambda x, c: torch.minimum(torch.minimum(x * x, x), c),
        constants={"c": normal(4)},
    ),
    "Max": Case("t = Mul(x, x); y = Max(t, x)", lambda x: torch.maximum(x * x, x)),
    "Where": Case(
        "n = Less(x, z); t = Exp(x); y = Where(n, t, x)",
        lambda x, z: torch.where(x < 0, x.exp(), x),
        constants={"z": np.zeros((), np.float32)},
    ),
    "Where-nan": Case(
        "s = Softmax(x); n = IsNaN(s); y = Where(n, z, s)",
        lambda x, z: x.softmax(-1),
        constants={"z": np.zeros((), np.float32)},
    ),
}

MOVING = {
    "Reshape": Case(
        "y = Reshape(x, s)", lambda x, s: x.reshape(-1, 2, 6), constants={"s": ints(0, 2, 6)}
    ),
    "Flatten": Case("y = Flatten(x)", lambda x: x.flatten(1)),
    "Squeeze": Case("y = Squeeze(x, a)", lambda x, a: x.squeeze(2), (3, 1, 4), {"a": ints(2)}),
    "Unsqueeze": Case("y = Unsqueeze(x, a)", lambda x, a: x.unsqueeze(1), constants={"a": ints(1)}),
    "Transpose": Case(
        "t = Transpose<perm=[0, 3, 1, 2]>(x); y = Mul(t, c)",
        lambda x, c: x.permute(0, 3, 1, 2) * c,
        (2, 3, 4),
        {"c": normal(4, 2, 3)},
    ),
    "Slice": Case(
        "y = Slice(x, s, e, a)",
        lambda x, s, e, a: x[:, 1:3, :-1],
        (4, 5),
        {"s": ints(1, 0), "e": ints(3, -1), "a": ints(1, -1)},
    ),
    "Slice-token": Case(
        "y = Slice(x, s, e, a)",
        lambda x, s, e, a: x[:, 1:2],
        (4, 5),
        {"s": ints(1), "e": ints(2), "a": ints(1)},
    ),
    "Slice-end": Case(
        "y = Slice(x, s, e, a)",
        lambda x, s, e, a: x[:, -3:],
        (4, 5),
        {"s": ints(-3), "e": ints(2**63 - 1), "a": ints(1)},
    ),
    "Slice-steps": Case(
        "y = Slice(x, s, e, a, t)",
        lambda x, s, e, a, t: x[:, 1::2, 0::3],
        (5, 7),
        {"s": ints(1, 0), "e": ints(99, 99), "a": ints(1, 2), "t": ints(2, 3)},
    ),
    "Gather": Case("y = Gather<axis=1>(x, i)", lambda x, i: x[:, 1], constants={"i": np.array(1)}),
    "Gather-last": Case(
        "y = Gather<axis=1>(x, i)", lambda x, i: x[:, -1], constants={"i": np.array(-1)}
    ),
    "Gather-many": Case(
        "y = Gather<axis=1>(x, i)", lambda x, i: x[:, [2, 0, 2]], constants={"i": ints(2, 0, -1)}
    ),
    "Gather-table": Case(
        "y = Gather<axis=1>(x, i)",
        lambda x, i: x[:, [[0, 1], [1, 2]]],
        constants={"i": ints(0, 1, 1, 2).reshape(2, 2)},
    ),
    "Gather-computed": Case(
        "f = Reshape(x, s); z = Size(f); r = Range(o, z, l); t = Reshape(r, k);"
        "u = Reshape(f, s); g = Gather(u, t); y = Exp(g)",
        lambda x, **_: x.exp(),
        constants={"s": ints(-1), "o": np.array(0), "l": np.array(1), "k": ints(-1, 12)},
    ),
    "Gather-several": Case(
        "a = Gather<axis=1>(x, i); b = Gather<axis=1>(x, j); y = Mul(a, b)",
        lambda x, i, j: x[:, 0] * x[:, 1],
        constants={"i": np.array(0), "j": np.array(1)},
    ),
    "Gather-apart": Case(
        "a = Gather<axis=1>(x, i); b = Gather<axis=2>(x, j); c = ReduceSum(b, k);"
        "d = Mul(a, c); y = Add(d, a)",
        lambda x, i, j, k: x[:, 2] * x[:, :, 1].sum(1, keepdim=True) + x[:, 2],
        constants={"i": np.array(2), "j": np.array(1), "k": ints(1)},
    ),
    "Split": Case(
        "a, b = Split<axis=2, num_outputs=2>(x); e = Exp(b); y = Mul(a, e)",
        lambda x: x[..., :2] * x[..., 2:].exp(),
    ),
    "Split-sizes": Case(
        "a, b, c = Split<axis=1>(x, s); y = Identity(b)",
        lambda x, s: x[:, 1:3],
        (4, 2),
        {"s": ints(1, 2, 1)},
    ),
    "Concat": Case(
        "e = Exp(x); n = Neg(x); y = Concat<axis=-1>(e, n, x)",
        lambda x: torch.cat([x.exp(), -x, x], -1),
    ),
    "Expand": Case(
        "y = Expand(x, s)", lambda x, s: x.expand(-1, 3, 4), (1, 4), {"s": ints(1, 3, 1)}
    ),
    "Tile": Case("y = Tile(x, r)", lambda x, r: x.repeat(1, 2, 3), constants={"r": ints(1, 2, 3)}),
    "Pad": Case(
        "y = Pad(x, p)",
        lambda x, p: F.pad(x, (1, 2, 3, 0)),
        constants={"p": ints(0, 3, 1, 0, 0, 2)},
    ),
    "Pad-axes": Case(
        "y = Pad(x, p, , a)",
        lambda x, p, a: F.pad(x, (1, 2)),
        constants={"p": ints(1, 2), "a": ints(-1)},
    ),
    "Resize": Case(
        'y = Resize<mode="nearest", coordinate_transformation_mode="asymmetric", '
        'nearest_mode="floor">(x, , k)',
        lambda x, k: F.interpolate(x, scale_factor=(2, 3)),
        (2, 3, 4),
        {"k": np.array([1, 1, 2, 3], np.float32)},
    ),
}

PLANE, TOKENS = (4, 5, 6), (7, 8)

REDUCING = {
    "ReduceMean": Case(
        "y = ReduceMean<keepdims=0>(x, a)", lambda x, a: x.mean((2, 3)), PLANE, {"a": ints(2, 3)}
    ),
    "ReduceMean-keep": Case(
        "y = ReduceMean(x, a)", lambda x, a: x.mean((1, 3)), PLANE, {"a": ints(-1, 1)}
    ),
    "ReduceSum": Case(
        "y = ReduceSum<keepdims=0>(x, a)", lambda x, a: x.sum(1), constants={"a": ints(1)}
    ),
    "ReduceMax": Case(
        "y = ReduceMax<keepdims=0>(x, a)", lambda x, a: x.amax((2, 3)), PLANE, {"a": ints(2, 3)}
    ),
    "ReduceMax-ties": Case(
        "r = Round(c); t = Relu(x); y = ReduceMax<keepdims=0>(t, a)",
        lambda x, a, c: x.relu().amax(1),
        (2, 3),
        {"a": ints(1), "c": normal(1)},
    ),
    "ReduceMin": Case("y = ReduceMin(x, a)", lambda x, a: x.amin(2), constants={"a": ints(2)}),
    "ReduceL1": Case("y = ReduceL1(x, a)", lambda x, a: x.abs().sum(2), constants={"a": ints(2)}),
    "ReduceL2": Case(
        "y = ReduceL2<keepdims=0>(x, a)", lambda x, a: x.norm(dim=2), constants={"a": ints(2)}
    ),
    "ReduceSumSquare": Case(
        "y = ReduceSumSquare<keepdims=0>(x, a)",
        lambda x, a: (x * x).sum(1),
        constants={"a": ints(1)},
    ),
    "ReduceLogSumExp": Case(
        "y = ReduceLogSumExp<keepdims=0>(x, a)",
        lambda x, a: x.logsumexp(2),
        constants={"a": ints(2)},
    ),
    "GlobalAveragePool": Case("y = GlobalAveragePool(x)", lambda x: x.mean((2, 3)), PLANE),
    "GlobalMaxPool": Case("y = GlobalMaxPool(x)", lambda x: x.amax((2, 3)), PLANE),
    "MaxPool-whole": Case("y = MaxPool<kernel_shape=[5, 6]>(x)", lambda x: x.amax((2, 3)), PLANE),
    "Softmax": Case("y = Softmax<axis=1>(x)", lambda x: x.softmax(1)),
    "LogSoftmax": Case("y = LogSoftmax(x)", lambda x: x.log_softmax(-1)),
}

NORMS = {
    "LayerNormalization": Case(
        "y = LayerNormalization<epsilon=0.01>(x, s, b)",
        lambda x, s, b: F.layer_norm(x, (8,), s, b, 0.01),
        TOKENS,
        {"s": normal(8), "b": normal(8)},
    ),
    "LayerNormalization-two": Case(
        "y = LayerNormalization<axis=1>(x, s)",
        lambda x, s: F.layer_norm(x, (7, 8), s),
        TOKENS,
        {"s": normal(7, 8)},
    ),
    "BatchNormalization": Case(
        "y = BatchNormalization(x, s, b, m, v)",
        lambda x, s, b, m, v: F.batch_norm(x, m, v, s, b),
        PLANE,
        {"s": normal(4), "b": normal(4), "m": normal(4), "v": np.abs(normal(4)) + 1},
    ),
    "InstanceNormalization": Case(
        "y = InstanceNormalization(x, s, b)",
        lambda x, s, b: F.instance_norm(x, None, None, s, b),
        PLANE,
        {"s": normal(4), "b": normal(4)},
    ),
    "GroupNormalization": Case(
        "y = GroupNormalization<num_groups=2>(x, s, b)",
        lambda x, s, b: F.group_norm(x, 2, s, b),
        PLANE,
        {"s": normal(4), "b": normal(4)},
        21,
    ),
    "GroupNormalization-18": Case(
        "y = GroupNormalization<num_groups=2>(x, s, b)",
        lambda x, s, b: F.group_norm(x, 2, s.repeat_interleave(2), b.repeat_interleave(2)),
        PLANE,
        {"s": normal(2), "b": normal(2)},
    ),
    "RMSNormalization": Case(
        "y = RMSNormalization(x, s)",
        lambda x, s: F.rms_norm(x, (8,), s, 1e-5),
        TOKENS,
        {"s": normal(8)},
        23,
    ),
    "LpNormalization": Case("y = LpNormalization(x)", lambda x: F.normalize(x, dim=-1), TOKENS),
    "LpNormalization-1": Case(
        "y = LpNormalization<axis=1, p=1>(x)", lambda x: F.normalize(x, 1, 1), TOKENS
    ),
}

LINEAR = {
    "MatMul": Case("y = MatMul(x, w)", lambda x, w: x @ w, constants={"w": normal(4, 6)}),
    "MatMul-left": Case("y = MatMul(w, x)", lambda x, w: w @ x, constants={"w": normal(6, 3)}),
    "MatMul-batches": Case(
        "y = MatMul(w, x)", lambda x, w: w @ x, (1, 3, 4), {"w": normal(2, 6, 3)}
    ),
    "MatMul-vector": Case("y = MatMul(x, w)", lambda x, w: x @ w, constants={"w": normal(4)}),
    "MatMul-both": Case(
        "t = Transpose<perm=[0, 2, 1]>(x); e = Exp(t); y = MatMul(x, e)", lambda x: x @ x.mT.exp()
    ),
    "MatMul-broadcast": Case(
        "q = Slice(x, s, e, a); t = Transpose<perm=[0, 1, 3, 2]>(x); y = MatMul(q, t)",
        lambda x, s, e, a: x[:, :1] @ x.mT,
        PLANE,
        {"s": ints(0), "e": ints(1), "a": ints(1)},
    ),
    "Gemm": Case(
        "f = Flatten(x); y = Gemm<alpha=0.5, beta=2.0>(f, w, b)",
        lambda x, w, b: 0.5 * x.flatten(1) @ w + 2 * b,
        constants={"w": normal(12, 6), "b": normal(6)},
    ),
    "Gemm-transposed": Case(
        "f = Flatten(x); u = Transpose(f); g = Gemm<transA=1, transB=1>(u, w, b); y = Exp(g)",
        lambda x, w, b: (x.flatten(1) @ w.T + b).exp(),
        (1, 4),
        {"w": normal(6, 4), "b": normal(6)},
    ),
    "Gemm-all": Case(
        "f = Flatten(x); e = Tanh(f); u = Transpose(e); m = Gemm(w, u, n);"
        "v = Transpose(m); y = Gemm<beta=0.5>(v, z, v)",
        lambda x, w, n, z: (lambda m: m @ z + 0.5 * m)((w @ x.flatten(1).tanh().T + n).T),
        (4,),
        {"w": normal(6, 4), "n": normal(6, 1), "z": normal(6, 6)},
    ),
    "Einsum": Case(
        'y = Einsum<equation="bij,kj->bik">(x, w)',
        lambda x, w: torch.einsum("bij,kj->bik", x, w),
        constants={"w": normal(5, 4)},
    ),
    "Einsum-both": Case(
        'e = Exp(x); y = Einsum<equation="bij,bkj->bik">(x, e)',
        lambda x: torch.einsum("bij,bkj->bik", x, x.exp()),
    ),
}

CONVOLVING = {
    "Conv-1x1": Case(
        "y = Conv(x, w, b)",
        lambda x, w, b: F.conv2d(x, w, b),
        PLANE,
        {"w": normal(3, 4, 1, 1), "b": normal(3)},
    ),
    "Conv": Case(
        "y = Conv<pads=[1, 0, 1, 0]>(x, w)",
        lambda x, w: F.conv2d(x, w, padding=(1, 0)),
        PLANE,
        {"w": normal(3, 4, 3, 2)},
    ),
    "Conv-strides": Case(
        "y = Conv<pads=[1, 1, 1, 1], strides=[2, 3]>(x, w)",
        lambda x, w: F.conv2d(x, w, stride=(2, 3), padding=1),
        (4, 8, 9),
        {"w": normal(3, 4, 3, 3)},
    ),
    "Conv-group": Case(
        "y = Conv<pads=[1, 1, 1, 1], group=4>(x, w)",
        lambda x, w: F.conv2d(x, w, padding=1, groups=4),
        PLANE,
        {"w": normal(8, 1, 3, 3)},
    ),
    "Conv-dilated": Case(
        "y = Conv<dilations=[2, 2]>(x, w)",
        lambda x, w: F.conv2d(x, w, dilation=2),
        PLANE,
        {"w": normal(3, 4, 2, 2)},
    ),
    "Conv-same": Case(
        'y = Conv<auto_pad="SAME_UPPER">(x, w)',
        lambda x, w: F.conv2d(F.pad(x, (0, 1, 0, 1)), w),
        PLANE,
        {"w": normal(3, 4, 2, 2)},
    ),
    "Conv-1d": Case("y = Conv(x, w)", lambda x, w: F.conv1d(x, w), TOKENS, {"w": normal(3, 7, 3)}),
    "AveragePool": Case(
        "y = AveragePool<kernel_shape=[2, 3], strides=[2, 2]>(x)",
        lambda x: F.avg_pool2d(x, (2, 3), 2),
        PLANE,
    ),
    "AveragePool-with-pad": Case(
        "y = AveragePool<kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1>(x)",
        lambda x: F.avg_pool2d(x, 3, 1, 1),
        PLANE,
    ),
    "AveragePool-without-pad": Case(
        "y = AveragePool<kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]>(x)",
        lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
        PLANE,
    ),
    "AveragePool-whole": Case(
        "y = AveragePool<kernel_shape=[5, 6]>(x)", lambda x: x.mean((2, 3)), PLANE
    ),
}

CASES = {**UNARY, **BINARY, **MOVING, **REDUCING, **NORMS, **LINEAR, **CONVOLVING}


@pytest.mark.parametrize("name", CASES)
def test_the_gradient_is_autograds(name: str):
    check(CASES[name])


def test_the_slope_of_swish():
    """Opset 24, which few runtimes know: the nodes that the rule writes are run alone."""
    tape = Tape("grad", {}, {}, 24, frozen_norms=True)
    node = onnx.parser.parse_node("y = Swish<alpha=1.5>(x)")
    call = Call(node, ("x",), ("y",), (0,), {"alpha": 1.5})
    found = RULES["Swish"](tape, call, "g")[0]
    inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [None, None]) for n in "xg"]
    outputs = [helper.make_empty_tensor_value_info(found)]
    model = model_of(tape.nodes, [*tape.constants.values()], outputs, inputs, 18)
    x, g = normal(3, 4), normal(3, 4)
    given = torch.from_numpy(x).double().requires_grad_()
    y = given * torch.sigmoid(1.5 * given)
    (true,) = torch.autograd.grad(y, given, torch.from_numpy(g).double())
    np.testing.assert_allclose(run(model, {"x": x, "g": g})[0], true, rtol=1e-4, atol=1e-5)


def _centred(x, axes, epsilon):
    apart = x - x.mean(axes, keepdim=True)
    return apart / (apart * apart).mean(axes, keepdim=True).add(epsilon).sqrt().detach()


FROZEN = {
    "LayerNormalization": lambda x, s, b: _centred(x, (2,), 0.01) * s + b,
    "LayerNormalization-two": lambda x, s: _centred(x, (1, 2), 1e-5) * s,
    "InstanceNormalization": lambda x, s, b: (
        _centred(x, (2, 3), 1e-5) * s[:, None, None] + b[:, None, None]
    ),
    "GroupNormalization": lambda x, s, b: (
        _centred(x.reshape(-1, 2, 60), (2,), 1e-5).reshape(x.shape) * s[:, None, None]
        + b[:, None, None]
    ),
    "RMSNormalization": lambda x, s: (
        x / (x * x).mean(2, keepdim=True).add(1e-5).sqrt().detach() * s
    ),
    "LpNormalization": lambda x: x / x.norm(dim=-1, keepdim=True).detach(),
    "LpNormalization-1": lambda x: x / x.abs().sum(1, keepdim=True).detach(),
}


@pytest.mark.parametrize("name", FROZEN)
def test_a_frozen_norm_is_affine(name: str):
    check(replace(NORMS[name], torch=FROZEN[name]), frozen=True)


PIECES = "m = ReduceMean(x, a); d = Sub(x, m); "


@pytest.mark.parametrize(
    "text",
    [
        "q = Mul(d, d); v = ReduceMean(q, a); w = Add(v, e); r = Sqrt(w); y = Div(d, r)",
        "q = Mul(d, d); v = ReduceMean(q, a); w = Add(v, e); r = Pow(w, h); y = Mul(d, r)",
        "q = Pow(d, t); v = ReduceMean(q, a); w = Add(v, e); r = Sqrt(w); i = Reciprocal(r);"
        "y = Mul(d, i)",
    ],
)
def test_a_norm_in_pieces_is_frozen_too(text: str):
    constants = {
        "a": ints(2),
        "e": np.array(0.01, np.float32),
        "h": np.array(-0.5, np.float32),
        "t": np.array(2, np.float32),
    }
    check(
        Case(PIECES + text, lambda x, **_: _centred(x, (2,), 0.01), TOKENS, constants), frozen=True
    )


def test_l2_normalized_in_pieces_is_frozen_too():
    case = Case(
        "l = ReduceL2(x, a); m = Max(l, e); s = Shape(x); b = Expand(m, s); y = Div(x, b)",
        lambda x, **_: x / x.norm(dim=2, keepdim=True).detach(),
        TOKENS,
        {"a": ints(2), "e": np.array(1e-12, np.float32)},
    )
    check(case, frozen=True)


REFUSED = {
    "Sin": Case("y = Sin(x)", torch.sin),
    "MaxPool": Case("y = MaxPool<kernel_shape=[2, 2]>(x)", lambda x: F.max_pool2d(x, 2, 1), PLANE),
    "Resize": Case(
        'y = Resize<mode="linear">(x, , k)',
        lambda x, k: x.repeat(1, 1, 2, 2),
        PLANE,
        {"k": np.array([1, 1, 2, 2], np.float32)},
    ),
    "Slice": Case(
        "y = Slice(x, s, e, a, t)",
        lambda x, **_: x,
        constants={"s": ints(-1), "e": ints(-99), "a": ints(1), "t": ints(-1)},
    ),
    "Pad": Case(
        'y = Pad<mode="reflect">(x, p)',
        lambda x, p: F.pad(x, (1, 1), "reflect"),
        constants={"p": ints(0, 0, 1, 0, 0, 1)},
    ),
    "AveragePool": Case(
        "y = AveragePool<kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1>(x)",
        lambda x: F.avg_pool2d(x, 2, 2, ceil_mode=True),
        PLANE,
    ),
    "Einsum": Case('y = Einsum<equation="bij->bi">(x)', lambda x: x.sum(2)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_rule_is_refused_with_its_name_and_a_way_out(name: str):
    case = REFUSED[name]
    with pytest.raises(ModelError, match=f'{name} .*engine="torch".*layer='):
        differentiated(case, normal(CLASSES, width(case)), frozen=True)
