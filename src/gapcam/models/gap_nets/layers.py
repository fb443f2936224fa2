"""The layers of the paper's three networks, named and ordered as torchvision's.

A network here is an ordered mapping of names to modules that follow each other, so that its tensors
have the names of torchvision's checkpoints: `features.0.weight` (AlexNet, VGG16) and
`inception4e.branch4.1.conv.weight` (GoogLeNet).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

Layers: TypeAlias = dict[str, nn.Module]

HIDDEN_UNITS = 4096
NORM_EPSILON = 1e-3
VGG16_BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))

INCEPTIONS = {
    "inception3a": (192, 64, 96, 128, 16, 32, 32),
    "inception3b": (256, 128, 128, 192, 32, 96, 64),
    "inception4a": (480, 192, 96, 208, 16, 48, 64),
    "inception4b": (512, 160, 112, 224, 24, 64, 64),
    "inception4c": (512, 128, 128, 256, 24, 64, 64),
    "inception4d": (512, 112, 144, 288, 32, 64, 64),
    "inception4e": (528, 256, 160, 320, 32, 128, 128),
    "inception5a": (832, 256, 160, 320, 32, 128, 128),
    "inception5b": (832, 384, 192, 384, 48, 128, 128),
}
"""Channels in; then of the 1 x 1 branch, of the 3 x 3 branch reduced and out, of the 5 x 5 branch
reduced and out, and after the pooling (Szegedy et al., CVPR 2015, table 1)."""


def conv(
    inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int = 0
) -> list[nn.Module]:
    """A convolution with bias and its ReLU; weights as He et al. (ICCV 2015) draw them."""
    made = nn.Conv2d(inputs, outputs, kernel, stride, padding)
    nn.init.kaiming_normal_(made.weight, nonlinearity="relu")
    nn.init.zeros_(made.bias)  # type: ignore[arg-type]  # it has one
    return [made, nn.ReLU(inplace=True)]


def added_convs(inputs: int, units: Sequence[int]) -> nn.Sequential:
    """The paper's convolutions before the pooling: 3 x 3, stride 1, padding 1, and ReLU."""
    layers: list[nn.Module] = []
    for outputs in units:
        layers += conv(inputs, outputs, 3, padding=1)
        inputs = outputs
    return nn.Sequential(*layers)


def alexnet_features(*, whole: bool) -> nn.Sequential:
    """To conv5, or with `whole` to pool5 (Krizhevsky, arXiv 1404.5997: without groups or norms)."""
    layers = [
        *conv(3, 64, 11, stride=4, padding=2),
        nn.MaxPool2d(3, stride=2),
        *conv(64, 192, 5, padding=2),
        nn.MaxPool2d(3, stride=2),
        *conv(192, 384, 3, padding=1),
        *conv(384, 256, 3, padding=1),
        *conv(256, 256, 3, padding=1),
    ]
    return nn.Sequential(*layers, *([nn.MaxPool2d(3, stride=2)] if whole else []))


def vgg16_features(*, whole: bool) -> nn.Sequential:
    """To conv5_3, or with `whole` to pool5 (Simonyan and Zisserman, ICLR 2015, column D)."""
    layers: list[nn.Module] = []
    inputs = 3
    for block in VGG16_BLOCKS:
        for outputs in block:
            layers += conv(inputs, outputs, 3, padding=1)
            inputs = outputs
        layers.append(nn.MaxPool2d(2, stride=2))
    return nn.Sequential(*(layers if whole else layers[:-1]))


def googlenet_layers(*, whole: bool) -> Layers:
    """To inception4e, or with `whole` to inception5b (Szegedy et al., CVPR 2015).

    As torchvision's: batch norms, and 3 x 3 kernels in the 5 x 5 branches. Without the two
    auxiliary classifiers, which the map does not need.
    """
    blocks = {name: Inception(*channels) for name, channels in INCEPTIONS.items()}
    layers: Layers = {
        "conv1": ConvNorm(3, 64, 7, stride=2, padding=3),
        "maxpool1": _halving(3),
        "conv2": ConvNorm(64, 64, 1),
        "conv3": ConvNorm(64, 192, 3, padding=1),
        "maxpool2": _halving(3),
        **_stage(blocks, "3"),
        "maxpool3": _halving(3),
        **_stage(blocks, "4"),
    }
    return {**layers, "maxpool4": _halving(2), **_stage(blocks, "5")} if whole else layers


def _stage(blocks: dict[str, Inception], stage: str) -> Layers:
    return {name: block for name, block in blocks.items() if name.startswith(f"inception{stage}")}


def _halving(kernel: int) -> nn.MaxPool2d:
    return nn.MaxPool2d(kernel, stride=2, ceil_mode=True)


def hidden_layer(inputs: int) -> nn.Linear:
    """A fully connected layer of 4096 units, weights as He et al. (ICCV 2015) draw them."""
    made = nn.Linear(inputs, HIDDEN_UNITS)
    nn.init.kaiming_normal_(made.weight, nonlinearity="relu")
    nn.init.zeros_(made.bias)
    return made


class ConvNorm(nn.Module):
    """Convolution without bias, batch norm, ReLU; weights as He et al. (ICCV 2015) draw them."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, padding: int = 0
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=NORM_EPSILON)
        nn.init.kaiming_normal_(self.conv.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """`[B, inputs, H, W]` to `[B, outputs, H', W']`."""
        return functional.relu(self.bn(self.conv(x)), inplace=True)


class Inception(nn.Module):
    """Four branches side by side (Szegedy et al., CVPR 2015, figure 2b)."""

    def __init__(
        self, inputs: int, one: int, three_in: int, three: int, five_in: int, five: int, pooled: int
    ) -> None:
        super().__init__()
        self.branch1 = ConvNorm(inputs, one, 1)
        self.branch2 = nn.Sequential(
            ConvNorm(inputs, three_in, 1), ConvNorm(three_in, three, 3, padding=1)
        )
        self.branch3 = nn.Sequential(
            ConvNorm(inputs, five_in, 1), ConvNorm(five_in, five, 3, padding=1)
        )
        self.branch4 = nn.Sequential(
            nn.MaxPool2d(3, stride=1, padding=1, ceil_mode=True), ConvNorm(inputs, pooled, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """`[B, inputs, H, W]` to `[B, one + three + five + pooled, H, W]`."""
        branches = (self.branch1, self.branch2, self.branch3, self.branch4)
        return torch.cat([branch(x) for branch in branches], 1)
