"""Joins preprocessing, a network, its head and the maps into the model file's ONNX graph.

The network comes in as `network_input [B, 3, H, W]` to `features` and `fine_features`; the nodes
around it are the formulas of `gapcam.maps` and `gapcam.refine`, so any ONNX runtime gives scores
and maps with no gapcam code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from gapcam.models.model_file import INPUT, card_to_metadata
from gapcam.types import FloatArray, ModelCard

OPSET = 18
IR_VERSION = 8
"""The lowest that go with what the graph uses, for the widest choice of runtimes."""

NETWORK_INPUT = "network_input"
TINY = 1e-12


@dataclass(frozen=True, eq=False)
class Network:
    """A network as ONNX, with its linear head apart.

    Attributes:
        proto: `network_input` to `features` and `fine_features`.
        weights: Head `[C, K]`.
        bias: Head `[C]`.
        mean: Subtracted from each of the pixels' 3 channels.
        scale: Divides the result.
    """

    proto: onnx.ModelProto
    weights: FloatArray
    bias: FloatArray
    mean: tuple[float, float, float]
    scale: tuple[float, float, float]


class _Nodes:
    """Collects nodes and constants in order; each call returns the name of its output."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._numbers = count()

    def add(
        self,
        op: str,
        inputs: Sequence[str],
        output: str | None = None,
        **attributes: Any,
    ) -> str:
        name = output or f"{self._prefix}_{op.lower()}_{next(self._numbers)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=name, **attributes))
        return name

    def constant(self, value: np.ndarray) -> str:
        name = f"{self._prefix}_constant_{next(self._numbers)}"
        self.constants.append(numpy_helper.from_array(value, name))
        return name

    def integers(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))


def assemble(network: Network, card: ModelCard) -> onnx.ModelProto:
    """The whole model file as a checked ONNX model."""
    before, after = _Nodes("prepare"), _Nodes("localize")
    _preprocess(before, network)
    weights = _head(after, network)
    _maps(after, weights, card)
    graph = helper.make_graph(
        [*before.nodes, *_bare_nodes(network.proto), *after.nodes],
        name=card.name,
        inputs=[_value(INPUT, TensorProto.UINT8, ["batch", "height", "width", 3])],
        outputs=_outputs(network, card),
        initializer=[*before.constants, *_bare_constants(network.proto), *after.constants],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version = IR_VERSION
    model.producer_name, model.producer_version = "gapcam", card.version
    helper.set_model_props(model, card_to_metadata(card))
    onnx.checker.check_model(model, full_check=True)
    return model


def _preprocess(n: _Nodes, network: Network) -> None:
    """uint8 `[B, H, W, 3]` to the network's scaled float `[B, 3, H, W]`."""
    pixels = n.add("Cast", [INPUT], to=TensorProto.FLOAT)
    centred = n.add("Sub", [pixels, n.constant(np.array(network.mean, np.float32))])
    scaled = n.add("Div", [centred, n.constant(np.array(network.scale, np.float32))])
    n.add("Transpose", [scaled], NETWORK_INPUT, perm=[0, 3, 1, 2])


def _head(n: _Nodes, network: Network) -> str:
    """S = W mean_xy f + b; returns the name of the weights."""
    weights = n.add("Identity", [n.constant(network.weights)], "head_weights")
    bias = n.add("Identity", [n.constant(network.bias)], "head_bias")
    pooled = n.add("ReduceMean", ["features", n.integers(2, 3)], keepdims=0)
    n.add("Gemm", [pooled, weights, bias], "logits", transB=1)
    return weights


def _maps(n: _Nodes, weights: str, card: ModelCard) -> None:
    """Raw maps of the best classes, and the refined ones where the recipe refines."""
    top = n.integers(min(card.recipe.top, len(card.labels)))
    n.nodes.append(helper.make_node("TopK", ["logits", top], ["top_logits", "top_classes"]))
    rows = n.add("Gather", [weights, "top_classes"], axis=0)
    flat = n.add("Reshape", ["features", n.integers(0, 0, -1)])
    products = n.add("MatMul", [rows, flat])
    shape = _joined_shape(n, products, "features")
    n.add("Reshape", [products, shape], "top_maps")
    if refines_alone(card):
        _affinity(n, card.recipe.centring)


def refines_alone(card: ModelCard) -> bool:
    """Whether one pass gives the recipe's refined maps, so that the file can."""
    return card.recipe.refine == "affinity" and card.recipe.evidence_size_hw is None


def _affinity(n: _Nodes, centring: float) -> None:
    """`gapcam.refine.affinity` on the top maps."""
    tiny = n.constant(np.array(TINY, np.float32))
    g = n.add("Reshape", ["fine_features", n.integers(0, 0, -1)])
    mean = n.add("ReduceMean", [g, n.integers(2)], keepdims=1)
    g = n.add("Sub", [g, n.add("Mul", [mean, n.constant(np.array(centring, np.float32))])])
    length = n.add("ReduceL2", [g, n.integers(1)], keepdims=1)
    g = n.add("Div", [g, n.add("Max", [length, tiny])])
    alike = n.add("Relu", [n.add("MatMul", [n.add("Transpose", [g], perm=[0, 2, 1]), g])])
    total = n.add("ReduceSum", [alike, n.integers(2)], keepdims=1)
    alike = n.add("Div", [alike, n.add("Max", [total, tiny])])
    shape = _joined_shape(n, "top_maps", "fine_features")
    seeds = n.add(
        "Resize",
        ["top_maps", "", "", shape],
        mode="cubic",
        cubic_coeff_a=-0.75,
        coordinate_transformation_mode="half_pixel",
    )
    highest = n.add("ReduceMax", ["top_maps", n.integers(2, 3)], keepdims=1)
    positive = n.add("Greater", [highest, n.constant(np.array(0, np.float32))])
    seeds = n.add("Mul", [n.add("Relu", [seeds]), n.add("Cast", [positive], to=TensorProto.FLOAT)])
    flat = n.add("Reshape", [seeds, n.integers(0, 0, -1)])
    spread = n.add("MatMul", [flat, n.add("Transpose", [alike], perm=[0, 2, 1])])
    n.add("Reshape", [spread, shape], "top_refined")


def _joined_shape(n: _Nodes, first: str, second: str) -> str:
    """The first two sides of one tensor and the last two of another."""
    front = n.add("Shape", [first], start=0, end=2)
    back = n.add("Shape", [second], start=2, end=4)
    return n.add("Concat", [front, back], axis=0)


def _outputs(network: Network, card: ModelCard) -> list[onnx.ValueInfoProto]:
    classes, channels = network.weights.shape
    top = min(card.recipe.top, classes)
    outputs = [
        _value("logits", TensorProto.FLOAT, ["batch", classes]),
        _value("features", TensorProto.FLOAT, ["batch", channels, "h", "w"]),
        _value("fine_features", TensorProto.FLOAT, ["batch", "fine_channels", "h2", "w2"]),
        _value("top_classes", TensorProto.INT64, ["batch", top]),
        _value("top_maps", TensorProto.FLOAT, ["batch", top, "h", "w"]),
        _value("head_weights", TensorProto.FLOAT, [classes, channels]),
        _value("head_bias", TensorProto.FLOAT, [classes]),
    ]
    if refines_alone(card):
        outputs.append(_value("top_refined", TensorProto.FLOAT, ["batch", top, "h2", "w2"]))
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
