"""Networks that cannot be exported: run as they are, the features caught at a module's output."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from gapcam.models.pytorch.frozen_norms import FrozenStatistics
from gapcam.models.pytorch.modules import copy_on, detached_copy
from gapcam.models.pytorch.network import Gradient, TorchPass
from gapcam.models.pytorch.planes import to_planes
from gapcam.models.pytorch.trace import no_autocast
from gapcam.models.trace import HeadKind, Layout
from gapcam.types import ModelError, SizeHW

MOST_EXTRA_TOKENS = 16
PREFIX = "network."


class HookedNetwork:
    """A classifier that runs in Python, its features the output of one of its modules.

    Args:
        module: In any mode; it is copied and left as it is.
        size_hw: The size that it was made for, pixels.
        layer: The module's name, as `named_modules` gives it; None: the last one, in the order in
            which they finish, whose output still has a plane, or tokens.

    Raises:
        ModelError: The module does not run, there is no such layer, or its output is no features.
    """

    kind: HeadKind = "other"

    def __init__(self, module: nn.Module, size_hw: SizeHW, layer: str | None = None) -> None:
        self.size_hw = size_hw
        self.autocast: torch.dtype | None = None
        self._module = detached_copy(module)
        with torch.inference_mode(False), torch.no_grad(), no_autocast():
            name, self._calls, sample = _find(self._module, torch.zeros(1, 3, *size_hw), layer)
        self.layer = name
        self.layout = layout_of(sample, size_hw, name)

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Names and values of all that the outputs depend on, in a fixed order."""
        yield from sorted(self._module.state_dict().items())

    def moved(self, device: torch.device, autocast: torch.dtype | None = None) -> HookedNetwork:
        """The same network on a device; this one stays where it is.

        Args:
            device: Where it runs.
            autocast: The precision of the body's products; None: float32.
        """
        made = copy.copy(self)
        made.autocast = autocast
        made._module = copy_on(self._module, device)  # hooks of its own, shared weights
        return made

    def run(self, x: Tensor, gradient: Gradient = "none") -> TorchPass:
        """One forward pass over pictures `[B, 3, H, W]`."""
        catch = _Catch(self._calls, gradient != "none", FrozenStatistics())
        frozen = gradient == "frozen"
        logits = self._forward(x, catch, frozen)
        return TorchPass(logits.float(), catch.features(self.layer), None)

    def zero_score(self, x: Tensor) -> Tensor:
        """The logits `[B, C]` of all-zero features."""
        catch = _Catch(self._calls, False, FrozenStatistics(), zero=True)
        return self._forward(x, catch, False).float()

    def planes(self, tensor: Tensor, size_hw: SizeHW) -> Tensor:
        """Features, or a gradient by them, of pictures of that size as `[B, K, h, w]`."""
        return to_planes(tensor, self.layout, self.size_hw, size_hw)

    def fine_planes(self, tensor: Tensor, size_hw: SizeHW) -> Tensor:  # noqa: ARG002
        """There are none.

        Raises:
            ModelError: Always.
        """
        raise ModelError("this network has no fine features")

    def _forward(self, x: Tensor, catch: _Catch, frozen: bool) -> Tensor:
        part = self._module.get_submodule(PREFIX + self.layer)
        handle = part.register_forward_hook(catch)
        catch.norms.active = False
        try:
            with ExitStack() as modes:
                modes.enter_context(torch.set_grad_enabled(catch.differentiate))
                modes.enter_context(
                    no_autocast()
                    if self.autocast is None
                    else torch.autocast(x.device.type, dtype=self.autocast)
                )
                if frozen:
                    modes.enter_context(catch.norms)
                logits: Tensor = self._module(x)
        finally:
            handle.remove()
        return logits


