"""Collects the nodes of an ONNX graph that is being put together."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper


class Nodes:
    """Nodes and constants in order; each call returns the name of its output."""

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
        """One node with one output, called `output` or by a name of its own."""
        name = output or f"{self._prefix}_{op.lower()}_{next(self._numbers)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=name, **attributes))
        return name

    def constant(self, value: np.ndarray) -> str:
        """A constant tensor."""
        name = f"{self._prefix}_constant_{next(self._numbers)}"
        self.constants.append(numpy_helper.from_array(value, name))
        return name

    def integers(self, *values: int) -> str:
        """A constant int64 vector."""
        return self.constant(np.array(values, np.int64))

    def number(self, value: float) -> str:
        """A constant float32 scalar."""
        return self.constant(np.array(value, np.float32))

    def joined_shape(self, first: str, second: str) -> str:
        """The first two sides of one tensor and the last two of another."""
        front = self.add("Shape", [first], start=0, end=2)
        back = self.add("Shape", [second], start=2, end=4)
        return self.add("Concat", [front, back], axis=0)
