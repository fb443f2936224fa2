"""Writes the gradient of chosen logits, through the head alone, as ONNX nodes.

M_c(x, y) = sum_k dS_c/df_k(x, y) f_k(x, y) needs the derivative of the head, not of the network.
The nodes between the features and the logits are walked backwards once; every rule appends the
nodes that carry a *cotangent*, the gradient of the chosen logits, to its inputs (reverse mode;
Baydin et al., arXiv 1502.05767, section 3.2). Any ONNX runtime then gives the maps of any head.

Two things keep it cheap. The classes are one more axis in front of the cotangents, never of the
forward pass. And where a head reads one token, its cotangents stay with that token until a node
mixes the tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import onnx
from onnx import numpy_helper

from gapcam.models.gradients.rules import RULES, attributes_of, carry, stops
from gapcam.models.gradients.shape import pad_axis
from gapcam.models.gradients.tape import Call, Tape, refuse
from gapcam.types import ModelError


@dataclass(frozen=True, eq=False)
class Gradient:
    """What to append to a graph.

    Attributes:
        nodes: In an order in which they can run, after the graph's own.
        constants: Their initializers.
        name: The tensor with the gradient, `[n, *features.shape]`, float32.
    """

    nodes: tuple[onnx.NodeProto, ...]
    constants: tuple[onnx.TensorProto, ...]
    name: str


@dataclass(frozen=True, slots=True)
class _Part:
    """A cotangent, or its part at positions `start` to `stop` of one axis; the rest is zero."""

    name: str
    axis: int | None = None
    start: int = 0
    stop: int = 0

    @property
    def place(self) -> tuple[int | None, int, int]:
        return self.axis, self.start, self.stop


def append_gradient(
    graph: Sequence[onnx.NodeProto],
    constants: Mapping[str, np.ndarray],
    features: str,
    logits: str,
    classes: str,
    class_count: int,
    shapes: Mapping[str, tuple[int, ...]],
    opset: int,
    prefix: str,
    *,
    frozen_norms: bool = True,
) -> Gradient:
    """The nodes that compute dS_c / d features for the chosen classes.

    Batch and the number of classes stay free, as do height and width where the head's own nodes
    leave them free.

    Args:
        graph: The nodes of a float32 graph in an order in which they can run.
        constants: The values of its initializers.
        features: The tensor to differentiate by, `[B, ...]`.
        logits: `[B, C]`.
        classes: The name of an int64 tensor `[B, n]` with the chosen classes, 0 to C - 1.
        class_count: C.
        shapes: Of the tensors from the features to the logits, and of the others that the nodes
            between them read, in a run with two pictures.
        opset: Of the graph, 18 or later.
        prefix: What the names of new nodes and tensors begin with.
        frozen_norms: Whether norms take their statistics (deviation, RMS, length) as constants of
            the picture, so that a norm of pooled features stays affine: no gradient flows through
            square roots and L2 lengths. False gives the true gradient.

    Raises:
        ModelError: The head holds an operation that has no rule, or the logits do not depend on
            the features.
    """
    tape = Tape(prefix, {**constants, **_values(graph)}, shapes, opset, frozen_norms=frozen_norms)
    moving = _moving(graph, features)
    if logits not in moving:
        raise ModelError(
            f"The logits {logits!r} do not depend on the features {features!r}. Take the features "
            "at another layer (layer=...)."
        )
    walk = _Walk(tape, graph, moving)
    walk.seed(logits, classes, class_count, features)
    for node in reversed(graph):
        if node.output and features not in node.output and not stops(node):
            walk.back(node)
    name = walk.dense(features)
    if name is None:
        raise ModelError(
            f"No gradient reaches the features {features!r}: every way to the logits {logits!r} "
            "leads through statistics of a norm. Take the features at another layer (layer=...)."
        )
    return _finished(tape, name)


def _values(graph: Sequence[onnx.NodeProto]) -> dict[str, np.ndarray]:
    """What the graph's Constant nodes hold."""
    found = {}
    for node in graph:
        if node.op_type == "Constant":
            value = next(iter(attributes_of(node).values()))
            if isinstance(value, onnx.TensorProto):
                value = numpy_helper.to_array(value)
            found[node.output[0]] = np.asarray(value)
    return found


