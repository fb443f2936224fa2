"""`gapcam choose`: which recipe and threshold, for pictures without boxes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from gapcam.cli.app import (
    DONE,
    SOME_FAILED,
    ModelOption,
    ModelSettings,
    app,
    model_settings,
    reporting_errors,
)
from gapcam.cli.localize_options import PathsArgument, class_name
from gapcam.terminal import complain, counted, printing, progress, say_ignored, tell

if TYPE_CHECKING:
    from gapcam.label_free import Choice, RecipeChoice
    from gapcam.paths import Expansion

SHOWN_DOUBTS = 5

RecipesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--recipe",
        "-r",
        metavar="NAME",
        show_default="fast, default and best",
        help="Compare this recipe; give it again for more.",
    ),
]
ClassOption = Annotated[
    list[str] | None,
    typer.Option(
        "--class",
        "-c",
        metavar="NAME",
        show_default="the model's best class of each picture",
        help="Look for this class; given again, for the likeliest of them.",
    ),
]
ShareOption = Annotated[
    float | None,
    typer.Option(
        "--object-share",
        metavar="SHARE",
        show_default=False,
        help="Which share of the picture the objects cover on average, as you judge it: 0.1 is a "
        "tenth. The threshold is adapted to it.",
    ),
]
JsonOption = Annotated[
    Path | None,
    typer.Option(
        "--json", metavar="FILE", show_default=False, help="Write the numbers to this file."
    ),
]


@app.command(no_args_is_help=True)
def choose(
    paths: PathsArgument,
    model: ModelOption = None,
    settings: ModelSettings = None,
    recipes: RecipesOption = None,
    classes: ClassOption = None,
    object_share: ShareOption = None,
    json_file: JsonOption = None,
) -> None:
    """Choose a recipe and a threshold for pictures without boxes; say what to trust.

    Every picture is seen mirrored and at larger sizes too: boxes that stay where they are can be
    trusted more. 50 to 200 pictures are enough. Exit code: 0 done, 1 some pictures failed (each
    is named and left out), 2 wrong usage.
    """
    with reporting_errors("interrupted; nothing is written"):
        from gapcam.label_free import CANDIDATES
        from gapcam.label_free import choose as choose_from
        from gapcam.loading import load
        from gapcam.paths import expand_paths
        from gapcam.recipes import recipe_named

        candidates = tuple(map(recipe_named, dict.fromkeys(recipes or ()))) or CANDIDATES
        inputs = expand_paths(paths, sys.stdin)
        localizer = load(model, tell=tell, **model_settings(settings))
        with progress(len(inputs.paths)) as step:
            found = choose_from(
                localizer,
                inputs.paths,
                recipes=candidates,
                classes=[class_name(name) for name in classes] if classes else None,
                object_share=object_share,
                on_picture=step,
            )
        failed = _say_failures(inputs, found)
        _show(found)
        if json_file is not None:
            _write(json_file, found, inputs)
        say_ignored(inputs)
        raise typer.Exit(SOME_FAILED if failed else DONE)


def _say_failures(inputs: Expansion, found: Choice) -> int:
    """Name what was left out; returns how many."""
    failures = (*inputs.failures, *found.failures)
    for failure in failures:
        complain(failure.error)
    if failures:
        tell(f"{counted(len(failures), 'path')} left out.")
    return len(failures)


def _show(found: Choice) -> None:
    """The table, the recommendation, and the pictures to look at first."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("recipe", "threshold", "agreement", "right boxes", "box share", "cost"):
        table.add_column(heading, justify="left" if heading == "recipe" else "right")
    for row in found.recipes:
        table.add_row(*_cells(row))
    doubtful = found.doubtful()
    with printing() as console:
        console.print(f"[bold]{counted(len(found.names), 'picture')}[/]", soft_wrap=True)
        console.print(table)
        for sentence in found.advice:
            console.print(escape(sentence), soft_wrap=True)
        if doubtful:
            console.print(f"Look first at ({len(doubtful)} doubtful):", soft_wrap=True)
        for name in doubtful[:SHOWN_DOUBTS]:
            console.print(f"  {escape(name)}", soft_wrap=True)


def _cells(row: RecipeChoice) -> tuple[str, ...]:
    expected = "not measured"
    if row.expected is not None:
        expected = "{:.0%} to {:.0%}".format(*row.expected)
    cost = f"{row.recipe.cost:g} x" if row.recipe.cost else "unknown"
    threshold = f"{row.recipe.threshold:g}"
    return (
        row.recipe.name,
        threshold,
        f"{row.agreement:.2f}",
        expected,
        f"{row.box_share:.0%}",
        cost,
    )


def _write(path: Path, found: Choice, inputs: Expansion) -> None:
    from gapcam.outputs import replacing

    with replacing(path) as file:
        json.dump(_numbers(found, inputs), file, indent=1, ensure_ascii=False)
        file.write("\n")


def _numbers(found: Choice, inputs: Expansion) -> dict[str, Any]:
    """What `--json` writes; shares are fractions, 0..1."""
    return {
        "pick": {"recipe": found.pick.recipe.name, "threshold": found.pick.recipe.threshold},
        "advice": list(found.advice),
        "recipes": [
            {
                "recipe": row.recipe.name,
                "threshold": row.recipe.threshold,
                "kept_threshold": row.kept,
                "otsu_threshold": row.otsu,
                "agreement": row.agreement,
                "expected_right": None if row.expected is None else list(row.expected),
                "box_share": row.box_share,
                "cost": row.recipe.cost or None,
            }
            for row in found.recipes
        ],
        "pictures": [
            {"path": name, "label": label, "agreement": agrees}
            for name, label, agrees in zip(
                found.names, found.labels, found.pick.agreements, strict=True
            )
        ],
        "doubtful": list(found.doubtful()),
        "failures": [
            {"path": f.name, "error": str(f.error)} for f in (*inputs.failures, *found.failures)
        ],
    }
