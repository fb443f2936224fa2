"""What the operators of PyTorch's programs (ATen) are called in a `Trace`.

One table of names, and a rule for each operator that needs a look at its arguments.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import fx

from gapcam.models.trace import Op

Shape: TypeAlias = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Meaning:
    """What one node does.

    Attributes:
        op: As in `Step`.
        axes: As in `Step`.
        kept: As in `Step`.
    """

    op: Op
    axes: tuple[int, ...] = ()
    kept: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True)
class Site:
    """A node and what is known around it.

    Attributes:
        node: The node.
        inputs: The nodes among its arguments that depend on the picture.
        shapes: Of those.
        output: The shape of what it gives: of its first tensor if there are several.
        shape_of: The shape of any other node, `()` for one that gives no tensor.
    """

    node: fx.Node
    inputs: tuple[fx.Node, ...]
    shapes: tuple[Shape, ...]
    output: Shape
    shape_of: Callable[[fx.Node], Shape]

    def argument(self, place: int, name: str, default: Any = None) -> Any:
        """An argument of the node, by place or by name."""
        if len(self.node.args) > place:
            return self.node.args[place]
        return self.node.kwargs.get(name, default)


ACTIVATIONS = frozenset(
    {
        "_prelu_kernel",
        "abs",
        "celu",
        "clamp",
        "clamp_max",
        "clamp_min",
        "clip",
        "cos",
        "elu",
        "erf",
        "exp",
        "gelu",
        "hardshrink",
        "hardsigmoid",
        "hardswish",
        "hardtanh",
        "leaky_relu",
        "log",
        "log1p",
        "log_sigmoid",
        "logit",
        "maximum",
        "minimum",
        "mish",
        "pow",
        "prelu",
        "reciprocal",
        "relu",
        "relu6",
        "rsqrt",
        "selu",
        "sigmoid",
        "silu",
        "sin",
        "softplus",
        "softshrink",
        "sqrt",
        "square",
        "tanh",
        "tanhshrink",
        "threshold",
        "where",
    }
)
IDENTITIES = frozenset(
    {
        "_to_copy",
        "alias",
        "alpha_dropout",
        "clone",
        "contiguous",
        "detach",
        "dropout",
        "feature_dropout",
        "lift_fresh_copy",
        "native_dropout",
        "to",
        "type_as",
    }
)
RESHAPES = frozenset(
    {
        "_unsafe_view",
        "flatten",
        "reshape",
        "reshape_as",
        "squeeze",
        "unflatten",
        "unsqueeze",
        "view",
        "view_as",
    }
)
NORMS = frozenset(
    {
        "_fused_rms_norm",
        "group_norm",
        "instance_norm",
        "layer_norm",
        "native_group_norm",
        "native_layer_norm",
        "rms_norm",
    }
)
BATCH_NORMS = frozenset({"_native_batch_norm_legit_no_training", "batch_norm", "cudnn_batch_norm"})
ATTENTIONS = frozenset(
    {
        "_native_multi_head_attention",
        "_scaled_dot_product_efficient_attention",
        "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_flash_attention_for_cpu",
        "scaled_dot_product_attention",
    }
)
SUMS: dict[str, Op] = {
    "add": "add",
    "sub": "add",
    "rsub": "add",
    "neg": "add",
    "mul": "multiply",
    "div": "multiply",
}


_WITH_ITSELF: dict[str, Op] = {"mul": "activation", "add": "scale"}


def short_name(node: fx.Node) -> str:
    """The operator's name without name space and overload: `conv2d`."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return str(getattr(node.target, "__name__", node.target))
    name: str = schema.name.split("::")[-1]
    return name


def meaning(site: Site) -> Meaning:
    """What a node does, in the words of `Trace`."""
    name = short_name(site.node)
    rule = _RULES.get(name)
    if rule is not None:
        return rule(site)
    for names, op in _NAMES:
        if name in names:
            return Meaning(op)
    return Meaning("resize" if name.startswith("upsample_") else "other")


