"""From whatever the user names to a localizer that has been proved."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gapcam.engines.onnx import OnnxEngine
from gapcam.foreign import SourceOptions, open_foreign
from gapcam.localizer import Localizer
from gapcam.models import embedded
from gapcam.models.model_file import PREFIX, card_from_metadata
from gapcam.proof import EXACT_KINDS
from gapcam.recipes import DEFAULT, recipe_for
from gapcam.types import ArgumentError, ModelCard, ModelError, Recipe

if TYPE_CHECKING:
    from torch import nn

    from gapcam.engines import Engine

SOURCES = ("timm:", "torchvision:", "hf:")
CHUNK_BYTES = 2**24
RUN_FILE = "model.onnx"
"""What a run folder's model file is called."""

Tell = Callable[[str], None]


def load(
    model: str | Path | nn.Module | None = None,
    *,
    recipe: str | Recipe | None = None,
    threads: int = 0,
    tell: Tell | None = None,
    **options: Any,
) -> Localizer:
    """Load a model and get a localizer.

    Args:
        model: None or `"efficientnet-lite0"` for the embedded ImageNet model (built into the cache
            at first use); the path of a gapcam model file, of a run folder that holds one, or of
            another ONNX classifier; `"timm:NAME"`, `"torchvision:NAME"`, `"hf:NAME_OR_FOLDER"`; or
            a PyTorch module, which is not changed.
        recipe: A recipe or its name; the model's own when None.
        threads: How many threads a forward pass may use; 0 means one a core.
        tell: Called with a word of progress when something takes long.
        **options: For classifiers that are not gapcam model files, the fields of
            `gapcam.foreign.SourceOptions`: labels, preprocessing, checkpoint, size_hw, layer,
            engine, method, device.

    Raises:
        ArgumentError: An unknown model, recipe or option, or one that is missing.
        ModelError: The model cannot be loaded or built, or has no head that gives maps.
    """
    if threads < 0:
        raise ArgumentError(f"threads: expected 0 (one a core) or more, got {threads}")
    chosen = source_options("load", options)
    if _is_embedded(model) and chosen == SourceOptions():
        return _open_embedded(threads, recipe, tell)
    engine, card = open_model(model, chosen, threads, tell)
    return proved(engine, card, recipe, str(model) if isinstance(model, str | Path) else card.name)


def open_model(
    model: str | Path | nn.Module | None, options: SourceOptions, threads: int, tell: Tell | None
) -> tuple[Engine, ModelCard]:
    """The engine of any model but the plain embedded one, and what it says of itself.

    Raises:
        ArgumentError: As `load`.
        ModelError: As `load`.
    """
    path = file_of(model)
    opened = None if path is None else _open_file(path, options, threads)
    if opened is not None:
        return opened
    return open_foreign(path or (embedded.NAME if model is None else model), options, threads, tell)


def open_model_file(
    model: str | Path | nn.Module | None, options: SourceOptions, threads: int = 0
) -> tuple[OnnxEngine, ModelCard] | None:
    """The engine of a gapcam model file or run folder; None where another kind of model is meant.

    Raises:
        ArgumentError: As `load`.
        ModelError: The file cannot be loaded.
    """
    path = file_of(model)
    return None if path is None else _open_file(path, options, threads)


def source_options(caller: str, options: Mapping[str, Any]) -> SourceOptions:
    """What a caller's keyword arguments say of a classifier.

    Raises:
        ArgumentError: An unknown option, or one that cannot be meant.
    """
    unknown = sorted(set(options) - set(SourceOptions.__dataclass_fields__))
    if unknown:
        known = ", ".join(SourceOptions.__dataclass_fields__)
        raise ArgumentError(f"{caller}: unknown option {unknown[0]!r}: expected one of {known}")
    return SourceOptions(**options)


def _open_file(
    path: Path, options: SourceOptions, threads: int
) -> tuple[OnnxEngine, ModelCard] | None:
    if not _is_ours(path):
        return None
    engine = OnnxEngine(path, threads)
    card = card_from_metadata(engine.metadata, str(path))
    _refuse_options(path, options)
    return engine, card


def _is_ours(path: Path) -> bool:
    """Whether a file has gapcam's metadata, read without opening it as a network.

    Raises:
        ModelError: It cannot be read.
    """
    mark, rest = f"{PREFIX}format".encode(), b""
    try:
        with path.open("rb") as file:
            while part := file.read(CHUNK_BYTES):
                if mark in rest + part:
                    return True
                rest = part[-len(mark) :]
    except OSError as error:
        reason = error.strerror or str(error)
        raise ModelError(
            f"{path}: no such model file ({reason}). Check the path, or see: gapcam models"
        ) from error
    return False


def _is_embedded(model: object) -> bool:
    return model is None or (isinstance(model, str) and model == embedded.NAME)


def file_of(model: str | Path | nn.Module | None) -> Path | None:
    """The ONNX file that is meant; None for what is made by a library or given as a module.

    Raises:
        ArgumentError: It is the name of nothing known.
    """
    if not isinstance(model, str | Path) or _is_embedded(model):
        return None
    if isinstance(model, str) and model.startswith(SOURCES):
        return None
    path = Path(model)
    if path.suffix == ".onnx":
        return path
    if (path / RUN_FILE).is_file():
        return path / RUN_FILE
    raise ArgumentError(
        f"model {str(model)!r} is unknown: expected {embedded.NAME!r}, the path of a model file "
        f"(.onnx), a run folder that holds {RUN_FILE}, timm:NAME, torchvision:NAME or "
        "hf:NAME_OR_FOLDER"
    )


def _refuse_options(path: Path, options: SourceOptions) -> None:
    for name in SourceOptions.__dataclass_fields__:
        value, default = getattr(options, name), getattr(SourceOptions(), name)
        if value != default and (name, value) != ("engine", "onnx"):
            raise ArgumentError(
                f"{path}: a gapcam model file holds its own {name}: leave {name} out, or build "
                "the file again from its source"
            )


def _open_embedded(threads: int, recipe: str | Recipe | None, tell: Tell | None) -> Localizer:
    """The embedded model; a file in the cache that has been damaged is built again."""
    for last in (False, True):
        path = embedded.ensure_built(DEFAULT, tell)
        try:
            engine = OnnxEngine(path, threads)
            card = card_from_metadata(engine.metadata, str(path))
            return proved(engine, card, recipe, str(path))
        except ModelError:
            if last:
                raise
            embedded.discard(path)
    raise AssertionError  # the loop returns or raises


def proved(engine: Engine, card: ModelCard, recipe: str | Recipe | None, origin: str) -> Localizer:
    """A localizer whose maps add up to the scores, where its head says that they do.

    Args:
        engine: Runs the network.
        card: What the model says of itself.
        recipe: A recipe or its name; the model's own when None.
        origin: What to call the model in the message.

    Raises:
        ArgumentError: There is no such recipe, or the model cannot follow it.
        ModelError: They do not.
    """
    chosen = recipe_for(recipe, card) if isinstance(recipe, str) else recipe
    localizer = Localizer(engine, card, chosen)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    if card.head in EXACT_KINDS and not (proof := localizer.check([noise])).exact:
        where = "" if origin == card.name else f"{origin}: "
        raise ModelError(f"{where}{proof} Choose another layer, or report this network.")
    return localizer
