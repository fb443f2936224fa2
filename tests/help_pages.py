"""Writes docs/cli.md from the commands' own help: python tests/help_pages.py."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from gapcam.cli import app

PAGE = Path(__file__).parent.parent / "docs" / "cli.md"
COMMANDS = (
    (),
    ("localize",),
    ("evaluate",),
    ("choose",),
    ("train",),
    ("export",),
    ("serve",),
    ("models",),
)


def help_pages() -> str:
    """The whole page, at a fixed width."""
    parts = ["# Command line\n\nWritten by `make help-pages`; a test keeps it true.\n"]
    for command in COMMANDS:
        name = " ".join(("gapcam", *command))
        shown = CliRunner().invoke(
            app, [*command, "--help"], prog_name="gapcam", env={"COLUMNS": "90"}
        )
        parts.append(f"## {name}\n\n```text\n{shown.output.rstrip()}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(help_pages(), encoding="utf-8")
