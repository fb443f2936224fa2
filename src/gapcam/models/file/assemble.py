"""Joins preprocessing, a network, its head and the maps into the model file's ONNX graph.

The network comes in as ONNX with the names of its features and logits; the nodes around it are the
formulas of `gapcam.maps`, `gapcam.refine` and `gapcam.models.gradients`, so any ONNX runtime gives
scores and maps with no gapcam code.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper

from gapcam.models.file.layouts import to_channels_first
from gapcam.models.file.maps import (
    append_affinity,
    append_gradient_maps,
    append_linear_maps,
    refines_alone,
)
from gapcam.models.file.network import Network, kept_for, stride_hw
from gapcam.models.file.nodes import Nodes
from gapcam.models.file.pools import append_pooled_logits
from gapcam.models.model_file import ASKED, INPUT, TOP, card_to_metadata
from gapcam.types import ModelCard

OPSET = 18
"""The lowest that goes with what the graph uses, for the widest choice of runtimes."""


def assemble(network: Network, card: ModelCard) -> onnx.ModelProto:
    """The whole model file as a checked ONNX model."""
    before, after = Nodes("prepare"), Nodes("localize")
    _preprocess(before, network)
    strides = stride_hw(network, network.layout)
    to_channels_first(after, network.features, network.layout, strides, "features")
    if network.fine is not None and network.fine_layout is not None:
        strides = stride_hw(network, network.fine_layout)
        to_channels_first(after, network.fine, network.fine_layout, strides, "fine_features")
    _logits(after, network)
    if network.weights is not None:
        append_linear_maps(after, card)
    else:
        append_gradient_maps(after, network, card)
    if refines_alone(card):
        append_affinity(after, card.recipe.centring)
    wanted = [network.features, network.fine, network.logits]
    proto = kept_for(network.proto, [name for name in wanted if name is not None])
    graph = helper.make_graph(
        [*before.nodes, *_bare_nodes(proto), *after.nodes],
        name=card.name,
        inputs=_inputs(network),
        outputs=_outputs(network, card),
        initializer=[*before.constants, *_bare_constants(proto), *after.constants],
    )
    model = helper.make_model(graph, opset_imports=list(proto.opset_import))
    model.ir_version = max(8, helper.find_min_ir_version_for(list(proto.opset_import), True))
    model.producer_name, model.producer_version = "gapcam", card.version
    helper.set_model_props(model, card_to_metadata(card))
    onnx.checker.check_model(model, full_check=True)
    return model


def _preprocess(n: Nodes, network: Network) -> None:
    """uint8 `[B, H, W, 3]` to what the network takes."""
    wants = network.preprocessing
    pixels = n.add("Cast", [INPUT], to=TensorProto.FLOAT)
    if wants.channels == "bgr":
        pixels = n.add("Gather", [pixels, n.integers(2, 1, 0)], axis=3)
    centred = n.add("Sub", [pixels, n.constant(np.array(wants.mean, np.float32))])
    scaled = n.add("Div", [centred, n.constant(np.array(wants.scale, np.float32))])
    if network.picture_layout == "nchw":
        n.add("Transpose", [scaled], network.picture, perm=[0, 3, 1, 2])
    else:
        n.add("Identity", [scaled], network.picture)


def _logits(n: Nodes, network: Network) -> None:
    """The network's own logits, or those of a pooled linear head that replaces its own."""
    stored = network.stored_weights
    if stored is not None:
        n.add("Transpose" if stored.transposed else "Identity", [stored.name], "head_weights")
    elif network.weights is not None:
        n.add("Identity", [n.constant(network.weights)], "head_weights")
    n.add("Identity", [n.constant(network.bias)], "head_bias")
    if network.logits is not None:
        n.add("Identity", [network.logits], "logits")
        return
    append_pooled_logits(n, network)


def _inputs(network: Network) -> list[onnx.ValueInfoProto]:
    batch = network.fixed_batch or "batch"
    sides: list[int | str] = list(network.fixed_hw or ("height", "width"))
    inputs = [_value(INPUT, TensorProto.UINT8, [batch, *sides, 3])]
    if network.weights is None:  # these have values of their own, so they need not be given
        inputs.append(_value(ASKED, TensorProto.INT64, ["asked_batch", "asked"]))
        inputs.append(_value(TOP, TensorProto.INT64, [1]))
    return inputs


def _outputs(network: Network, card: ModelCard) -> list[onnx.ValueInfoProto]:
    classes, batch = len(card.labels), network.fixed_batch or "batch"
    channels = network.shapes[network.features][network.layout.channel_axis]
    linear = network.weights is not None
    top: int | str = min(card.recipe.top, classes) if linear else "top"
    fl = TensorProto.FLOAT
    outputs = [
        _value("logits", fl, [batch, classes]),
        _value("features", fl, [batch, channels, "h", "w"]),
        _value("top_classes", TensorProto.INT64, [batch, top]),
        _value("top_maps", fl, [batch, top, "h", "w"]),
        _value("head_bias", fl, [classes]),
    ]
    if network.fine is not None:
        outputs.append(_value("fine_features", fl, [batch, "fine_channels", "h2", "w2"]))
    if linear:
        outputs.append(_value("head_weights", fl, [classes, channels]))
    else:
        outputs.append(_value("asked_maps", fl, [batch, "asked", "h", "w"]))
    if refines_alone(card):
        outputs.append(_value("top_refined", fl, [batch, top, "h2", "w2"]))
    return outputs


def _value(name: str, kind: int, shape: Sequence[int | str]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, list(shape))


def _bare_nodes(network: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Nodes without the exporter's notes, which hold stack traces of its machine."""
    nodes = list(network.graph.node)
    for node in nodes:
        del node.metadata_props[:]
        node.ClearField("doc_string")
    return nodes


def _bare_constants(network: onnx.ModelProto) -> list[onnx.TensorProto]:
    constants = list(network.graph.initializer)
    for constant in constants:
        del constant.metadata_props[:]
        constant.ClearField("doc_string")
    return constants
