"""`torchvision:NAME[:WEIGHTS]`: torchvision's classifiers with their weights, names and sizes."""

from __future__ import annotations

import urllib.parse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gapcam.models.label_lists import Labels, library_labels
from gapcam.models.preprocessing import from_unit_range
from gapcam.models.sources.checkpoint import load_into, read_state
from gapcam.models.sources.common import (
    LABELS_ADVICE,
    SourceModel,
    Wishes,
    first_line,
    library,
    reachable,
    refuse_download,
    refuse_unknown,
)
from gapcam.types import ArgumentError, Preprocessing

if TYPE_CHECKING:
    from torch import Tensor, nn

SIZED_BY_WEIGHTS = {"vit_": "image_size", "maxvit_": "input_size"}
WITH_AUXILIARY_HEADS = {
    "googlenet": ("aux1.", "aux2."),
    "inception_v3": ("AuxLogits.",),
}
"""Nets whose heads for training the weights may hold; scoring does not use them."""


def open_torchvision(name: str, wishes: Wishes) -> SourceModel:
    """A torchvision classifier.

    Args:
        name: `resnet50`, or with the name of weights, `resnet50:IMAGENET1K_V1`; torchvision's
            default weights where none are named.
        wishes: With a checkpoint, its weights are loaded and the others are not needed.

    Raises:
        ArgumentError: Unknown names, or labels are needed.
        ModelError: torchvision is missing, the download failed, or the checkpoint does not fit.
    """
    torchvision = library("torchvision")
    name, _, wanted = name.partition(":")
    known = torchvision.models.list_models(module=torchvision.models)
    if name.lower() not in known:
        refuse_unknown("torchvision classifier", name, known)
    name = name.lower()
    weights = _weights(torchvision, name, wanted)
    names = weights.meta["categories"]
    state, origin = _state(weights, name, wishes)
    state = _without_auxiliary(name, state)
    module, classes = load_into(
        lambda count: _build(torchvision, name, weights, count or len(names)),
        state,
        len(names),
        origin,
    )
    labels = wishes.labels_or(lambda: _labels(names, weights, classes, origin), classes)
    return SourceModel(
        name=name,
        module=module,
        labels=labels.names,
        aliases=labels.aliases,
        preprocessing=wishes.preprocessing_or(lambda: _preprocessing(weights)),
        sources={
            "network": f"torchvision {torchvision.__version__}, {name}",
            "weights": wishes.checkpoint.name if wishes.checkpoint else str(weights),
            "labels": labels.source,
        },
        notes=(*_notes(name, weights, wanted, wishes), *labels.notes),
    )


def _weights(torchvision: Any, name: str, wanted: str) -> Any:
    """One entry of the network's table of weights."""
    table = torchvision.models.get_model_weights(name)
    key = (wanted.split(".")[-1] or "DEFAULT").upper()
    if key not in table.__members__:
        refuse_unknown(f"weights of torchvision's {name}", wanted, table.__members__)
    return table[key]


def _state(weights: Any, name: str, wishes: Wishes) -> tuple[Mapping[str, Tensor], str]:
    """The tensors, from the user's file or torchvision's, and what to call their file."""
    if wishes.checkpoint is not None:
        return read_state(wishes.checkpoint), str(wishes.checkpoint)
    path = _downloaded(weights.url, name, wishes)
    return read_state(path), str(path)


def _downloaded(url: str, name: str, wishes: Wishes) -> Path:
    """The file of weights in PyTorch's cache, fetched when it is not there yet.

    torchvision's own `get_state_dict` would unpickle it whole and print; the place and the check of
    its hash are the same.
    """
    from torch import hub

    path = Path(hub.get_dir()) / "checkpoints" / Path(urllib.parse.urlsplit(url).path).name
    if path.is_file():
        return path
    what = f"the weights of torchvision's {name} ({url})"
    advice = f"Download them elsewhere and pass the file as checkpoint, or copy it to {path}"
    if not reachable(url):
        refuse_download(what, f"{urllib.parse.urlsplit(url).hostname} does not answer", advice)
    wishes.tell(f"Downloading {url} ...")
    found = hub.HASH_REGEX.search(path.name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        hub.download_url_to_file(url, str(path), found and found[1], progress=False)
    except (OSError, RuntimeError) as error:
        refuse_download(what, first_line(error), advice)
    return path


def _build(torchvision: Any, name: str, weights: Any, classes: int) -> nn.Module:
    """The network as torchvision makes it for these weights, with random ones."""
    options: dict[str, Any] = {"num_classes": classes}
    for start, option in SIZED_BY_WEIGHTS.items():
        if name.startswith(start):
            height, width = weights.meta["min_size"]
            options[option] = height if option == "image_size" else (height, width)
    if name in WITH_AUXILIARY_HEADS:
        options |= {"transform_input": True, "aux_logits": False, "init_weights": False}
    module: nn.Module = torchvision.models.get_model(name, weights=None, **options)
    return module


def _without_auxiliary(name: str, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    heads = WITH_AUXILIARY_HEADS.get(name)
    if heads is None:
        return state
    starts = tuple(wrapper + head for wrapper in ("", "module.", "model.") for head in heads)
    return {key: tensor for key, tensor in state.items() if not key.startswith(starts)}


def _labels(names: list[str], weights: Any, classes: int, origin: str) -> Labels:
    if classes != len(names):
        raise ArgumentError(
            f"{origin}: these weights are for {classes} classes, whose names it does not hold; "
            f"{LABELS_ADVICE}"
        )
    return library_labels(names, f"torchvision's {weights}")


def _preprocessing(weights: Any) -> Preprocessing:
    preset = weights.transforms()
    side = preset.crop_size
    size = (side[0], side[-1]) if isinstance(side, list | tuple) else (side, side)
    return from_unit_range(preset.mean, preset.std, size, f"torchvision's {weights}")


def _notes(name: str, weights: Any, wanted: str, wishes: Wishes) -> tuple[str, ...]:
    notes = []
    if wishes.checkpoint is not None:
        notes.append(f"what the network expects of a picture is taken from torchvision's {weights}")
        if name in WITH_AUXILIARY_HEADS:
            notes.append(
                f"{name} turns ImageNet's normalization into -1..1 inside (transform_input), as it "
                "does with torchvision's weights"
            )
    elif not wanted:
        notes.append(f"torchvision's default weights: {weights}")
    return tuple(notes)
