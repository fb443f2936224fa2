"""The named recipes: every choice between a class map and a box, frozen and with its source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from gapcam.types import ArgumentError, ModelCard, Recipe, SizeHW

OWN_SIDE = 224
"""The input side that the recipes were made on, pixels: the embedded network's."""

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


def check_fits(recipe: Recipe, card: ModelCard) -> None:
    """Refuse a recipe that a model cannot follow.

    Raises:
        ArgumentError: Its input sizes do not fit the network, or it refines maps and the network
            has no features to refine them with.
    """
    if recipe.refine != "none" and not card.fine_features:
        raise ArgumentError(
            f"recipe {recipe.name!r}: {card.name} has no features at half its map's stride to "
            "refine maps with. Use the recipe paper."
        )
    for size_hw in filter(None, (recipe.input_size_hw, recipe.evidence_size_hw)):
        if card.fixed_hw is not None and size_hw != card.fixed_hw:
            only = f"{card.fixed_hw[0]} x {card.fixed_hw[1]}"
            raise ArgumentError(
                f"recipe {recipe.name!r}: {card.name} takes pictures of {only} only, not "
                f"{size_hw[0]} x {size_hw[1]}. Use the recipe default or paper."
            )
        if any(side < 1 or side % card.size_multiple for side in size_hw):
            raise ArgumentError(
                f"recipe {recipe.name!r}: input sides must be multiples of "
                f"{card.size_multiple} for {card.name}, got {size_hw[0]} x {size_hw[1]}"
            )


def recipe_for(name: str, card: ModelCard) -> Recipe:
    """The recipe of that name, as it fits a model.

    Raises:
        ArgumentError: There is none.
    """
    recipe = recipe_named(name)
    if card.recipe in RECIPES.values():  # the network that they were made on
        return recipe
    if name == card.recipe.name:
        return card.recipe
    return fitted(recipe, card.recipe.input_size_hw, card.map_stride)


def default_for(size_hw: SizeHW, stride: float, fine_features: bool) -> Recipe:
    """The recipe of a network that none was chosen on: `default`, or `paper` without refinement.

    Args:
        size_hw: What the network was trained on, pixels.
        stride: Input pixels between map cells.
        fine_features: Whether it has features at half that stride.
    """
    return fitted(DEFAULT if fine_features else PAPER, size_hw, stride)


def fitted(recipe: Recipe, size_hw: SizeHW, stride: float) -> Recipe:
    """A named recipe for a network that it was not chosen on.

    Its input sizes become the same multiples of that size, in whole steps of the stride; costs and
    scores, which were measured on the embedded network, are left out.
    """
    own_hw = (OWN_SIDE, OWN_SIDE)

    def scaled(asked_hw: SizeHW) -> SizeHW:
        if asked_hw == own_hw:
            return size_hw
        height, width = (
            max(1, round(side * asked / OWN_SIDE / stride)) * round(stride)
            for side, asked in zip(size_hw, asked_hw, strict=True)
        )
        return height, width

    evidence_hw = recipe.evidence_size_hw
    return replace(
        recipe,
        input_size_hw=scaled(recipe.input_size_hw),
        evidence_size_hw=None if evidence_hw is None else scaled(evidence_hw),
        chosen_on=f"{recipe.chosen_on}, with efficientnet-lite0 and not with this network",
        chosen_score="",
        cost=0.0,
    )
