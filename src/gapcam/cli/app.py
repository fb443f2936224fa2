"""The `gapcam` command itself: its name, its options, its exit codes, how it reports errors."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

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
        help="A model's name (see: gapcam models) or a gapcam model file (.onnx).",
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
