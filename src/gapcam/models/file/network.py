"""A network as ONNX, with the places of its features and its head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx

from gapcam.models.trace import HeadKind, Layout
from gapcam.types import FloatArray, Preprocessing, SizeHW

OWN_DOMAINS = ("", "ai.onnx")
"""What ONNX's own operators are called in a file."""


@dataclass(frozen=True, slots=True)
class StoredWeights:
    """Where a network keeps its head's weights.

    Attributes:
        name: The constant.
        transposed: Whether it is `[K, C]`.
    """

    name: str
    transposed: bool


@dataclass(frozen=True, eq=False)
class Network:
    """A network as ONNX and where its head is.

    Attributes:
        proto: The picture as float to what is named below, and nothing else.
        picture: Its input, `[B, 3, H, W]`, or `[B, H, W, 3]` where `picture_layout` says so.
        picture_layout: `nchw` or `nhwc`.
        features: The tensor before the head.
        layout: Of `features`.
        fine: The last tensor at half the map's stride, or None.
        fine_layout: Of `fine`.
        logits: `[B, C]`; None: `weights` and `bias` make them, as `kind` says.
        weights: Head `[C, K]` where it is linear on pooled features, else None.
        stored_weights: The constant of `proto` that holds them, or holds them transposed; None:
            there is none.
        bias: `[C]`, the score of all-zero features.
        preprocessing: What the network expects.
        shapes: Of the network's tensors in a run at `preprocessing.size_hw`.
        kind: The head's kind (`HeadKind`).
        words: Where the features are taken, for people.
        fixed_hw: The only input size it takes; None: any.
        fixed_batch: The only batch it takes; None: any.
        size_multiple: What the sides of its input must be multiples of.
        pool_value: r of `lse-linear`, theta of `tap-linear` (`gapcam.models.pooling`); else None.
    """

    proto: onnx.ModelProto
    picture: str
    picture_layout: str
    features: str
    layout: Layout
    fine: str | None
    fine_layout: Layout | None
    logits: str | None
    weights: FloatArray | None
    bias: FloatArray
    preprocessing: Preprocessing
    shapes: Mapping[str, tuple[int, ...]]
    kind: HeadKind
    words: str
    fixed_hw: SizeHW | None = None
    fixed_batch: int | None = None
    size_multiple: int = 1
    stored_weights: StoredWeights | None = None
    pool_value: float | None = None

    @property
    def opset(self) -> int:
        """The version of ONNX's own operators that its nodes are written in."""
        return int(next(o.version for o in self.proto.opset_import if o.domain in OWN_DOMAINS))


def stride_hw(network: Network, layout: Layout) -> SizeHW | None:
    """Input pixels between rows and columns of a tensor; None where the input size is fixed."""
    if network.fixed_hw is not None:
        return None
    (height, width), (rows, columns) = network.preprocessing.size_hw, layout.grid_hw
    return height // rows, width // columns


def kept_for(proto: onnx.ModelProto, outputs: list[str]) -> onnx.ModelProto:
    """A copy with these outputs, and only the nodes and constants that they need."""
    needed, nodes = set(outputs), []
    for node in reversed(proto.graph.node):
        if needed.intersection(node.output):
            nodes.append(node)
            needed.update(_reads(node))
    made = onnx.ModelProto()
    made.CopyFrom(proto)
    del made.graph.node[:], made.graph.initializer[:], made.graph.output[:]
    del made.graph.value_info[:]
    made.graph.node.extend(reversed(nodes))
    made.graph.initializer.extend(c for c in proto.graph.initializer if c.name in needed)
    for name in outputs:
        made.graph.output.append(onnx.ValueInfoProto(name=name))
        made.graph.output[-1].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    return made


def _reads(node: onnx.NodeProto) -> list[str]:
    """What a node reads, through its branches and loops too."""
    inside = [n for a in node.attribute if a.HasField("g") for n in a.g.node]
    return [*node.input, *(name for n in inside for name in _reads(n))]
