"""Trunks: networks without their heads, to be trained with a new one. Imports PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from gapcam.models.dilation import dilate
from gapcam.models.efficientnet_lite import HEAD_CHANNELS, SIZE_MULTIPLE, EfficientNetLite0
from gapcam.models.embedded import FEATURES_AT, PREPROCESSING, load_network
from gapcam.models.pytorch.trace import own_modes
from gapcam.models.trunks.finding import find_features, noise, stir
from gapcam.models.trunks.hooked import HookedTrunk, own_copy
from gapcam.models.trunks.pruning import prune
from gapcam.types import ModelError, SizeHW

if TYPE_CHECKING:
    from gapcam.models.sources import SourceModel

__all__ = ["EmbeddedTrunk", "FoundTrunk", "embedded_trunk", "trunk_of"]

STEPS_TRIED = (1, 2, 3)


@dataclass(frozen=True, slots=True, eq=False)
class FoundTrunk:
    """A network without its head.

    Attributes:
        trunk: Pictures `[B, 3, H, W]` to features `[B, channels, h, w]`; in evaluation mode, on the
            CPU, in float32. All parameters that take part in the features are trainable.
        channels: K.
        stride: Pixels between two positions of the features.
        words: What was found and done, for people.
        dilated: Whether its features are finer than the network made them.
    """

    trunk: nn.Module
    channels: int
    stride: int
    words: str
    dilated: bool = False


class EmbeddedTrunk(EfficientNetLite0):
    """EfficientNet-Lite0 up to its last spatial layer; parameter names as in the whole network."""

    def __init__(self) -> None:
        super().__init__(classes=1)
        del self._fc
        self.size_hw: SizeHW = PREPROCESSING.size_hw

    def forward(self, x: Tensor) -> Tensor:
        """`[B, 3, H, W]`, sides multiples of 32, to `[B, 1280, H/32, W/32]`."""
        return self.spatial(x).features


def embedded_trunk(map_stride: int | None = None) -> FoundTrunk:
    """The trunk of the embedded model, with its ImageNet weights.

    Args:
        map_stride: 8 or 16 for finer features (`dilate`); 32, its own, when None.

    Raises:
        ModelError: The weights are missing, or the stride cannot be had.
    """
    trunk = EmbeddedTrunk()
    state = load_network().state_dict()
    trunk.load_state_dict({name: state[name] for name in trunk.state_dict()})
    words = f"features: {FEATURES_AT.partition(';')[0]}"
    return _at_stride(FoundTrunk(trunk.eval(), HEAD_CHANNELS, SIZE_MULTIPLE, words), map_stride)


def trunk_of(
    source: SourceModel, *, layer: str | None = None, map_stride: int | None = None
) -> FoundTrunk:
    """Take the head off a classifier.

    The features are those that class maps would be made of (`gapcam.models.heads.find_head`): the
    last tensor with positions that all scores come from; tokens become planes, without class and
    register tokens. The trunk runs the network's own code, so that batch norm, dropout and
    stochastic depth train as they do there. What the features do not depend on is taken off, and
    parameters that get no gradient are frozen.

    Args:
        source: The classifier; nothing of it is changed.
        layer: The module, or the tensor of the traced network, that gives the features instead.
        map_stride: The stride of the features, pixels, where finer ones are wanted (`dilate`).

    Raises:
        ModelError: The network cannot be copied or run, gives no such features, cannot be trained,
            or cannot have that stride.
    """
    size_hw = source.preprocessing.size_hw
    try:
        with own_modes():
            network = own_copy(source.module)
            found = find_features(stir(own_copy(source.module)), size_hw, layer)
            trunk = HookedTrunk(network, found.place, found.layout, size_hw)
            gone = prune(trunk, noise(size_hw))
            channels, stride = _measured(trunk, size_hw)
        words = f"{found.words}; {_left_out(gone)}" if gone else found.words
        return _at_stride(FoundTrunk(trunk, channels, stride, words), map_stride)
    except ModelError as error:
        raise ModelError(f"{source.name}: {error}") from error


def _at_stride(found: FoundTrunk, map_stride: int | None) -> FoundTrunk:
    if map_stride is None or map_stride == found.stride:
        return found
    with own_modes():
        trunk = dilate(found.trunk, found.stride, map_stride)
    words = f"{found.words}; dilated: stride {map_stride} instead of {found.stride}"
    return replace(found, trunk=trunk, stride=map_stride, words=words, dilated=True)


def _left_out(gone: Sequence[str]) -> str:
    shown = ", ".join(gone[:6])
    return f"left out: {shown}" + (f" and {len(gone) - 6} more" if len(gone) > 6 else "")


def _measured(trunk: HookedTrunk, size_hw: SizeHW) -> tuple[int, int]:
    """The channels and the stride of what a trunk gives."""
    with torch.no_grad():
        channels, *grid = trunk(noise(size_hw)).shape[1:]
    strides = {side / cells for side, cells in zip(size_hw, grid, strict=True)}
    whole = {int(stride) for stride in strides if stride == int(stride)}
    if len(whole) == len(strides) == 1:
        return channels, whole.pop()
    nearest = round(sum(strides) / len(strides))
    power = 1 << max(nearest.bit_length() - 1, 0)
    tried = (power, 2 * power)
    return channels, next((s for s in tried if _steps_by(trunk, size_hw, s)), nearest)


def _steps_by(trunk: HookedTrunk, size_hw: SizeHW, stride: int) -> bool:
    """Whether every `stride` pixels more give one position more."""
    grids = []
    for steps in (0, *STEPS_TRIED):
        larger = size_hw[0] + steps * stride, size_hw[1] + steps * stride
        try:
            with torch.no_grad():
                grids.append(tuple(trunk(noise(larger)).shape[2:]))
        except Exception:  # the network's own code refuses a size by any error
            return False
    (rows, columns), *more = grids
    return more == [(rows + steps, columns + steps) for steps in STEPS_TRIED]
