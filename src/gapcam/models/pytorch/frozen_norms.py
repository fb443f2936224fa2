"""Norms whose statistics are constants of the picture: only the values are differentiated.

A norm divides by a standard deviation, a root mean square or a length. Taken as a constant, it
leaves a linear step, so that a pooled-then-norm head stays exact: mean(M) + b = S (ours, see
`HeadPlan`). The mean that a layer norm subtracts is linear and is differentiated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode


def layer_norm(
    x: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,  # noqa: ARG001 -- the operator's own signature
) -> Tensor:
    """Over the last axes; Ba et al., "Layer Normalization", arXiv 1607.06450, equation 4."""
    axes = tuple(range(-len(normalized_shape), 0))
    return _affine(_normed(x, axes, eps), weight, bias)


def native_layer_norm(
    x: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
) -> tuple[Tensor]:
    """As `layer_norm`; the first of the operator's three results."""
    return (layer_norm(x, normalized_shape, weight, bias, eps),)


def rms_norm(
    x: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    """Over the last axes; Zhang and Sennrich, "Root Mean Square Layer Norm", arXiv 1910.07467."""
    axes = tuple(range(-len(normalized_shape), 0))
    floor = torch.finfo(x.dtype).eps if eps is None else eps
    scale = torch.rsqrt(x.detach().square().mean(axes, keepdim=True) + floor)
    return _affine(x * scale, weight, None)


def group_norm(
    x: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,  # noqa: ARG001 -- the operator's own signature
) -> Tensor:
    """Over groups of channels (axis 1); Wu and He, "Group Normalization", arXiv 1803.08494."""
    groups = x.reshape(x.shape[0], num_groups, -1)
    normed = _normed(groups, (-1,), eps).reshape(x.shape)
    sides = [1, x.shape[1]] + [1] * (x.ndim - 2)
    return _affine(
        normed,
        None if weight is None else weight.reshape(sides),
        None if bias is None else bias.reshape(sides),
    )


def native_group_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    n: int,  # noqa: ARG001 -- the operator's own signature
    c: int,  # noqa: ARG001
    hxw: int,  # noqa: ARG001
    group: int,
    eps: float,
) -> tuple[Tensor]:
    """As `group_norm`; the first of the operator's three results."""
    return (group_norm(x, group, weight, bias, eps),)


def normalize(
    x: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: Tensor | None = None
) -> Tensor:
    """The tensor over its length along an axis, as `torch.nn.functional.normalize`."""
    if out is not None:
        return functional.normalize(x, p, dim, eps, out)
    length: Tensor = torch.linalg.vector_norm(x.detach(), p, dim, keepdim=True)
    return x / length.clamp_min(eps)


def detached(x: Tensor) -> Tensor:
    """The same values, a constant to autograd."""
    return x.detach()


def _normed(x: Tensor, axes: tuple[int, ...], eps: float) -> Tensor:
    centred = x - x.mean(axes, keepdim=True)
    variance = centred.detach().square().mean(axes, keepdim=True)
    return centred * torch.rsqrt(variance + eps)


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


_aten = torch.ops.aten
FROZEN_OPERATORS: dict[Any, Callable[..., Any]] = {
    _aten.layer_norm.default: layer_norm,
    _aten.native_layer_norm.default: native_layer_norm,
    _aten.rms_norm.default: rms_norm,
    _aten.group_norm.default: group_norm,
    _aten.native_group_norm.default: native_group_norm,
}
"""What takes each norm's place in a program."""

_FROZEN_FUNCTIONS: dict[Any, Callable[..., Any]] = {
    functional.layer_norm: layer_norm,
    functional.rms_norm: rms_norm,
    functional.group_norm: group_norm,
    functional.normalize: normalize,
}
_STATISTICS: frozenset[Any] = frozenset(
    {
        *(torch.rsqrt, Tensor.rsqrt, torch.var, Tensor.var, torch.std, Tensor.std),
        *(torch.var_mean, torch.linalg.vector_norm, torch.linalg.norm, torch.norm, Tensor.norm),
    }
)


class FrozenStatistics(TorchFunctionMode):
    """Freezes norms in eager code, as far as its functions say that they are norms.

    Attributes:
        active: Whether it does; the caller turns it on where the head begins.
    """

    def __init__(self, active: bool = False) -> None:
        super().__init__()
        self.active = active

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the function, its frozen form, or cut its result off."""
        kwargs = kwargs or {}
        if self.active and func in _FROZEN_FUNCTIONS:
            return _FROZEN_FUNCTIONS[func](*args, **_renamed(kwargs))
        result = func(*args, **kwargs)
        if self.active and func in _STATISTICS:
            return _cut(result)
        return result


def _renamed(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {"x" if name == "input" else name: value for name, value in kwargs.items()}


def _cut(result: Any) -> Any:
    if isinstance(result, tuple):  # var_mean: the mean stays
        return (result[0].detach(), *result[1:])
    return result.detach()
