"""From what a user names to a PyTorch classifier with its labels and preprocessing.

`timm:`, `torchvision:` and `hf:` names go to those libraries' own builders; an `nn.Module` is taken
as it is. No code from elsewhere is run and nothing is unpickled but tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gapcam.models.sources.common import SourceModel, Wishes
from gapcam.types import ArgumentError, Preprocessing, SizeHW

if TYPE_CHECKING:
    from torch import nn

__all__ = ["PREFIXES", "SourceModel", "is_source", "open_source"]

PREFIXES = ("timm", "torchvision", "hf")


def is_source(spec: object) -> bool:
    """Whether a text names a network of one of the libraries, as `timm:resnet50` does."""
    return isinstance(spec, str) and spec.partition(":")[0].lower() in PREFIXES and ":" in spec


def open_source(
    spec: str | nn.Module,
    *,
    checkpoint: Path | str | None = None,
    labels: Sequence[str] | Path | str | None = None,
    preprocessing: Preprocessing | str | None = None,
    size_hw: SizeHW | None = None,
    tell: Callable[[str], None] | None = None,
) -> SourceModel:
    """Open a classifier with its labels and preprocessing.

    Args:
        spec: `timm:NAME[.TAG]`, `torchvision:NAME[:WEIGHTS]`, `hf:FOLDER` or `hf:OWNER/NAME`, or a
            module.
        checkpoint: A local file with the network's weights, instead of pretrained ones; needs no
            network.
        labels: The classes' names, where the source does not say them or others are wanted: a list,
            a file, or `"imagenet"`; `gapcam.models.sources.common.NO_LABELS` where nobody
            needs them.
        preprocessing: What the network expects of a picture, likewise: a value, a name in
            `gapcam.models.preprocessing.NAMED`, or numbers.
        size_hw: The input size, pixels; the source's when None.
        tell: Called with a word of progress when something takes long.

    Returns:
        The classifier. A module that was given is the same object, unchanged; the number of its
        labels is checked only where it says how many classes it has.

    Raises:
        ArgumentError: An unknown name, or labels or preprocessing that are wrong or missing.
        ModelError: A library is missing, a download failed, or weights are broken or do not fit.
    """
    wishes = Wishes(
        checkpoint=None if checkpoint is None else Path(checkpoint),
        labels=labels,
        preprocessing=preprocessing,
        size_hw=size_hw,
        tell=tell or _say_nothing,
    )
    if not isinstance(spec, str):
        from gapcam.models.sources.module import open_module

        return open_module(spec, wishes)
    prefix, colon, name = spec.partition(":")
    if not colon or prefix.lower() not in PREFIXES:
        raise ArgumentError(
            f"model {spec!r} is unknown: expected timm:NAME, torchvision:NAME, hf:FOLDER or "
            "hf:OWNER/NAME"
        )
    return _open_named(prefix.lower(), name, wishes)


def _open_named(prefix: str, name: str, wishes: Wishes) -> SourceModel:
    if prefix == "timm":
        from gapcam.models.sources.timm import open_timm

        return open_timm(name, wishes)
    if prefix == "torchvision":
        from gapcam.models.sources.torchvision import open_torchvision

        return open_torchvision(name, wishes)
    from gapcam.models.sources.transformers import open_transformers

    return open_transformers(name, wishes)


def _say_nothing(words: str) -> None:
    """Progress that nobody asked for."""
