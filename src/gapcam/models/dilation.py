"""Finer features from the same weights: the last strides removed, what follows dilated.

The à trous conversion of Chen et al., "DeepLab" (PAMI 2018, arXiv 1606.00915, section 3.1) and Yu
and Koltun, "Multi-Scale Context Aggregation by Dilated Convolutions" (ICLR 2016): a step of stride
2 takes every position instead of every second one, and every window after it takes every second
position of its input. With the same weights, every second position of the new features is a
position of the old ones, exactly: the even ones, or the odd ones where windows are moved.

Moved they are so that a position lies in the middle of what it reads. A window that steps from
2i to 2i + 2, as TensorFlow's "SAME" padding puts it on even sides, is centred at 2i + 1. If it went
on to begin where it began, position j of the finer plane would read what is centred at j + 1, and
every removed step would move the maps left and up, by half a step: 8 pixels from stride 32 to 16,
12 to 8. With such a window moved back, j reads what is centred at j, and old position i is at
2i + 1. Padding that is the same on both sides, as ResNet's, puts windows at 2i, where they stay.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from gapcam.models.dilation_check import Firsts, compare
from gapcam.models.dilation_windows import (
    AtrousAveragePool,
    AtrousMaximumPool,
    Axis,
    Extend,
    axes_of,
)
from gapcam.models.efficientnet_lite import SameConv2d
from gapcam.models.pytorch.hooks import layout_of
from gapcam.types import ArgumentError, ModelError, SizeHW

WINDOWS = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)
CELLS = 8
"""The side of the grid that a trunk is tried on, where it names no picture size."""
WAY_OUT = "Leave the map stride as it is, or take another network"


@dataclass(frozen=True, slots=True)
class _Call:
    """One run of a module.

    Attributes:
        path: Its name.
        part: The module.
        before: The stride of what it reads, pixels; 0 where that has no positions.
        after: The stride of what it gives, likewise.
    """

    path: str
    part: nn.Module
    before: int
    after: int


def dilate(
    trunk: nn.Module, from_stride: int, to_stride: int, size_hw: SizeHW | None = None
) -> nn.Module:
    """A copy of a trunk whose features are finer; its parameters have the same names and values.

    Args:
        trunk: `[B, 3, H, W]` to `[B, K, h, w]`; not changed.
        from_stride: Pixels between two of its positions.
        to_stride: Of the copy: a half, a quarter or an eighth.
        size_hw: A picture size that it takes, pixels; its own `size_hw`, or a square of eight
            strides, when None.

    Returns:
        The copy. Sampled at every (from_stride / to_stride)-th position, from one of the first on,
        its features are the trunk's.

    Raises:
        ArgumentError: Strides of which one is no half, quarter or eighth of the other.
        ModelError: A step or a window that cannot be dilated; the message names the module.
    """
    if to_stride < 1 or from_stride not in {to_stride << i for i in range(4)}:
        raise ArgumentError(
            f"map stride {to_stride}: expected a half, a quarter or an eighth of the network's "
            f"stride, {from_stride}"
        )
    if size_hw is None:
        size_hw = getattr(trunk, "size_hw", (CELLS * from_stride, CELLS * from_stride))
    made = copy.deepcopy(trunk)
    picture = torch.randn(1, 3, *size_hw, generator=torch.Generator().manual_seed(11))
    with _evaluating(made), torch.no_grad(), torch.random.fork_rng(devices=[]):
        calls = _calls(made, picture)
        _check_steps(calls, from_stride, to_stride)
        windows = _windows(calls, from_stride, to_stride)
        firsts = _firsts(windows, from_stride, to_stride)
        for path, (before, part) in windows.items():
            axes = _placed(part, before // to_stride, firsts)
            _put(made, path, _converted(part, path, before, axes))
        with _evaluating(reference := copy.deepcopy(trunk)):
            compare(reference, made, picture, from_stride // to_stride, firsts)
    return made


@contextmanager
def _evaluating(trunk: nn.Module) -> Iterator[None]:
    modes = {part: part.training for part in trunk.modules()}
    for part in modes:
        part.training = False
    try:
        yield
    finally:
        for part in trunk.modules():
            part.training = modes.get(part, trunk.training)


def _calls(trunk: nn.Module, picture: Tensor) -> list[_Call]:
    """Every run of a module that reads and gives a tensor, in the order in which they end."""
    size_hw: SizeHW = picture.shape[2], picture.shape[3]
    found: list[_Call] = []

    def watch(path: str) -> Callable[..., None]:
        def hook(part: nn.Module, arguments: Any, output: Any) -> None:
            first = arguments[0] if arguments else None
            if isinstance(first, Tensor) and isinstance(output, Tensor):
                window = isinstance(part, WINDOWS)
                strides = (_stride(t, size_hw, window) for t in (first, output))
                found.append(_Call(path, part, *strides))

        return hook

    parts = [(path, part) for path, part in trunk.named_modules() if path]
    handles = [part.register_forward_hook(watch(path)) for path, part in parts]
    try:
        trunk(picture)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _stride(tensor: Tensor, size_hw: SizeHW, planes: bool) -> int:
    """Pixels between two positions, to the nearest power of two; 0 where there are none."""
    if planes:
        grid: SizeHW = (tensor.shape[-2], tensor.shape[-1])
    else:
        try:
            grid = layout_of(tensor, size_hw, "").grid_hw
        except ModelError:
            return 0
    area = size_hw[0] * size_hw[1] / (grid[0] * grid[1])
    return int(1 << max(round(math.log2(area) / 2), 0))


def _check_steps(calls: list[_Call], from_stride: int, to_stride: int) -> None:
    """Every step beyond the new stride is a window's own, and begins at it or after."""
    steps = [c for c in calls if c.before and c.before < c.after and to_stride < c.after]
    own = [c.path for c in steps if isinstance(c.part, WINDOWS) and c.after <= from_stride]
    for call in steps:
        if call.after > from_stride or any(_holds(call.path, path) for path in own):
            if call.path in own and call.before < to_stride:
                raise ModelError(
                    f"{_shown(call)} goes from stride {call.before} to {call.after} at once: a map "
                    f"stride of {to_stride} lies between. {WAY_OUT}"
                )
            continue
        raise ModelError(
            f"{_shown(call)} goes from stride {call.before} to {call.after} and cannot be dilated: "
            f"only convolutions and max and average pooling can. {WAY_OUT}"
        )


