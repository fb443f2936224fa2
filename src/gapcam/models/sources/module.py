"""A PyTorch module of the user's, with what it or the user says of its classes and pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gapcam.models.label_lists import Labels
from gapcam.models.pytorch.modules import unwrapped
from gapcam.models.sources.common import (
    LABELS_ADVICE,
    PREPROCESSING_ADVICE,
    SourceModel,
    Wishes,
    hub_reachable,
)
from gapcam.models.sources.timm import module_classes, timm_labels, timm_preprocessing
from gapcam.models.sources.transformers import (
    PROCESSOR_FILES,
    config_labels,
    fetched,
    folder_preprocessing,
)
from gapcam.types import ArgumentError, Preprocessing

if TYPE_CHECKING:
    from torch import nn


def open_module(module: nn.Module, wishes: Wishes) -> SourceModel:
    """A module as it is; it is neither changed nor copied.

    Labels and preprocessing are the user's, or found: timm's modules carry a `pretrained_cfg`,
    Transformers' a `config` with `id2label` and the folder or repository they came from.

    Raises:
        ArgumentError: They are neither given nor found, or a checkpoint is given too.
        ModelError: It is no module that can be opened.
    """
    if wishes.checkpoint is not None:
        raise ArgumentError(
            "checkpoint: a module that is given keeps its weights; load them into it first "
            "(module.load_state_dict), or name the network, as 'timm:resnet50'"
        )
    inner = unwrapped(module)
    name = _name(inner)
    classes = _classes(inner)
    labels = wishes.labels_or(lambda: _labels(inner, name, classes), classes)
    return SourceModel(
        name=name,
        module=module,
        labels=labels.names,
        aliases=labels.aliases,
        preprocessing=wishes.preprocessing_or(lambda: _preprocessing(inner, name)),
        sources={
            "network": f"{type(inner).__module__}.{type(inner).__qualname__}",
            "weights": "given by the user",
            "labels": labels.source,
        },
        notes=(*_notes(inner, wishes), *labels.notes),
    )


def _timm_config(module: nn.Module) -> Mapping[str, Any] | None:
    found = getattr(module, "pretrained_cfg", None)
    return found if isinstance(found, Mapping) and "mean" in found else None


def _hf_config(module: nn.Module) -> Any:
    found = getattr(module, "config", None)
    return found if isinstance(getattr(found, "id2label", None), Mapping) else None


def _name(module: nn.Module) -> str:
    timm_config = _timm_config(module)
    if timm_config and timm_config.get("architecture"):
        return str(timm_config["architecture"])
    return type(module).__name__


def _classes(module: nn.Module) -> int | None:
    """The number of classes, where the module says it."""
    config = _hf_config(module)
    return len(config.id2label) if config is not None else module_classes(module)


def _labels(module: nn.Module, name: str, classes: int | None) -> Labels:
    config = _hf_config(module)
    if config is not None:
        return config_labels(config, len(config.id2label), name)
    if _timm_config(module):
        return timm_labels(module, name)
    count = f"its {classes} classes" if classes else "its classes"
    raise ArgumentError(f"{name}: nothing in this module says what {count} are; {LABELS_ADVICE}")


def _preprocessing(module: nn.Module, name: str) -> Preprocessing:
    if _timm_config(module):
        return timm_preprocessing(module, name)
    config = _hf_config(module)
    folder = None if config is None else _processor_folder(str(config._name_or_path or ""))
    if folder is not None:
        return folder_preprocessing(folder, config, str(config._name_or_path))
    raise ArgumentError(
        f"{name}: nothing in this module says what it expects of a picture; {PREPROCESSING_ADVICE}"
    )


def _processor_folder(origin: str) -> Path | None:
    """Where the processor of a Transformers module lies: the folder or repository it came from."""
    if not origin:
        return None
    if Path(origin).is_dir():
        return Path(origin)
    return fetched(origin, PROCESSOR_FILES, online=hub_reachable())


def _notes(module: nn.Module, wishes: Wishes) -> tuple[str, ...]:
    """What was found instead of given."""
    found = [
        what
        for what, given in (("labels", wishes.labels), ("preprocessing", wishes.preprocessing))
        if given is None
    ]
    if not found:
        return ()
    where = "timm's configuration" if _timm_config(module) else "Transformers' configuration"
    return (f"{' and '.join(found)} taken from the module's own: {where}",)
