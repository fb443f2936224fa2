"""The model file's words: metadata to `ModelCard` and back.

A model file is one ONNX graph with everything inside. Input `images` is `uint8 [B, H, W, 3]` RGB;
the outputs are named below. The metadata holds the card, one JSON value a key.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, Literal, cast, get_args

from gapcam.models.trace import HeadKind
from gapcam.types import ArgumentError, ModelCard, ModelError, Recipe

FORMAT = 3
INPUT = "images"
ASKED = "asked_classes"
TOP = "top"
"""With a head that is not linear: int64 `[B or 1, n]`, the classes of `asked_maps`, and `[1]`, how
many of the best there are maps of. Both have a value of their own and need not be given."""

OUTPUTS = (
    "logits",
    "features",
    "fine_features",
    "top_classes",
    "top_maps",
    "top_refined",
    "asked_maps",
    "head_weights",
    "head_bias",
)
"""`fine_features` are there where the network has them, `top_refined` when the recipe refines in
one pass. `head_weights`, a constant, belongs to a linear head, `asked_maps` to any other;
`head_bias`, a constant, is the score of all-zero features."""

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


def _scores(value: str) -> Literal["softmax", "sigmoid"]:
    if value not in ("softmax", "sigmoid"):
        raise ValueError(f"scores: expected softmax or sigmoid, got {value!r}")
    return cast("Literal['softmax', 'sigmoid']", value)


def _card(fields: Mapping[str, Any], origin: str) -> ModelCard:
    if fields["format"] != FORMAT:
        raise ModelError(
            f"{origin}: model file format {fields['format']}, this gapcam reads format {FORMAT}. "
            "Build the file again with this version, or update gapcam."
        )
    if fields["head"] not in get_args(HeadKind):
        raise ModelError(
            f"{origin}: head {fields['head']!r}, this gapcam knows "
            f"{', '.join(get_args(HeadKind))}. Update gapcam."
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
        map_stride=float(fields["map_stride"]),
        size_multiple=int(fields["size_multiple"]),
        recipe=Recipe(**recipe),
        features_at=fields["features_at"],
        fixed_hw=None if fields["fixed_hw"] is None else tuple(fields["fixed_hw"]),
        fixed_batch=fields["fixed_batch"],
        fine_features=fields["fine_features"],
        scores=_scores(fields["scores"]),
        placeless=tuple(map(int, fields["placeless"])),
        sources=dict(fields["sources"]),
        version=fields["version"],
    )
