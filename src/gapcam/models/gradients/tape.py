"""What the rules of `gapcam.models.gradients` write with: a list of ONNX nodes that grows.

Throughout, a *cotangent* of a tensor of shape `[...]` has the shape `[n, ...]`: one for each of
the n classes asked for. The tensors of the forward pass are never repeated n times, they
broadcast, so every axis that a rule names is negative.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, NoReturn

import numpy as np
import onnx
from onnx import helper, numpy_helper

from gapcam.types import ModelError


def refuse(node: onnx.NodeProto, why: str = "") -> NoReturn:
    """Says that a node between the features and the logits cannot be differentiated.

    Raises:
        ModelError: Always.
    """
    operation = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
    reason = f" ({why})" if why else ""
    raise ModelError(
        f"The head holds {operation} (node {node.name or node.output[0]!r}), whose gradient gapcam "
        f'cannot write as ONNX{reason}. Run the model on the torch engine (engine="torch"), or '
        "take the features after it (layer=...)."
    )


class Tape:
    """Collects nodes and constants in order; each call returns the name of its output.

    Args:
        prefix: What the names of new nodes and tensors begin with.
        constants: The values of the graph that do not depend on the picture.
        shapes: Of the tensors that do, in a probe run with two pictures.
        opset: Of the graph.
        frozen_norms: Whether norms take their statistics as constants of the picture.
    """

    def __init__(
        self,
        prefix: str,
        constants: Mapping[str, np.ndarray],
        shapes: Mapping[str, tuple[int, ...]],
        opset: int,
        *,
        frozen_norms: bool,
    ) -> None:
        self.opset, self.frozen_norms = opset, frozen_norms
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self._prefix, self._values, self._shapes = prefix, constants, dict(shapes)
        self._known: dict[object, str] = {}
        self._numbers = count()

    def op(self, kind: str, *inputs: str | float, **attributes: Any) -> str:
        """Appends a node; numbers become float32 scalars. The same node is written once."""
        names = [i if isinstance(i, str) else self.number(i) for i in inputs]
        key = (kind, tuple(names), repr(sorted(attributes.items())))
        if key not in self._known:
            name = self._known[key] = f"{self._prefix}_{kind.lower()}_{next(self._numbers)}"
            self.nodes.append(helper.make_node(kind, names, [name], name=name, **attributes))
        return self._known[key]

    def array(self, value: np.ndarray) -> str:
        """A constant."""
        key = (value.dtype.str, value.shape, value.tobytes())
        if key not in self._known:
            name = self._known[key] = f"{self._prefix}_constant_{next(self._numbers)}"
            self.constants[name] = numpy_helper.from_array(value, name)
        return self._known[key]

    def number(self, value: float) -> str:
        """A float32 scalar."""
        return self.array(np.array(value, np.float32))

    def integers(self, values: Sequence[int]) -> str:
        """An int64 vector."""
        return self.array(np.array(values, np.int64))

    def value(self, name: str) -> np.ndarray | None:
        """What a constant holds; None where the tensor is not constant."""
        return self._values.get(name)

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape in the probe run.

        Raises:
            ModelError: It is not known.
        """
        found = self.known_shape(name)
        if found is None:
            raise ModelError(f"The shape of the tensor {name!r} in the head is not known.")
        return found

    def known_shape(self, name: str) -> tuple[int, ...] | None:
        """A tensor's shape in the probe run; None where it is not known."""
        if name in self._shapes:
            return self._shapes[name]
        value = self._values.get(name)
        return None if value is None else tuple(value.shape)

    def rank(self, name: str) -> int:
        """How many axes a tensor has."""
        return len(self.shape(name))

    def sides(self, name: str, start: int = 0, end: int | None = None) -> str:
        """The lengths of a tensor's axes `start` to `end`, when the graph runs."""
        limits = {"start": start} if end is None else {"start": start, "end": end}
        return self.op("Shape", name, **limits)

    def cut(self, name: str, axis: int, start: int, stop: int) -> str:
        """Positions `start` to `stop` of one axis of a tensor; its shape is known afterwards."""
        limits = [self.integers([value]) for value in (start, stop, axis)]
        result = self.op("Slice", name, *limits)
        shape = list(self.shape(name))
        shape[axis] = stop - start
        self._shapes[result] = tuple(shape)
        return result

    def like(self, cotangent: str, primal: str) -> str:
        """The cotangent's values in the order they have, as `[n, *primal.shape]`."""
        return self.reshape(cotangent, self.integers([-1]), self.sides(primal))

    def reshape(self, tensor: str, *sides: str) -> str:
        """A tensor reshaped; the parts of the new shape are joined."""
        shape = sides[0] if len(sides) == 1 else self.op("Concat", *sides, axis=0)
        return self.op("Reshape", tensor, shape)

    def spread(self, cotangent: str, primal: str) -> str:
        """The cotangent repeated along axes of length 1 to `[n, *primal.shape]`."""
        shape = self.op("Concat", self.integers([1]), self.sides(primal), axis=0)
        return self.op("Expand", cotangent, shape)

    def sum(self, tensor: str, axes: Sequence[int], *, keep: bool = True) -> str:
        """Sums over axes."""
        return self.op("ReduceSum", tensor, self.integers(axes), keepdims=int(keep))

    def mean(self, tensor: str, axes: Sequence[int]) -> str:
        """Means over axes, which stay with length 1."""
        return self.op("ReduceMean", tensor, self.integers(axes), keepdims=1)

    def swap(self, tensor: str, rank: int) -> str:
        """The last two axes of a tensor of `rank` axes exchanged."""
        order = [*range(rank - 2), rank - 1, rank - 2]
        return self.op("Transpose", tensor, perm=order)

    def unbroadcast(self, cotangent: str, primal: str, out: str) -> str:
        """What flows back to an operand that was broadcast: the sum over its repetitions.

        Args:
            cotangent: `[n, *out.shape]`.
            primal: The operand.
            out: The result of the elementwise operation.
        """
        sides, total = self.shape(primal), self.shape(out)
        extra = len(total) - len(sides)
        repeated = [
            i - len(sides)
            for i, (side, full) in enumerate(zip(sides, total[extra:], strict=True))
            if side == 1 and full != 1
        ]
        if repeated:
            cotangent = self.sum(cotangent, repeated)
        if extra:
            cotangent = self.sum(cotangent, list(range(1, 1 + extra)), keep=False)
        return cotangent


