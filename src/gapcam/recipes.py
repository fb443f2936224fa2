"""The named recipes: every choice between a class map and a box, frozen and with its source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from gapcam.types import ArgumentError, Recipe

SCORE = "GT-known {} %, mean over IoU .3 .5 .7 {} %, in 5-fold cross-selection"

DEFAULT = Recipe(
    name="default",
    input_size_hw=(224, 224),
    refine="affinity",
    centring=0.25,
    normalize="minmax",
    threshold=0.48,
    cost=1.09,
    source="ours (docs/recipes.md)",
    chosen_on="630 ILSVRC validation pictures (benchmarks/recipes.py)",
    chosen_score=SCORE.format("72.5", "70.7"),
)

FAST = replace(
    DEFAULT,
    name="fast",
    input_size_hw=(192, 192),
    threshold=0.52,
    cost=0.81,
    chosen_score=SCORE.format("70.1", "68.0"),
)

BEST = replace(
    DEFAULT,
    name="best",
    evidence_size_hw=(448, 448),
    components="instances",
    threshold=0.44,
    cost=5.5,
    chosen_score=SCORE.format("74.9", "73.1"),
)

PAPER = Recipe(
    name="paper",
    input_size_hw=(224, 224),
    upsample="bilinear",
    normalize="max",
    threshold=0.2,
    cost=1.01,
    source="Zhou et al., CVPR 2016, section 3.2",
    chosen_on="nothing: the paper's rule as printed",
)

RELEASED = replace(
    PAPER,
    name="released",
    upsample="bicubic",
    components="released",
    threshold=20 / 255,
    cost=6.0,
    source="the code released with the paper (bboxgenerator/dt_box.cpp)",
    chosen_on="nothing: the released thresholds, 20, 100 and 110 of 255",
)

RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {recipe.name: recipe for recipe in (DEFAULT, FAST, BEST, PAPER, RELEASED)}
)


def recipe_named(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        ArgumentError: There is none.
    """
    if name not in RECIPES:
        raise ArgumentError(f"recipe {name!r} is unknown: expected one of {', '.join(RECIPES)}")
    return RECIPES[name]
