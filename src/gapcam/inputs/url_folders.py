"""Folders and patterns at URLs, where the file system can list."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final

from gapcam.inputs.folders import SUFFIX_HINT, Run, is_picture, runs_of
from gapcam.inputs.network import PATIENT, FileSystem, Patience, file_system, patiently
from gapcam.inputs.tally import Tally
from gapcam.inputs.urls import is_http, is_url, path_of, shown
from gapcam.types import ArgumentError, Failure, PictureError

_WILD: Final = "*["
_DEEPEST: Final = 32


def has_pattern(url: str) -> bool:
    """Whether a URL's path has wildcards; `?` is one except over HTTP, where it starts a query."""
    path = path_of(url)
    return any(sign in path for sign in (_WILD if is_http(url) else _WILD + "?"))


def before_pattern(url: str) -> str:
    """The folder before the first wildcard, of a URL or of a path in its file system."""
    start = url.find("/", url.find("://") + 3) if is_url(url) else 0
    places = (url.find(sign, max(start, 0)) for sign in _WILD + "?")
    return url[: min(place for place in places if place >= 0)].rpartition("/")[0]


def is_there(url: str, kind: str, patience: Patience = PATIENT) -> bool:
    """Whether there is a `file` or `dir` at a URL.

    Raises:
        ArgumentError: It cannot be asked.
    """
    fs, path = file_system(url, patience)
    ask: Callable[[str], Any] = fs.isdir if kind == "dir" else fs.isfile
    return bool(_asked(url, lambda: ask(path), patience))


def in_url_folder(url: str, tally: Tally, patience: Patience = PATIENT) -> Iterator[str]:
    """The URLs of the pictures in a folder, at any depth, as `in_folder` takes them.

    Raises:
        ArgumentError: There are none, or it cannot be listed; when the first is taken.
    """
    fs, path = file_system(url, patience)
    prefix = _prefix(url, path, fs)
    failures: list[Failure] = []
    runs: list[Run] = []
    others = 0
    for folder, names, folders in _folders(fs, path, prefix, failures, patience):
        chosen = [name for name in names if is_picture(name.partition("?")[0])]
        visible = [name for name in folders if not name.startswith(".")]
        others += len(names) - len(chosen) + len(folders) - len(visible)
        runs += runs_of(folder, chosen, visible)
    if not runs:
        raise ArgumentError(
            str(failures[0].error)
            if failures
            else f"{shown(url)}: expected a folder with pictures that can be listed, found none "
            f"({others} other or hidden files); name pictures or a list of them if there is no "
            f"listing; {SUFFIX_HINT}"
        )
    tally.ignored += others
    tally.failures += sorted(failures, key=lambda failure: failure.name)
    for folder, chosen_names in sorted(runs, key=lambda run: [*run[0].split("/"), run[1][0]]):
        yield from (f"{prefix}{folder}/{name}" for name in chosen_names)


def _folders(
    fs: FileSystem, top: str, prefix: str, failures: list[Failure], patience: Patience
) -> Iterator[tuple[str, list[str], list[str]]]:
    """Each folder that is not hidden: its path, the names of its files and of its folders."""
    waiting = [(top, 0)]
    while waiting:
        path, depth = waiting.pop()
        bare = path.rstrip("/")
        name = shown(f"{prefix}{bare}")
        if depth > _DEEPEST:
            failures.append(_too_deep(name))
            continue
        try:
            listing = patiently(name, "a folder", partial(fs.ls, path, detail=True), patience)
        except PictureError as error:
            failures.append(Failure(name, error))
            continue
        kinds = {info["name"].rstrip("/"): info["type"] for info in listing}
        kinds.pop(bare, None)  # some list the folder itself
        folders = [each for each, kind in kinds.items() if kind == "directory"]
        files = [each for each, kind in kinds.items() if kind != "directory"]
        yield bare, list(map(_last, files)), list(map(_last, folders))
        waiting += [(each, depth + 1) for each in folders if not _last(each).startswith(".")]


def _too_deep(name: str) -> Failure:
    return Failure(
        name,
        PictureError(
            f"{name}: expected folders at most {_DEEPEST} deep, this one is deeper, as in a circle "
            "of links; name the folders in it"
        ),
    )


def _last(path: str) -> str:
    return path.rpartition("/")[2]


def by_url_pattern(url: str, patience: Patience = PATIENT) -> list[str]:
    """The URLs of the files that a pattern matches, sorted.

    Raises:
        ArgumentError: There are none, or the folder cannot be listed.
    """
    fs, path = file_system(url, patience)
    found: dict[str, Any] = _asked(url, lambda: fs.glob(path, detail=True), patience)
    fixed = len(before_pattern(path))
    hidden = "/." in path[fixed:]  # asked for, then
    files = [
        name
        for name, info in found.items()
        if info["type"] != "directory" and (hidden or "/." not in name[fixed:])
    ]
    if not files:
        raise ArgumentError(
            f"{shown(url)}: expected a pattern that matches files, nothing matches; check the "
            "spelling, and that this address can be listed"
        )
    prefix = _prefix(url, path, fs)
    return [prefix + name for name in sorted(files, key=lambda name: name.split("/"))]


def pictures_among(url: str, found: list[str], tally: Tally) -> list[str]:
    """Of what a pattern matches, the pictures.

    Raises:
        ArgumentError: There are none.
    """
    pictures = [name for name in found if is_picture(name.rpartition("/")[2].partition("?")[0])]
    if not pictures:
        raise ArgumentError(
            f"{shown(url)}: expected pictures, matches {len(found)} other files; {SUFFIX_HINT}"
        )
    tally.ignored += len(found) - len(pictures)
    return pictures


def _prefix(url: str, path: str, fs: FileSystem) -> str:
    """What stands before the file system's own paths: `s3://`, `sftp://host`, nothing for HTTP."""
    bare = url.rstrip("/")
    path = path.rstrip("/")
    return bare[: -len(path)] if bare.endswith(path) else f"{fs.unstrip_protocol('')}"


def _asked(url: str, ask: Callable[[], Any], patience: Patience) -> Any:
    """Asked before the run starts, so what fails is the argument."""
    try:
        return patiently(shown(url), "a folder or file", ask, patience)
    except PictureError as error:
        raise ArgumentError(str(error)) from None
