"""Inputs cut into shards: the unit of work, of resuming and of what is written.

What a run needs of its inputs is written here, so that files, tar members and addresses look the
same to it. On the machine that starts a run, `Inputs` is a stream in a fixed order. Workers, in
other threads or processes, get the `Reader`, which is small, and the items of their shard. No list
of all pictures is made: a run over a hundred million of them holds a few shards at a time.

How pictures fall into shards depends on their number alone, never on cores or workers, so that the
files of a run are the same on every machine.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from gapcam.parallel import CHUNK
from gapcam.paths import Expansion
from gapcam.types import ArgumentError, Failure

SHARD_SIZE = 512
"""Pictures a shard where there are many: about ten seconds of one core."""

FEWEST_SHARDS = 256
"""Below this many, shards are smaller: every core is busy, and a kill loses little."""

LARGEST_SHARD = 100_000


class Item(Protocol):
    """One picture among the inputs; picklable."""

    @property
    def name(self) -> str:
        """What its record calls it: a path as the user spelled it, an address, a tar member."""

    @property
    def source(self) -> Any:
        """What the reader finds it by."""


class Reader(Protocol):
    """Opens items. Small, picklable, safe to call from threads."""

    @property
    def slow(self) -> bool:
        """Whether reading waits for something (a network), so that it pays to read ahead."""

    def read(self, item: Any) -> str | bytes:
        """A local path, which is not opened here, or the bytes of a picture file.

        Raises:
            PictureError: It cannot be had; the message names the item.
        """

    def relative(self, name: str) -> Path:
        """The path of an item's outputs below the folder they go to: unique, without `..`."""


class Inputs(Protocol):
    """The pictures of a run, on the machine that starts it."""

    @property
    def reader(self) -> Reader:
        """What opens them."""

    @property
    def root(self) -> Path:
        """The folder that annotations name pictures from."""

    @property
    def failures(self) -> Sequence[Failure]:
        """What could not be listed, known before the first item."""

    @property
    def ignored(self) -> int:
        """How many files were passed over; whole once all items came."""

    def __iter__(self) -> Iterator[Any]:
        """Items, and a `Failure` for what cannot be listed, in a fixed order, each once."""

    def count(self) -> int | None:
        """How many there are, where that is known without reading all."""


Entry: TypeAlias = Item | Failure
"""What a shard holds: a picture to do, or something that could not be listed."""


@dataclass(frozen=True, slots=True)
class FileItem:
    """A picture file; `name` is its path as the user spelled it."""

    name: str

    @property
    def source(self) -> str:
        """The path."""
        return self.name


@dataclass(frozen=True, slots=True)
class FileReader:
    """Opens files; `root` is the folder that their outputs are named from."""

    root: Path

    @property
    def slow(self) -> bool:
        """Files are read when they are decoded."""
        return False

    def read(self, item: Item) -> str:
        """The path."""
        return item.name

    def relative(self, name: str) -> Path:
        """The path below the root."""
        return Path(os.path.abspath(name)).relative_to(self.root)  # noqa: PTH100  # links stay


@dataclass(frozen=True, slots=True)
class FileInputs:
    """The files of an `Expansion`, as inputs."""

    expansion: Expansion

    @property
    def reader(self) -> FileReader:
        """What opens them."""
        return FileReader(self.expansion.root)

    @property
    def root(self) -> Path:
        """The deepest folder that holds all."""
        return self.expansion.root

    @property
    def failures(self) -> Sequence[Failure]:
        """Subfolders that could not be listed."""
        return self.expansion.failures

    @property
    def ignored(self) -> int:
        """How many files were passed over."""
        return self.expansion.ignored

    def __iter__(self) -> Iterator[FileItem]:
        """The files in their order."""
        return map(FileItem, self.expansion.paths)

    def count(self) -> int:
        """How many files."""
        return len(self.expansion.paths)


def as_inputs(given: Inputs | Expansion) -> Inputs:
    """Inputs as a run takes them."""
    return FileInputs(given) if isinstance(given, Expansion) else given


@dataclass(frozen=True, slots=True)
class ShardTask:
    """One shard of work; picklable.

    Attributes:
        index: Its number.
        first: The place of its first entry among all.
        entries: What it holds, in order.
        kept: The records that an earlier run made of them, None for what is to be done; or None
            when all is.
    """

    index: int
    first: int
    entries: tuple[Entry, ...]
    kept: tuple[Mapping[str, Any] | None, ...] | None = None


def shards(inputs: Inputs, size: int) -> Iterator[ShardTask]:
    """Cut inputs into shards of `size` entries; the last may be shorter. Streams."""
    entries = _entries(inputs)
    index = 0
    while chunk := tuple(islice(entries, size)):
        yield ShardTask(index, index * size, chunk)
        index += 1


def shard_size(count: int | None, asked: int | None = None) -> int:
    """How many pictures go into a shard.

    Args:
        count: How many there are; None when that is unknown.
        asked: What the user wants.

    Raises:
        ArgumentError: `asked` is out of range.
    """
    if asked is not None:
        if not 1 <= asked <= LARGEST_SHARD:
            raise ArgumentError(f"shard size: expected 1 to {LARGEST_SHARD:,}, got {asked}")
        return asked
    if count is None:
        return SHARD_SIZE
    even = math.ceil(count / FEWEST_SHARDS)
    if even > CHUNK:
        return min(SHARD_SIZE, math.ceil(even / CHUNK) * CHUNK)
    return max(1, min(CHUNK, math.ceil(count / (2 * CHUNK))))


def identity(name: str, base: str) -> str:
    """The same for the same picture, however its path is spelled.

    Args:
        name: As its record has it: a path, or an address (`s3://...`).
        base: The folder that a relative path goes from.
    """
    return name if "://" in name else os.path.normpath(Path(base, name))


def inputs_hash(identities: Sequence[str]) -> str:
    """A hash of the pictures of a shard, in order: 32 hex digits."""
    digest = hashlib.sha256()
    for one in identities:
        digest.update(os.fsencode(one) + b"\n\0")
    return digest.hexdigest()[:32]


def is_relative(name: str) -> bool:
    """Whether a name only means something in the working folder."""
    return "://" not in name and not os.path.isabs(name)  # noqa: PTH117


def absolute(path: str | Path) -> str:
    """A path made absolute as text; links stay."""
    return os.path.normpath(Path(path).absolute())


def _entries(inputs: Inputs) -> Iterator[Entry]:
    yield from inputs.failures
    yield from inputs
