"""The command line: parse, call, print. Everything else is in the library."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from enum import Enum
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from gapcam.terminal import (
    complain,
    counted,
    print_table,
    printing,
    progress,
    recipe_lines,
    say_ignored,
    tell,
)
from gapcam.types import ArgumentError, Failure, GapcamError, Localization

if TYPE_CHECKING:
    from gapcam.batch import Result, RunOptions
    from gapcam.localizer import Localizer
    from gapcam.paths import Expansion

DONE, SOME_FAILED, WRONG_USAGE, INTERRUPTED = 0, 1, 2, 130
TOP_IN_ANNOTATIONS = 1

app = typer.Typer(
    name="gapcam",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Format(str, Enum):
    """What results can be written as."""

    jsonl = "jsonl"
    coco = "coco"
    yolo = "yolo"
    voc = "voc"
    csv = "csv"


def _version(asked: bool) -> None:
    if asked:
        from gapcam import __version__

        typer.echo(f"gapcam {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Say what is in a picture and where, from an image classifier trained on class labels only."""


PathsArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="PATH...",
        show_default=False,
        help="Pictures: files, folders (searched recursively), glob patterns, .txt lists with one "
        "path a line, or - for such a list on standard input.",
    ),
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        show_default="efficientnet-lite0",
        help="A model's name (see: gapcam models) or a gapcam model file (.onnx).",
    ),
]
RecipeOption = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        "-r",
        show_default="the model's own",
        help="How maps become boxes: default, fine or paper (see: gapcam models).",
    ),
]
TopOption = Annotated[
    int | None,
    typer.Option(
        "--top",
        "-k",
        metavar="K",
        show_default="5, or 1 for coco, yolo, voc and csv",
        help="Localize the K best classes of each picture.",
    ),
]
ClassOption = Annotated[
    list[str] | None,
    typer.Option(
        "--class",
        "-c",
        metavar="NAME",
        show_default=False,
        help="Localize this class, whatever its rank; give it again for more classes.",
    ),
]
OutOption = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        metavar="DIR",
        show_default=False,
        help="Write results into this folder: localizations.jsonl, annotations in the chosen "
        "format, overlays and a contact sheet.",
    ),
]
FormatOption = Annotated[
    Format | None,
    typer.Option(
        "--format",
        "-f",
        show_default="a table, or jsonl with --out",
        help="coco, yolo, voc and csv need --out; jsonl without --out goes to standard output.",
    ),
]
OverlaysOption = Annotated[
    bool, typer.Option(help="With --out: draw an overlay of each picture and a contact sheet.")
]
ResumeOption = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="With --out: keep what an earlier run did, do the rest, retry what failed.",
    ),
]
CheckOption = Annotated[
    bool,
    typer.Option(
        "--check", help="Prove the maps on real photographs: mean(map) + bias = score, every class."
    ),
]
ClassesOption = Annotated[
    bool, typer.Option("--classes", help="List the classes: number, WordNet id, names.")
]


@app.command(no_args_is_help=True)
def localize(
    paths: PathsArgument,
    model: ModelOption = None,
    recipe: RecipeOption = None,
    top: TopOption = None,
    classes: ClassOption = None,
    out: OutOption = None,
    format: FormatOption = None,  # noqa: A002
    overlays: OverlaysOption = True,
    resume: ResumeOption = False,
) -> None:
    """Say what is in each picture and where.

    Exit code: 0 all pictures done, 1 some failed (each is named, the rest are done), 2 wrong
    usage. Boxes are x0, y0, x1, y1 in pixels of the picture as it is shown (after EXIF rotation).
    """
    with _reporting_errors():
        _check_options(top, classes, out, format, resume)
        from gapcam.loading import load
        from gapcam.paths import expand_paths

        inputs = expand_paths(paths, sys.stdin)
        # Many pictures: a thread each on every core; one picture: every core on it.
        threads = 1 if len(inputs.paths) > 1 else 0
        localizer = load(model, recipe=recipe, threads=threads, tell=tell)
        names = tuple(_class_name(name) for name in classes) if classes else None
        if top is None and names is None and format not in (None, Format.jsonl):
            top = TOP_IN_ANNOTATIONS
        if out is None:
            failed = _print_results(localizer, inputs, names, top, format)
        else:
            from gapcam.batch import RunOptions, without_results

            converter = None if format in (None, Format.jsonl) else format.value
            options = RunOptions(out, names, top, converter, overlays, resume)
            failed = _write_results(localizer, without_results(inputs, out), options)
        raise typer.Exit(SOME_FAILED if failed else DONE)