@dataclass(frozen=True)
class Call:
    """A node of the head, as its rule sees it.

    Attributes:
        node: The node.
        inputs: Names of what it reads, empty where an optional input is left out. Where the
            cotangent covers only some positions, these are cut to them.
        outputs: Likewise what it gives.
        wanted: Which inputs depend on the features, so need a cotangent.
        attributes: Of the node.
    """

    node: onnx.NodeProto
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    wanted: tuple[int, ...]
    attributes: Mapping[str, Any]

    @property
    def x(self) -> str:
        """The first input."""
        return self.inputs[0]

    @property
    def y(self) -> str:
        """The first output."""
        return self.outputs[0]

    def has(self, index: int) -> bool:
        """Whether an optional input is given."""
        return len(self.inputs) > index and bool(self.inputs[index])

    def only_first(self) -> None:
        """Checks that the first input alone depends on the features.

        Raises:
            ModelError: Another one does.
        """
        if self.wanted != (0,):
            refuse(self.node, "its parameters depend on the picture")

    def constant(self, tape: Tape, index: int) -> np.ndarray:
        """The value of an input that must be constant.

        Raises:
            ModelError: It is not.
        """
        value = tape.value(self.inputs[index])
        if value is None:
            refuse(self.node, f"its input {index} is not constant")
        return value
