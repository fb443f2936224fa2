"""A PyTorch classifier on the torch engine: traced once, its head found, its sizes tried."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from gapcam.models.heads.endings import ENDING_LEFT_OUT, difference_before_ending
from gapcam.models.heads.sizes import Sizes, rigid, sizes_taken
from gapcam.models.label_lists import check_count
from gapcam.products import span
from gapcam.types import ModelError, SizeHW

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from gapcam.engines.torch import TorchEngine
    from gapcam.foreign import SourceOptions
    from gapcam.models.pytorch.hooks import HookedNetwork
    from gapcam.models.pytorch.network import TorchNetwork
    from gapcam.models.sources import SourceModel
    from gapcam.models.trace import Layout, Trace

HALF_SAME = 0.05
"""Share of the logits' range that half precision may differ by."""


@dataclass(frozen=True, slots=True)
class Head:
    """What a card says of the head, whichever engine runs it."""

    kind: str
    words: str
    size_hw: SizeHW
    layout: Layout
    fine: bool
    rigid: bool = False


class Tracer:
    """Traces a classifier when first asked to: both engines start from the same program."""

    def __init__(self, source: SourceModel) -> None:
        self._source = source
        self._found: tuple[ExportedProgram, Trace] | None = None

    def __call__(self) -> tuple[ExportedProgram, Trace]:
        """The program and its steps.

        Raises:
            ModelError: `torch.export` cannot follow it.
        """
        if self._found is None:
            from gapcam.models.pytorch.trace import trace_module

            size_hw = self._source.preprocessing.size_hw
            self._found = trace_module(self._source.module, size_hw)
        return self._found


def torch_engine(
    source: SourceModel, options: SourceOptions, tracer: Tracer
) -> tuple[TorchEngine, Head, Sizes]:
    """The classifier on PyTorch, what is known of its head, and the sizes that it takes.

    A network whose Python code `torch.export` cannot follow runs as it is, its features the output
    of the named module, or of the last one with a plane.

    Raises:
        ArgumentError: The device is not there.
        ModelError: It does not run, or has no features that give maps.
    """
    from gapcam.engines.torch import TorchEngine

    network, head, ends = _torch_network(source, options, tracer)
    pre = source.preprocessing
    engine = TorchEngine(network, pre, options.device or own_device(source), options.method)
    check_count(source.labels, len(engine.bias), source.name)
    if options.method != "cam":
        head = replace(head, kind=options.method)
    same = _same_as(source, engine, ends)
    if not same(pre.size_hw):
        raise ModelError(
            f"{source.name}: traced, it gives other scores than it does itself. Scores that depend "
            "on the other pictures of a batch, or on chance, have no maps."
        )
    sizes = Sizes(pre.size_hw) if head.rigid else sizes_taken(same, pre.size_hw, head.layout)
    engine.fixed_hw = sizes.fixed_hw
    return engine, head, sizes


def own_device(source: SourceModel) -> str:
    """Where a classifier's weights lie; `cpu` if it has none."""
    return next((str(weight.device) for weight in source.module.parameters()), "cpu")


def _same_as(source: SourceModel, engine: TorchEngine, ends: bool) -> Callable[[SizeHW], bool]:
    """Whether the traced program gives the network's own scores at a size.

    Args:
        source: The network.
        engine: Runs its program.
        ends: Whether the network ends in a softmax or sigmoid, which the program leaves out.
    """
    import torch

    from gapcam.models.file.build import SAME
    from gapcam.models.pytorch.modules import detached_copy

    network, pre = detached_copy(source.module), source.preprocessing
    tolerance = SAME if engine.device.type == "cpu" else HALF_SAME

    def same(size_hw: SizeHW) -> bool:
        noise = np.random.default_rng(0).integers(0, 256, (2, *size_hw, 3), np.uint8)
        try:
            ours = engine.run(noise).logits
            alone = engine.run(noise[1:]).logits
            ordered = noise if pre.channels == "rgb" else noise[..., ::-1]
            mean, scale = np.array(pre.mean, np.float32), np.array(pre.scale, np.float32)
            picture = (ordered.astype(np.float32) - mean) / scale
            with torch.inference_mode():
                theirs = network(torch.from_numpy(picture).permute(0, 3, 1, 2)).numpy()
        except Exception:  # the network's own code refuses a size by any error
            return False
        if np.abs(ours[1:] - alone).max() > tolerance * span(ours):
            return False
        if ends:
            return difference_before_ending(ours, theirs) <= tolerance
        return bool(np.abs(ours - theirs).max() <= tolerance * span(theirs))

    return same


def _torch_network(
    source: SourceModel, options: SourceOptions, tracer: Tracer
) -> tuple[TorchNetwork | HookedNetwork, Head, bool]:
    from gapcam.models.heads import find_head
    from gapcam.models.pytorch.hooks import HookedNetwork
    from gapcam.models.pytorch.network import TorchNetwork
    from gapcam.models.pytorch.trace import (
        UntraceableError,
        logits_of_program,
        output_of_program,
    )

    size_hw = source.preprocessing.size_hw
    try:
        program, trace = tracer()
        plan = find_head(trace, options.layer)
    except ModelError as error:
        # Any layer will do for Grad-CAM; and code that cannot be traced can still be run.
        if options.method == "cam" and not isinstance(error, UntraceableError):
            raise
        hooked = HookedNetwork(source.module, size_hw, options.layer)
        words = f"features: output of {hooked.layer}; the network cannot be traced"
        return hooked, Head("other", words, size_hw, hooked.layout, fine=False), False
    ends = logits_of_program(program) is not output_of_program(program)
    words = f"{plan.words}; {ENDING_LEFT_OUT}" if ends else plan.words
    fine = plan.fine is not None
    head = Head(plan.kind, words, size_hw, plan.layout, fine, rigid(plan.head))
    return TorchNetwork(program, plan), head, ends
