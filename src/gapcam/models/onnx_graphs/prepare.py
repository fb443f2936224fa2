"""A foreign ONNX classifier made ready: one float picture in, logits out, operators of today."""

from __future__ import annotations

from dataclasses import dataclass

import onnx
from onnx import TensorProto, helper, inliner, version_converter

from gapcam.models.file.assemble import OPSET
from gapcam.models.file.network import OWN_DOMAINS, kept_for
from gapcam.models.heads.endings import ENDING_LEFT_OUT
from gapcam.models.onnx_graphs.trace import PROBABILITIES, strip_probabilities
from gapcam.types import ModelError, SizeHW

PREFIX = "network."
"""Begins every name of the network's own, so that none meets a name of the model file's."""

HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)


@dataclass(frozen=True, eq=False)
class Prepared:
    """A classifier as ONNX.

    Attributes:
        proto: With nothing that the logits do not need.
        picture: Its input.
        picture_layout: `nchw` or `nhwc`.
        logits: `[B, C]`, before any softmax.
        fixed_hw: The input size that the file allows; None: not said.
        fixed_batch: The batch that the file allows; None: any.
        notes: What was chosen on the way, in words.
    """

    proto: onnx.ModelProto
    picture: str
    picture_layout: str
    logits: str
    fixed_hw: SizeHW | None
    fixed_batch: int | None
    notes: tuple[str, ...]


def prepare(proto: onnx.ModelProto, origin: str) -> Prepared:
    """Make a classifier's ONNX graph ready for the model file.

    Args:
        proto: Any opset; it is not changed.
        origin: Where it came from, for messages.

    Raises:
        ModelError: It is not a classifier of pictures, or its operators cannot be brought to the
            oldest version that the model file uses.
    """
    inlined = inliner.inline_local_functions(proto) if proto.functions else proto
    made = onnx.ModelProto()
    made.CopyFrom(_converted(inlined, origin))
    _drop_constant_inputs(made)
    picture = _picture(made, origin)
    _free_sides(picture)
    layout, batch, size_hw = _sides(picture, origin)
    _refuse_halves(made, origin)
    _flatten_single_positions(made)
    try:
        logits, stripped = strip_probabilities(made)
    except ModelError as error:
        raise ModelError(f"{origin}: {error}") from error
    kept, notes = kept_for(made, [logits]), (ENDING_LEFT_OUT,) if stripped else ()
    return Prepared(kept, picture.name, layout, logits, size_hw, batch, notes)


def prefixed(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with `PREFIX` before every name, in branches and loops too."""
    made = onnx.ModelProto()
    made.CopyFrom(proto)
    _prefix(made.graph)
    return made


def _prefix(graph: onnx.GraphProto) -> None:
    for named in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
        named.name = PREFIX + named.name
    for node in graph.node:
        node.name = node.name and PREFIX + node.name
        for names in (node.input, node.output):
            names[:] = [name and PREFIX + name for name in names]
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                _prefix(inner)


def _converted(proto: onnx.ModelProto, origin: str) -> onnx.ModelProto:
    version = next((o.version for o in proto.opset_import if o.domain in OWN_DOMAINS), None)
    if version is None:
        raise ModelError(f"{origin}: the ONNX file names no operator set. Export it again.")
    if version >= OPSET:
        return proto
    try:
        return version_converter.convert_version(proto, OPSET)
    except Exception as error:  # the converter raises RuntimeErrors of many kinds
        raise ModelError(
            f"{origin}: cannot be brought from operator set {version} to {OPSET} "
            f"({str(error).splitlines()[0][:200]}). Export it again with opset {OPSET} or later."
        ) from error


def _drop_constant_inputs(proto: onnx.ModelProto) -> None:
    """Older exporters list the weights as inputs too."""
    constants = {c.name for c in proto.graph.initializer}
    real = [given for given in proto.graph.input if given.name not in constants]
    del proto.graph.input[:]
    proto.graph.input.extend(real)


def _picture(proto: onnx.ModelProto, origin: str) -> onnx.ValueInfoProto:
    inputs = list(proto.graph.input)
    if len(inputs) != 1:
        names = ", ".join(i.name for i in inputs) or "none"
        raise ModelError(
            f"{origin}: expected one input, the picture, got {names}. Export it with one."
        )
    picture: onnx.ValueInfoProto = inputs[0]
    kind = picture.type.tensor_type.elem_type
    if kind != TensorProto.FLOAT:
        raise ModelError(
            f"{origin}: expected pictures as float32, got {TensorProto.DataType.Name(kind).lower()}"
            ". Export it with a float32 input."
        )
    return picture


def _free_sides(picture: onnx.ValueInfoProto) -> None:
    """Some tools write 0 or -1 where any number will do."""
    for i, side in enumerate(picture.type.tensor_type.shape.dim):
        if side.dim_value <= 0:
            side.dim_param = side.dim_param or f"side_{i}"


def _sides(picture: onnx.ValueInfoProto, origin: str) -> tuple[str, int | None, SizeHW | None]:
    """The layout, the batch if it is fixed, the size if it is fixed."""
    sides = [d.dim_value or None for d in picture.type.tensor_type.shape.dim]
    if len(sides) != 4 or (sides[1] != 3 and sides[3] != 3):
        raise ModelError(
            f"{origin}: expected colour pictures [B, 3, H, W] or [B, H, W, 3], got "
            f"{['free' if s is None else s for s in sides]}. Export it with 3 fixed channels."
        )
    if sides[0] not in (None, 1):
        raise ModelError(
            f"{origin}: takes {sides[0]} pictures at once and no other number. Export it with a "
            "free batch, or for one picture."
        )
    layout = "nchw" if sides[1] == 3 else "nhwc"
    height, width = sides[2:] if layout == "nchw" else sides[1:3]
    fixed = (height, width) if height is not None and width is not None else None
    return layout, sides[0], fixed


def _refuse_halves(proto: onnx.ModelProto, origin: str) -> None:
    """Maps in half precision would not add up to the scores."""
    half = next((c.name for c in proto.graph.initializer if c.data_type in HALVES), None)
    if half is not None:
        raise ModelError(
            f"{origin}: computes in half precision (weight {half!r}). Export it in float32."
        )


def _flatten_single_positions(proto: onnx.ModelProto) -> None:
    """Scores `[B, C, 1, 1]`, as fully convolutional networks give them, become `[B, C]`."""
    makers = {name: node for node in proto.graph.node for name in node.output}
    for output in proto.graph.output:
        sides = output.type.tensor_type.shape.dim
        if len(sides) != 4 or any(side.dim_value != 1 for side in sides[2:]):
            continue
        del sides[2:]
        scores, output.name = output.name, f"{output.name}/flat"
        maker = makers.get(scores)
        if maker is None or maker.op_type not in PROBABILITIES:
            added = [helper.make_node("Flatten", [scores], [output.name])]
        else:
            flat = f"{scores}/logits"
            added = [
                helper.make_node("Flatten", [maker.input[0]], [flat]),
                helper.make_node(maker.op_type, [flat], [output.name]),
            ]
        proto.graph.node.extend(added)
