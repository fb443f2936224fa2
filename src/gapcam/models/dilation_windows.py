"""Windows that slide over a plane by one position and read every second or fourth."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class Axis:
    """A window along rows or columns, as it was before the step after it was removed.

    Attributes:
        kernel: Positions in the window.
        stride: From one window to the next.
        padding: Before the first position, and after the last.
        dilation: From one position of the window to the next.
        ceil: Whether a window may reach beyond the padding.
        spread: How many times finer the plane is now.
    """

    kernel: int
    stride: int
    padding: int
    dilation: int
    ceil: bool
    spread: int = 1

    @property
    def reach(self) -> int:
        """From the first position of the window to the last, as it was."""
        return (self.kernel - 1) * self.dilation

    @property
    def keeps_sides(self) -> bool:
        """Whether the padding alone gives as many positions as there were."""
        return 2 * self.padding == self.reach or self.stride == 1

    def given_before(self, side: int) -> int:
        """How many windows there were on a plane of that side."""
        room = side + 2 * self.padding - self.reach - 1
        count = (-(-room // self.stride) if self.ceil else room // self.stride) + 1
        if self.ceil and (count - 1) * self.stride >= side + self.padding:
            count -= 1
        return count

    def wanted(self, side: int) -> int:
        """How many there are now on a plane of that side: the same for all that step alike.

        Every window of before is among them; `spread * stride` to each of those where the plane
        has them.
        """
        count = self.given_before(-(-side // self.spread))
        finer = self.spread * self.stride
        return max(min(side, finer * count), finer * (count - 1) + 1)

    def missing(self, side: int) -> int:
        """What has to be put after a plane, beside the padding, to have that many."""
        if self.stride == 1:
            return 0
        alone = side + self.spread * (2 * self.padding - self.reach)
        return max(self.wanted(side) - alone, 0)


def axes_of(window: Any, spread: int = 1) -> tuple[Axis, Axis]:
    """The rows and the columns of a convolution or a pool."""
    values = []
    for i in range(2):
        kernel, stride, dilation = (
            _at(getattr(window, name, 1), i) for name in ("kernel_size", "stride", "dilation")
        )
        padding = 0 if isinstance(window.padding, str) else _at(window.padding, i)
        ceil = bool(getattr(window, "ceil_mode", False))
        values.append(Axis(kernel, stride, padding, dilation, ceil, spread))
    return values[0], values[1]


class Extend:
    """A forward pre-hook that puts as much after a plane as its windows lack."""

    def __init__(self, axes: tuple[Axis, Axis]) -> None:
        self._axes = axes

    def __call__(self, _window: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments, the first lengthened."""
        x, *rest = arguments
        return extended(x, self._axes), *rest


def extended(x: Tensor, axes: tuple[Axis, Axis], value: float = 0.0) -> Tensor:
    """The plane with what is missing after its rows and its columns."""
    below, right = (a.missing(s) for a, s in zip(axes, x.shape[-2:], strict=True))
    return functional.pad(x, (0, right, 0, below), value=value) if below or right else x


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
        rows, columns = (a.padding * a.spread for a in self.axes)
        x = extended(x, self.axes, -math.inf)
        if rows or columns:
            x = functional.pad(x, (columns, columns, rows, rows), value=-math.inf)
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
        rows, columns = (a.padding * a.spread for a in self.axes)
        sums = self._summed(functional.pad(x, (columns, columns, rows, rows)))
        if self.divisor is not None:
            return sums / self.divisor
        inside = torch.ones(1, 1, *x.shape[-2:], dtype=x.dtype, device=x.device)
        beside = float(self.count_padding)
        inside = functional.pad(inside, (columns, columns, rows, rows), value=beside)
        return sums / self._summed(inside)

    def _summed(self, padded: Tensor) -> Tensor:
        """Sums over windows of a plane with its padding."""
        sides = [
            side - 2 * a.padding * a.spread
            for a, side in zip(self.axes, padded.shape[-2:], strict=True)
        ]
        below, right = (a.missing(s) for a, s in zip(self.axes, sides, strict=True))
        padded = functional.pad(padded, (0, right, 0, below))
        channels = padded.shape[1]
        rows, columns = self.axes
        ones = torch.ones(
            channels, 1, rows.kernel, columns.kernel, dtype=padded.dtype, device=padded.device
        )
        spread = (rows.spread * rows.dilation, columns.spread * columns.dilation)
        return functional.conv2d(padded, ones, dilation=spread, groups=channels)


def _at(value: Any, index: int) -> int:
    return int(value[index] if isinstance(value, tuple | list) else value)
