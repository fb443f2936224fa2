"""The command line: parse, call, print. Everything else is in the library."""

from __future__ import annotations

import sys

from gapcam.cli.app import INTERRUPTED, app

# isort: off
from gapcam.cli import localize  # noqa: F401  (each adds its command, in the order of the help)
from gapcam.cli import evaluate  # noqa: F401
from gapcam.cli import choose  # noqa: F401
from gapcam.cli import train  # noqa: F401
from gapcam.cli import export  # noqa: F401
from gapcam.cli import serve  # noqa: F401
from gapcam.cli import models  # noqa: F401
# isort: on

__all__ = ["app", "main"]


def main() -> None:
    """The `gapcam` command."""
    try:
        app(obj=sys.argv[1:])
    except KeyboardInterrupt:  # before a command has begun
        sys.exit(INTERRUPTED)
