"""A gapcam model file of a few thousand weights, for tests of what is around the model.

A forward pass takes a fiftieth of the embedded model's time.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from gapcam.models import embedded
from gapcam.models.file.assemble import assemble
from gapcam.models.file.network import Network
from gapcam.models.trace import Layout
from gapcam.recipes import DEFAULT
from gapcam.types import Preprocessing

SIDE = 64
CHANNELS = 16
LABELS = tuple("abcdefg")


def write_small_model(path: Path) -> Path:
    """Strides 8 and 16, global average pooling, a linear layer: random weights, the same ones."""
    rng = np.random.default_rng(0)
    first = rng.normal(0, 0.2, (CHANNELS, 3, 8, 8)).astype(np.float32)
    second = rng.normal(0, 0.2, (CHANNELS, CHANNELS, 2, 2)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["picture", "w8"], ["c8"], strides=[8, 8]),
            helper.make_node("Relu", ["c8"], ["finer"]),
            helper.make_node("Conv", ["finer", "w16"], ["c16"], strides=[2, 2]),
            helper.make_node("Relu", ["c16"], ["coarse"]),
        ],
        "small",
        [helper.make_tensor_value_info("picture", TensorProto.FLOAT, ["b", 3, "h", "w"])],
        [],
        [numpy_helper.from_array(first, "w8"), numpy_helper.from_array(second, "w16")],
    )
    network = Network(
        proto=helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]),
        picture="picture",
        picture_layout="nchw",
        features="coarse",
        layout=Layout(1, (2, 3), (4, 4)),
        fine="finer",
        fine_layout=Layout(1, (2, 3), (8, 8)),
        logits=None,
        weights=rng.normal(0, 0.02, (len(LABELS), CHANNELS)).astype(np.float32),
        bias=np.zeros(len(LABELS), np.float32),
        preprocessing=Preprocessing((SIDE, SIDE), (0.5,) * 3, (0.25,) * 3),
        shapes={"coarse": (2, CHANNELS, 4, 4)},
        kind="gap-linear",
        words="",
    )
    recipe = dataclasses.replace(DEFAULT, input_size_hw=(SIDE, SIDE))
    card = dataclasses.replace(
        embedded.model_card(recipe), name="small", labels=LABELS, aliases=((),) * len(LABELS)
    )
    onnx.save(assemble(network, card), path)
    return path
