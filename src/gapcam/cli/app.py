"""The `gapcam` command itself: its name, its options, its exit codes, how it reports errors."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from gapcam.terminal import complain, tell
from gapcam.types import ArgumentError, GapcamError

DONE, SOME_FAILED, WRONG_USAGE, INTERRUPTED = 0, 1, 2, 130

app = typer.Typer(
    name="gapcam",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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


ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        show_default="efficientnet-lite0",
        help="A model file (.onnx), a run folder, timm:NAME, torchvision:NAME, hf:NAME_OR_FOLDER, "
        "or the embedded model.",
    ),
]
ModelSettings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        show_default=False,
        help="What a classifier that is not a gapcam model file needs; give it again for more: "
        "labels=FILE, preprocessing=NAME, checkpoint=FILE, size=HxW, layer=NAME, "
        "engine=auto|onnx|torch, method=cam|gradcam|layercam, device=cpu|cuda.",
    ),
]
LayerOption = Annotated[
    str | None,
    typer.Option(
        "--layer",
        metavar="NAME",
        show_default="where the head begins",
        help="Take the features from this module or tensor (the same as --set layer=NAME).",
    ),
]
RecipeOption = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        "-r",
        show_default="the model's own",
        help="How maps become boxes: default, fast, best, paper or released (see: gapcam models).",
    ),
]


SETTINGS = (
    *("labels", "preprocessing", "checkpoint", "size", "layer", "engine", "method", "device"),
)


def model_settings(given: list[str] | None, layer: str | None = None) -> dict[str, Any]:
    """`--set KEY=VALUE` and `--layer`, as options of `gapcam.load`.

    Raises:
        ArgumentError: Not KEY=VALUE, an unknown key, one given twice, or a size that is none.
    """
    settings: dict[str, Any] = {}
    named = [] if layer is None else [f"layer={layer}"]
    for text in (*(given or ()), *named):
        key, equals, value = text.partition("=")
        if not equals or not value or key not in SETTINGS:
            raise ArgumentError(
                f"--set {text!r}: expected KEY=VALUE with a key of {', '.join(SETTINGS)}"
            )
        name = "size_hw" if key == "size" else key
        if name in settings:
            raise ArgumentError(f"--set {text!r}: {key} is given twice: give it once")
        settings[name] = _size_hw(value) if key == "size" else value
    return settings


def _size_hw(text: str) -> tuple[int, int]:
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() and int(side) > 0 for side in sides):
        raise ArgumentError(
            f"--set size={text}: expected a side or HEIGHTxWIDTH in pixels, like 224 or 224x320"
        )
    return int(sides[0]), int(sides[-1])


@contextmanager
def reporting_errors(interrupted: str) -> Iterator[None]:
    """One line for an error and the right exit code; no traceback.

    Args:
        interrupted: What to say, and advise, after Ctrl-C.
    """
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
        tell(f"gapcam: {interrupted}")
        raise typer.Exit(INTERRUPTED) from error
