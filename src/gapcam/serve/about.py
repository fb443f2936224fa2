"""What `GET /v1/model` says."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from gapcam import __version__
from gapcam.localizer import Localizer
from gapcam.proof import Proof
from gapcam.serve.options import ServeOptions


def describe(localizer: Localizer, proof: Proof, options: ServeOptions) -> dict[str, Any]:
    """The model, what it takes and gives, and the server's limits; as in `schema.ModelOut`."""
    card, engine = localizer.card, localizer.engine
    return {
        "name": card.name,
        "version": __version__,
        "model_sha256": engine.fingerprint,
        "labels": list(card.labels),
        "aliases": {str(i): list(names) for i, names in enumerate(card.aliases) if names} or None,
        "recipe": asdict(localizer.recipe),
        "head": card.head,
        "features_at": card.features_at,
        "exact": proof.exact,
        "proof": str(proof),
        "largest_gap": proof.largest_gap,
        "input_size_hw": list(localizer.recipe.input_size_hw),
        "scores": "sigmoid" if len(card.labels) == 1 else card.scores,
        "placeless": list(card.placeless),
        "bias": [float(str(value)) for value in engine.bias.astype(np.float32)],
        "all_maps": engine.head is not None,
        "max_top": max_top(localizer, options),
        "limits": {
            "max_bytes": options.max_bytes,
            "max_request_bytes": options.max_request_bytes,
            "max_pixels": options.max_pixels,
            "max_pictures": options.max_pictures,
            "max_classes": options.max_classes,
        },
    }


def max_top(localizer: Localizer, options: ServeOptions) -> int:
    """The most classes of a picture that a request may ask for by rank."""
    return min(len(localizer.card.labels), options.max_classes)
