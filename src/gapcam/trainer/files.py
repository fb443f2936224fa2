"""A trained net to the model file that `localize`, `evaluate`, `export` and `serve` take."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib import metadata
from typing import TYPE_CHECKING, Literal

from gapcam.foreign import card_of_network
from gapcam.recipes import DEFAULT, default_for
from gapcam.trainer.nets import Backbone, grid_of
from gapcam.training.label_rows import canonical
from gapcam.training.plan import Progress
from gapcam.types import ArgumentError, ModelCard

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from gapcam.models.file.network import Network


def network_of(backbone: Backbone, net: nn.Module, progress: Progress) -> Network:
    """The net as ONNX with its head found; `progress` hears of it, as it takes long."""
    from gapcam.models.gap_net import network_of_net

    progress("exporting the network", 0, 1)
    network = network_of_net(net, backbone.preprocessing, backbone.name)
    progress("exporting the network", 1, 1)
    return network


def weights_hash(net: nn.Module) -> str:
    """A hash of all that a net has before it is trained; a run is taken up from the same only."""
    import torch

    digest = hashlib.sha256()
    for name, value in net.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def card_for(
    backbone: Backbone,
    network: Network,
    *,
    name: str,
    classes: Sequence[str],
    sources: Mapping[str, str],
    single: bool,
    normal: str | None,
) -> ModelCard:
    """What the trained model says of itself.

    Args:
        backbone: What was trained.
        network: What it became.
        name: The model's name.
        classes: Its labels.
        sources: What its weights were trained on, beside what the backbone says.
        single: Whether a picture shows one class: softmax, else sigmoid.
        normal: The class that means that nothing is there, or None.
    """
    rule: Literal["softmax", "sigmoid"] = "softmax" if single else "sigmoid"
    recipe = DEFAULT if backbone.recipe_holds else None
    if backbone.dilated:  # half its stride is an early layer's, whose features refine badly
        size_hw = backbone.preprocessing.size_hw
        stride = size_hw[0] / network.layout.grid_hw[0]
        recipe = default_for(size_hw, stride, fine_features=False)
    return card_of_network(
        network,
        name=name,
        labels=tuple(classes),
        aliases=tuple(() for _ in classes),
        sources={**backbone.sources, **sources},
        recipe=recipe,
        scores=rule,
        placeless=placeless(classes, normal),
    )


def plain_card(
    backbone: Backbone, *, classes: Sequence[str], single: bool, normal: str | None
) -> ModelCard:
    """The card of a net in training, for its plain maps: nothing is exported.

    Args:
        backbone: What is trained; its net gives `spatial` features.
        classes: Its labels.
        single: Whether a picture shows one class: softmax, else sigmoid.
        normal: The class that means that nothing is there, or None.
    """
    size_hw = backbone.preprocessing.size_hw
    stride = size_hw[0] / grid_of(backbone.net, size_hw)[0]
    return ModelCard(
        name=backbone.name,
        labels=tuple(classes),
        aliases=tuple(() for _ in classes),
        head="other",
        map_stride=stride,
        size_multiple=1,
        recipe=default_for(size_hw, stride, fine_features=False),
        sources=backbone.sources,
        version=metadata.version("gapcam"),
        fine_features=False,
        scores="softmax" if single else "sigmoid",
        placeless=placeless(classes, normal),
    )


def placeless(classes: Sequence[str], normal: str | None) -> tuple[int, ...]:
    """The ids of the classes that have no place.

    Raises:
        ArgumentError: There is no such class.
    """
    if normal is None:
        return ()
    normal = canonical(normal)
    if normal not in classes:
        raise ArgumentError(
            f"normal {normal!r}: the data has no such class, its classes are "
            f"{', '.join(map(repr, classes[:20]))}"
        )
    return (list(classes).index(normal),)
