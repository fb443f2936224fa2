"""A PyTorch module as a program of ATen operators (`torch.export`) and as a `Trace`."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import InputKind

from gapcam.models.pytorch.aten import Meaning, Shape, Site, meaning, short_name
from gapcam.models.pytorch.fuse import Draft, fuse
from gapcam.models.pytorch.modules import LogitsOnly, detached_copy, float_copy
from gapcam.models.trace import PROBE_BATCH, Step, Trace
from gapcam.types import ModelError, SizeHW

ENDINGS = frozenset({"softmax", "_softmax", "log_softmax", "_log_softmax", "sigmoid"})
"""What turns scores into probabilities."""


class UntraceableError(ModelError):
    """A network whose Python code cannot be followed; it may still be run as it is."""


def trace_module(module: nn.Module, size_hw: SizeHW) -> tuple[ExportedProgram, Trace]:
    """Export a classifier and list its steps.

    The program takes a float picture `[B, 3, H, W]` on the CPU and gives logits `[B, C]`; it writes
    to no tensor of the module. B is free; height and width are those it is traced with, since
    tracing with free sides can take minutes (see `gapcam.models.heads.sizes`).

    Args:
        module: In any mode, on any device, in any precision; it is left as it is.
        size_hw: The picture's sides, pixels.

    Returns:
        The program, without in-place operators, and its steps with shapes at `size_hw`.

    Raises:
        ModelError: The module cannot be copied, gives no logits, or decides in Python what to
            compute from the values of its tensors; the message gives the reason.
    """
    network = module if isinstance(module, LogitsOnly) else float_copy(module)
    picture = torch.zeros(PROBE_BATCH, 3, *size_hw)
    with own_modes():
        _check_runs(detached_copy(network), picture)
        program = _export(network, picture)
    return program, trace_program(program)


def trace_program(program: ExportedProgram) -> Trace:
    """The steps of a program that takes one picture and gives logits."""
    picture, logits = picture_of(program), logits_of_program(program)
    steps = _needed([draft.step for draft in fuse(drafts_of(program))], logits.name)
    if not steps:
        raise ModelError("the network's logits do not depend on the picture")
    names = {picture.name, *(name for step in steps for name in (*step.inputs, *step.outputs))}
    shapes = {node.name: shape_of(node) for node in program.graph.nodes if node.name in names}
    return Trace(steps, shapes, picture.name, logits.name)


def drafts_of(program: ExportedProgram) -> list[Draft]:
    """One step for every node whose values depend on the picture's, before any is fused."""
    dependent: set[fx.Node] = {picture_of(program)}
    drafts: list[Draft] = []
    for node in program.graph.nodes:
        inputs = tuple(n for n in node.all_input_nodes if n in dependent)
        if node.op == "call_function" and inputs and _gives_values(node):
            dependent.add(node)
            drafts.extend(_drafts(node, inputs))
    return drafts


def logits_of_program(program: ExportedProgram) -> fx.Node:
    """The node that gives the logits: the program's output, before any softmax or sigmoid."""
    node = output_of_program(program)
    while short_name(node) in ENDINGS:
        node = node.all_input_nodes[0]
    return node


def output_of_program(program: ExportedProgram) -> fx.Node:
    """The node that gives what the program gives."""
    return node_named(program, str(program.graph_signature.user_outputs[0]))


def node_named(program: ExportedProgram, name: str) -> fx.Node:
    """The node of that name.

    Raises:
        ModelError: There is none.
    """
    for node in program.graph.nodes:
        if node.name == name:
            found: fx.Node = node
            return found
    raise ModelError(f"the traced program has no tensor {name!r}")


def picture_of(program: ExportedProgram) -> fx.Node:
    """The program's one input that is no weight."""
    signature = program.graph_signature.input_specs
    users = [spec.arg.name for spec in signature if spec.kind is InputKind.USER_INPUT]
    return node_named(program, users[0])


def shape_of(node: fx.Node) -> Shape:
    """The shape of what a node gives, with the sides of the traced picture; `()` for no tensor."""
    value = node.meta.get("val")
    if isinstance(value, tuple | list) and value:
        value = value[0]
    return tuple(map(_side, value.shape)) if isinstance(value, Tensor) else ()


@contextmanager
def own_modes() -> Iterator[None]:
    """Gradients on, whatever the caller has set, and no fused inference kernels; then as before."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.inference_mode(False), torch.enable_grad(), no_autocast():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


@contextmanager
def no_autocast() -> Iterator[None]:
    """Autocast off on the CPU and on CUDA."""
    with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        yield


def _check_runs(network: nn.Module, picture: Tensor) -> None:
    """A network that cannot run says so in its own words, not the tracer's."""
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            network(picture)
    except ModelError:
        raise
    except Exception as error:  # the module's own code runs here
        raise ModelError(
            f"the network does not run on a picture {list(picture.shape)} "
            f"({type(error).__name__}: {_first_line(error)}). It has to take one picture, "
            "[B, 3, H, W], of the size that it was made for"
        ) from error


