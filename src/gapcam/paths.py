"""PATH arguments in, picture paths out: local files, folders, patterns, lists, stdin."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from gapcam.inputs.folders import by_pattern, in_folder
from gapcam.inputs.lists import LIST_SUFFIX, lines_of_file, lines_of_stdin
from gapcam.inputs.tally import Resolver, Tally, check_argument, parent_of
from gapcam.types import ArgumentError, Failure


@dataclass(frozen=True, slots=True)
class Expansion:
    """What PATH arguments stand for.

    Attributes:
        paths: The pictures, each file once, in the order of the arguments; spelled as the user
            spelled the argument, `folder/sub/x.jpg` for those found in a folder.
        failures: Subfolders that could not be listed.
        ignored: How many files were found in folders or by patterns and left out, because their
            suffix is not that of a picture or they are hidden (a hidden folder counts as one).
        root: The deepest folder that holds all inputs, absolute (`os.path.abspath`: links are not
            followed). A folder counts as itself, a file as its folder, a pattern as the folder
            before its first wildcard, so `root` does not depend on which pictures are there.
    """

    paths: tuple[str, ...]
    failures: tuple[Failure, ...]
    ignored: int
    root: Path

    def relative(self, path: str) -> Path:
        """One of `paths`, relative to `root`: unique, and the name to give its outputs."""
        return Path(os.path.abspath(path)).relative_to(self.root)


def expand_paths(arguments: Sequence[str], stdin: TextIO | None = None) -> Expansion:
    """Turn PATH arguments into picture paths.

    A PATH is one of these, tried in this order:

    - `-`: a list of paths on stdin, as in a list file, relative to the working folder;
    - a folder: every picture in it, by suffix, at any depth, sorted; hidden files and folders
      are left out; a folder that is reached twice through links is listed once;
    - a `.txt` file: a list, UTF-8, one path a line, relative to the list's own folder; blank
      lines and lines that start with `#` are skipped;
    - a file, whatever its suffix;
    - a pattern with `*`, `?`, `[` or `**` (any depth): the pictures it matches, by suffix, sorted;
    - anything else: the path of a missing file, which fails when it is read.

    Args:
        arguments: The PATHs.
        stdin: Where `-` reads from.

    Returns:
        The paths, and what was left out.

    Raises:
        ArgumentError: When there are no arguments; when a folder, pattern or list has no
            pictures; when a folder or list that was named cannot be read.
    """
    if not arguments:
        raise ArgumentError("PATH: expected at least one file, folder, pattern or list, got none")
    tally = Tally()
    resolve = Resolver()
    unique: dict[str, str] = {}
    for path in (path for argument in arguments for path in _expand_one(argument, stdin, tally)):
        unique.setdefault(resolve(path), path)
    return Expansion(
        paths=tuple(unique.values()),
        failures=tuple(tally.failures),
        ignored=tally.ignored,
        root=tally.root(),
    )


def _expand_one(argument: str, stdin: TextIO | None, tally: Tally) -> Iterator[str]:
    """The pictures that one PATH stands for, as `expand_paths` says; the rest goes to `tally`.

    Raises:
        ArgumentError: As `expand_paths`, while the paths are taken.
    """
    if argument == "-":
        return _below("", lines_of_stdin(stdin), tally)
    check_argument(argument)
    if os.path.isdir(argument):
        return in_folder(argument, tally)
    if glob.has_magic(argument) and not os.path.exists(argument):
        return by_pattern(argument, tally)
    if argument.lower().endswith(LIST_SUFFIX):
        return _below(os.path.dirname(argument), lines_of_file(argument), tally)
    return _below("", [argument], tally)


def _below(folder: str, lines: Iterable[str], tally: Tally) -> Iterator[str]:
    """Named paths: relative ones from `folder`."""
    for line in lines:
        path = os.path.join(folder, line)
        tally.add_folder(parent_of(path))
        yield path
