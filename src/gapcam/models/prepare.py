"""A foreign ONNX classifier made ready: one float picture in, logits out, operators of today."""

from __future__ import annotations

from dataclasses import dataclass

import onnx
from onnx import TensorProto, compose, inliner, version_converter

from gapcam.models.graph import OPSET
from gapcam.models.network import OWN_DOMAINS, kept_for
from gapcam.models.onnx_trace import strip_probabilities
from gapcam.types import ModelError, SizeHW

PREFIX = "network."
"""Begins every name of the network's own, so that none meets a name of the model file's."""


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
    proto = inliner.inline_local_functions(proto) if proto.functions else proto
    proto = _converted(proto, origin)
    logits, stripped = strip_probabilities(proto)
    proto = kept_for(proto, [logits])
    _drop_constant_inputs(proto)
    proto = compose.add_prefix(proto, PREFIX)
    picture = _picture(proto, origin)
    layout, batch, size_hw = _sides(picture, origin)
    notes = ("the final softmax of the file is left out: maps are of logits",) if stripped else ()
    name = PREFIX + logits
    return Prepared(proto, picture.name, layout, name, size_hw, batch, notes)


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
        names = ", ".join(i.name.removeprefix(PREFIX) for i in inputs) or "none"
        raise ModelError(
            f"{origin}: expected one input, the picture, got {names}. Export it with one."
        )
    picture: onnx.ValueInfoProto = inputs[0]
    kind = picture.type.tensor_type.elem_type
    if kind not in (TensorProto.FLOAT, TensorProto.FLOAT16):
        raise ModelError(
            f"{origin}: expected pictures as float32 or float16, got "
            f"{TensorProto.DataType.Name(kind).lower()}. Export it with a float input."
        )
    return picture


def _sides(picture: onnx.ValueInfoProto, origin: str) -> tuple[str, int | None, SizeHW | None]:
    """The layout, the batch if it is fixed, the size if it is fixed."""
    sides = [
        d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None
        for d in picture.type.tensor_type.shape.dim
    ]
    if len(sides) != 4 or (sides[1] != 3 and sides[3] != 3):
        raise ModelError(
            f"{origin}: expected pictures [B, 3, H, W] or [B, H, W, 3], got "
            f"{['?' if s is None else s for s in sides]}. gapcam takes colour pictures."
        )
    layout = "nchw" if sides[1] == 3 else "nhwc"
    height, width = sides[2:] if layout == "nchw" else sides[1:3]
    fixed = (height, width) if height is not None and width is not None else None
    return layout, sides[0], fixed