def _export(network: nn.Module, picture: Tensor) -> ExportedProgram:
    """The first way to export it that works."""
    reasons: list[str] = []
    for strict in (False, True):
        program = _try_export(network, picture, strict, reasons)
        if program is not None:
            return program
    raise UntraceableError(
        f"torch.export cannot trace the network ({reasons[0]}). A network whose Python code "
        "decides by the values of tensors runs as it is, on the torch engine alone"
    )


def _try_export(
    network: nn.Module, picture: Tensor, strict: bool, reasons: list[str]
) -> ExportedProgram | None:
    try:
        return _export_once(network, picture, strict)
    except Exception as error:  # whatever the tracer or the module's own code raises
        reasons.append(f"{type(error).__name__}: {_first_line(error)}")
        return None


def _export_once(network: nn.Module, picture: Tensor, strict: bool) -> ExportedProgram:
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        # the exporter's own notes, about its own code
        warnings.filterwarnings("ignore", category=FutureWarning, module="copyreg")
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.")
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"torch\.")
        warnings.filterwarnings("ignore", category=UserWarning, module=r"torch\.")
        free = ({0: Dim.AUTO},)
        program = torch.export.export(network, (picture,), dynamic_shapes=free, strict=strict)
        # the empty table takes no operator apart, but none writes in place any more
        functional: ExportedProgram = program.run_decompositions({})
        return functional


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else "no reason given"


def _side(side: Any) -> int:
    if isinstance(side, int):
        return side
    hint = side.node.hint
    return int(hint if hint is not None else side)


def _gives_values(node: fx.Node) -> bool:
    """Whether a node's result holds values of the picture, not only its sides."""
    value = node.meta.get("val")
    if isinstance(value, tuple | list):
        value = next(iter(value), None)
    return isinstance(value, Tensor) and short_name(node) not in _SHAPE_ONLY


_SHAPE_ONLY = frozenset(
    {
        "empty_like",
        "full_like",
        "new_empty",
        "new_full",
        "new_ones",
        "new_zeros",
        "ones_like",
        "zeros_like",
    }
)


def _drafts(node: fx.Node, inputs: tuple[fx.Node, ...]) -> Iterator[Draft]:
    """The steps of one node: one, or one a part where it gives several."""
    if node.target is operator.getitem:
        return  # its source has named it
    parts = {user.args[1]: user for user in node.users if user.target is operator.getitem}
    words = _words(node)
    if not parts:
        site = Site(node, inputs, tuple(map(shape_of, inputs)), shape_of(node), shape_of)
        yield Draft(node, inputs, node, meaning(site), words)
        return
    axis = _split_axis(node, inputs)
    first = 0
    for index, value in enumerate(node.meta["val"]):
        part = parts.get(index)
        length = 1 if axis is None or short_name(node) == "unbind" else _side(value.shape[axis])
        if part is not None and axis is not None:
            yield Draft(
                part, inputs, part, Meaning("select", (axis,), (first, first + length)), words
            )
        elif part is not None and index == 0:
            site = Site(node, inputs, tuple(map(shape_of, inputs)), shape_of(part), shape_of)
            yield Draft(node, inputs, part, meaning(site), words)
        elif part is not None:
            yield Draft(node, inputs, part, Meaning("other"), words)
        first += length


def _split_axis(node: fx.Node, inputs: tuple[fx.Node, ...]) -> int | None:
    if short_name(node) not in _SPLITS:
        return None
    place = 1 if short_name(node) == "unbind" else 2
    axis = node.args[place] if len(node.args) > place else node.kwargs.get("dim", 0)
    return int(axis) % len(shape_of(inputs[0]))  # type: ignore[arg-type]


_SPLITS = frozenset(
    {"chunk", "split", "split_with_sizes", "tensor_split", "unbind", "unsafe_chunk"}
)


def _words(node: fx.Node) -> str:
    """`conv2d layer4.2.conv3`: the operator and the innermost module that it belongs to."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [str(path) for path, _ in stack.values()]
    path = paths[-1] if paths else ""
    for prefix in ("L['self'].", "network."):
        path = path.removeprefix(prefix)
    return f"{short_name(node)} {path}".strip() if path != "network" else short_name(node)


def _needed(steps: list[Step], logits: str) -> tuple[Step, ...]:
    """The steps that the logits need."""
    wanted, kept = {logits}, []
    for step in reversed(steps):
        if wanted.intersection(step.outputs):
            wanted.update(step.inputs)
            kept.append(step)
    return tuple(reversed(kept))
