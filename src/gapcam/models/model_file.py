"""The model file's words: metadata to `ModelCard` and back.

A model file is one ONNX graph with everything inside. Input `images` is `uint8 [B, H, W, 3]` RGB;
the outputs are named below. The metadata holds the card, one JSON value a key.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from gapcam.types import ArgumentError, ModelCard, ModelError, Recipe

FORMAT = 1
INPUT = "images"
OUTPUTS = (
    "logits",
    "features",
    "fine_features",
    "top_classes",
    "top_maps",
    "top_refined",
    "head_weights",
    "head_bias",
)
"""`top_refined` is there only when the recipe refines in one pass; `head_*`, constants, are the
linear head."""

PREFIX = "gapcam."


def card_to_metadata(card: ModelCard) -> dict[str, str]:
    """The card as ONNX metadata: string keys, JSON values."""
    fields = {"format": FORMAT, **dataclasses.asdict(card)}
    fields["input_size_hw"] = card.recipe.input_size_hw
    return {PREFIX + key: json.dumps(value, sort_keys=True) for key, value in fields.items()}


def card_from_metadata(metadata: Mapping[str, str], origin: str) -> ModelCard:
    """The card that a model file carries.

    Args:
        metadata: The file's ONNX metadata.
        origin: The file, for the message.

    Raises:
        ModelError: It is not a gapcam model file, or of a format this version cannot read.
    """
    if PREFIX + "format" not in metadata:
        raise ModelError(
            f"{origin}: not a gapcam model file: expected the metadata key '{PREFIX}format', found "
            f"{sorted(metadata) or 'no metadata'}. Make one with gapcam."
        )
    try:
        fields = {
            key.removeprefix(PREFIX): json.loads(value)
            for key, value in metadata.items()
            if key.startswith(PREFIX)
        }
        return _card(fields, origin)
    except (KeyError, TypeError, ValueError, ArgumentError) as error:
        raise ModelError(
            f"{origin}: the model file's metadata is damaged ({type(error).__name__}: {error}). "
            "Build the file again."
        ) from error


def _card(fields: Mapping[str, Any], origin: str) -> ModelCard:
    if fields["format"] != FORMAT:
        raise ModelError(
            f"{origin}: model file format {fields['format']}, this gapcam reads format {FORMAT}. "
            "Build the file again with this version, or update gapcam."
        )
    if fields["head"] != "gap-linear":
        raise ModelError(
            f"{origin}: head {fields['head']!r}, this gapcam knows 'gap-linear'. Update gapcam."
        )
    recipe = dict(fields["recipe"])
    unknown = sorted(set(recipe) - {field.name for field in dataclasses.fields(Recipe)})
    if unknown:
        raise ModelError(
            f"{origin}: its recipe has {', '.join(unknown)}, which this gapcam does not know. "
            "Update gapcam."
        )
    for name in ("input_size_hw", "evidence_size_hw"):
        recipe[name] = None if recipe.get(name) is None else tuple(recipe[name])
    return ModelCard(
        name=fields["name"],
        labels=tuple(map(str, fields["labels"])),
        aliases=tuple(tuple(names) for names in fields["aliases"]),
        head=fields["head"],
        map_stride=int(fields["map_stride"]),
        size_multiple=int(fields["size_multiple"]),
        recipe=Recipe(**recipe),
        sources=dict(fields["sources"]),
        version=fields["version"],
    )
