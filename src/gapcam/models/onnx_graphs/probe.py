"""What one run of an ONNX graph tells: the shape of every tensor, the value of small constants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from gapcam.models.trace import PROBE_BATCH
from gapcam.types import ModelError, SizeHW

Shape = tuple[int, ...]

SEQUENCES = frozenset({"SequenceConstruct", "SequenceEmpty", "SequenceInsert", "SplitToSequence"})
"""Operators that give lists of tensors, which have no shape."""
READ_AS_NUMBERS = {
    "Gather": (1,),
    "ReduceL1": (1,),
    "ReduceL2": (1,),
    "ReduceMax": (1,),
    "ReduceMean": (1,),
    "ReduceSum": (1,),
    "ReduceSumSquare": (1,),
    "Slice": (1, 2, 3, 4),
}
"""Which inputs of an operator must be known to say what it does."""
_FLOATS: Mapping[int, type[np.floating]] = {
    TensorProto.FLOAT: np.float32,
    TensorProto.FLOAT16: np.float16,
}


@dataclass(frozen=True, slots=True, eq=False)
class Probe:
    """What a run told.

    Attributes:
        picture: The name of the input.
        shapes: Of the input, the weights and what the nodes give.
        numbers: The constants that say along which axes, or at which positions, a node works.
    """

    picture: str
    shapes: Mapping[str, Shape]
    numbers: Mapping[str, np.ndarray]


def probe(model: onnx.ModelProto, size_hw: SizeHW) -> Probe:
    """Run a graph once on noise; only shapes and small constants are kept, so memory stays low.

    Args:
        model: Not changed.
        size_hw: The picture's sides, pixels.

    Raises:
        ModelError: It takes no float picture of that size, or does not run.
    """
    picture = picture_of(model)
    noise = _noise(picture, size_hw)
    weights = {c.name: c for c in model.graph.initializer}
    asked = _asked_numbers(model, weights)
    named = [name for node in model.graph.node for name in _tensors(node)]
    values = _run(model, named, asked, {picture.name: noise})
    shapes: dict[str, Shape] = {name: tuple(c.dims) for name, c in weights.items()}
    shapes[picture.name] = noise.shape
    shapes |= {name: tuple(map(int, value)) for name, value in zip(named, values, strict=False)}
    numbers = dict(zip(asked, values[len(named) :], strict=True))
    known = set(_number_names(model)) & set(weights)
    numbers |= {name: numpy_helper.to_array(weights[name]) for name in known}
    return Probe(picture.name, shapes, numbers)


def picture_of(model: onnx.ModelProto) -> onnx.ValueInfoProto:
    """The one input that is no weight.

    Raises:
        ModelError: There is not exactly one, or it holds no floats.
    """
    weights = {c.name for c in model.graph.initializer}
    inputs = [given for given in model.graph.input if given.name not in weights]
    if len(inputs) != 1:
        names = ", ".join(given.name for given in inputs) or "none"
        raise ModelError(f"expected an ONNX graph with one input, the picture, got {names}")
    if inputs[0].type.tensor_type.elem_type not in _FLOATS:
        raise ModelError(f"input {inputs[0].name!r}: expected float32 or float16 pictures")
    picture: onnx.ValueInfoProto = inputs[0]
    return picture


def _noise(picture: onnx.ValueInfoProto, size_hw: SizeHW) -> np.ndarray:
    sides = [d.dim_value or None for d in picture.type.tensor_type.shape.dim]
    layouts = ((3, *size_hw), (*size_hw, 3))
    fitting = [
        shape
        for shape in layouts
        if len(sides) in (0, 4)
        and all(side in (None, own) for side, own in zip(sides[1:], shape, strict=False))
    ]
    if not fitting:
        shown = [side or "free" for side in sides]
        raise ModelError(
            f"input {picture.name!r}: expected pictures [B, 3, {size_hw[0]}, {size_hw[1]}] or "
            f"[B, {size_hw[0]}, {size_hw[1]}, 3], the network takes {shown}. Give the size it "
            "was made for, or export it with free sides"
        )
    shape = (sides[0] if sides and sides[0] else PROBE_BATCH, *fitting[0])
    noise = np.random.default_rng(0).standard_normal(shape)
    return noise.astype(_FLOATS[picture.type.tensor_type.elem_type])


def _tensors(node: onnx.NodeProto) -> list[str]:
    return [] if node.op_type in SEQUENCES else [name for name in node.output if name]


def _number_names(model: onnx.ModelProto) -> list[str]:
    return [
        node.input[i]
        for node in model.graph.node
        for i in READ_AS_NUMBERS.get(node.op_type, ())
        if i < len(node.input) and node.input[i]
    ]


def _asked_numbers(model: onnx.ModelProto, weights: Mapping[str, TensorProto]) -> list[str]:
    """The names of small constants that nodes compute, from shapes for one."""
    made = {name for node in model.graph.node for name in node.output}
    return [name for name in dict.fromkeys(_number_names(model)) if name in made - set(weights)]


def _run(
    model: onnx.ModelProto, named: Sequence[str], asked: Sequence[str], feed: dict[str, np.ndarray]
) -> list[np.ndarray]:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    outputs = [f"gapcam.shape.{i}" for i in range(len(named))]
    for name, output in zip(named, outputs, strict=True):
        copy.graph.node.append(helper.make_node("Shape", [name], [output]))
    del copy.graph.output[:]
    for name in [*outputs, *asked]:
        copy.graph.output.append(onnx.ValueInfoProto(name=name))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    (picture,) = feed.values()
    try:
        session = onnxruntime.InferenceSession(
            copy.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        found: list[np.ndarray] = session.run([*outputs, *asked], feed)
    except Exception as error:  # the runtime's and protobuf's errors share no base class
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise ModelError(
            f"the ONNX graph does not run on a picture {list(picture.shape)} ({reason}). Give the "
            "size it was made for, or export it again"
        ) from error
    return found
