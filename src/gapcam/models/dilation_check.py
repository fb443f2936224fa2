"""Whether a dilated trunk gives, at every second position, what the trunk gave."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from gapcam.types import ModelError

ALIGNED = 1e-4
"""A share of the features' range that rounding stays below."""
_MEANS: frozenset[Any] = frozenset({torch.mean, Tensor.mean})
_POOLS: frozenset[Any] = frozenset(
    {functional.adaptive_avg_pool2d, torch._C._nn.adaptive_avg_pool2d}
)

Firsts: TypeAlias = Mapping[int, tuple[int, int]]
"""How many times finer a plane is, to the row and the column where its old positions begin."""


def compare(
    trunk: nn.Module, dilated: nn.Module, picture: Tensor, finer: int, firsts: Firsts
) -> None:
    """Check that the features of `trunk` are every `finer`-th of those of `dilated`.

    Means over whole planes (squeeze and excitation) are taken over the same positions for this, as
    the others' weigh in on them.

    Args:
        trunk: A network without its head.
        dilated: Its copy.
        picture: `[B, 3, H, W]`.
        finer: How many times finer the copy's features are.
        firsts: Where the old positions begin.

    Raises:
        ModelError: They are not, or it does not run.
    """
    sizes: list[tuple[int, ...]] = []
    with _WholeMeans(sizes):
        expected = trunk(picture)
    running = _Running()
    try:
        with running, _WholeMeans(sizes, firsts):
            running.watch(dilated)
            row, column = firsts[finer]
            features = dilated(picture)[..., row::finer, column::finer]
    except Exception as error:  # the network's own code runs here
        raise ModelError(
            f"dilated, the network does not run: {running.path or 'its own code'} takes planes of "
            f"one size only, or steps between its modules ({type(error).__name__}: {error}). Leave "
            "the map stride as it is, or take another network"
        ) from error
    if features.shape != expected.shape:
        raise ModelError(
            f"dilated, the network gives every {finer}-th of {list(features.shape[2:])} positions, "
            f"expected {list(expected.shape[2:])}: it steps between its modules, where nothing "
            "can be dilated. Leave the map stride as it is, or take another network"
        )
    gap, span = (features - expected).abs().max(), expected.max() - expected.min()
    if not gap <= ALIGNED * span:
        raise ModelError(
            f"dilated, the network gives other features ({float(gap / span):.1%} of their range "
            "off): it pads, pools or mixes positions between its modules in a way that depends on "
            "the stride. Leave the map stride as it is, or take another network"
        )


class _Running:
    """Knows the innermost module that was running when an error came."""

    def __init__(self) -> None:
        self.path = ""
        self._stack: list[str] = []
        self._handles: list[Any] = []

    def __enter__(self) -> _Running:
        return self

    def __exit__(self, *_: object) -> None:
        self.path = self._stack[-1] if self._stack else ""
        for handle in self._handles:
            handle.remove()

    def watch(self, network: nn.Module) -> None:
        """Follow its modules."""
        for path, part in network.named_modules():

            def enter(*_: object, path: str = path) -> None:
                self._stack.append(path)

            def leave(*_: object, path: str = path) -> None:
                # modules that a stop left have not come by here
                del self._stack[self._stack.index(path) :]

            self._handles.append(part.register_forward_pre_hook(enter))
            self._handles.append(part.register_forward_hook(leave))


class _WholeMeans(TorchFunctionMode):
    """Notes the planes that are averaged whole, or averages only what a coarser plane had."""

    def __init__(self, sizes: list[tuple[int, ...]], firsts: Firsts | None = None) -> None:
        super().__init__()
        self._sizes = sizes
        self._firsts = firsts
        self._next = 0

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the function."""
        kwargs = kwargs or {}
        axes = _whole_axes(func, args, kwargs)
        if axes is None:
            return func(*args, **kwargs)
        x, *rest = args
        sides = tuple(x.shape[axis] for axis in axes)
        if self._firsts is None:
            self._sizes.append(sides)
        elif self._next < len(self._sizes):
            before = self._sizes[self._next]
            self._next += 1
            for i, axis in enumerate(axes):
                step = -(-sides[i] // before[i])
                first = self._firsts.get(step, (0, 0))[i]
                x = x.index_select(axis, torch.arange(first, sides[i], step))
        return func(x, *rest, **kwargs)


def _whole_axes(func: Any, args: Any, kwargs: dict[str, Any]) -> tuple[int, int] | None:
    """The axes of rows and columns that a function averages over."""
    if not args or not isinstance(args[0], Tensor) or args[0].ndim != 4:
        return None
    asked = args[1] if len(args) > 1 else kwargs.get("dim", kwargs.get("output_size"))
    if func in _POOLS:
        return (2, 3) if asked in (1, (1, 1), [1, 1]) else None
    if func not in _MEANS or not isinstance(asked, tuple | list):
        return None
    axes = sorted(axis % 4 for axis in asked)
    return (2, 3) if axes == [2, 3] else (1, 2) if axes == [1, 2] else None