def axis_of(axis: int, rank: int) -> int:
    """The axis, counted from the front."""
    return axis % max(rank, 1)


def _activation(site: Site) -> Meaning:
    if len(site.inputs) == 1 and site.output == site.shapes[0]:
        return Meaning("activation")
    return Meaning("other")


def _identity_or_expand(site: Site) -> Meaning:
    return Meaning("identity" if site.output == site.shapes[0] else "other")


def _convolution(site: Site) -> Meaning:
    weight = site.node.args[1]
    if not isinstance(weight, fx.Node) or site.inputs != (site.node.args[0],):
        return Meaning("other")
    kernel = site.shape_of(weight)[2:]
    stride, padding = site.argument(3, "stride", 1), site.argument(4, "padding", 0)
    transposed = short_name(site.node) == "convolution" and site.argument(6, "transposed", False)
    plain = set(kernel) == {1} and _each(stride) == {1} and _each(padding) <= {0, "valid", "same"}
    return Meaning("pointwise_conv" if plain and not transposed else "conv")


def _each(value: Any) -> set[Any]:
    return set(value) if isinstance(value, list | tuple) else {value}


def _sum(site: Site) -> Meaning:
    name = short_name(site.node)
    if len(site.inputs) > 1:
        return Meaning(SUMS[name])
    if list(site.node.args[:2]) == [site.inputs[0]] * 2:  # with itself
        return Meaning(_WITH_ITSELF.get(name, "other"))
    if name == "div" and site.node.args[0] is not site.inputs[0]:
        return Meaning("activation")  # a constant over the tensor
    rounded = name == "div" and site.node.kwargs.get("rounding_mode") is not None
    same = math.prod(site.output) == math.prod(site.shapes[0])
    return Meaning("scale" if same and not rounded else "other")


def _product(site: Site) -> Meaning:
    if len(site.inputs) > 1:
        return Meaning("matmul")
    matrices = [a for a in site.node.args if isinstance(a, fx.Node)]
    weights = site.shape_of(matrices[-1])
    first = matrices[-2] is site.inputs[0]
    return Meaning("linear" if first and math.prod(weights[:-2]) == 1 else "other")


def _reduction(op: Op) -> Callable[[Site], Meaning]:
    def rule(site: Site) -> Meaning:
        rank = len(site.shapes[0])
        axes = site.argument(1, "dim")
        if axes is None or axes == []:
            axes = range(rank)
        listed = [axes] if isinstance(axes, int) else axes
        return Meaning(op, tuple(sorted(axis_of(axis, rank) for axis in listed)))

    return rule


def _pool(whole: Op, windowed: Op, positions: int) -> Callable[[Site], Meaning]:
    """Pooling over the last axes; over the whole plane if one position is left of it."""

    def rule(site: Site) -> Meaning:
        rank = len(site.shapes[0])
        axes = tuple(range(rank - positions, rank))
        plane, left = site.shapes[0][-positions:], site.output[-positions:]
        adaptive = short_name(site.node).startswith("adaptive")
        if adaptive and plane == left:
            return Meaning("identity")
        if set(left) == {1} and (adaptive or _covers(site, plane)):
            return Meaning(whole, axes)
        return Meaning(windowed)

    return rule


def _covers(site: Site, plane: Sequence[int]) -> bool:
    kernel = site.argument(1, "kernel_size")
    sides = list(kernel) if isinstance(kernel, list | tuple) else [kernel]
    sides = sides * len(plane) if len(sides) == 1 else sides
    padding = _each(site.argument(3, "padding", 0))
    return padding <= {0} and all(s == p for s, p in zip(sides, plane, strict=True))


def _transpose(site: Site) -> Meaning:
    rank = len(site.shapes[0])
    order = list(range(rank))
    name = short_name(site.node)
    if name == "permute":
        order = [axis_of(axis, rank) for axis in site.argument(1, "dims")]
    elif name in {"t", "numpy_T"}:
        order.reverse()
    else:
        one, two = (axis_of(site.argument(i, f"dim{i - 1}"), rank) for i in (1, 2))
        order[one], order[two] = order[two], order[one]
    return Meaning("transpose", tuple(order))


