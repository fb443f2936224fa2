"""PATH arguments in, items out: which kind of input each one is."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import TextIO

from gapcam.inputs.archives import ARCHIVE_SUFFIXES
from gapcam.inputs.braces import expanded, has_braces
from gapcam.inputs.folders import by_pattern, in_folder, is_picture, matching
from gapcam.inputs.items import Item, Packed, Part, Remote, Seen
from gapcam.inputs.lists import LIST_SUFFIX, lines_of_file, lines_of_open_file, lines_of_stdin
from gapcam.inputs.network import PATIENT, Patience, spooled
from gapcam.inputs.reader import Reader
from gapcam.inputs.shards import local_shard, remote_shard
from gapcam.inputs.tables import TABLE_SUFFIXES, paths_in_table
from gapcam.inputs.tally import Resolver, Tally, check_argument, parent_of
from gapcam.inputs.url_folders import (
    before_pattern,
    by_url_pattern,
    has_pattern,
    in_url_folder,
    is_there,
    pictures_among,
)
from gapcam.inputs.urls import is_http, is_url, joined, local_path, parts_of, path_of, shown
from gapcam.types import ArgumentError, Failure, IntArray


class Inputs:
    """The pictures that PATH arguments stand for.

    Iterating gives an `Item` a picture, each once, in the order of the arguments; what turns out
    to be broken on the way (a cut archive) is a `Failure` in its place. Iterating again gives the
    same.

    Attributes:
        reader: Reads the items, here or in other threads and processes.
        root: The deepest folder that holds all local inputs (the working folder without any).
        failures: Folders that could not be listed.
    """

    def __init__(
        self, parts: Sequence[Part], dropped: IntArray, tally: Tally, reader: Reader
    ) -> None:
        self.reader = reader
        self.root = reader.root
        self.failures = tuple(tally.failures)
        self._parts = tuple(parts)
        self._dropped = dropped
        self._ignored = tally.ignored

    @property
    def ignored(self) -> int:
        """Files passed over; complete once iteration ended."""
        return self._ignored + sum(part.ignored for part in self._parts)

    def count(self) -> int | None:
        """How many items there are; None when only reading would tell."""
        counts = [part.count() for part in self._parts]
        known = [count for count in counts if count is not None]
        return sum(known) - len(self._dropped) if len(known) == len(counts) else None

    def __iter__(self) -> Iterator[Item | Failure]:
        dropped = map(int, self._dropped)
        next_dropped = next(dropped, -1)
        position = 0
        for part in self._parts:
            if not isinstance(part, _Named):
                yield from part
                continue
            for item in part:
                if position == next_dropped:
                    next_dropped = next(dropped, -1)
                else:
                    yield item
                position += 1


def open_inputs(
    paths: Iterable[str],
    stdin: TextIO | None = None,
    *,
    column: str | None = None,
    patience: Patience = PATIENT,
) -> Inputs:
    """Find the pictures that PATH arguments stand for.

    A PATH is what `gapcam.paths.expand_paths` says, and also:

    - a `.csv`, `.tsv`, `.parquet` or `.pq` file: a table with a column of paths or URLs, relative
      ones from the table's folder;
    - a `.tar`, `.tar.gz`, `.tar.bz2` or `.tar.xz` file: an archive, in WebDataset layout or not;
    - a URL that fsspec knows: a picture, list, table, archive, folder (`/` at the end over HTTP)
      or pattern there;
    - any of these with `{000..099}` or `{a,b}` in it, when there is no such file: each in turn.

    Names are held packed, contents never: about 20 bytes a picture.

    Args:
        paths: The PATHs.
        stdin: Where `-` reads from.
        column: The tables' column of paths; None: `gapcam.inputs.tables.PATH_COLUMNS`.
        patience: How long the network may take.

    Raises:
        ArgumentError: There are no arguments; a folder, pattern, list or table has no pictures or
            cannot be read; a column is named and there is no table; a package is missing.
    """
    opening = _Opening(stdin, column, patience)
    for path in paths:
        for one in _each(path):
            opening.add(one)
    return opening.inputs()


def _each(path: str) -> Iterable[str]:
    whole = not has_braces(path) or (not is_url(path) and os.path.lexists(path))
    return [path] if whole else expanded(path)


class _Named:
    """Pictures by path or URL."""

    ignored = 0

    def __init__(self) -> None:
        self.packed = Packed()

    def count(self) -> int:
        return len(self.packed)

    def __iter__(self) -> Iterator[Item | Failure]:
        for text in self.packed:
            yield Item(shown(text), Remote(text)) if is_url(text) else Item(text, text)


@dataclass(slots=True)
class _Opening:
    """Collects what the arguments stand for."""

    stdin: TextIO | None
    column: str | None
    patience: Patience
    parts: list[Part] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)
    seen: Seen = field(default_factory=Seen)
    resolve: Resolver = field(default_factory=Resolver)
    archives: set[str] = field(default_factory=set)
    url_root: tuple[str, ...] | None = None
    tables: int = 0

    def add(self, path: str) -> None:
        """One more argument."""
        if path == "-":
            self._name(_local("", line) for line in lines_of_stdin(self.stdin))
            return
        check_argument(path)
        if is_url(path) and (local := local_path(path)) is not None:
            path = local
            check_argument(path)
        if is_url(path):
            self._add_url(path)
        elif os.path.isdir(path):
            self._name(in_folder(path, self.tally))
        elif glob.has_magic(path) and not os.path.exists(path):
            self._add_pattern(path)
        else:
            self._add_file(path, _kind(path))

    def inputs(self) -> Inputs:
        """All of them."""
        if not self.parts:
            raise ArgumentError(
                "PATH: expected at least one file, folder, pattern or list, got none"
            )
        if self.column is not None and not self.tables:
            raise ArgumentError(
                f"column {self.column!r}: expected a CSV or Parquet table that has it, "
                "there is no table among the inputs; leave --column out"
            )
        both = bool(self.tally.folders) and self.url_root is not None
        root = self.tally.root() if self.tally.folders else Path.cwd()
        url_root = () if both or self.url_root is None else self.url_root
        reader = Reader(root, url_root, self.url_root is not None, self.patience)
        return Inputs(self.parts, self.seen.twice(self._keys), self.tally, reader)

    # --- local ------------------------------------------------------------------------------

    def _add_pattern(self, pattern: str) -> None:
        kind = _kind(pattern)
        if kind in ("table", "archive"):
            for path in matching(pattern, self.tally):
                self._add_file(path, kind)
        else:
            self._name(by_pattern(pattern, self.tally))

    def _add_file(self, path: str, kind: str) -> None:
        folder = os.path.dirname(path)
        if kind == "list":
            self._name(_local(folder, line) for line in lines_of_file(path))
        elif kind == "table":
            self.tables += 1
            self._name(_local(folder, value) for value in self._rows_of_file(path))
        elif kind == "archive":
            self.tally.add_folder(parent_of(path))
            self._archive(self.resolve(path), lambda: local_shard(path))
        else:
            self._name([path])

    def _rows_of_file(self, path: str) -> Iterator[str]:
        try:
            with open(path, "rb") as file:
                yield from paths_in_table(path, file, self.column)
        except OSError as error:
            raise ArgumentError(
                f"{path}: expected a table of picture paths, it cannot be read "
                f"({error.strerror}); check the path and its permissions"
            ) from error

    # --- URLs -------------------------------------------------------------------------------

    def _add_url(self, url: str) -> None:
        kind = _kind(path_of(url))
        if has_pattern(url) and (is_http(url) or not is_there(url, "file", self.patience)):
            self._note_url(parts_of(shown(before_pattern(url))))
            found = by_url_pattern(url, self.patience)
            if kind in ("table", "archive"):
                for one in found:
                    self._add_url_file(one, kind)
            else:
                self._name(pictures_among(url, found, self.tally))
        elif path_of(url).endswith("/") or (kind == "other" and self._is_folder(url)):
            self._note_url(parts_of(shown(url).rstrip("/")))
            self._name(in_url_folder(url, self.tally, self.patience))
        else:
            self._add_url_file(url, kind)

    def _is_folder(self, url: str) -> bool:
        return not is_http(url) and is_there(url, "dir", self.patience)

    def _add_url_file(self, url: str, kind: str) -> None:
        if kind == "list":
            with spooled(url, "a list of pictures", self.patience) as file:
                self._name(_remote(url, line) for line in lines_of_open_file(shown(url), file))
        elif kind == "table":
            self.tables += 1
            name = shown(url).partition("?")[0] if is_http(url) else shown(url)
            with spooled(url, "a table of picture paths", self.patience) as file:
                self._name(_remote(url, value) for value in paths_in_table(name, file, self.column))
        elif kind == "archive":
            self._note_url(parts_of(shown(url))[:-1])
            self._archive(shown(url), lambda: remote_shard(url, self.patience))
        else:
            self._name([url])

    def _note_url(self, folder: Sequence[str]) -> None:
        if self.url_root is None:
            self.url_root = tuple(folder)
        elif tuple(folder[: len(self.url_root)]) != self.url_root:
            pairs = zip(self.url_root, folder, strict=False)
            self.url_root = tuple(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], pairs))

    # --- what is found ----------------------------------------------------------------------

    def _archive(self, key: str, make: Callable[[], Part]) -> None:
        if key not in self.archives:
            self.archives.add(key)
            self.parts.append(make())

    def _name(self, paths: Iterable[str]) -> None:
        """Add pictures by path or URL."""
        if not self.parts or not isinstance(self.parts[-1], _Named):
            self.parts.append(_Named())
        named = self.parts[-1]
        assert isinstance(named, _Named)  # noqa: S101 (for mypy)
        for path in paths:
            if is_url(path):
                self._note_url(parts_of(shown(path))[:-1])
            else:
                self.tally.add_folder(parent_of(path))
            named.packed.append(path)
            self.seen.add(self._key(path))

    def _keys(self) -> Iterator[str]:
        named = (part for part in self.parts if isinstance(part, _Named))
        return (self._key(text) for part in named for text in part.packed)

    def _key(self, path: str) -> str:
        return shown(path) if is_url(path) else self.resolve(path)


def _kind(path: str) -> str:
    """What a file is, by its suffix."""
    lowered = path.lower()
    if lowered.endswith(LIST_SUFFIX):
        return "list"
    if lowered.endswith(TABLE_SUFFIXES):
        return "table"
    if lowered.endswith(ARCHIVE_SUFFIXES):
        return "archive"
    return "picture" if is_picture(os.path.basename(path)) else "other"


def _local(folder: str, text: str) -> str:
    """What a local list or table means by a line or value."""
    if not is_url(text):
        return os.path.join(folder, text)
    local = local_path(text)
    return text if local is None else local


def _remote(base: str, text: str) -> str:
    """What a list or table at a URL means by a line or value."""
    found = joined(base, text)
    if local_path(found) is not None:
        raise ArgumentError(
            f"{shown(base)}: expected paths and URLs that are not of this machine, got {text}; "
            "name local files in a local list"
        )
    return found
