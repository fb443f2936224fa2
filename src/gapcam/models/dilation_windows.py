"""Windows that slide over a plane by one position and read every second or fourth."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from gapcam.models.efficientnet_lite import SameConv2d


@dataclass(frozen=True, slots=True)
class Axis:
    """A window along rows or columns, as it was before steps were removed, and where it lies now.

    Attributes:
        kernel: Positions in the window.
        stride: From one window to the next.
        padding: Before the first position, and after the last.
        dilation: From one position of the window to the next.
        ceil: Whether a window may reach beyond the padding.
        spread: How many times finer the plane is now.
        first: Where in the plane the first of the old positions lies.
        shift: By how many positions every window begins earlier than the padding alone makes it.
    """

    kernel: int
    stride: int
    padding: tuple[int, int]
    dilation: int
    ceil: bool
    spread: int = 1
    first: int = 0
    shift: int = 0

    @property
    def reach(self) -> int:
        """From the first position of the window to the last, as it was."""
        return (self.kernel - 1) * self.dilation

    @property
    def centring(self) -> int:
        """The shift that puts every position into the middle of its window, or half a step after.

        At most the step that is removed, less one position, so that the old positions stay within
        the plane.
        """
        before = self.reach * self.spread // 2 - self.padding[0] * self.spread
        return min(max(before, 0), self.spread * (self.stride - 1))

    @property
    def keeps_sides(self) -> bool:
        """Whether the padding alone gives as many positions as there were."""
        even = self.padding[0] == self.padding[1]
        return even and (self.stride == 1 or (2 * self.padding[0] == self.reach and not self.shift))

    def given_before(self, side: int) -> int:
        """How many windows there were on a plane of that side."""
        room = side + sum(self.padding) - self.reach - 1
        count = (-(-room // self.stride) if self.ceil else room // self.stride) + 1
        if self.ceil and (count - 1) * self.stride >= side + self.padding[0]:
            count -= 1
        return count

    def wanted(self, side: int) -> int:
        """How many there are now on a plane of that side: the same for all that step alike.

        Every window of before is among them; `spread * stride` to each of those where the plane
        has them.
        """
        count = self.given_before(-(-side // self.spread))
        finer = self.spread * self.stride
        last = finer * (count - 1) + self.first + self.shift
        return max(min(side, finer * count), last + 1)

    def pads(self, side: int) -> tuple[int, int]:
        """What has to be put before and after a plane of that side; below 0: taken off."""
        before, after = (padding * self.spread for padding in self.padding)
        if self.stride == 1:
            return before, after
        before += self.shift
        return before, self.wanted(side) - side + self.reach * self.spread - before


def axes_of(window: Any, spread: int = 1) -> tuple[Axis, Axis]:
    """The rows and the columns of a convolution or a pool."""
    values = []
    for i in range(2):
        kernel, stride, dilation = (
            _at(getattr(window, name, 1), i) for name in ("kernel_size", "stride", "dilation")
        )
        if isinstance(window, SameConv2d):
            left, right, top, bottom = window.same_padding
            padding = ((top, bottom), (left, right))[i]
        else:
            padding = (0 if isinstance(window.padding, str) else _at(window.padding, i),) * 2
        ceil = bool(getattr(window, "ceil_mode", False))
        values.append(Axis(kernel, stride, padding, dilation, ceil, spread))
    return values[0], values[1]


class Extend:
    """A forward pre-hook that puts around a plane what its windows ask for."""

    def __init__(self, axes: tuple[Axis, Axis]) -> None:
        self._axes = axes

    def __call__(self, _window: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments, the first padded."""
        x, *rest = arguments
        return padded(x, self._axes), *rest


def padded(x: Tensor, axes: tuple[Axis, Axis], value: float = 0.0) -> Tensor:
    """The plane with what its windows ask for around it."""
    rows, columns = (a.pads(side) for a, side in zip(axes, x.shape[-2:], strict=True))
    return functional.pad(x, (*columns, *rows), value=value) if any(rows + columns) else x


class AtrousMaximumPool(nn.Module):
    """Max pooling over every `spread`-th position; `nn.MaxPool2d` pads by half a kernel at most.

    Args:
        axes: The windows as they were.
    """

    def __init__(self, axes: tuple[Axis, Axis]) -> None:
        super().__init__()
        self.axes = axes

    def forward(self, x: Tensor) -> Tensor:
        """`[B, K, H, W]` to `[B, K, H', W']`, stride 1."""
        x = padded(x, self.axes, -math.inf)
        kernel = (self.axes[0].kernel, self.axes[1].kernel)
        spread = (
            self.axes[0].dilation * self.axes[0].spread,
            self.axes[1].dilation * self.axes[1].spread,
        )
        return functional.max_pool2d(x, kernel, 1, 0, spread)


class AtrousAveragePool(nn.Module):
    """Average pooling over every `spread`-th position; `nn.AvgPool2d` has no dilation.

    Args:
        axes: The windows as they were.
        count_padding: Whether the padding counts as positions that are averaged.
        divisor: What the sum is divided by instead of the number of positions.
    """

    def __init__(self, axes: tuple[Axis, Axis], count_padding: bool, divisor: int | None) -> None:
        super().__init__()
        self.axes = axes
        self.count_padding = count_padding
        self.divisor = divisor

    def forward(self, x: Tensor) -> Tensor:
        """`[B, K, H, W]` to `[B, K, H', W']`, stride 1."""
        sums = self._summed(padded(x, self.axes))
        if self.divisor is not None:
            return sums / self.divisor
        inside = torch.ones(1, 1, *x.shape[-2:], dtype=x.dtype, device=x.device)
        if not self.count_padding:
            return sums / self._summed(padded(inside, self.axes))
        # beyond the padding nothing counts
        own = tuple(tuple(p * a.spread for p in a.padding) for a in self.axes)
        inside = functional.pad(inside, (*own[1], *own[0]), value=1.0)
        more = tuple(
            (now[0] - was[0], now[1] - was[1]) for now, was in zip(self._pads(x), own, strict=True)
        )
        return sums / self._summed(functional.pad(inside, (*more[1], *more[0])))

    def _pads(self, x: Tensor) -> list[tuple[int, int]]:
        return [a.pads(side) for a, side in zip(self.axes, x.shape[-2:], strict=True)]

    def _summed(self, x: Tensor) -> Tensor:
        """Sums over the windows of a plane with its padding."""
        channels = x.shape[1]
        rows, columns = self.axes
        ones = torch.ones(channels, 1, rows.kernel, columns.kernel, dtype=x.dtype, device=x.device)
        spread = (rows.spread * rows.dilation, columns.spread * columns.dilation)
        return functional.conv2d(x, ones, dilation=spread, groups=channels)


def _at(value: Any, index: int) -> int:
    return int(value[index] if isinstance(value, tuple | list) else value)
