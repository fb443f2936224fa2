"""`gapcam models`: what there is to localize with."""

from __future__ import annotations

import os
from typing import Annotated

import typer
from rich.markup import escape

from gapcam.cli.app import DONE, SOME_FAILED, app, reporting_errors
from gapcam.terminal import printing, recipe_lines, tell

CheckOption = Annotated[
    bool,
    typer.Option(
        "--check", help="Prove the maps on real photographs: mean(map) + bias = score, every class."
    ),
]
ClassesOption = Annotated[
    bool, typer.Option("--classes", help="List the classes: number, WordNet id, names.")
]


@app.command()
def models(check: CheckOption = False, classes: ClassesOption = False) -> None:
    """List models and recipes; --check proves the maps."""
    with reporting_errors("interrupted"):
        from gapcam.loading import load
        from gapcam.models import embedded
        from gapcam.recipes import DEFAULT, RECIPES

        proof = load(tell=tell).check() if check else None
        card = embedded.model_card(DEFAULT)
        path = embedded.model_path(card)
        state = (
            f"built: {path}" if os.path.isfile(path) else f"built at first use into {path.parent}"
        )
        with printing() as console:
            console.print(f"[bold]{card.name}[/]  {len(card.labels)} classes, maps exact", end="  ")
            console.print(escape(state), soft_wrap=True)
            for line in recipe_lines(RECIPES.values()):
                console.print(escape(line), soft_wrap=True)
            if classes:
                for i, (label, names) in enumerate(zip(card.labels, card.aliases, strict=True)):
                    line = "; ".join((f"{i:4} {names[0]} {label}", *names[1:]))
                    console.print(escape(line), soft_wrap=True)
            if proof is not None:
                console.print(escape(str(proof)), soft_wrap=True)
        raise typer.Exit(DONE if proof is None or proof.exact else SOME_FAILED)
