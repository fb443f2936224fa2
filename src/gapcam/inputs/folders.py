"""Folders and patterns of local files."""

# os.path and glob, not pathlib: paths keep the user's spelling ("./x.jpg"), tests never raise.

from __future__ import annotations

import glob
import os
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatch
from itertools import groupby
from typing import Final, TypeAlias

from gapcam.inputs.tally import Tally
from gapcam.types import PICTURE_SUFFIXES, ArgumentError, Failure, PictureError

LINKS: Final = ".gapcam-links"
"""A file in a folder of links to pictures (`gapcam.formats.links`): they are listed elsewhere."""

SUFFIX_HINT: Final = (
    f"a picture's suffix is one of {' '.join(sorted(PICTURE_SUFFIXES))}; "
    "name files with another suffix one by one"
)

Run: TypeAlias = tuple[str, tuple[str, ...]]
"""A folder and some of its files' names, sorted, with no subfolder between them."""


def in_folder(folder: str, tally: Tally) -> Iterator[str]:
    """The pictures in a folder, at any depth, by suffix, sorted part by part.

    Raises:
        ArgumentError: There are none, or it cannot be listed; when the first is taken.
    """
    try:
        os.scandir(folder).close()
    except OSError as error:
        raise ArgumentError(
            f"{folder}: expected a folder of pictures, it cannot be listed "
            f"({error.strerror}); change its permissions or name another"
        ) from error
    runs, others, failures = _walk(folder)
    if not runs:
        raise ArgumentError(
            f"{folder}: expected pictures in this folder, found none ({others} other or hidden "
            f"files, {len(failures)} subfolders that cannot be listed); {SUFFIX_HINT}"
        )
    tally.add_folder(folder)
    tally.failures += failures
    tally.ignored += others
    for base, names in runs:
        yield from (os.path.join(base, name) for name in names)


def _walk(folder: str) -> tuple[list[Run], int, list[Failure]]:
    """The pictures below a folder, how many other files there are, and what could not be listed."""
    runs: list[Run] = []
    others = 0
    errors: list[OSError] = []
    for base, names, folders, hidden in _folders(folder, errors):
        chosen = [name for name in names if is_picture(name)]
        runs += runs_of(base, chosen, folders)
        others += len(names) - len(chosen) + hidden
    failures = [_unlistable(error) for error in errors]
    runs.sort(key=lambda run: _sort_key(os.path.join(run[0], run[1][0])))
    return runs, others, sorted(failures, key=lambda fail: fail.name)


def runs_of(base: str, names: Iterable[str], folders: Sequence[str]) -> Iterator[Run]:
    """One folder's names, sorted, cut where a subfolder sorts between two of them.

    So runs stay whole when the names below all folders are sorted part by part, and there are
    far fewer of them than names.
    """
    bounds = sorted(folders)
    for _, run in groupby(sorted(names), key=lambda name: bisect_left(bounds, name)):
        yield base, tuple(run)


def _folders(folder: str, errors: list[OSError]) -> Iterator[tuple[str, list[str], list[str], int]]:
    """Each folder once: path, names of its files, of its folders, how many hidden folders."""
    seen: set[str] = set()
    tops = deque([folder])
    while tops:
        for base, folders, names in os.walk(tops.popleft(), onerror=errors.append):
            real = os.path.realpath(base)
            if real in seen or LINKS in names:
                folders.clear()
                continue
            seen.add(real)
            visible = sorted(name for name in folders if not name.startswith("."))
            yield base, names, visible, len(folders) - len(visible)
            folders[:] = visible
            # Links wait until the real folders are done, so that those keep their own names.
            below = [os.path.join(base, name) for name in visible]
            tops.extend(path for path in below if os.path.islink(path))


def _unlistable(error: OSError) -> Failure:
    name = str(error.filename)
    return Failure(
        name,
        PictureError(
            f"{name}: expected a folder that can be listed, got: {error.strerror}; "
            "change its permissions, its pictures are left out"
        ),
    )


def is_picture(name: str) -> bool:
    """Whether a file name is that of a picture: by suffix, and not hidden."""
    stem, _, suffix = name.rpartition(".")
    return bool(stem) and not stem.startswith(".") and f".{suffix.lower()}" in PICTURE_SUFFIXES


# --- patterns --------------------------------------------------------------------------------


def by_pattern(pattern: str, tally: Tally) -> Iterator[str]:
    """The pictures that a pattern matches, by suffix, sorted.

    Raises:
        ArgumentError: There are none; when the first is taken.
    """
    matches = matching(pattern, tally)
    pictures = [path for path in matches if is_picture(os.path.basename(path))]
    if not pictures:
        raise ArgumentError(
            f"{pattern}: expected pictures, matches {len(matches)} other files; {SUFFIX_HINT}"
        )
    tally.ignored += len(matches) - len(pictures)
    yield from pictures


def matching(pattern: str, tally: Tally) -> list[str]:
    """The files that a pattern matches, whatever their suffix, sorted.

    Raises:
        ArgumentError: There are none.
    """
    errors: list[OSError] = []
    matches = sorted(set(_matches(pattern, errors)), key=_sort_key)
    if not matches:
        raise ArgumentError(
            f"{pattern}: expected a file or a pattern that matches files, there is no such file "
            "and nothing matches; check the spelling"
        )
    tally.failures += [_unlistable(error) for error in errors]
    tally.add_folder(_fixed_part(pattern))
    return matches


def _matches(pattern: str, errors: list[OSError]) -> Iterator[str]:
    """The files a pattern matches; `**` is walked here, because `glob` follows link loops."""
    parts = pattern.replace(os.sep, "/").split("/")
    if "**" not in parts:
        yield from (path for path in glob.glob(pattern) if not os.path.isdir(path))
        return
    depth = parts.index("**")
    prefix = _rejoined(parts[:depth])
    for top in glob.glob(prefix) if glob.has_magic(prefix) else [prefix]:
        for base, names, _, _ in _folders(top or ".", errors):
            below = os.path.relpath(base, top or ".").split(os.sep)
            below = [part for part in below if part != "."]
            for name in names:
                if not name.startswith(".") and _fits([*below, name], parts[depth:]):
                    yield os.path.join(top, *below, name)


def _fits(parts: Sequence[str], patterns: Sequence[str]) -> bool:
    if not patterns:
        return not parts
    if patterns[0] == "**":
        return any(_fits(parts[start:], patterns[1:]) for start in range(len(parts) + 1))
    return bool(parts) and fnmatch(parts[0], patterns[0]) and _fits(parts[1:], patterns[1:])


def _fixed_part(pattern: str) -> str:
    """The folder before the first wildcard."""
    parts = pattern.replace(os.sep, "/").split("/")
    wild = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    return _rejoined(parts[:wild]) or "."


def _rejoined(parts: Sequence[str]) -> str:
    return "/" if list(parts) == [""] else "/".join(parts)


def _sort_key(path: str) -> list[str]:
    return path.split(os.sep)
