"""An exported program cut at its features: a body that is only run and a head that is derived."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from gapcam.models.pytorch.frozen_norms import FROZEN_OPERATORS, detached
from gapcam.models.pytorch.fuse import statistics_of
from gapcam.models.pytorch.planes import to_planes
from gapcam.models.pytorch.trace import (
    drafts_of,
    logits_of_program,
    no_autocast,
    node_named,
    picture_of,
    shape_of,
)
from gapcam.models.trace import HeadKind, HeadPlan
from gapcam.types import ModelError, SizeHW

Gradient: TypeAlias = Literal["none", "frozen", "true"]
"""Of the head: none wanted; with the statistics of norms as constants; the true one."""


@dataclass(frozen=True, slots=True, eq=False)
class TorchPass:
    """What one forward pass gives.

    Attributes:
        logits: `[B, C]` float32.
        features: As the network lays them, float32; a leaf that the logits can be differentiated
            by, where a gradient was asked for.
        fine: As the network lays them, or None.
    """

    logits: Tensor
    features: Tensor
    fine: Tensor | None


class TorchNetwork:
    """A classifier as a program, cut where the plan says.

    Args:
        program: From `trace_module`; nothing is written to its weights.
        plan: From `find_head` on the trace of the same program.

    Raises:
        ModelError: The program needs inputs that are no tensors.
    """

    def __init__(self, program: ExportedProgram, plan: HeadPlan) -> None:
        self.plan = plan
        picture = picture_of(program)
        self.size_hw: SizeHW = _sides(shape_of(picture))
        self.autocast: torch.dtype | None = None
        cut = _Cut(program, plan, _weights(program))
        self._body = cut.body()
        self._heads = {"true": cut.head(frozen=False), "frozen": cut.head(frozen=True)}
        self._weights = {name: cut.weights[name] for name in sorted(cut.weights)}

    @property
    def kind(self) -> HeadKind:
        """What the head is."""
        return self.plan.kind

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Names and values of all that the outputs depend on, in a fixed order."""
        yield from self._weights.items()

    def moved(self, device: torch.device, autocast: torch.dtype | None = None) -> TorchNetwork:
        """The same network on a device; this one stays where it is.

        Args:
            device: Where it runs.
            autocast: The precision of the body's products; None: float32. The head stays float32.
        """
        made = copy.copy(self)
        made.autocast = autocast
        made._body = _on(self._body, device)
        made._heads = {name: _on(head, device) for name, head in self._heads.items()}
        return made

    def run(self, x: Tensor, gradient: Gradient = "none") -> TorchPass:
        """One forward pass over pictures `[B, 3, H, W]`."""
        with torch.no_grad(), self._precision(x.device):
            features, fine, *crossing = self._body(x)
        features, crossing = _single(features), [_single(value) for value in crossing]
        features = features.detach()
        if gradient != "none":
            features.requires_grad_()
        head = self._heads["true" if gradient == "none" else gradient]
        with torch.set_grad_enabled(gradient != "none"), no_autocast():
            logits = head(features, *crossing)
        return TorchPass(_single(logits), features, None if fine is None else _single(fine))

    def zero_score(self, x: Tensor) -> Tensor:
        """The logits `[B, C]` of all-zero features."""
        with torch.no_grad(), no_autocast():
            features, _, *crossing = self._body(x)
            logits: Tensor = self._heads["true"](torch.zeros_like(features), *crossing)
        return logits

    def planes(self, tensor: Tensor, size_hw: SizeHW) -> Tensor:
        """Features, or a gradient by them, of pictures of that size as `[B, K, h, w]`."""
        return to_planes(tensor, self.plan.layout, self.size_hw, size_hw)

    def fine_planes(self, tensor: Tensor, size_hw: SizeHW) -> Tensor:
        """Fine features of pictures of that size as `[B, K2, h2, w2]`."""
        if self.plan.fine_layout is None:
            raise ModelError("this network has no fine features")
        return to_planes(tensor, self.plan.fine_layout, self.size_hw, size_hw)

    def _precision(self, device: torch.device) -> AbstractContextManager[Any]:
        if self.autocast is None:
            return no_autocast()
        return torch.autocast(device.type, dtype=self.autocast)


