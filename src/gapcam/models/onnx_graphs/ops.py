"""What each ONNX operator does, in the words of `gapcam.models.trace`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper

from gapcam.models.onnx_graphs.probe import Probe, Shape
from gapcam.models.trace import Op


@dataclass(frozen=True, slots=True)
class Meaning:
    """What an operator does: `op`, `axes` and `kept` of a step."""

    op: Op
    axes: tuple[int, ...] = ()
    kept: tuple[int, int] = (0, 0)


OTHER = Meaning("other")
ACTIVATION = Meaning("activation")


@dataclass(frozen=True, slots=True, eq=False)
class Site:
    """A node where it stands.

    Attributes:
        node: The node.
        moving: Which of its inputs depend on the picture's values.
        probe: What the run told.
    """

    node: onnx.NodeProto
    moving: tuple[int, ...]
    probe: Probe

    @property
    def first(self) -> Shape:
        """The shape of the first input that depends on the picture."""
        return self.probe.shapes.get(self.node.input[self.moving[0]], ())

    @property
    def output(self) -> Shape:
        """The shape of the first output."""
        return self.probe.shapes.get(self.node.output[0], ())

    def attribute(self, name: str, default: Any = None) -> Any:
        """The value of an attribute."""
        found = [a for a in self.node.attribute if a.name == name]
        return helper.get_attribute_value(found[0]) if found else default

    def numbers(self, index: int) -> np.ndarray | None:
        """The value of a constant input; None where it has none."""
        if index >= len(self.node.input) or index in self.moving:
            return None
        return self.probe.numbers.get(self.node.input[index])

    def axis(self, default: int) -> int:
        """The attribute `axis`, not negative."""
        return int(self.attribute("axis", default)) % len(self.first)


def meaning_of(site: Site) -> Meaning:
    """What a node does. Operators that are not known are `other`."""
    if len(site.moving) == 0 or not site.first:
        return OTHER
    kind = site.node.op_type
    if kind in _RULES:
        return _RULES[kind](site)
    if kind in ACTIVATIONS:
        return ACTIVATION if len(site.moving) == 1 and site.output == site.first else OTHER
    return Meaning(SIMPLE.get(kind, "other"))


ACTIVATIONS = frozenset(
    {
        *("Abs", "Ceil", "Celu", "Clip", "Cos", "Elu", "Erf", "Exp", "FastGelu", "Floor", "Gelu"),
        *("HardSigmoid", "HardSwish", "LeakyRelu", "Log", "Max", "Min", "Mish", "PRelu", "Pow"),
        *("QuickGelu", "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin"),
        *("Softplus", "Softsign", "Sqrt", "Swish", "Tanh", "ThresholdedRelu"),
    }
)
SIMPLE: Mapping[str, Op] = {
    "Attention": "attention",
    "BatchNormalization": "batch_norm",
    "Dropout": "identity",
    "Einsum": "other",
    "Flatten": "reshape",
    "Identity": "identity",
    "MultiHeadAttention": "attention",
    "Neg": "scale",
    "Reshape": "reshape",
    "Resize": "resize",
    "Squeeze": "reshape",
    "Unsqueeze": "reshape",
    "Upsample": "resize",
}


def _conv(site: Site) -> Meaning:
    if site.moving != (0,):
        return OTHER
    kernel = site.probe.shapes.get(site.node.input[1], ())[2:]
    one = all(side == 1 for side in (*kernel, *site.attribute("strides", ())))
    plain = site.attribute("group", 1) == 1 and not any(site.attribute("pads", ()))
    return Meaning("pointwise_conv" if one and plain else "conv")


def _matrix(site: Site) -> Meaning:
    """Gemm and MatMul."""
    if len(site.moving) == 2 and site.node.op_type == "MatMul":
        return Meaning("matmul")
    constant = site.probe.shapes.get(site.node.input[1], ())
    plain = site.moving == (0,) and len(constant) == 2 and not site.attribute("transA", 0)
    return Meaning("linear") if plain else OTHER


def _sum(site: Site) -> Meaning:
    """Add, Sub and Sum."""
    if len(site.moving) > 1:
        return Meaning("add")
    return Meaning("scale") if site.output == site.first else OTHER


def _product(site: Site) -> Meaning:
    """Mul and Div."""
    if len(site.moving) > 1:
        return Meaning("multiply")
    if site.output != site.first:
        return OTHER
    inverse = site.node.op_type == "Div" and site.moving == (1,)
    return ACTIVATION if inverse else Meaning("scale")


def _cast(site: Site) -> Meaning:
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)
    same = site.node.op_type == "CastLike" or site.attribute("to") in floats
    return Meaning("identity") if same else OTHER


def _same(site: Site) -> Meaning:
    """Expand, Pad and Tile, which often do nothing."""
    return Meaning("identity") if site.output == site.first else OTHER


def _reduction(op: Op) -> Callable[[Site], Meaning]:
    def rule(site: Site) -> Meaning:
        rank = len(site.first)
        given = site.numbers(1)
        axes = site.attribute("axes") if given is None else given.ravel().tolist()
        if not axes and site.attribute("noop_with_empty_axes", 0):
            return Meaning("identity")
        return Meaning(op, tuple(sorted(int(a) % rank for a in axes or range(rank))))

    return rule


def _global_pool(op: Op) -> Callable[[Site], Meaning]:
    return lambda site: Meaning(op, tuple(range(2, len(site.first))))


def _pool(whole: Op, windowed: Op) -> Callable[[Site], Meaning]:
    def rule(site: Site) -> Meaning:
        plane = site.first[2:]
        covers = tuple(site.attribute("kernel_shape", ())) == plane
        if covers and not any(site.attribute("pads", ())):
            return Meaning(whole, tuple(range(2, len(site.first))))
        return Meaning(windowed)

    return rule


def _transpose(site: Site) -> Meaning:
    rank = len(site.first)
    return Meaning("transpose", tuple(site.attribute("perm", range(rank - 1, -1, -1))))


def _slice(site: Site) -> Meaning:
    starts, ends, steps = site.numbers(1), site.numbers(2), site.numbers(4)
    axes = site.numbers(3)
    if starts is None and site.attribute("starts") is not None:  # before opset 10
        starts, ends = (np.array(site.attribute(name)) for name in ("starts", "ends"))
        axes = site.attribute("axes")
    if site.output == site.first and (steps is None or (steps > 0).all()):
        return Meaning("identity")
    if starts is None or ends is None or (steps is not None and (steps != 1).any()):
        return OTHER
    axes = np.arange(starts.size) if axes is None else np.array(axes) % len(site.first)
    cut = [i for i, a in enumerate(axes) if site.output[a] != site.first[a]]
    if len(cut) != 1:
        return OTHER
    axis, side = int(axes[cut[0]]), site.first[int(axes[cut[0]])]
    start = int(starts[cut[0]])
    start = min(max(start + side if start < 0 else start, 0), side)
    return Meaning("select", (axis,), (start, start + site.output[axis]))


def _gather(site: Site) -> Meaning:
    index, axis = site.numbers(1), site.axis(0)
    if site.moving != (0,) or index is None:
        return OTHER
    side, flat = site.first[axis], index.ravel()
    flat = np.where(flat < 0, flat + side, flat)
    if not flat.size or (np.diff(flat) != 1).any():
        return OTHER
    if flat.size == side:  # all of them, in order: PyTorch's as_strided
        return Meaning("reshape")
    if index.ndim > 1:
        return OTHER
    return Meaning("select", (axis,), (int(flat[0]), int(flat[-1]) + 1))


def _concat(site: Site) -> Meaning:
    axis = int(site.attribute("axis")) % len(site.output)
    sides = [site.probe.shapes[name][axis] for name in site.node.input]
    before = sum(sides[: site.moving[0]])
    return Meaning("concat", (axis,), (before, before + sides[site.moving[0]]))


def _softmax(site: Site) -> Meaning:
    return Meaning("softmax", (site.axis(-1),))


def _layer_norm(site: Site) -> Meaning:
    return Meaning("norm", tuple(range(site.axis(-1), len(site.first))))


def _group_norm(site: Site) -> Meaning:
    return Meaning("norm", tuple(range(1, len(site.first))))


def _instance_norm(site: Site) -> Meaning:
    return Meaning("norm", tuple(range(2, len(site.first))))


def _axis_norm(default: int) -> Callable[[Site], Meaning]:
    return lambda site: Meaning("norm", (site.axis(default),))


_RULES: Mapping[str, Callable[[Site], Meaning]] = {
    "Add": _sum,
    "AveragePool": _pool("mean", "average_pool"),
    "Cast": _cast,
    "CastLike": _cast,
    "Concat": _concat,
    "Conv": _conv,
    "Div": _product,
    "Expand": _same,
    "FusedConv": _conv,
    "FusedMatMul": _matrix,
    "Gather": _gather,
    "Gemm": _matrix,
    "GlobalAveragePool": _global_pool("mean"),
    "GlobalMaxPool": _global_pool("max"),
    "GroupNormalization": _group_norm,
    "InstanceNormalization": _instance_norm,
    "LRN": lambda _: Meaning("norm", (1,)),
    "LayerNormalization": _layer_norm,
    "LogSoftmax": _softmax,
    "LpNormalization": _axis_norm(-1),
    "MatMul": _matrix,
    "MaxPool": _pool("max", "max_pool"),
    "Mul": _product,
    "Pad": _same,
    "RMSNormalization": _layer_norm,
    "ReduceL1": _reduction("other"),
    "ReduceL2": _reduction("other"),
    "ReduceMax": _reduction("max"),
    "ReduceMean": _reduction("mean"),
    "ReduceSum": _reduction("sum"),
    "ReduceSumSquare": _reduction("other"),
    "SimplifiedLayerNormalization": _layer_norm,
    "Slice": _slice,
    "Softmax": _softmax,
    "Sub": _sum,
    "Sum": _sum,
    "Tile": _same,
    "Transpose": _transpose,
}
