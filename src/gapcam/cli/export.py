"""`gapcam export`: a classifier to one file that any ONNX runtime takes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from gapcam.cli.app import DONE, LayerOption, ModelSettings, app, model_settings, reporting_errors
from gapcam.terminal import printing, tell

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
    Path, typer.Argument(metavar="OUT.onnx", show_default=False, help="The model file to write.")
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
    out: FileArgument,
    settings: ModelSettings = None,
    layer: LayerOption = None,
    int8: Int8Option = None,
) -> None:
    """Write a classifier as one model file: scores and class maps with no gapcam code.

    The file is compared with the network that it is made from, on real pictures in batches of 1
    and 3 and at two input sizes, before it is kept. Exit code: 0 done, 1 failed, 2 wrong usage.
    """
    with reporting_errors("interrupted; nothing is written"):
        from gapcam.exporting import export as export_to
        from gapcam.paths import expand_paths

        inputs = expand_paths(int8, sys.stdin) if int8 else None
        for failure in () if inputs is None else inputs.failures:
            raise failure.error
        pictures = None if inputs is None else inputs.paths
        report = export_to(model, out, tell=tell, int8=pictures, **model_settings(settings, layer))
        with printing() as console:
            console.print(escape(str(report)), soft_wrap=True)
        raise typer.Exit(DONE)
