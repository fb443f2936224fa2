"""The paper's networks (Zhou et al., CVPR 2016, section 3): a trunk cut early, a conv, GAP, linear.

Cut early, the trunks keep a finer grid: the mapping resolution at 224 x 224 is 13 x 13 (AlexNet
after conv5) and 14 x 14 (VGG16 after conv5_3, GoogLeNet after inception4e). A 3 x 3 convolution of
1024 units, stride 1, padding 1, with ReLU follows, then the pooling and one linear layer.

What the authors' released definitions do otherwise, and these do not: the added convolution has two
groups, VGG16 has dropout .5 before the linear layer, AlexNet*'s two added convolutions have 512
units in two groups and leave 11 x 11 positions. The paper says none of this.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from torch import Tensor, nn

from gapcam.models.gap_net import GapNet
from gapcam.models.gap_nets.layers import (
    HIDDEN_UNITS,
    Layers,
    added_convs,
    alexnet_features,
    googlenet_layers,
    hidden_layer,
    vgg16_features,
)
from gapcam.models.pooling import FIRST_SPREAD, Pool, PooledLinear
from gapcam.models.preprocessing import NAMED
from gapcam.types import ArgumentError, Preprocessing

PaperPool: TypeAlias = Pool | Literal["fc"]

NAMES = ("alexnet", "alexnet-star", "vgg16", "googlenet")
POOLS = (*get_args(Pool), "fc")


@dataclass(frozen=True, slots=True)
class Plan:
    """One of the paper's networks.

    Attributes:
        channels: Of the trunk's last layer.
        added: Units of the added convolutions. AlexNet* has two: 512 as in the released definition,
            then 1024, so that linear layer and maps read as many units as in the other networks.
        removed: What the names of tensors begin with that only the original network has.
        last: The original network's last layer.
    """

    channels: int
    added: tuple[int, ...]
    removed: tuple[str, ...]
    last: str


_FC = ("classifier.",)
PLANS = {
    "alexnet": Plan(256, (1024,), _FC, "classifier.6"),
    "alexnet-star": Plan(256, (512, 1024), _FC, "classifier.6"),
    "vgg16": Plan(512, (1024,), _FC, "classifier.6"),
    "googlenet": Plan(832, (1024,), ("inception5a.", "inception5b.", "fc."), "fc"),
}


class OriginalNet(nn.Module):
    """A network as its authors built it, under torchvision's names of tensors.

    Args:
        trunk: The layers that see positions, in order.
        head: Those after them.
    """

    def __init__(self, trunk: Layers, head: Layers) -> None:
        super().__init__()
        for name, layer in {**trunk, **head}.items():
            self.add_module(name, layer)
        self._trunk, self._head = tuple(trunk), tuple(head)

    @property
    def trunk(self) -> nn.Sequential:
        """The layers that see positions, over the same weights."""
        return nn.Sequential(*(self.get_submodule(name) for name in self._trunk))

    @property
    def head(self) -> nn.Sequential:
        """The layers after them, over the same weights."""
        return nn.Sequential(*(self.get_submodule(name) for name in self._head))

    def spatial(self, x: Tensor) -> Tensor:
        """Pictures `[B, 3, H, W]` to the last features with positions `[B, K, h, w]`."""
        for name in self._trunk:
            x = self.get_submodule(name)(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Pictures `[B, 3, H, W]` to logits `[B, C]`."""
        x = self.spatial(x)
        for name in self._head:
            x = self.get_submodule(name)(x)
        return x


def paper_net(
    name: str, classes: int, pool: PaperPool, *, checkpoint: Path | None = None
) -> GapNet | OriginalNet:
    """One of the paper's networks, with the weights that PyTorch's generator draws.

    Args:
        name: One of `NAMES`.
        classes: C.
        pool: How features become scores; with `fc` the original network: flattened and fully
            connected (AlexNet, which `alexnet-star` is then too, and VGG16), or inception5, GAP and
            one linear layer (GoogLeNet).
        checkpoint: A file with torchvision's weights for the original network. The trunk's must
            all be there. With `fc` the head's are loaded too, its last layer only where the file
            has as many classes; else that layer is new, as all that the paper adds always is.

    Raises:
        ArgumentError: An unknown name or pool, or no classes.
        ModelError: The checkpoint cannot be read or is not of this network.
    """
    plan = _plan(name)
    if pool not in POOLS:
        raise ArgumentError(f"pool: expected {' or '.join(POOLS)}, got {pool!r}")
    if classes < 1:
        raise ArgumentError(f"classes: expected at least 1, got {classes}")
    net = _original(name, classes) if pool == "fc" else _gap_net(name, plan, classes, pool)
    if checkpoint is not None:
        from gapcam.models.gap_nets.checkpoints import load_paper_weights

        load_paper_weights(net, name, plan, checkpoint)
    return net


def paper_preprocessing(name: str) -> Preprocessing:
    """What torchvision's weights of a network expect: ImageNet's mean and deviation at 224 x 224.

    GoogLeNet's expect pixels in -1..1 at 224 x 224: torchvision's module turns ImageNet's
    normalization into that by itself (`transform_input`), the one here takes it as it is.

    Raises:
        ArgumentError: An unknown name.
    """
    _plan(name)
    return NAMED["-1..1" if name == "googlenet" else "imagenet"]


def _plan(name: str) -> Plan:
    if name not in PLANS:
        raise ArgumentError(f"network: expected {' or '.join(NAMES)}, got {name!r}")
    return PLANS[name]


def _gap_net(name: str, plan: Plan, classes: int, pool: Pool) -> GapNet:
    trunk = nn.Sequential()
    for layer, module in _trunk_layers(name, whole=False).items():
        trunk.add_module(layer, module)
    head = PooledLinear(plan.added[-1], classes, pool)
    return GapNet(trunk, head, added_convs(plan.channels, plan.added))


def _trunk_layers(name: str, *, whole: bool) -> Layers:
    if name == "googlenet":
        return googlenet_layers(whole=whole)
    features = vgg16_features if name == "vgg16" else alexnet_features
    return {"features": features(whole=whole)}


def _original(name: str, classes: int) -> OriginalNet:
    trunk = _trunk_layers(name, whole=True)
    if name == "googlenet":
        head: Layers = {
            "avgpool": nn.AdaptiveAvgPool2d(1),
            "flatten": nn.Flatten(),
            "dropout": nn.Dropout(0.2),
            "fc": _last_layer(1024, classes),
        }
        return OriginalNet(trunk, head)
    side, channels = (7, 512) if name == "vgg16" else (6, 256)
    first, second = hidden_layer(channels * side * side), hidden_layer(HIDDEN_UNITS)
    last, relu = _last_layer(HIDDEN_UNITS, classes), nn.ReLU(inplace=True)
    layers: tuple[nn.Module, ...]
    if name == "vgg16":
        layers = (first, relu, nn.Dropout(), second, nn.ReLU(inplace=True), nn.Dropout(), last)
    else:
        layers = (nn.Dropout(), first, relu, nn.Dropout(), second, nn.ReLU(inplace=True), last)
    head = {
        "avgpool": nn.AdaptiveAvgPool2d(side),
        "flatten": nn.Flatten(),
        "classifier": nn.Sequential(*layers),
    }
    return OriginalNet(trunk, head)


def _last_layer(inputs: int, classes: int) -> nn.Linear:
    made = nn.Linear(inputs, classes)
    nn.init.normal_(made.weight, std=FIRST_SPREAD)
    nn.init.zeros_(made.bias)
    return made