class _Catch:
    """A forward hook that puts a leaf in the place of a module's output."""

    def __init__(
        self, calls: int, differentiate: bool, norms: FrozenStatistics, zero: bool = False
    ) -> None:
        self.differentiate = differentiate
        self.norms = norms
        self._left = calls
        self._zero = zero
        self._found: Tensor | None = None

    def __call__(self, _module: nn.Module, _arguments: Any, output: Tensor) -> Tensor | None:
        """Keep the output of the last call; the network goes on with a copy of it."""
        self._left -= 1
        if self._left:
            return None
        self._found = (torch.zeros_like(output) if self._zero else output.float()).detach()
        if self.differentiate:
            self._found.requires_grad_()
        self.norms.active = True
        # a copy: what comes next may write in place; the body may run under the user's no_grad
        with torch.set_grad_enabled(self.differentiate):
            return self._found.to(output.dtype, copy=True)

    def features(self, layer: str) -> Tensor:
        """What was kept."""
        if self._found is None:
            raise ModelError(f"the network did not run its layer {layer!r} on this picture")
        return self._found


def layout_of(tensor: Tensor, size_hw: SizeHW, name: str) -> Layout:
    """How a module's output lies, from its sides and the picture's.

    Planes have the picture's proportions and lie last or before the channels; tokens are a grid of
    those proportions after a few others.

    Raises:
        ModelError: It has neither planes nor tokens.
    """
    shape = tuple(tensor.shape)
    if len(shape) == 4:
        last = _distortion(shape[2], shape[3], size_hw)
        middle = _distortion(shape[1], shape[2], size_hw)
        if last <= middle:
            return Layout(1, (2, 3), (shape[2], shape[3]))
        return Layout(3, (1, 2), (shape[1], shape[2]))
    if len(shape) == 3:
        for extra in range(min(MOST_EXTRA_TOKENS, shape[1])):
            grid = _grid(shape[1] - extra, size_hw)
            if grid is not None:
                return Layout(2, (1,), grid, extra)
    raise ModelError(
        f"layer {name!r} gives {list(shape)}, expected planes [B, K, h, w] or tokens [B, N, K]. "
        "Name another layer"
    )


def _distortion(rows: int, columns: int, size_hw: SizeHW) -> float:
    return abs(math.log(rows * size_hw[1] / (columns * size_hw[0])))


def _grid(count: int, size_hw: SizeHW) -> SizeHW | None:
    rows = round(math.sqrt(count * size_hw[0] / size_hw[1]))
    if rows == 0 or count % rows or count == 1:
        return None
    columns = count // rows
    exact = rows * size_hw[1] == columns * size_hw[0]
    return (rows, columns) if exact else None


def _find(network: nn.Module, x: Tensor, layer: str | None) -> tuple[str, int, Tensor]:
    """The layer's name, how often it runs in one pass, and its last output."""
    parts = {
        name.removeprefix(PREFIX): part
        for name, part in network.named_modules()
        if name.startswith(PREFIX)
    }
    if layer is not None and layer not in parts:
        known = ", ".join(list(parts)[-8:])
        raise ModelError(f"the network has no layer {layer!r}; among its last are: {known}")
    runs: list[tuple[str, Tensor]] = []
    handles = [
        part.register_forward_hook(_recorder(runs, name))
        for name, part in parts.items()
        if layer is None or name == layer
    ]
    try:
        network(x)
    finally:
        for handle in handles:
            handle.remove()
    fitting = [(name, out) for name, out in runs if layer is not None or _has_positions(out)]
    if not fitting:
        raise ModelError(
            "the network has no module whose output has a plane or tokens"
            if layer is None
            else f"layer {layer!r} does not run, or gives no tensor. Name another layer"
        )
    name, output = fitting[-1]
    return name, sum(1 for other, _ in runs if other == name), output


def _recorder(runs: list[tuple[str, Tensor]], name: str) -> Any:
    def record(_module: nn.Module, _arguments: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            runs.append((name, output))

    return record


def _has_positions(output: Tensor) -> bool:
    if output.ndim == 4:
        return output.shape[2] * output.shape[3] > 1
    return output.ndim == 3 and output.shape[1] > 1
