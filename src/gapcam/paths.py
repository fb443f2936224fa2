"""PATH arguments in, picture paths out: files, folders, patterns, lists, stdin."""

# os.path and glob, not pathlib: paths keep the user's spelling ("./x.jpg"), tests never raise.

from __future__ import annotations

import glob
import os
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Final, TextIO

from gapcam.types import PICTURE_SUFFIXES, ArgumentError, Failure, PictureError

_SUFFIX_HINT: Final = (
    f"a picture's suffix is one of {' '.join(sorted(PICTURE_SUFFIXES))}; "
    "name files with another suffix one by one"
)
_BOM: Final = "\ufeff"


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


@dataclass(frozen=True, slots=True)
class _Found:
    """What one argument stands for."""

    paths: Sequence[str]
    roots: Sequence[str]
    failures: Sequence[Failure] = ()
    ignored: int = 0


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
    found = [_expand(argument, stdin) for argument in arguments]
    parents: dict[str, str] = {}
    unique: dict[str, str] = {}
    for path in (path for part in found for path in part.paths):
        unique.setdefault(_resolved(path, parents), path)
    return Expansion(
        paths=tuple(unique.values()),
        failures=tuple(failure for part in found for failure in part.failures),
        ignored=sum(part.ignored for part in found),
        root=_common_folder({root for part in found for root in part.roots}),
    )


def _expand(argument: str, stdin: TextIO | None) -> _Found:
    if argument == "-":
        return _from_stdin(stdin)
    if not argument or "\0" in argument:
        raise ArgumentError(f"PATH {argument!r}: expected a path, got an empty or impossible one")
    is_list = argument.lower().endswith(".txt")
    if os.path.isdir(argument):
        return _from_folder(argument)
    if os.path.exists(argument):
        return _from_list(argument) if is_list else _from_file(argument)
    if glob.has_magic(argument):
        return _from_pattern(argument)
    return _from_list(argument) if is_list else _from_file(argument)


def _from_file(path: str) -> _Found:
    return _Found([path], [_parent(path)])


# --- folders ---------------------------------------------------------------------------------


def _from_folder(folder: str) -> _Found:
    try:
        os.scandir(folder).close()
    except OSError as error:
        raise ArgumentError(
            f"{folder}: expected a folder of pictures, it cannot be listed "
            f"({error.strerror}); change its permissions or name another"
        ) from error
    pictures, others, failures = _walk(folder)
    if not pictures:
        raise ArgumentError(
            f"{folder}: expected pictures in this folder, found none ({others} other or hidden "
            f"files, {len(failures)} subfolders that cannot be listed); {_SUFFIX_HINT}"
        )
    return _Found(pictures, [folder], failures, others)


def _walk(folder: str) -> tuple[list[str], int, list[Failure]]:
    """The pictures below a folder, how many other files there are, and what could not be listed."""
    pictures: list[str] = []
    others = 0
    errors: list[OSError] = []
    for base, names, hidden_folders in _folders(folder, errors):
        chosen = [os.path.join(base, name) for name in names if _is_picture(name)]
        pictures += chosen
        others += len(names) - len(chosen) + hidden_folders
    failures = [_unlistable(error) for error in errors]
    return sorted(pictures, key=_sort_key), others, sorted(failures, key=lambda fail: fail.name)


def _folders(folder: str, errors: list[OSError]) -> Iterator[tuple[str, list[str], int]]:
    """Each folder once: its path, the names of its files, how many hidden folders it has."""
    seen: set[str] = set()
    tops = deque([folder])
    while tops:
        for base, folders, names in os.walk(tops.popleft(), onerror=errors.append):
            real = os.path.realpath(base)
            if real in seen:
                folders.clear()
                continue
            seen.add(real)
            visible = sorted(name for name in folders if not name.startswith("."))
            yield base, names, len(folders) - len(visible)
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


