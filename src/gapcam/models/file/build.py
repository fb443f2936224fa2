"""A classifier, as ONNX or as a PyTorch module, to a network whose head is known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn
from torch.export import ExportedProgram

from gapcam.models.file.assemble import assemble
from gapcam.models.file.network import Network
from gapcam.models.file.probe import probe_head
from gapcam.models.heads import find_head
from gapcam.models.heads.endings import ENDING_LEFT_OUT, difference_before_ending
from gapcam.models.heads.sizes import Sizes, rigid, sizes_taken
from gapcam.models.onnx_graphs.prepare import PREFIX, Prepared, prefixed, prepare
from gapcam.models.onnx_graphs.trace import trace_onnx
from gapcam.models.pytorch.export import export_module
from gapcam.models.pytorch.modules import detached_copy
from gapcam.products import span
from gapcam.types import FloatArray, ModelCard, ModelError, Preprocessing, SizeHW

SAME = 1e-3
"""Two runs of one network agree when they differ by less than this share of the logits' range."""

Reference = Callable[[FloatArray], FloatArray]


def network_of(
    proto: onnx.ModelProto,
    preprocessing: Preprocessing,
    origin: str,
    *,
    layer: str | None = None,
    reference: Reference | None = None,
) -> Network:
    """Find the head of a classifier.

    Args:
        proto: The classifier as ONNX; it is not changed.
        preprocessing: What it expects of pictures.
        origin: What to call it in messages.
        layer: Where to take the features instead of where the head begins.
        reference: The network as its own framework runs it, `[B, 3, H, W]` to logits: the ONNX
            graph must agree with it.

    Raises:
        ModelError: It has no head that can be used, or does not run, or disagrees with the
            reference.
    """
    ready = prepare(proto, origin)
    size_hw = ready.fixed_hw or preprocessing.size_hw
    if size_hw != preprocessing.size_hw:
        raise ModelError(
            f"{origin}: takes pictures of {size_hw[0]} x {size_hw[1]} only, asked for "
            f"{preprocessing.size_hw[0]} x {preprocessing.size_hw[1]}. Leave the size out."
        )
    try:
        trace = trace_onnx(ready.proto, size_hw)
        plan = find_head(trace, layer)
    except ModelError as error:
        raise ModelError(f"{origin}: {error}") from error
    runs = _Runs(ready, reference, origin)
    batch = ready.fixed_batch or (None if runs.free_batch(size_hw) else 1)
    if not runs.same(batch or 2, size_hw):
        raise ModelError(
            f"{origin}: as ONNX it gives other scores than before "
            f"(more than {SAME:.1%} of their range). Run it on the torch engine: engine='torch'."
        )
    sizes = Sizes(size_hw)
    if ready.fixed_hw is None and not rigid(plan.head):
        sizes = sizes_taken(lambda other: runs.same(batch or 2, other), size_hw, plan.layout)
    network = Network(
        proto=prefixed(ready.proto),
        picture=PREFIX + ready.picture,
        picture_layout=ready.picture_layout,
        features=PREFIX + plan.features,
        layout=plan.layout,
        fine=plan.fine and PREFIX + plan.fine,
        fine_layout=plan.fine_layout,
        logits=PREFIX + ready.logits,
        weights=None,
        bias=np.zeros(trace.shapes[trace.logits][1], np.float32),
        preprocessing=preprocessing,
        shapes={PREFIX + name: shape for name, shape in trace.shapes.items()},
        kind=plan.kind,
        words="; ".join((plan.words, *ready.notes)),
        fixed_hw=sizes.fixed_hw,
        size_multiple=sizes.multiple,
        fixed_batch=batch,
    )
    return probe_head(network)


def network_of_module(
    module: nn.Module,
    preprocessing: Preprocessing,
    origin: str,
    *,
    layer: str | None = None,
    program: ExportedProgram | None = None,
) -> Network:
    """Export a PyTorch classifier, which is not changed, and find its head.

    Args:
        module: The classifier.
        preprocessing: What it expects of pictures.
        origin: What to call it in messages.
        layer: Where to take the features instead of where the head begins.
        program: What `trace_module` gave for it, if that was done.

    Raises:
        ModelError: As `export_module` and `network_of`.
    """
    copy = detached_copy(module)  # which may write to its buffers

    def reference(pictures: FloatArray) -> FloatArray:
        with torch.inference_mode():
            logits: FloatArray = copy(torch.from_numpy(pictures)).numpy()
        return logits

    proto = export_module(module, preprocessing.size_hw, program)
    return network_of(proto, preprocessing, origin, layer=layer, reference=reference)


def model_bytes(network: Network, card: ModelCard) -> bytes:
    """The model file's bytes.

    Raises:
        ModelError: It is too large for one ONNX file.
    """
    try:
        data: bytes = assemble(network, card).SerializeToString()
    except ValueError as error:  # protobuf's own limit
        raise ModelError(
            f"{card.name}: too large for one ONNX file, which holds at most 2 GiB ({error}). "
            "Run it on the torch engine: engine='torch'."
        ) from error
    return data


class _Runs:
    """Runs the ONNX graph, and the reference if there is one, on noise."""

    def __init__(self, ready: Prepared, reference: Reference | None, origin: str) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        data = ready.proto.SerializeToString()
        providers = ["CPUExecutionProvider"]
        self._ready, self._reference, self._origin = ready, reference, origin
        self._session = onnxruntime.InferenceSession(data, options, providers=providers)

    def free_batch(self, size_hw: SizeHW) -> bool:
        """Whether it takes three pictures at once and gives each the scores that it has alone."""
        noise = _noise(3, size_hw)
        together = self._logits(noise)
        if together is None or not self._agrees(together, noise):
            return False
        alone = [self._logits(noise[i : i + 1]) for i in range(3)]
        rows = [row for row in alone if row is not None]
        return len(rows) == 3 and _differ(np.concatenate(rows), together) <= SAME

    def same(self, batch: int, size_hw: SizeHW) -> bool:
        """Whether it runs at this batch and size, and agrees with the reference there."""
        noise = _noise(batch, size_hw)
        logits = self._logits(noise)
        return logits is not None and self._agrees(logits, noise)

    def _logits(self, noise: FloatArray) -> FloatArray | None:
        """`[B, C]`; None where it takes no such batch or size."""
        given = noise if self._ready.picture_layout == "nchw" else noise.transpose(0, 2, 3, 1)
        try:
            found = self._session.run([self._ready.logits], {self._ready.picture: given})[0]
        except Exception:  # the runtime's errors share no base class of their own
            return None
        logits: FloatArray = found
        return logits if len(logits) == len(noise) and np.isfinite(logits).all() else None

    def _agrees(self, logits: FloatArray, noise: FloatArray) -> bool:
        if self._reference is None:
            return True
        try:
            expected = self._reference(noise)
        except Exception:  # the network's own code refuses a size by any error
            return False
        if ENDING_LEFT_OUT in self._ready.notes:
            return difference_before_ending(logits, expected) <= SAME
        return _differ(logits, expected) <= SAME


def _noise(batch: int, size_hw: SizeHW) -> FloatArray:
    return np.random.default_rng(0).normal(0, 1, (batch, 3, *size_hw)).astype(np.float32)


def _differ(logits: FloatArray, expected: FloatArray) -> float:
    """The largest difference as a share of the range."""
    return float(np.abs(logits - expected).max()) / span(expected)
