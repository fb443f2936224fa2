from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest
from hypothesis import settings

import gapcam
from gapcam.data import Dataset, read_dataset
from scored_sets import boxed_set, write_masks
from small_model import write_small_model

# A check that lands or refuses a change must not depend on luck; elsewhere new cases are tried.
settings.register_profile("ci", derandomize=True, deadline=None)
if os.environ.get("CI"):
    settings.load_profile("ci")

ROOT = Path(__file__).parent.parent

# Exporting networks makes many small objects, which Python's collector walks through over and over:
# an eighth of the time of the tests that do it.
gc.set_threshold(20_000, 20, 100)

# The built model is kept between runs: its name holds a hash of all it is made from.
os.environ.setdefault("GAPCAM_CACHE", str(ROOT / ".cache"))


@pytest.fixture(scope="session")
def localizer() -> gapcam.Localizer:
    """The embedded model with its default recipe."""
    return gapcam.load()


@pytest.fixture(scope="session")
def cat() -> Path:
    return next(path for path in gapcam.sample_pictures() if path.name == "cat.jpg")


@pytest.fixture(scope="session")
def quick() -> gapcam.Localizer:
    return gapcam.load(threads=1)


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of `small`."""
    return write_small_model(tmp_path_factory.mktemp("small") / "small.onnx")


@pytest.fixture(scope="session")
def small(small_model: Path) -> gapcam.Localizer:
    """A network of seven classes for tests in which what is found does not matter."""
    return gapcam.load(str(small_model), threads=1)


@pytest.fixture(scope="session")
def boxed(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return boxed_set(tmp_path_factory.mktemp("boxed"))


@pytest.fixture(scope="session")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    images, masks = write_masks(tmp_path_factory.mktemp("masked"))
    return read_dataset(images, None, masks)
