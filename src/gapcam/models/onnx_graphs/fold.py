"""Steps that several ONNX nodes spell out, found and named by the last of them.

A tensor joined with an elementwise function of itself is an activation: x sigmoid(x), the tanh form
of GELU. A tensor, centred or not, times or over something made of its own means, squares and roots
is a norm, and so is one between two reshapes that undo each other. A product with a matrix and the
bias after it are one linear step.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from gapcam.models.trace import Step

ELEMENTWISE = frozenset({"activation", "scale", "identity"})
REDUCTIONS = frozenset(
    {"ReduceL1", "ReduceL2", "ReduceMean", "ReduceSum", "ReduceSumSquare", "GlobalAveragePool"}
)
STATISTICS = REDUCTIONS | {
    *("Abs", "Add", "Cast", "Clip", "Div", "Expand", "Identity", "Max", "Mul", "Neg", "Pow"),
    *("Reciprocal", "Reshape", "Sqrt", "Sub", "Squeeze", "Unsqueeze"),
}

Makers = Mapping[str, Step]


def fold(steps: Iterable[Step], shapes: Mapping[str, tuple[int, ...]]) -> list[Step]:
    """The same steps; where several make one, its last one reads the tensor before the first.

    What that leaves unread is still there.

    Args:
        steps: One a node; `words` begin with the operator.
        shapes: Of their tensors.
    """
    makers: dict[str, Step] = {}
    folded = []
    for step in steps:
        kept = _folded(step, makers, shapes)
        makers.update(dict.fromkeys(kept.outputs, kept))
        folded.append(kept)
    return folded


def _folded(step: Step, makers: Makers, shapes: Mapping[str, tuple[int, ...]]) -> Step:
    if step.op == "scale" and _operator(step) == "Add":
        return _with_bias(step, makers)
    if step.op == "reshape":
        return _group_norm(step, makers, shapes)
    if step.op not in ("add", "multiply"):
        return step
    inputs = tuple(dict.fromkeys(step.inputs))
    if len(inputs) == 1:
        return replace(step, op="activation", inputs=inputs)
    if len(inputs) != 2:
        return step
    left, right = inputs
    root = _common_root(left, right, makers)
    if root is not None:
        return replace(step, op="activation", inputs=(root,))
    if step.op == "multiply":
        for values, statistic in ((left, right), (right, left)):
            found = _norm_root(values, statistic, makers)
            if found is not None and shapes.get(found[0]) == shapes.get(step.outputs[0]):
                return replace(step, op="norm", inputs=found[:1], axes=found[1])
    return step


def _operator(step: Step) -> str:
    return step.words.split(" ", 1)[0]


def _with_bias(step: Step, makers: Makers) -> Step:
    """MatMul and Add as one linear step, where the exporter says so by one module's name."""
    before = makers.get(step.inputs[0])
    if before is None or before.op != "linear" or _operator(before) != "MatMul":
        return step
    if step.axes != (-1,):  # the front end's mark for a constant along the last axis alone
        return step
    return replace(step, op="linear", inputs=before.inputs, axes=())


def _group_norm(step: Step, makers: Makers, shapes: Mapping[str, tuple[int, ...]]) -> Step:
    """A norm of groups of channels, which PyTorch writes as one of `[B, groups, rest]`."""
    norm = makers.get(step.inputs[0])
    while norm is not None and norm.op == "scale":
        norm = makers.get(norm.inputs[0])
    if norm is None or norm.op != "norm":
        return step
    grouped = makers.get(norm.inputs[0])
    if grouped is None or grouped.op != "reshape":
        return step
    shape = shapes.get(step.outputs[0], ())
    if shapes.get(grouped.inputs[0]) != shape:
        return step
    return replace(step, op="norm", inputs=grouped.inputs, axes=tuple(range(1, len(shape))))


def _common_root(left: str, right: str, makers: Makers) -> str | None:
    """The nearest tensor that both are elementwise functions of."""
    ancestors = _chain(left, makers)
    return next((name for name in _chain(right, makers) if name in ancestors), None)


def _chain(name: str, makers: Makers) -> list[str]:
    chain = [name]
    while name in makers and makers[name].op in ELEMENTWISE and len(makers[name].inputs) == 1:
        (name,) = makers[name].inputs
        chain.append(name)
    return chain


def _norm_root(values: str, statistic: str, makers: Makers) -> tuple[str, tuple[int, ...]] | None:
    """The tensor that `values` is, centred or not, and that `statistic` is made of; the axes."""
    for root in _centred_roots(values, makers):
        axes = _reduced_axes(statistic, root, makers)
        if axes:
            return root, axes
    return None


def _centred_roots(values: str, makers: Makers) -> list[str]:
    """Tensors that `values` may be the centred form of, then those it is a multiple of."""
    chain = _chain(values, makers)
    roots = []
    for name in chain:
        maker = makers.get(name)
        if maker is not None and _operator(maker) == "Sub" and len(maker.inputs) == 2:
            root, mean = maker.inputs
            if _reduced_axes(mean, root, makers):
                roots.append(root)
    return [*roots, *chain]


def _reduced_axes(statistic: str, root: str, makers: Makers) -> tuple[int, ...]:
    """The axes that a statistic of `root` is taken over; empty where it is none of it alone."""
    seen: set[str] = {root}
    axes: set[int] = set()
    waiting = [statistic]
    while waiting:
        here = waiting.pop()
        maker = makers.get(here)
        if here in seen:
            continue
        seen.add(here)
        if maker is None or _operator(maker) not in STATISTICS:
            return ()
        if _operator(maker) in REDUCTIONS:
            axes.update(maker.axes)
        waiting.extend(maker.inputs)
    return tuple(sorted(axes))