@app.command()
def models(check: CheckOption = False, classes: ClassesOption = False) -> None:
    """List models and recipes; --check proves the maps."""
    with _reporting_errors():
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


def _check_options(
    top: int | None,
    classes: list[str] | None,
    out: Path | None,
    format: Format | None,  # noqa: A002
    resume: bool,
) -> None:
    if top is not None and classes:
        raise ArgumentError("--top and --class exclude each other: give one of them")
    if out is None and resume:
        raise ArgumentError("--resume needs --out: say which run to take up")
    if out is None and format not in (None, Format.jsonl):
        raise ArgumentError(f"--format {format.value} needs --out: say where to write")


def _class_name(text: str) -> str | int:
    return int(text) if text.isdecimal() else text


def _print_results(
    localizer: Localizer,
    inputs: Expansion,
    classes: tuple[str | int, ...] | None,
    top: int | None,
    format: Format | None,  # noqa: A002
) -> int:
    """Results to standard output, a picture at a time; returns how many failed."""
    from gapcam.batch import localize_many, record_of
    from gapcam.formats import record_line

    wanted = localizer.wanted(classes, top)
    failed = 0
    with closing(localize_many(localizer, inputs.paths, wanted)) as results:
        for result in chain(inputs.failures, results):
            if isinstance(result, Failure):
                failed += 1
                complain(result.error)
            if format is not None:
                with printing(encoding="utf-8"):
                    sys.stdout.write(record_line(record_of(result)))
            elif isinstance(result, Localization):
                print_table(result)
    say_ignored(inputs)
    return failed


def _write_results(localizer: Localizer, inputs: Expansion, options: RunOptions) -> int:
    """Results to a folder, with a progress bar on a terminal; returns how many failed."""
    from gapcam.batch import localize_into

    single: list[Localization] = []
    with progress(len(inputs.failures) + len(inputs.paths)) as step:

        def on_result(result: Result) -> None:
            step()
            if isinstance(result, Failure):
                complain(result.error)
            elif len(inputs.paths) == 1:
                single.append(result)

        done = localize_into(localizer, inputs, options, on_result)
    earlier = f", {done.earlier} done before" if options.resume else ""
    failed = f", {done.failed} failed" if done.failed else ""
    tell(f"{counted(done.localized, 'picture')} localized{earlier}{failed}. Written:")
    for path in done.written:
        tell(f"  {path}")
    say_ignored(inputs)
    for result in single:
        print_table(result)
    return done.failed


@contextmanager
def _reporting_errors() -> Iterator[None]:
    """One line for an error and the right exit code; no traceback."""
    # Pillow warns about big or odd pictures that it then reads, or that we then refuse by name.
    warnings.filterwarnings("ignore", module="PIL")
    try:
        yield
    except ArgumentError as error:
        complain(error)
        raise typer.Exit(WRONG_USAGE) from error
    except GapcamError as error:
        complain(error)
        raise typer.Exit(SOME_FAILED) from error
    except KeyboardInterrupt as error:
        tell("gapcam: interrupted; with --out, add --resume to take the run up again")
        raise typer.Exit(INTERRUPTED) from error


def main() -> None:
    """The `gapcam` command."""
    try:
        app()
    except KeyboardInterrupt:  # before a command has begun
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
