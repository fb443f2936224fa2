"""The architectures of `make test-zoo`: each through its own library, with random weights.

Pretrained weights need a download, so the weights are random but made to behave like trained ones
(`prepare`): what makes a fresh network trivial (zero biases, zero branches, layer scales of 1e-6,
statistics that were never taken) would hide a wrong map.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import timm
import torch
import torchvision
import transformers
from torch import Tensor, nn

from gapcam.models.trace import HeadKind
from gapcam.types import SizeHW

CLASSES = 100
EXACT_KINDS = frozenset({"gap-linear", "gap-norm-linear", "flatten-linear"})
TINY_LAYER_SCALE = 1e-3


@dataclass(frozen=True)
class Architecture:
    """One row of the table.

    Attributes:
        library: Where it comes from.
        name: As that library calls it, with what was asked for besides.
        kind: The head that gapcam must find.
        make: Builds it.
        size_hw: What it is run on.
        grid_hw: Of its class maps at that size.
        engine: What must run it.
    """

    library: str
    name: str
    kind: HeadKind
    make: Callable[[], nn.Module]
    size_hw: SizeHW
    grid_hw: SizeHW
    engine: str = "onnx"

    @property
    def exact(self) -> bool:
        """Whether the class maps must add up to the scores."""
        return self.kind in EXACT_KINDS

    def __str__(self) -> str:
        return f"{self.library}:{self.name}"


def from_torchvision(
    name: str,
    kind: HeadKind,
    size_hw: SizeHW = (224, 224),
    grid_hw: SizeHW = (7, 7),
    **settings: Any,
) -> Architecture:
    def make() -> nn.Module:
        return torchvision.models.get_model(name, weights=None, num_classes=CLASSES, **settings)

    return Architecture("torchvision", name, kind, make, size_hw, grid_hw)


def from_timm(
    name: str,
    kind: HeadKind,
    size_hw: SizeHW = (224, 224),
    grid_hw: SizeHW = (7, 7),
    **settings: Any,
) -> Architecture:
    def make() -> nn.Module:
        return timm.create_model(name, pretrained=False, num_classes=CLASSES, **settings)

    asked = "".join(f", {key}={value}" for key, value in settings.items())
    return Architecture("timm", name + asked, kind, make, size_hw, grid_hw)


def from_transformers(
    name: str,
    kind: HeadKind,
    size_hw: SizeHW = (224, 224),
    grid_hw: SizeHW = (7, 7),
    **settings: Any,
) -> Architecture:
    def make() -> nn.Module:
        config = getattr(transformers, f"{name}Config")(num_labels=CLASSES, **settings)
        return getattr(transformers, f"{name}ForImageClassification")(config)

    return Architecture("transformers", name, kind, make, size_hw, grid_hw)


def resnet18_flattened() -> nn.Module:
    """ResNet-18 without its pooling: every position of the grid has weights of its own."""
    network = torchvision.models.resnet18(weights=None)
    network.avgpool = nn.Identity()
    network.fc = nn.Linear(512 * 7 * 7, CLASSES)
    return network


# Small settings of networks whose defaults are large; the graph is the same.
SMALL_VIT = {"hidden_size": 192, "num_hidden_layers": 6, "num_attention_heads": 3}
SMALL_VIT_MLP = {**SMALL_VIT, "intermediate_size": 768}

ARCHITECTURES = (
    from_torchvision("resnet50", "gap-linear"),
    from_torchvision("regnet_y_400mf", "gap-linear"),
    from_torchvision("densenet121", "gap-linear"),
    from_torchvision("inception_v3", "gap-linear", (299, 299), (8, 8), init_weights=True),
    from_torchvision("googlenet", "gap-linear", init_weights=True),
    from_torchvision("efficientnet_b0", "gap-linear"),
    from_torchvision("mobilenet_v2", "gap-linear", (160, 224), (5, 7)),
    from_torchvision("squeezenet1_1", "gap-linear", grid_hw=(13, 13)),
    from_torchvision("swin_t", "gap-linear"),
    from_torchvision("convnext_tiny", "gap-norm-linear"),
    from_torchvision("mobilenet_v3_small", "gap-hidden"),
    from_torchvision("alexnet", "flatten-hidden", grid_hw=(6, 6)),
    from_torchvision("vgg11", "flatten-hidden"),
    Architecture(
        "torchvision",
        "resnet18, flattened",
        "flatten-linear",
        resnet18_flattened,
        (224, 224),
        (7, 7),
    ),
    from_timm("resnetv2_50x1_bit", "gap-linear"),
    from_timm("mobilenetv1_100", "gap-linear"),
    from_timm("tf_efficientnet_lite0", "gap-linear"),
    from_timm("mixer_s16_224", "gap-linear", grid_hw=(14, 14)),
    from_timm("efficientformer_l1", "gap-linear"),
    replace(from_timm("levit_128s", "gap-linear", grid_hw=(4, 4)), engine="torch"),
    from_timm("mobilevit_xxs", "gap-linear", (256, 256), (8, 8)),
    from_timm("edgenext_xx_small", "gap-norm-linear"),
    from_timm("vit_wee_patch16_reg1_gap_256", "gap-norm-linear", (256, 256), (16, 16)),
    from_timm(
        "vit_tiny_patch16_224",
        "gap-norm-linear",
        (160, 256),
        (10, 16),
        img_size=(160, 256),
        global_pool="avg",
    ),
    from_timm("mobilenetv4_conv_small", "gap-hidden"),
    from_timm("resnet10t", "gmp-linear", global_pool="max"),
    from_timm("resnet10t", "other", global_pool="catavgmax"),
    from_timm("deit_tiny_distilled_patch16_224", "class-token", grid_hw=(14, 14)),
    from_timm("vit_small_patch14_reg4_dinov2", "class-token", grid_hw=(16, 16), img_size=224),
    from_transformers(
        "ResNet",
        "gap-linear",
        layer_type="basic",
        depths=[2, 2, 2, 2],
        hidden_sizes=[64, 128, 256, 512],
    ),
    from_transformers("Segformer", "gap-linear"),
    from_transformers("Swin", "gap-linear", depths=[2, 2, 2, 2]),
    from_transformers("Siglip", "gap-linear", grid_hw=(14, 14), vision_config=SMALL_VIT_MLP),
    from_transformers("ConvNextV2", "gap-norm-linear", hidden_sizes=[40, 80, 160, 320]),
    from_transformers("Beit", "gap-norm-linear", grid_hw=(14, 14), **SMALL_VIT_MLP),
    from_transformers("ViT", "class-token", grid_hw=(14, 14), **SMALL_VIT_MLP),
    from_transformers("Dinov2", "token-mix", grid_hw=(16, 16), image_size=224, **SMALL_VIT),
)


def pictures_tensor(size_hw: SizeHW) -> Tensor:
    """`[8, 3, H, W]`: smooth noise, which has edges and flat parts as photographs do."""
    rng = torch.Generator().manual_seed(1)
    coarse = torch.randn(8, 3, 16, 16, generator=rng)
    fine = torch.randn(8, 3, *size_hw, generator=rng)
    return nn.functional.interpolate(coarse, size_hw, mode="bilinear") + 0.3 * fine


def prepare(architecture: Architecture) -> nn.Module:
    """The network with random weights that behave like trained ones, in evaluation mode."""
    torch.manual_seed(0)
    network = architecture.make()
    with torch.no_grad():
        for name, value in network.named_parameters():
            wake(name, value)
        if not any("norm" in type(part).__name__.lower() for part in network.modules()):
            keep_variance(network)
    take_statistics(network, pictures_tensor(architecture.size_hw))
    return network.eval()


def wake(name: str, value: Tensor) -> None:
    """Give a parameter that starts at (nearly) zero the size that training gives it."""
    if not value.is_floating_point():
        return
    if "bias" in name and not value.any():
        nn.init.normal_(value, std=0.05)
    elif not value.any():
        nn.init.ones_(value) if value.ndim == 1 else nn.init.normal_(value, std=0.02)
    elif value.ndim == 1 and value.abs().max() <= TINY_LAYER_SCALE:
        nn.init.ones_(value)


def keep_variance(network: nn.Module) -> None:
    """Weights under which signals neither fade nor grow with depth, where no norm sees to that.

    He et al., "Delving Deep into Rectifiers" (ICCV 2015), equation 10.
    """
    for part in network.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu")


def take_statistics(network: nn.Module, pictures: Tensor) -> None:
    """Let batch norms see pictures: their running statistics become those of the network."""
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        network.train()(pictures)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
