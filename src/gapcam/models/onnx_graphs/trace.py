"""An ONNX classifier as a `Trace`. Imports onnx and ONNX Runtime."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping

import onnx

from gapcam.models.onnx_graphs.fold import fold
from gapcam.models.onnx_graphs.ops import Meaning, Site, meaning_of
from gapcam.models.onnx_graphs.probe import SEQUENCES, Probe, probe
from gapcam.models.trace import Step, Trace
from gapcam.types import ModelError, SizeHW

SHAPE_ONLY = frozenset({"Shape", "Size"})
"""Operators that read a tensor's sides and none of its values."""
PROBABILITIES = frozenset({"LogSoftmax", "Sigmoid", "Softmax"})
LOGITS_NAMES = ("logits", "output", "scores")
"""What the wanted output is called where a file has several; the first that is there."""
_WRAPPED = re.compile(r"network(\.|$)")
SCOPES = "pkg.torch.onnx.name_scopes"
"""Where PyTorch's exporter says which module a node comes from."""


def trace_onnx(model: onnx.ModelProto, size_hw: SizeHW) -> Trace:
    """The steps of an ONNX classifier.

    The graph runs once, on noise, with two pictures or as many as its input fixes.

    Args:
        model: One float input, `[B, 3, H, W]` or `[B, H, W, 3]`; functions inlined. It is not
            changed.
        size_hw: The picture's sides, pixels.

    Returns:
        Its steps; `shapes` also hold the weights' and those of tensors that the logits do not need.

    Raises:
        ModelError: It takes no picture of that size, does not run, or gives no logits `[B, C]`.
    """
    if model.functions:
        raise ModelError("the ONNX file has functions of its own: inline them first")
    told = probe(model, size_hw)
    logits = _logits(model, told)
    steps = _needed(fold(_steps(model, told), told.shapes), logits)
    if not steps:
        raise ModelError(f"the network's logits {logits!r} do not depend on the picture")
    return Trace(steps, told.shapes, told.picture, logits)


def strip_probabilities(model: onnx.ModelProto) -> tuple[str, bool]:
    """The tensor with the logits: the output, or what a final softmax or sigmoid reads.

    Returns:
        Its name, and whether a softmax or sigmoid is left out.

    Raises:
        ModelError: Several outputs may hold the logits, or none can.
    """
    fitting = [o.name for o in model.graph.output if _may_be_logits(o)]
    bare = {name: _before_probabilities(name, model) for name in fitting}
    if len(set(bare.values())) == 1:  # logits, and their probabilities beside them
        (name,) = set(bare.values())
        return name, name not in fitting
    name = _chosen(fitting, model)
    return bare[name], bare[name] != name


def _before_probabilities(name: str, model: onnx.ModelProto) -> str:
    """What a softmax or sigmoid that makes this output reads; the output itself where none does."""
    makers = {out: node for node in model.graph.node for out in node.output}
    weights = {c.name for c in model.graph.initializer}
    here = name
    while here in makers and makers[here].op_type in ("Identity", "Cast"):
        here = makers[here].input[0]
    maker = makers.get(here)
    if maker is None or maker.op_type not in PROBABILITIES or maker.input[0] in weights:
        return name
    read: str = maker.input[0]
    return read


def _may_be_logits(output: onnx.ValueInfoProto) -> bool:
    kind = output.type.tensor_type
    floats = (0, onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)
    return kind.elem_type in floats and (not kind.HasField("shape") or len(kind.shape.dim) == 2)


def _logits(model: onnx.ModelProto, told: Probe) -> str:
    outputs = [o.name for o in model.graph.output]
    batch = told.shapes[told.picture][0]
    fitting = [
        output.name
        for output in model.graph.output
        if _may_be_logits(output)
        and len(told.shapes.get(output.name, ())) == 2
        and told.shapes[output.name][0] == batch
    ]
    if not fitting and len(outputs) == 1:
        shape = list(told.shapes.get(outputs[0], ()))
        raise ModelError(
            f"output {outputs[0]!r}: expected logits [B, C], got {shape} for {batch} pictures. "
            "A network that gives something else than one score a class is no classifier"
        )
    return _chosen(fitting, model)


def _chosen(fitting: list[str], model: onnx.ModelProto) -> str:
    if len(fitting) == 1:
        return fitting[0]
    for wanted in LOGITS_NAMES:
        for name in fitting:
            if name.lower() == wanted:
                return name
    names = ", ".join(f"{o.name} {_said_shape(o)}" for o in model.graph.output) or "none"
    if not fitting:
        raise ModelError(
            f"expected an output with logits [B, C], got {names}. A network that gives something "
            "else than one score a class is no classifier"
        )
    raise ModelError(
        f"expected one output with logits [B, C], got {names}. Name it 'logits', or export the "
        "network with that output alone"
    )


