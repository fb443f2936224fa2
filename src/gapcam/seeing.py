"""What the network says of a batch of pictures, as far as the heat: before any box is cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gapcam.engines import Engine, MapOutputs, check_finite, classes_for
from gapcam.maps import normalize
from gapcam.products import matmul
from gapcam.refine import fuse, refine
from gapcam.resample import resample
from gapcam.types import (
    ArgumentError,
    ByteArray,
    FloatArray,
    IntArray,
    ModelCard,
    Picture,
    Recipe,
)

GRID_STRIDE = 4
"""Input pixels between the samples that a map is cut on (finer gives the same boxes)."""


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What the network says of a batch of pictures, before any box is cut.

    Attributes:
        classes: The classes asked for in each picture, `[B, n]`.
        logits: Of every class, `[B, C]`.
        maps: Raw class maps `[B, n, h, w]`, signed, logit units.
        evidence: The maps after the recipe's refinement, of both passes where it has two,
            `[B, n, h2, w2]`; else the maps.
        heat: Evidence resampled and normalized to 0..1 by the recipe, `[B, n, H, W]`; all zero for
            a class that means that nothing is there.
        finer_maps: Raw maps of the recipe's second pass, `[B, n, h3, w3]`; None where it has one.
        fine_features: `[B, K2, h4, w4]`, what maps are refined with; None where there are none.
        all_maps: Raw maps of every class, `[B, C, h, w]`; None unless asked for.
        all_finer_maps: Likewise of the second pass.
    """

    classes: IntArray
    logits: FloatArray
    maps: FloatArray
    evidence: FloatArray
    heat: FloatArray
    finer_maps: FloatArray | None = None
    fine_features: FloatArray | None = None
    all_maps: FloatArray | None = None
    all_finer_maps: FloatArray | None = None


def see(
    engine: Engine,
    card: ModelCard,
    recipe: Recipe,
    pictures: Sequence[Picture],
    wanted: IntArray | int,
    *,
    every: bool = False,
) -> Seen:
    """Run a batch of pictures (at least one) as far as the heat; see `Localizer.see`."""
    run = _run_every if every else _run_wanted
    out, all_maps = run(engine, np.stack([picture.pixels for picture in pictures]), wanted)
    evidence = refine(out.maps, out.fine_features, recipe)
    finer_maps = all_finer = None
    if recipe.evidence_size_hw is not None:
        finer, all_finer = run(engine, _evidence_pixels(pictures, recipe), out.classes)
        finer_maps = finer.maps
        evidence = fuse(evidence, refine(finer_maps, out.fine_features, recipe))
    heat = to_heat(evidence, out.maps, recipe)
    heat[np.isin(out.classes, card.placeless)] = 0
    return Seen(
        classes=out.classes,
        logits=out.logits,
        maps=out.maps,
        evidence=evidence,
        heat=heat,
        finer_maps=finer_maps,
        fine_features=out.fine_features,
        all_maps=all_maps,
        all_finer_maps=all_finer,
    )


def to_heat(evidence: FloatArray, maps: FloatArray, recipe: Recipe) -> FloatArray:
    """Evidence `[..., h, w]` as heat in 0..1, `[..., H, W]`, on the grid that is cut.

    Bicubic weights overshoot: where `maps [..., h, w]` have no positive value, heat is zero.
    """
    height, width = recipe.input_size_hw
    grid_hw = (height // GRID_STRIDE, width // GRID_STRIDE)
    heat = normalize(resample(evidence, grid_hw, recipe.upsample), recipe)
    return np.where(maps.max((-2, -1), keepdims=True) > 0, heat, 0)


def _run_wanted(
    engine: Engine, pixels: ByteArray, wanted: IntArray | int
) -> tuple[MapOutputs, None]:
    return engine.run_maps(pixels, wanted), None


def _run_every(
    engine: Engine, pixels: ByteArray, wanted: IntArray | int
) -> tuple[MapOutputs, FloatArray]:
    """One forward pass, and the maps `[B, C, h, w]` of every class in one product."""
    head = engine.head
    if head is None:
        raise ArgumentError(
            "maps of every class: this head is not linear, so that every class costs a pass "
            "through it; ask for the classes that you want"
        )
    out = engine.run(pixels)
    classes = classes_for(wanted, out.logits)
    batch, channels, height, width = out.features.shape
    flat = out.features.reshape(batch, channels, height * width)
    every: FloatArray = matmul(head.weights, flat).reshape(batch, -1, height, width)
    check_finite(out.logits, every, np.tile(np.arange(every.shape[1]), (batch, 1)))
    maps = np.take_along_axis(every, classes[:, :, np.newaxis, np.newaxis], axis=1)
    return MapOutputs(out.logits, classes, maps, out.fine_features), every


def _evidence_pixels(pictures: Sequence[Picture], recipe: Recipe) -> ByteArray:
    finer = [p.evidence_pixels for p in pictures if p.evidence_pixels is not None]
    if len(finer) < len(pictures):
        raise ArgumentError(
            f"recipe {recipe.name!r} takes two passes: expected pictures that this "
            "localizer's `read` made, got one read for a recipe of one pass"
        )
    return np.stack(finer)
