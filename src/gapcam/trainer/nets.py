"""The network that a run trains: the user's backbone with a new head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from gapcam.foreign import SourceOptions, is_onnx, open_named
from gapcam.models import embedded
from gapcam.training.plan import TrainOptions
from gapcam.types import ArgumentError, Preprocessing, SizeHW

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from gapcam.models.trunks import FoundTrunk

PAPER_STRIDE = 16


@dataclass(frozen=True, eq=False)
class Backbone:
    """A net that is ready to be trained.

    Attributes:
        name: What the user called its trunk.
        net: A `GapNet`, or with pool `fc` any net that gives logits.
        preprocessing: What it expects of pictures.
        words: Where its features are taken and what was done to it.
        sources: Where its network and its first weights come from.
        recipe_holds: Whether the default recipe, which was made on the embedded network, is its own
            too: the same trunk at the same stride and size.
        dilated: Whether its features are finer than its layers were made for.
    """

    name: str
    net: nn.Module
    preprocessing: Preprocessing
    words: str
    sources: Mapping[str, str]
    recipe_holds: bool = False
    dilated: bool = False


def open_backbone(
    model: str | Path | nn.Module | None,
    classes: int,
    options: TrainOptions,
    source: SourceOptions,
    tell: Callable[[str], None] | None,
) -> Backbone:
    """The backbone that is meant, with a new head for so many classes.

    Its first weights follow torch's global generator, so the caller seeds that.

    Raises:
        ArgumentError: An unknown model, or options that do not fit it.
        ModelError: It cannot be loaded, or given a new head.
    """
    from gapcam.models.gap_nets import NAMES

    if isinstance(model, str) and model in NAMES:
        return _paper_net(model, classes, options, source)
    if model is None or model == embedded.NAME:
        return _embedded(classes, options, source)
    if isinstance(model, str | Path) and (is_onnx(model) or Path(model).is_dir()):
        raise ArgumentError(
            f"model {str(model)!r}: training begins from PyTorch weights, a model file has none. "
            f"Name {_known_models()}"
        )
    return _other(model, classes, options, source, tell)


def _known_models() -> str:
    from gapcam.models.gap_nets import NAMES

    return f"{embedded.NAME}, {', '.join(NAMES)}, timm:NAME, torchvision:NAME or hf:NAME_OR_FOLDER"


def _paper_net(name: str, classes: int, options: TrainOptions, source: SourceOptions) -> Backbone:
    from gapcam.models.dilation import dilate
    from gapcam.models.gap_net import GapNet
    from gapcam.models.gap_nets import paper_net, paper_preprocessing

    if options.method == "head-only":
        raise ArgumentError(
            f"{name}: its added layers are new and must be trained with the head: add --finetune "
            "(method='finetune'), or name another model"
        )
    _no_layer(name, source)
    checkpoint = None if source.checkpoint is None else Path(source.checkpoint)
    net = paper_net(name, classes, options.pool, checkpoint=checkpoint)
    words = f"{name} of Zhou et al., CVPR 2016"
    dilated = False
    if options.map_stride not in (None, PAPER_STRIDE):
        if not isinstance(net, GapNet):
            raise ArgumentError(
                f"map_stride: the original {name} (pool fc) has no map: leave it out"
            )
        net.trunk = dilate(net.trunk, PAPER_STRIDE, options.map_stride)
        words += f", map stride {options.map_stride} by dilation"
        dilated = True
    weights = "random" if checkpoint is None else f"trunk from {checkpoint.name}"
    preprocessing = _at_size(paper_preprocessing(name), source)
    sources = {"network": words, "weights": weights}
    return Backbone(name, net.eval(), preprocessing, words, sources, dilated=dilated)


def _embedded(classes: int, options: TrainOptions, source: SourceOptions) -> Backbone:
    from gapcam.models.trunks import embedded_trunk
    from gapcam.recipes import DEFAULT

    if source.checkpoint is not None:
        raise ArgumentError(
            f"{embedded.NAME}: its weights come with gapcam: leave checkpoint out, or name another "
            "model"
        )
    _no_layer(embedded.NAME, source)
    found = embedded_trunk(options.map_stride)
    preprocessing = _at_size(embedded.PREPROCESSING, source)
    card = embedded.model_card(DEFAULT)
    return Backbone(
        embedded.NAME,
        _with_head(found, classes, options, preprocessing),
        preprocessing,
        found.words,
        card.sources,
        recipe_holds=found.stride == card.map_stride
        and preprocessing.size_hw == DEFAULT.input_size_hw,
        dilated=found.dilated,
    )


def _no_layer(name: str, source: SourceOptions) -> None:
    if source.layer is not None:
        raise ArgumentError(
            f"layer {source.layer!r}: {name} is cut where its features end: leave layer out"
        )


def _other(
    model: str | Path | nn.Module,
    classes: int,
    options: TrainOptions,
    source: SourceOptions,
    tell: Callable[[str], None] | None,
) -> Backbone:
    from gapcam.models.sources.common import NO_LABELS
    from gapcam.models.trunks import trunk_of

    if isinstance(model, str) and ":" not in model:
        raise ArgumentError(f"model {model!r} is unknown: name {_known_models()}")
    opened = open_named(model, replace(source, labels=NO_LABELS, layer=None), tell)
    found = trunk_of(opened, layer=source.layer, map_stride=options.map_stride)
    net = _with_head(found, classes, options, opened.preprocessing)
    return Backbone(
        opened.name,
        net,
        opened.preprocessing,
        found.words,
        opened.sources,
        dilated=found.dilated,
    )


def _with_head(
    found: FoundTrunk, classes: int, options: TrainOptions, preprocessing: Preprocessing
) -> nn.Module:
    from gapcam.models.gap_net import FlattenNet, GapNet
    from gapcam.models.pooling import PooledLinear

    if options.pool == "fc":
        grid_hw = grid_of(found.trunk, preprocessing.size_hw)
        return FlattenNet(found.trunk, found.channels, grid_hw, classes)
    return GapNet(found.trunk, PooledLinear(found.channels, classes, options.pool))


def grid_of(net: nn.Module, size_hw: SizeHW) -> SizeHW:
    """Rows and columns of the features of a trunk, or of a net that gives `spatial` features.

    Args:
        net: As it was made: in evaluation mode.
        size_hw: Of a picture, pixels.
    """
    import torch

    spatial = getattr(net, "spatial", net)
    with torch.no_grad():
        shape = spatial(torch.zeros(1, 3, *size_hw)).shape
    return shape[2], shape[3]


def _at_size(preprocessing: Preprocessing, source: SourceOptions) -> Preprocessing:
    from gapcam.models.preprocessing import preprocessing_from

    if source.preprocessing is None and source.size_hw is None:
        return preprocessing
    return preprocessing_from(source.preprocessing or preprocessing, source.size_hw)