def _moving(graph: Sequence[onnx.NodeProto], features: str) -> set[str]:
    """The tensors whose values move with the features'."""
    moving = {features}
    for node in graph:
        if moving.intersection(node.input) and not stops(node):
            moving.update(name for name in node.output if name)
    return moving


class _Walk:
    """Walks a graph backwards and gathers the parts of every tensor's cotangent."""

    def __init__(self, tape: Tape, graph: Sequence[onnx.NodeProto], moving: set[str]) -> None:
        self._tape, self._moving = tape, moving
        self._parts: dict[str, list[_Part]] = {}
        self._makers = {name: node for node in graph for name in node.output}
        self._readers: dict[str, int] = {}
        for node in graph:
            for name in node.input if not stops(node) else ():
                self._readers[name] = self._readers.get(name, 0) + 1

    def seed(self, logits: str, classes: str, class_count: int, features: str) -> None:
        """Starts with dS_c / dS: 1 at the chosen class.

        Behind a last linear layer that is a row of its weights, which is gathered instead of
        multiplied with.
        """
        chosen = self._tape.op("Transpose", classes, perm=[1, 0])
        name: str = logits
        while name != features and (name == logits or self._readers.get(name, 0) == 1):
            node = self._makers[name]
            below = [i for i in node.input if i in self._moving]
            if len(below) != 1:
                break
            weights = self._rows(node, below[0])
            if weights is not None:
                rows = self._tape.op("Gather", weights, chosen, axis=0)
                scale = float(attributes_of(node).get("alpha", 1.0))  # type: ignore[arg-type]
                rows = rows if scale == 1 else self._tape.op("Mul", rows, scale)
                self._parts[below[0]] = [_Part(rows)]
                return
            if not self._is_shift(node, below[0]):
                break
            name = below[0]
        depth = self._tape.array(np.array(class_count, np.int64))
        values = self._tape.array(np.array([0, 1], np.float32))
        self._parts[name] = [_Part(self._tape.op("OneHot", chosen, depth, values, axis=-1))]

    def _rows(self, node: onnx.NodeProto, below: str) -> str | None:
        """The weights `[C, K]` of a linear layer on `[B, K]`; None for another node."""
        if node.op_type not in {"Gemm", "MatMul"} or node.input[0] != below:
            return None
        attributes = attributes_of(node)
        shapes = [self._tape.known_shape(name) for name in node.input[:2]]
        if any(shape is None or len(shape) != 2 for shape in shapes):
            return None
        if attributes.get("transA", 0):
            return None
        weights: str = node.input[1]
        return weights if attributes.get("transB", 0) else self._tape.swap(weights, 2)

    def _is_shift(self, node: onnx.NodeProto, below: str) -> bool:
        """Whether a node adds a constant at most, and keeps the shape."""
        if node.op_type == "Identity":
            return True
        same = self._tape.known_shape(below) == self._tape.known_shape(node.output[0])
        return node.op_type == "Add" and same

    def back(self, node: onnx.NodeProto) -> None:
        """Sends the cotangents of a node's outputs to its inputs."""
        given = [i for i, name in enumerate(node.output) if name in self._parts]
        if not given:
            return
        if node.op_type == "Split" and not node.domain:
            for i in given:
                self._back_through_split(node, i)
            return
        if node.domain or node.op_type not in RULES or given != [0]:
            refuse(node)
        part = self._joined(node.output[0])
        if part.axis is None:
            kept = self._selection(node, part.name)
            if kept is not None:
                self._add(node.input[0], kept)
                return
        self._back_through_rule(node, part)

    def _back_through_rule(self, node: onnx.NodeProto, part: _Part) -> None:
        axes: dict[int, int] = {}
        if part.axis is not None:
            carried = carry(self._tape, node, part.axis)
            if carried is None:
                part = _Part(self._padded(part, node.output[0]))
            else:
                axes = carried
        inputs = [self._cut(name, axes.get(i), part) for i, name in enumerate(node.input)]
        outputs = [self._cut(node.output[0], part.axis, part), *node.output[1:]]
        wanted = tuple(i for i, name in enumerate(node.input) if name in self._moving)
        call = Call(node, tuple(inputs), tuple(outputs), wanted, attributes_of(node))
        for i, name in RULES[node.op_type](self._tape, call, part.name).items():
            if i in axes:
                self._add(node.input[i], _Part(name, axes[i], part.start, part.stop))
            else:
                self._add(node.input[i], _Part(name))

    def _cut(self, name: str, axis: int | None, part: _Part) -> str:
        return name if axis is None else self._tape.cut(name, axis, part.start, part.stop)

    def _selection(self, node: onnx.NodeProto, cotangent: str) -> _Part | None:
        """The cotangent of what a Slice or Gather selects, left without the zeros around it."""
        limits = {"Slice": self._slice_limits, "Gather": self._gather_limits}.get(node.op_type)
        found = limits(node) if limits else None
        if found is None:
            return None
        axis, start, stop = found
        if node.op_type == "Gather" and self._tape.shape(node.input[1]) == ():
            cotangent = self._tape.op("Unsqueeze", cotangent, self._tape.integers([axis + 1]))
        return _Part(cotangent, axis, start, stop)

    def _slice_limits(self, node: onnx.NodeProto) -> tuple[int, int, int] | None:
        values = [self._tape.value(name) for name in node.input[1:]]
        if len(values) < 3 or any(v is None or v.size != 1 for v in values):
            return None
        start, stop, axis, *step = (int(v.item()) for v in values if v is not None)
        shape = self._tape.shape(node.input[0])
        axis %= len(shape)
        if step not in ([], [1]) or not 0 <= start < stop <= shape[axis]:
            return None
        return axis, start, stop

    def _gather_limits(self, node: onnx.NodeProto) -> tuple[int, int, int] | None:
        index = self._tape.value(node.input[1])
        if index is None or index.size != 1 or index.ndim > 1 or index.item() < 0:
            return None
        rank = self._tape.rank(node.input[0])
        axis = int(attributes_of(node).get("axis", 0)) % rank  # type: ignore[call-overload]
        return axis, int(index.item()), int(index.item()) + 1

    def _back_through_split(self, node: onnx.NodeProto, index: int) -> None:
        """Each output of a Split is a slice."""
        shape = self._tape.shape(node.input[0])
        axis = int(attributes_of(node).get("axis", 0)) % len(shape)  # type: ignore[call-overload]
        sizes = [self._tape.shape(name)[axis] for name in node.output]
        name = self.dense(node.output[index])
        start = sum(sizes[:index])
        self._add(node.input[0], _Part(name or "", axis, start, start + sizes[index]))

    def _add(self, name: str, part: _Part) -> None:
        if name in self._moving:
            self._parts.setdefault(name, []).append(part)

    def dense(self, name: str) -> str | None:
        """A tensor's whole cotangent; None where none has come."""
        return self._padded(self._joined(name), name) if name in self._parts else None

    def _padded(self, part: _Part, name: str) -> str:
        if part.axis is None:
            return part.name
        return pad_axis(self._tape, part.name, name, part.axis, part.start)

    def _joined(self, name: str) -> _Part:
        """The sum of a tensor's cotangents; neighbouring parts are put side by side."""
        parts = self._side_by_side(list(_summed(self._tape, self._parts[name])))
        if len(parts) == 1:
            return parts[0]
        return _Part(self._tape.op("Sum", *(self._padded(part, name) for part in parts)))

    def _side_by_side(self, parts: list[_Part]) -> list[_Part]:
        axis = parts[0].axis
        if len(parts) == 1 or axis is None or any(part.axis != axis for part in parts):
            return parts
        parts = sorted(parts, key=lambda part: part.start)
        if any(a.stop != b.start for a, b in pairwise(parts)):
            return parts
        names = [part.name for part in parts]
        whole = self._tape.op("Concat", *names, axis=axis + 1)
        return [_Part(whole, axis, parts[0].start, parts[-1].stop)]


def _summed(tape: Tape, parts: Sequence[_Part]) -> Iterator[_Part]:
    """Parts at the same place, added."""
    places: dict[tuple[int | None, int, int], list[str]] = {}
    for part in parts:
        places.setdefault(part.place, []).append(part.name)
    for place, names in places.items():
        yield _Part(names[0] if len(names) == 1 else tape.op("Sum", *names), *place)


def _finished(tape: Tape, name: str) -> Gradient:
    """Only the nodes and constants that the result needs."""
    needed, nodes = {name}, []
    for node in reversed(tape.nodes):
        if needed.intersection(node.output):
            needed.update(node.input)
            nodes.append(node)
    constants = tuple(value for key, value in tape.constants.items() if key in needed)
    return Gradient(tuple(reversed(nodes)), constants, name)
