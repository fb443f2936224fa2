"""Other libraries' architectures: the head found, the maps proved, the export against PyTorch.

The rows become `docs/architectures.md`.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from zoo_models import ARCHITECTURES, CLASSES, Architecture, prepare

import gapcam
from gapcam.engines import MapOutputs
from gapcam.localizer import MOST_CHECKED
from gapcam.types import ByteArray, Localization, Preprocessing

pytestmark = pytest.mark.filterwarnings(
    # What torch.export, the exporter and other libraries' networks say of themselves.
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
    "ignore::UserWarning:torch",
    "ignore::UserWarning:timm",
    "ignore::UserWarning:transformers",
)

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_SCALE = (58.395, 57.12, 57.375)
ASKED = np.arange(0, CLASSES, 20)
PARITY = 1e-4
LEAST_RANGE = 0.05
"""Logits that span less are near float32's noise, and a gap over them would say nothing."""

Row = dict[str, object]


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_architecture(architecture: Architecture, record_property):
    network = prepare(architecture)
    localizer = load(network, architecture, "auto")
    proof = localizer.check()
    pixels = np.stack([localizer.read(path).pixels for path in gapcam.sample_pictures()[:3]])
    assert pixels.shape[1:3] == architecture.size_hw
    seen = localizer.engine.run_maps(pixels, ASKED)
    free = localizer.card.fixed_hw is None
    row: Row = {
        "library": architecture.library,
        "architecture": architecture.name,
        "head": proof.head,
        "exact": bool(proof.exact),
        "gap": float(proof.largest_gap / proof.logit_range),
        "engine": localizer.engine.name,
        "input_hw": list(architecture.size_hw),
        "input_free": free,
        "grid_hw": list(seen.maps.shape[2:]),
        "fine_features": seen.fine_features is not None,
        "features_at": proof.features_at,
        **parity(localizer, load(network, architecture, "torch"), pixels),
    }
    assert proof.head == architecture.kind, proof
    # Of other heads some add up as well: mean and maximum beside each other do.
    assert proof.exact == architecture.exact or proof.head == "other", proof
    linear = architecture.kind in ("gap-linear", "gmp-linear")
    assert proof.classes == (CLASSES if linear else min(CLASSES, MOST_CHECKED))
    assert proof.logit_range > LEAST_RANGE
    assert localizer.engine.name == architecture.engine
    assert seen.maps.shape == (3, len(ASKED), *architecture.grid_hw)
    if free:
        takes_another_size(localizer, pixels)
    assert row["parity_logits"] <= PARITY
    assert row["parity_maps"] <= PARITY
    found = localizer(gapcam.sample_pictures()[0])
    assert isinstance(found, Localization)
    assert {d.label for d in found.detections} <= set(localizer.card.labels)
    record_property("row", row)  # conftest.py makes the table of them


def load(network: torch.nn.Module, architecture: Architecture, engine: str) -> gapcam.Localizer:
    wanted = Preprocessing(architecture.size_hw, IMAGENET_MEAN, IMAGENET_SCALE)
    labels = [f"class {i}" for i in range(CLASSES)]
    return gapcam.load(network, labels=labels, preprocessing=wanted, engine=engine)


def parity(
    localizer: gapcam.Localizer, reference: gapcam.Localizer, pixels: ByteArray
) -> dict[str, float]:
    """The largest differences from the torch engine, batches of one and three."""
    assert reference.engine.name == "torch"
    differences = [
        difference(
            localizer.engine.run_maps(pixels[:batch], ASKED),
            reference.engine.run_maps(pixels[:batch], ASKED),
        )
        for batch in (1, 3)
    ]
    logits, maps = np.max(differences, axis=0).tolist()
    return {"parity_logits": logits, "parity_maps": maps}


def difference(found: MapOutputs, expected: MapOutputs) -> tuple[float, float]:
    """max |difference| of logits and of maps, each over the range of the expected."""
    np.testing.assert_array_equal(found.classes, expected.classes)
    return (
        float(np.abs(found.logits - expected.logits).max() / np.ptp(expected.logits)),
        float(np.abs(found.maps - expected.maps).max() / np.ptp(expected.maps)),
    )


def takes_another_size(localizer: gapcam.Localizer, pixels: ByteArray):
    """A network that says so takes other sizes: two strides more rows, two more rows of maps."""
    rows, columns = localizer.engine.run_maps(pixels[:1], ASKED).maps.shape[2:]
    more = 2 * round(pixels.shape[1] / rows)
    taller = np.pad(pixels[:1], ((0, 0), (0, more), (0, 0), (0, 0)), mode="edge")
    maps = localizer.engine.run_maps(taller, ASKED).maps
    assert maps.shape[3] == columns
    assert rows + 2 <= maps.shape[2] <= rows + 3  # SqueezeNet's pools round up
    assert np.isfinite(maps).all()