def _holds(path: str, other: str) -> bool:
    return other == path or other.startswith(f"{path}.")


def _shown(call: _Call) -> str:
    return f"{call.path} ({type(call.part).__name__})"


def _windows(
    calls: list[_Call], from_stride: int, to_stride: int
) -> dict[str, tuple[int, nn.Module]]:
    """The windows that change, each with the stride of what it reads."""
    found: dict[str, tuple[int, nn.Module]] = {}
    for call in calls:
        if not isinstance(call.part, WINDOWS) or not 0 < call.before <= from_stride:
            continue
        single = all(a.kernel == 1 and a.stride == 1 for a in axes_of(call.part))
        if single or call.after > from_stride or call.after <= to_stride:
            continue
        known = found.setdefault(call.path, (call.before, call.part))
        if known[0] != call.before:
            raise ModelError(
                f"{_shown(call)} runs at strides {known[0]} and {call.before} with the same "
                f"weights, and would need two dilations. {WAY_OUT}"
            )
    return found


def _firsts(windows: dict[str, tuple[int, nn.Module]], from_stride: int, to_stride: int) -> Firsts:
    """Where the first old position lies in the planes of each spread, once windows are centred.

    All windows that make the same step are moved alike, as the largest needs it: their planes are
    added or joined.
    """
    first, firsts = (0, 0), {1: (0, 0)}
    stride = to_stride
    while stride < from_stride:
        spread = stride // to_stride
        found = [axes_of(part, spread) for before, part in windows.values() if before == stride]
        rows, columns = (
            max(((a.reach, -a.centring) for a in axis if a.stride > 1), default=(0, 0))
            for axis in ([pair[i] for pair in found] for i in range(2))
        )
        first = first[0] - rows[1], first[1] - columns[1]
        stride *= 2
        firsts[stride // to_stride] = first
    return firsts


def _placed(part: nn.Module, spread: int, firsts: Firsts) -> tuple[Axis, Axis]:
    """The axes of a window, with where the old positions lie before and after it."""
    placed = []
    for i, axis in enumerate(axes_of(part, spread)):
        first = firsts[spread][i]
        shift = firsts.get(spread * axis.stride, firsts[spread])[i] - first
        placed.append(replace(axis, first=first, shift=shift))
    return placed[0], placed[1]


def _put(trunk: nn.Module, path: str, part: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    trunk.get_submodule(parent)._modules[name] = part


def _converted(part: nn.Module, path: str, before: int, axes: tuple[Axis, Axis]) -> nn.Module:
    """A window that takes every position and reads every `spread`-th: a new pool, or `part`."""
    if isinstance(part, SameConv2d):
        return _same_convolution(part, axes)
    if isinstance(part, nn.Conv2d):
        return _convolution(part, path, axes)
    if type(part) not in WINDOWS or getattr(part, "return_indices", False):
        raise ModelError(
            f"{path} ({type(part).__name__}) pools at stride {before} and cannot be dilated: its "
            f"windows are its own. {WAY_OUT}"
        )
    if isinstance(part, nn.AvgPool2d):
        return AtrousAveragePool(axes, part.count_include_pad, part.divisor_override)
    return AtrousMaximumPool(axes)


def _same_convolution(part: SameConv2d, axes: tuple[Axis, Axis]) -> nn.Module:
    """As much is put after a plane as keeps its sides, which were even."""
    before = [a.padding[0] * a.spread + a.shift for a in axes]
    after = [a.reach * a.spread - b for a, b in zip(axes, before, strict=True)]
    part.same_padding = (before[1], after[1], before[0], after[0])
    _respace(part, axes[0].spread)
    return part


def _convolution(part: nn.Conv2d, path: str, axes: tuple[Axis, Axis]) -> nn.Module:
    if part.padding_mode != "zeros":
        raise ModelError(
            f"{path} pads its input by {part.padding_mode!r} and cannot be dilated. {WAY_OUT}"
        )
    if not isinstance(part.padding, str):  # "same" reckons with the dilation
        if all(axis.keeps_sides for axis in axes):
            part.padding = (axes[0].pads(0)[0], axes[1].pads(0)[0])
        else:
            part.padding = (0, 0)
            part.register_forward_pre_hook(Extend(axes))
    _respace(part, axes[0].spread)
    return part


def _respace(part: nn.Conv2d, spread: int) -> None:
    part.dilation = (part.dilation[0] * spread, part.dilation[1] * spread)
    part.stride = (1, 1)