def _slice(site: Site) -> Meaning:
    shape = site.shapes[0]
    axis = axis_of(site.argument(1, "dim", 0), len(shape))
    if site.argument(4, "step", 1) != 1:
        return Meaning("other")
    if site.output == shape:
        return Meaning("identity")
    start = site.argument(2, "start", 0)
    if isinstance(start, fx.Node):  # counted at run time: from the end, or not known
        return Meaning("other")
    first = max(0, (start or 0) + (shape[axis] if (start or 0) < 0 else 0))
    return Meaning("select", (axis,), (first, first + site.output[axis]))


def _select(site: Site) -> Meaning:
    shape = site.shapes[0]
    axis, index = axis_of(site.argument(1, "dim"), len(shape)), site.argument(2, "index")
    if isinstance(index, fx.Node):
        return Meaning("other")
    return Meaning("select", (axis,), (index % shape[axis], index % shape[axis] + 1))


def _narrow(site: Site) -> Meaning:
    axis, start, length = (
        site.argument(i, n) for i, n in ((1, "dim"), (2, "start"), (3, "length"))
    )
    if isinstance(start, fx.Node) or isinstance(length, fx.Node):
        return Meaning("other")
    return Meaning("select", (axis_of(axis, len(site.shapes[0])),), (start, start + length))


def _concat(site: Site) -> Meaning:
    return Meaning("concat", (axis_of(site.argument(1, "dim", 0), len(site.output)),))


def _softmax(site: Site) -> Meaning:
    return Meaning("softmax", (axis_of(site.argument(1, "dim"), len(site.output)),))


def _batch_norm(site: Site) -> Meaning:
    training = short_name(site.node) != "_native_batch_norm_legit_no_training"
    return Meaning("other" if training and site.argument(5, "training", False) else "batch_norm")


def _reshape(site: Site) -> Meaning:
    return Meaning("reshape" if site.output != site.shapes[0] else "identity")


_NAMES: tuple[tuple[frozenset[str], Op], ...] = (
    (NORMS, "norm"),
    (ATTENTIONS, "attention"),
)

_RULES: dict[str, Callable[[Site], Meaning]] = {
    **dict.fromkeys(ACTIVATIONS, _activation),
    **dict.fromkeys(IDENTITIES | {"expand", "expand_as"}, _identity_or_expand),
    **dict.fromkeys(RESHAPES, _reshape),
    **dict.fromkeys(BATCH_NORMS, _batch_norm),
    **dict.fromkeys(SUMS, _sum),
    **dict.fromkeys(("conv1d", "conv2d", "conv3d", "convolution"), _convolution),
    **dict.fromkeys(("matmul", "bmm", "mm", "addmm", "baddbmm"), _product),
    "linear": lambda _: Meaning("linear"),
    "mean": _reduction("mean"),
    "sum": _reduction("sum"),
    "amax": _reduction("max"),
    "max": _reduction("max"),
    "adaptive_avg_pool1d": _pool("mean", "average_pool", 1),
    "adaptive_avg_pool2d": _pool("mean", "average_pool", 2),
    "_adaptive_avg_pool2d": _pool("mean", "average_pool", 2),
    "adaptive_max_pool1d": _pool("max", "max_pool", 1),
    "adaptive_max_pool2d": _pool("max", "max_pool", 2),
    "avg_pool1d": _pool("mean", "average_pool", 1),
    "avg_pool2d": _pool("mean", "average_pool", 2),
    "max_pool1d": _pool("max", "max_pool", 1),
    "max_pool2d": _pool("max", "max_pool", 2),
    "max_pool2d_with_indices": _pool("max", "max_pool", 2),
    **dict.fromkeys(("transpose", "permute", "t", "numpy_T", "swapaxes"), _transpose),
    "slice": _slice,
    "select": _select,
    "narrow": _narrow,
    **dict.fromkeys(("cat", "concat", "concatenate"), _concat),
    **dict.fromkeys(("softmax", "_softmax"), _softmax),
}
