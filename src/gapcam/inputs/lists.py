"""Lists of paths: text files and stdin, one path a line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import IO, Final, TextIO

from gapcam.types import ArgumentError

LIST_SUFFIX: Final = ".txt"
_BOM: Final = "\ufeff"


def lines_of_file(path: str) -> Iterator[str]:
    """The lines of a list file that name something, one by one.

    Raises:
        ArgumentError: It cannot be read, is no text, or names nothing; while lines are taken.
    """
    try:
        with open(path, "rb") as file:
            yield from lines_of_open_file(path, file)
    except OSError as error:
        raise ArgumentError(
            f"{path}: expected a list, one picture path a line, it cannot be read "
            f"({error.strerror}); check the path and its permissions"
        ) from error


def lines_of_open_file(name: str, file: IO[bytes]) -> Iterator[str]:
    """The lines of an open list file that name something; messages call it `name`.

    Raises:
        ArgumentError: It is no text, or names nothing; while lines are taken.
    """
    yield from _named(name, _decoded(name, file))


def _decoded(name: str, file: IO[bytes]) -> Iterator[str]:
    # Not a text file: names may hold the rarer line ends it cuts at.
    number = 0
    try:
        for number, line in enumerate(file, 1):  # noqa: B007
            yield line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ArgumentError(_not_text(name, f"line {number}")) from error


def lines_of_stdin(stdin: TextIO | None) -> Iterator[str]:
    """The lines on stdin that name something.

    Raises:
        ArgumentError: As for a list file.
    """
    if stdin is None:
        raise ArgumentError("-: expected a list of paths on stdin, there is no stdin; pipe one in")
    name = "- (stdin)"
    number = 0
    try:
        for line in _named(name, stdin):
            number += 1
            yield line
    except UnicodeDecodeError as error:
        where = f"a line after path {number}" if number else f"byte {error.start}"
        raise ArgumentError(_not_text(name, where)) from error


def _named(name: str, lines: Iterable[str]) -> Iterator[str]:
    """The lines that name something: stripped; blank ones and `#` comments left out.

    Raises:
        ArgumentError: One has a zero byte, or none names anything.
    """
    empty = True
    for number, raw in enumerate(lines, 1):
        line = (raw.removeprefix(_BOM) if number == 1 else raw).strip()
        if "\0" in line:
            raise ArgumentError(_not_text(name, f"line {number}"))
        if line and not line.startswith("#"):
            empty = False
            yield line
    if empty:
        raise ArgumentError(
            f"{name}: expected a list, one picture path a line, it names no picture; fill it"
        )


def _not_text(name: str, where: str) -> str:
    return (
        f"{name}: expected a list as UTF-8 text, one picture path a line, {where} is not; "
        "save it as UTF-8"
    )
