"""Whether a dilated trunk gives, at every second position, what the trunk gave."""

from __future__ import annotations

from typing import Any

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


def compare(trunk: nn.Module, dilated: nn.Module, picture: Tensor, finer: int) -> None:
    """Check that the features of `trunk` are every `finer`-th of those of `dilated`.

    Means over whole planes (squeeze and excitation) are taken over the same positions for this, as
    the others' weigh in on them.

    Raises:
        ModelError: They are not, or it does not run.
    """
    sizes: list[tuple[int, ...]] = []
    with _WholeMeans(sizes, thin=False):
        expected = trunk(picture)
    running = _Running()
    try:
        with running, _WholeMeans(sizes, thin=True):
            running.watch(dilated)
            features = dilated(picture)[..., ::finer, ::finer]
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

    def __init__(self, sizes: list[tuple[int, ...]], thin: bool) -> None:
        super().__init__()
        self._sizes = sizes
        self._thin = thin
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
        if not self._thin:
            self._sizes.append(sides)
        elif self._next < len(self._sizes):
            before = self._sizes[self._next]
            self._next += 1
            for axis, now, was in zip(axes, sides, before, strict=True):
                x = x.index_select(axis, torch.arange(0, now, -(-now // was)))
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