def _is_picture(name: str) -> bool:
    stem, _, suffix = name.rpartition(".")
    return bool(stem) and not stem.startswith(".") and f".{suffix.lower()}" in PICTURE_SUFFIXES


# --- patterns --------------------------------------------------------------------------------


def _from_pattern(pattern: str) -> _Found:
    errors: list[OSError] = []
    matches = sorted(set(_matches(pattern, errors)), key=_sort_key)
    pictures = [path for path in matches if _is_picture(os.path.basename(path))]
    if not matches:
        raise ArgumentError(
            f"{pattern}: expected a file or a pattern that matches files, there is no such file "
            "and nothing matches; check the spelling"
        )
    if not pictures:
        raise ArgumentError(
            f"{pattern}: expected pictures, matches {len(matches)} other files; {_SUFFIX_HINT}"
        )
    failures = [_unlistable(error) for error in errors]
    return _Found(pictures, [_fixed_part(pattern)], failures, len(matches) - len(pictures))


def _matches(pattern: str, errors: list[OSError]) -> Iterator[str]:
    """The files a pattern matches; `**` is walked here, because `glob` follows link loops."""
    parts = pattern.replace(os.sep, "/").split("/")
    if "**" not in parts:
        yield from (path for path in glob.glob(pattern) if not os.path.isdir(path))
        return
    depth = parts.index("**")
    prefix = _rejoined(parts[:depth])
    for top in glob.glob(prefix) if glob.has_magic(prefix) else [prefix]:
        for base, names, _ in _folders(top or ".", errors):
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


# --- lists -----------------------------------------------------------------------------------


def _from_list(path: str) -> _Found:
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ArgumentError(
            f"{path}: expected a list, one picture path a line, it cannot be read "
            f"({error.strerror}); check the path and its permissions"
        ) from error
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ArgumentError(_not_text(path, f"line {line}")) from error
    return _from_lines(path, text, os.path.dirname(path))


def _from_stdin(stdin: TextIO | None) -> _Found:
    if stdin is None:
        raise ArgumentError("-: expected a list of paths on stdin, there is no stdin; pipe one in")
    try:
        text = stdin.read()
    except UnicodeDecodeError as error:
        raise ArgumentError(_not_text("- (stdin)", f"byte {error.start}")) from error
    return _from_lines("- (stdin)", text, "")


def _from_lines(name: str, text: str, folder: str) -> _Found:
    # Not splitlines: file names may hold the rarer line ends it cuts at.
    lines = [line.strip() for line in text.removeprefix(_BOM).split("\n")]
    for number, line in enumerate(lines, 1):
        if "\0" in line:
            raise ArgumentError(_not_text(name, f"line {number}"))
    paths = [os.path.join(folder, line) for line in lines if line and not line.startswith("#")]
    if not paths:
        raise ArgumentError(
            f"{name}: expected a list, one picture path a line, it names no picture; fill it"
        )
    return _Found(paths, [_parent(path) for path in paths])


def _not_text(name: str, where: str) -> str:
    return (
        f"{name}: expected a list as UTF-8 text, one picture path a line, {where} is not; "
        "save it as UTF-8"
    )


# --- paths as text, so that they keep the user's spelling ------------------------------------


def _parent(path: str) -> str:
    return os.path.dirname(path) or "."


def _sort_key(path: str) -> list[str]:
    return path.split(os.sep)


def _resolved(path: str, parents: dict[str, str]) -> str:
    """The real path; folders are looked up once, which a long list of files is glad of."""
    folder, name = os.path.split(path)
    if name in ("", ".", "..") or os.path.islink(path):
        return os.path.realpath(path)
    if folder not in parents:
        parents[folder] = os.path.realpath(folder)
    return os.path.join(parents[folder], name)


def _common_folder(folders: set[str]) -> Path:
    try:
        return Path(os.path.commonpath([os.path.abspath(folder) for folder in folders]))
    except ValueError as error:
        raise ArgumentError(
            "PATH: expected paths on one drive, they are on several; run once for each"
        ) from error
