"""`gapcam models`: what there is to localize with."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from gapcam.cli.app import (
    DONE,
    SOME_FAILED,
    LayerOption,
    ModelSettings,
    app,
    model_settings,
    reporting_errors,
)
from gapcam.terminal import printing, recipe_lines, tell

if TYPE_CHECKING:
    from gapcam.types import ModelCard, Recipe

OfArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="[MODEL]",
        show_default="the embedded one, and every recipe",
        help="A model to say more about: a model file, a run folder, an ONNX classifier, "
        "timm:NAME, torchvision:NAME, hf:NAME_OR_FOLDER.",
    ),
]
CheckOption = Annotated[
    bool,
    typer.Option("--check", help="Prove the maps on real photographs: mean(map) + bias = score."),
]
ClassesOption = Annotated[
    bool, typer.Option("--classes", help="List the classes: number, WordNet id, names.")
]


@app.command()
def models(
    model: OfArgument = None,
    settings: ModelSettings = None,
    layer: LayerOption = None,
    check: CheckOption = False,
    classes: ClassesOption = False,
) -> None:
    """List models and recipes; --check proves the maps.

    Exit code: 0 done, 1 the maps of a head that should give exact ones are not, 2 wrong usage.
    """
    with reporting_errors("interrupted"):
        from gapcam.loading import load
        from gapcam.models import embedded
        from gapcam.recipes import DEFAULT, RECIPES

        options = model_settings(settings, layer)
        localizer = load(model, tell=tell, **options) if check or model or options else None
        proof = localizer.check() if check and localizer is not None else None
        card = embedded.model_card(DEFAULT) if localizer is None else localizer.card
        recipes = RECIPES.values() if card.name == embedded.NAME else (card.recipe,)
        with printing() as console:
            for line in _lines(card, list(recipes), classes):
                console.print(escape(line), soft_wrap=True)
            if proof is not None:
                console.print(escape(str(proof)), soft_wrap=True)
        raise typer.Exit(DONE if proof is None or proof.as_expected else SOME_FAILED)


def _lines(card: ModelCard, recipes: list[Recipe], classes: bool) -> Iterator[str]:
    from gapcam.models import embedded
    from gapcam.proof import EXACT_KINDS

    state = ""
    if card.name == embedded.NAME:
        path = embedded.model_path(card)
        built = os.path.isfile(path)
        state = f"  built: {path}" if built else f"  built at first use into {path.parent}"
    yield f"{card.name}  {len(card.labels)} classes{state}"
    exact = "exact" if card.head in EXACT_KINDS else "not exact"
    yield f"head: {card.head}, maps {exact}; {card.features_at}"
    multiple = card.size_multiple
    size = "any size" if multiple == 1 else f"sides that are multiples of {multiple}"
    if card.fixed_hw is not None:
        size = "{} x {} only".format(*card.fixed_hw)
    yield f"input: {size}, a map cell every {card.map_stride:g} pixels"
    for what, where in card.sources.items():
        yield f"{what}: {where}"
    yield from recipe_lines(recipes)
    if classes:
        for i, (label, names) in enumerate(zip(card.labels, card.aliases, strict=True)):
            yield "; ".join((f"{i:4} {' '.join((*names[:1], label))}", *names[1:]))
