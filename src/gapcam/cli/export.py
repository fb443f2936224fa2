"""`gapcam export`: a classifier to one file that any ONNX runtime takes, or to a web page."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from gapcam.cli.app import DONE, LayerOption, ModelSettings, app, model_settings, reporting_errors
from gapcam.terminal import printing, tell
from gapcam.types import ArgumentError

SourceArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        show_default=False,
        help="timm:NAME, torchvision:NAME, hf:NAME_OR_FOLDER, an ONNX classifier, or the embedded "
        "efficientnet-lite0; a run folder or gapcam model file is proved and copied.",
    ),
]
FileArgument = Annotated[
    Path | None,
    typer.Argument(metavar="OUT.onnx", show_default=False, help="The model file to write."),
]
WebOption = Annotated[
    Path | None,
    typer.Option(
        "--web",
        metavar="DIR",
        show_default=False,
        help="Instead write a folder of static files: a page that runs the model in the browser, "
        "with model.onnx in it. A folder that an earlier --web wrote is replaced.",
    ),
]
RuntimeOption = Annotated[
    Path | None,
    typer.Option(
        "--runtime",
        metavar="PATH",
        show_default="fetched once from the npm registry",
        help="With --web: onnxruntime-web, as its npm folder or tarball.",
    ),
]
PageRecipeOption = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        "-r",
        show_default="the model's own",
        help="With --web: the recipe that the page uses (see: gapcam models).",
    ),
]
Int8Option = Annotated[
    list[str] | None,
    typer.Option(
        "--int8",
        metavar="PATH",
        show_default=False,
        help="Also quantize to 8 bits, calibrated on these pictures (files, folders, globs, lists; "
        "a hundred or more); says what it costs and gains.",
    ),
]


@app.command(no_args_is_help=True)
def export(
    model: SourceArgument,
    out: FileArgument = None,
    web: WebOption = None,
    runtime: RuntimeOption = None,
    recipe: PageRecipeOption = None,
    settings: ModelSettings = None,
    layer: LayerOption = None,
    int8: Int8Option = None,
) -> None:
    """Write a classifier as one model file: scores and class maps with no gapcam code.

    The file is compared with the network that it is made from, on real pictures in batches of 1
    and 3 and at two input sizes, before it is kept. Give OUT.onnx, or --web DIR for a web page that
    runs it. Exit code: 0 done, 1 failed, 2 wrong usage.
    """
    with reporting_errors("interrupted; nothing is written"):
        target = _target(out, web, runtime, recipe)
        from gapcam.exporting import export as export_to
        from gapcam.exporting_web import export_web
        from gapcam.paths import expand_paths

        inputs = expand_paths(int8, sys.stdin) if int8 else None
        for failure in () if inputs is None else inputs.failures:
            raise failure.error
        pictures = None if inputs is None else inputs.paths
        options = {"tell": tell, "int8": pictures, **model_settings(settings, layer)}
        report: object
        if web is None:
            report = export_to(model, target, **options)
        else:
            report = export_web(model, target, runtime=runtime, recipe=recipe, **options)
        with printing() as console:
            console.print(escape(str(report)), soft_wrap=True)
        raise typer.Exit(DONE)


def _target(out: Path | None, web: Path | None, runtime: Path | None, recipe: str | None) -> Path:
    """The file or folder to write.

    Raises:
        ArgumentError: Neither or both are named, or an option of the one is given with the other.
    """
    if out is not None and web is not None:
        raise ArgumentError(f"give OUT.onnx or --web, not both: {web / 'model.onnx'} is the file")
    if web is not None:
        return web
    if out is None:
        raise ArgumentError("expected OUT.onnx, or --web DIR for a page in a folder, got neither")
    for name, given in (("--runtime", runtime), ("--recipe", recipe)):
        if given is not None:
            raise ArgumentError(f"{name} {given}: goes with --web DIR only")
    return out