def _said_shape(output: onnx.ValueInfoProto) -> str:
    sides = (d.dim_param or str(d.dim_value or "?") for d in output.type.tensor_type.shape.dim)
    return f"[{', '.join(sides)}]"


def _steps(model: onnx.ModelProto, told: Probe) -> Iterator[Step]:
    """One step for every node whose values depend on the picture's."""
    moving = {told.picture}
    for node in model.graph.node:
        if node.op_type in SHAPE_ONLY:
            continue
        inputs = tuple(i for i, name in enumerate(node.input) if name in moving)
        inside = tuple(name for name in _captured(node) if name in moving)
        if not inputs and not inside:
            continue
        moving.update(name for name in node.output if name)
        yield from _steps_of(node, inputs, inside, told)


def _captured(node: onnx.NodeProto) -> Iterator[str]:
    """What the branches and loops of a node read."""
    for attribute in node.attribute:
        for inner in attribute.g.node if attribute.HasField("g") else ():
            yield from inner.input
            yield from _captured(inner)


def _steps_of(
    node: onnx.NodeProto, inputs: tuple[int, ...], inside: tuple[str, ...], told: Probe
) -> Iterator[Step]:
    names = (*(node.input[i] for i in inputs), *inside)
    outputs = tuple(name for name in node.output if name)
    words = _words(node)
    if node.op_type == "Split" and inputs == (0,):
        yield from _split(node, told, words)
        return
    known = not inside and node.op_type not in SEQUENCES
    meaning = meaning_of(Site(node, inputs, told)) if known else Meaning("other")
    axes = (-1,) if meaning.op == "scale" and _along_last(node, inputs, told) else meaning.axes
    yield Step(meaning.op, names, outputs, axes, meaning.kept, words)


def _along_last(node: onnx.NodeProto, inputs: tuple[int, ...], told: Probe) -> bool:
    """Whether the constant of a two-sided operator has one value a channel of the last axis."""
    if len(node.input) != 2 or len(inputs) != 1:
        return False
    shape = told.shapes.get(node.input[1 - inputs[0]], ())
    return len(shape) > 0 and all(side == 1 for side in shape[:-1])


def _split(node: onnx.NodeProto, told: Probe, words: str) -> Iterator[Step]:
    shape = told.shapes[node.input[0]]
    axis = next((a.i for a in node.attribute if a.name == "axis"), 0) % len(shape)
    start = 0
    for output in node.output:
        stop = start + told.shapes[output][axis] if output else start
        if output:
            yield Step("select", (node.input[0],), (output,), (axis,), (start, stop), words)
        start = stop


def _needed(steps: Iterable[Step], logits: str) -> tuple[Step, ...]:
    """The steps that the logits need, without the front end's marks."""
    wanted, kept = {logits}, []
    for step in reversed(list(steps)):
        if wanted.intersection(step.outputs):
            wanted.update(step.inputs)
            kept.append(step)
    return tuple(map(_unmarked, reversed(kept)))


def _unmarked(step: Step) -> Step:
    if step.op != "scale":
        return step
    return Step(step.op, step.inputs, step.outputs, (), step.kept, step.words)


def _words(node: onnx.NodeProto) -> str:
    """`Conv layer4.2.conv3`: the operator and the innermost module that it belongs to."""
    module = _module(node)
    return f"{node.op_type} {module}" if module else node.op_type


def _module(node: onnx.NodeProto) -> str:
    notes: Mapping[str, str] = {m.key: m.value for m in node.metadata_props}
    if SCOPES in notes:
        try:
            scopes = ast.literal_eval(notes[SCOPES])
        except (SyntaxError, ValueError):
            return ""
        paths = [str(scope) for scope in scopes[:-1]] if isinstance(scopes, list) else []
        return _unwrapped(paths[-1]) if paths else ""
    return _path(node.name)


def _unwrapped(path: str) -> str:
    """A module's path without the wrapper that a module of gapcam's own export sits in."""
    return path.removeprefix("network").removeprefix(".") if _WRAPPED.match(path) else path


def _path(name: str) -> str:
    """`/layer4/layer4.2/relu/Relu`, PyTorch's older way, as `layer4.2.relu`."""
    parts: list[str] = []
    for part in name.strip("/").split("/")[:-1]:
        if parts and part.startswith(parts[-1] + "."):
            parts.pop()
        parts.append(part)
    return ".".join(parts)