class _Cut:
    """A program's nodes, sorted into those before and those after the features."""

    def __init__(
        self, program: ExportedProgram, plan: HeadPlan, weights: dict[str, Tensor]
    ) -> None:
        self.weights = weights
        self._program = program
        self._features = node_named(program, plan.features)
        self._fine = None if plan.fine is None else node_named(program, plan.fine)
        self._logits = logits_of_program(program)
        needed = _ancestors([self._logits])
        after: set[fx.Node] = set()
        for node in program.graph.nodes:
            if node in needed and any(n is self._features or n in after for n in _sources(node)):
                after.add(node)
        if self._logits not in after:
            raise ModelError(f"the logits do not depend on the features {plan.features!r}")
        self._after = after
        self._crossing = [
            node
            for node in program.graph.nodes
            if node is not self._features
            and node not in after
            and node.name not in weights
            and any(user in after for user in node.users)
        ]

    def body(self) -> fx.GraphModule:
        """Picture to features, fine features or None, and what else the head reads."""
        fine = [] if self._fine is None else [self._fine]
        ends = [self._features, *fine, *self._crossing]
        picture = picture_of(self._program)
        graph, copies = self._copied(_ancestors(ends), [picture])
        found = None if self._fine is None else copies[self._fine]
        graph.output((copies[self._features], found, *(copies[n] for n in self._crossing)))
        return self._module(graph)

    def head(self, frozen: bool) -> fx.GraphModule:
        """Features and what crosses to logits."""
        inputs = [self._features, *self._crossing]
        weights = {n for node in self._after for n in _sources(node) if n.name in self.weights}
        graph, copies = self._copied(self._after | weights, inputs)
        if frozen:
            self._freeze(graph, copies)
        graph.output(copies[self._logits])
        return self._module(graph)

    def _copied(
        self, wanted: set[fx.Node], inputs: Sequence[fx.Node]
    ) -> tuple[fx.Graph, dict[fx.Node, fx.Node]]:
        graph = fx.Graph()
        copies = {node: graph.placeholder(node.name) for node in inputs}
        for node in self._program.graph.nodes:
            if node not in wanted or node in copies:
                continue
            if node.op == "placeholder":
                copies[node] = graph.get_attr(node.name)
            else:
                copies[node] = graph.node_copy(node, copies.__getitem__)
                copies[node].target = _ANY_LAYOUT.get(node.target, node.target)
        return graph, copies

    def _freeze(self, graph: fx.Graph, copies: dict[fx.Node, fx.Node]) -> None:
        for node in self._after:
            if node.target in FROZEN_OPERATORS:
                copies[node].target = FROZEN_OPERATORS[node.target]
        for node, statistic in statistics_of(drafts_of(self._program)).items():
            if node in self._after and statistic in self._after:
                with graph.inserting_before(copies[node]):
                    constant = graph.call_function(detached, (copies[statistic],))
                copies[node].replace_input_with(copies[statistic], constant)

    def _module(self, graph: fx.Graph) -> fx.GraphModule:
        names = {str(node.target) for node in graph.nodes if node.op == "get_attr"}
        root = torch.nn.Module()
        for name in names:
            root.register_buffer(name, self.weights[name])
        module = fx.GraphModule(root, graph)
        module.training = False
        return module


_aten = torch.ops.aten
_ANY_LAYOUT: dict[Any, Any] = {
    # a view was traced on a tensor whose channels come first in memory
    _aten.view.default: _aten.reshape.default,
    _aten._unsafe_view.default: _aten.reshape.default,
}


def _weights(program: ExportedProgram) -> dict[str, Tensor]:
    """The values of the program's inputs, but for the picture: detached, sharing their memory."""
    found: dict[str, Tensor] = {}
    for spec in program.graph_signature.input_specs:
        if spec.kind is InputKind.USER_INPUT:
            continue
        target = str(spec.target)
        value = program.state_dict.get(target, program.constants.get(target))
        if not isinstance(value, Tensor):
            raise ModelError(f"the traced program reads {target!r}, which is no tensor")
        with torch.inference_mode(False), torch.no_grad():
            # autograd cannot save a tensor that was made in inference mode
            found[spec.arg.name] = value.clone() if value.is_inference() else value.detach()
    return found


def _sources(node: fx.Node) -> list[fx.Node]:
    return node.all_input_nodes


def _ancestors(ends: Sequence[fx.Node]) -> set[fx.Node]:
    found: set[fx.Node] = set()
    waiting = list(ends)
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting.extend(_sources(node))
    return found


def _on(module: fx.GraphModule, device: torch.device) -> fx.GraphModule:
    """A copy on a device; on the same device it shares the weights."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    graph.output(graph.graph_copy(module.graph, copies))
    for node in graph.nodes:
        if isinstance(node.kwargs.get("device"), torch.device):
            node.kwargs = {**node.kwargs, "device": device}
    root = torch.nn.Module()
    for name, value in module.named_buffers():
        root.register_buffer(name, value.to(device))
    made = fx.GraphModule(root, graph)
    made.training = False
    return made


def _single(value: Any) -> Any:
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.float()
    return value


def _sides(shape: tuple[int, ...]) -> SizeHW:
    return shape[2], shape[3]
