"""`gapcam localize`: what is in each picture, and where."""

from __future__ import annotations

import sys
from contextlib import closing
from enum import Enum
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gapcam.cli.app import (
    DONE,
    SOME_FAILED,
    LayerOption,
    ModelOption,
    ModelSettings,
    RecipeOption,
    app,
    model_settings,
    reporting_errors,
)
from gapcam.terminal import complain, counted, print_table, printing, progress, say_ignored, tell
from gapcam.types import ArgumentError, Failure, Localization

if TYPE_CHECKING:
    from gapcam.batch import Result, RunOptions
    from gapcam.localizer import Localizer
    from gapcam.paths import Expansion

TOP_IN_ANNOTATIONS = 1


class Format(str, Enum):
    """What results can be written as."""

    jsonl = "jsonl"
    coco = "coco"
    yolo = "yolo"
    voc = "voc"
    csv = "csv"


PathsArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="PATH...",
        show_default=False,
        help="Pictures: files, folders (searched recursively), glob patterns, .txt lists with one "
        "path a line, or - for such a list on standard input.",
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


@app.command(no_args_is_help=True)
def localize(
    paths: PathsArgument,
    model: ModelOption = None,
    settings: ModelSettings = None,
    layer: LayerOption = None,
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
    with reporting_errors("interrupted; with --out, add --resume to take the run up again"):
        _check_options(top, classes, out, format, resume)
        from gapcam.loading import load
        from gapcam.paths import expand_paths

        inputs = expand_paths(paths, sys.stdin)
        # Many pictures: a thread each on every core; one picture: every core on it.
        threads = 1 if len(inputs.paths) > 1 else 0
        localizer = load(
            model, recipe=recipe, threads=threads, tell=tell, **model_settings(settings, layer)
        )
        names = tuple(class_name(name) for name in classes) if classes else None
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


def class_name(text: str) -> str | int:
    """A class as it was typed: its id where that is a number."""
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
