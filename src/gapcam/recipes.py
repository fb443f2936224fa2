"""The named recipes: every choice between a class map and a box, frozen and with its source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from gapcam.types import ArgumentError, Recipe

DEFAULT = Recipe(
    name="default",
    input_size_hw=(224, 224),
    refine="affinity",
    normalize="minmax",
    threshold=0.46,
    source="ours (docs/decisions/0001)",
    chosen_on="630 ILSVRC validation pictures (benchmarks/localization.py)",
)

FINE = replace(DEFAULT, name="fine", input_size_hw=(320, 320), threshold=0.42)

PAPER = Recipe(
    name="paper",
    input_size_hw=(224, 224),
    upsample="bilinear",
    normalize="max",
    threshold=0.2,
    source="Zhou et al., CVPR 2016, section 3.2",
    chosen_on="nothing: the paper's rule as printed",
)

RECIPES: Mapping[str, Recipe] = MappingProxyType({r.name: r for r in (DEFAULT, FINE, PAPER)})


def recipe_named(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        ArgumentError: There is none.
    """
    if name not in RECIPES:
        raise ArgumentError(f"recipe {name!r} is unknown: expected one of {', '.join(RECIPES)}")
    return RECIPES[name]
