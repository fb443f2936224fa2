"""From a model's name to a localizer that has been proved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from gapcam.engines.onnx import OnnxEngine
from gapcam.localizer import Localizer
from gapcam.models import embedded
from gapcam.models.model_file import card_from_metadata
from gapcam.recipes import DEFAULT, recipe_named
from gapcam.types import ArgumentError, ModelError, Recipe


def load(
    model: str | Path | None = None,
    *,
    recipe: str | Recipe | None = None,
    threads: int = 0,
    tell: Callable[[str], None] | None = None,
) -> Localizer:
    """Load a model and get a localizer.

    Args:
        model: None or `"efficientnet-lite0"` for the embedded ImageNet model (built into the cache
            at first use), or the path of a gapcam model file.
        recipe: A recipe or its name; the model's own when None.
        threads: How many threads a forward pass may use; 0 means one a core.
        tell: Called with a word of progress when something takes long.

    Raises:
        ArgumentError: An unknown model or recipe name.
        ModelError: The model cannot be loaded or built.
    """
    if threads < 0:
        raise ArgumentError(f"threads: expected 0 (one a core) or more, got {threads}")
    chosen = recipe_named(recipe) if isinstance(recipe, str) else recipe
    if model is None or model == embedded.NAME:
        return _open_embedded(threads, chosen, tell)
    if Path(model).suffix == ".onnx":
        return _open(Path(model), threads, chosen)
    raise ArgumentError(
        f"model {str(model)!r} is unknown: expected {embedded.NAME!r} or the path of a gapcam "
        "model file (.onnx)"
    )


def _open_embedded(
    threads: int, recipe: Recipe | None, tell: Callable[[str], None] | None
) -> Localizer:
    """The embedded model; a file in the cache that has been damaged is built again."""
    path = embedded.ensure_built(DEFAULT, tell)
    try:
        return _open(path, threads, recipe)
    except ModelError:
        embedded.discard(path)
        return _open(embedded.ensure_built(DEFAULT, tell), threads, recipe)


def _open(path: Path, threads: int, recipe: Recipe | None) -> Localizer:
    engine = OnnxEngine(path, threads)
    localizer = Localizer(engine, card_from_metadata(engine.metadata, str(path)), recipe)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    proof = localizer.check([noise])
    if not proof.exact:
        raise ModelError(f"{path}: {proof} Build the model file again.")
    return localizer
