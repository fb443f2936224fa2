"""Class maps as ONNX nodes: the formulas of `gapcam.maps`, `gapcam.refine` and the general map."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from gapcam.models.file.layouts import positions_to_grid
from gapcam.models.file.network import Network, stride_hw
from gapcam.models.file.nodes import Nodes
from gapcam.models.gradients import append_gradient
from gapcam.models.model_file import ASKED, TOP
from gapcam.types import ModelCard

TINY = 1e-12


def append_linear_maps(n: Nodes, card: ModelCard) -> None:
    """Raw maps of the best classes of a linear head: M_c = sum_k w_ck f_k (Zhou et al., eq. 2)."""
    top = n.integers(min(card.recipe.top, len(card.labels)))
    n.nodes.append(helper.make_node("TopK", ["logits", top], ["top_logits", "top_classes"]))
    rows = n.add("Gather", ["head_weights", "top_classes"], axis=0)
    flat = n.add("Reshape", ["features", n.integers(0, 0, -1)])
    products = n.add("MatMul", [rows, flat])
    n.add("Reshape", [products, n.joined_shape(products, "features")], "top_maps")


def append_gradient_maps(n: Nodes, network: Network, card: ModelCard) -> None:
    """Raw maps of any head, M_c = N sum_k (dS_c / df_k) f_k, of the best and the asked classes.

    N is the number of positions, so that the map's mean is a share of the score. How many of the
    best, and which are asked, are inputs with a value of their own, so they need not be given.
    """
    asked = np.zeros((1, 1), np.int64)
    best = np.array([min(card.recipe.top, len(card.labels))], np.int64)
    n.constants += [numpy_helper.from_array(asked, ASKED), numpy_helper.from_array(best, TOP)]
    n.nodes.append(helper.make_node("TopK", ["logits", TOP], ["top_logits", "top_classes"]))
    batch = n.add("Shape", ["logits"], start=0, end=1)
    everywhere = n.add("Concat", [batch, n.integers(1)], axis=0)
    asked_everywhere = n.add("Expand", [ASKED, everywhere])
    _gradient_map(n, network, "top_classes", "top_maps")
    _gradient_map(n, network, asked_everywhere, "asked_maps")


def _gradient_map(n: Nodes, network: Network, classes: str, output: str) -> None:
    assert network.logits is not None  # noqa: S101 (a head that replaces a network's own is linear)
    gradient = append_gradient(
        network.proto.graph.node,
        {c.name: numpy_helper.to_array(c) for c in network.proto.graph.initializer},
        features=network.features,
        logits=network.logits,
        classes=classes,
        class_count=len(network.bias),
        shapes=network.shapes,
        opset=network.opset,
        prefix=output,
    )
    n.nodes += gradient.nodes
    n.constants += gradient.constants
    products = n.add("Mul", [gradient.name, network.features])
    channels = n.integers(network.layout.channel_axis + 1)
    shares = n.add("ReduceSum", [products, channels], keepdims=0)
    grid = positions_to_grid(n, shares, network.layout, stride_hw(network, network.layout))
    sides = n.add("Shape", [grid], start=2, end=4)
    count = n.add("ReduceProd", [n.add("Cast", [sides], to=TensorProto.FLOAT)], keepdims=0)
    n.add("Transpose", [n.add("Mul", [grid, count])], output, perm=[1, 0, 2, 3])


def refines_alone(card: ModelCard) -> bool:
    """Whether one pass gives the recipe's refined maps, so that the file can."""
    return card.recipe.refine == "affinity" and card.recipe.evidence_size_hw is None


def append_affinity(n: Nodes, centring: float) -> None:
    """`gapcam.refine.affinity` on the top maps."""
    tiny = n.number(TINY)
    g = n.add("Reshape", ["fine_features", n.integers(0, 0, -1)])
    mean = n.add("ReduceMean", [g, n.integers(2)], keepdims=1)
    g = n.add("Sub", [g, n.add("Mul", [mean, n.number(centring)])])
    length = n.add("ReduceL2", [g, n.integers(1)], keepdims=1)
    g = n.add("Div", [g, n.add("Max", [length, tiny])])
    alike = n.add("Relu", [n.add("MatMul", [n.add("Transpose", [g], perm=[0, 2, 1]), g])])
    total = n.add("ReduceSum", [alike, n.integers(2)], keepdims=1)
    alike = n.add("Div", [alike, n.add("Max", [total, tiny])])
    shape = n.joined_shape("top_maps", "fine_features")
    seeds = n.add(
        "Resize",
        ["top_maps", "", "", shape],
        mode="cubic",
        cubic_coeff_a=-0.75,
        coordinate_transformation_mode="half_pixel",
    )
    highest = n.add("ReduceMax", ["top_maps", n.integers(2, 3)], keepdims=1)
    positive = n.add("Greater", [highest, n.number(0)])
    seeds = n.add("Mul", [n.add("Relu", [seeds]), n.add("Cast", [positive], to=TensorProto.FLOAT)])
    flat = n.add("Reshape", [seeds, n.integers(0, 0, -1)])
    spread = n.add("MatMul", [flat, n.add("Transpose", [alike], perm=[0, 2, 1])])
    n.add("Reshape", [spread, shape], "top_refined")
