"""What inputs hand out, and how millions of names are kept small."""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeAlias

import numpy as np

from gapcam.types import Failure, IntArray

_CHUNK: Final = 4096


@dataclass(frozen=True, slots=True)
class Remote:
    """A picture at a URL, credentials and all; kept out of `repr`."""

    url: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Member:
    """A picture in a local archive that is not compressed: where its bytes are."""

    archive: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Held:
    """A picture that could only be read in passing: its bytes."""

    data: bytes = field(repr=False)


Source: TypeAlias = str | Remote | Member | Held
"""Where a picture is; a string is a local path."""


@dataclass(frozen=True, slots=True)
class Item:
    """One picture.

    Attributes:
        name: What results call it: the path as the user spelled it, the URL without credentials,
            `shards/0001.tar/cat.jpg` for a member of an archive. No two items share one.
        source: What `Reader.read` reads; small and picklable, unless it is `Held`.
    """

    name: str
    source: Source


class Part(Protocol):
    """Some of the items, in order; iterating again gives the same."""

    @property
    def ignored(self) -> int:
        """Files passed over, as far as is known."""

    def count(self) -> int | None:
        """How many items; None when only reading would tell."""

    def __iter__(self) -> Iterator[Item | Failure]: ...


class Packed:
    """A growing sequence of texts without zero bytes, compressed: about 10 bytes a path."""

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self._open: list[str] = []
        self._count = 0

    def append(self, text: str) -> None:
        """Add one at the end."""
        self._open.append(text)
        self._count += 1
        if len(self._open) == _CHUNK:
            joined = "\0".join(self._open).encode("utf-8", "surrogateescape")
            self._chunks.append(zlib.compress(joined, 1))
            self._open.clear()

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[str]:
        for chunk in self._chunks:
            yield from zlib.decompress(chunk).decode("utf-8", "surrogateescape").split("\0")
        yield from self._open


class Seen:
    """Finds what came twice: eight bytes a key, and exact, since equal hashes are looked at again.

    The hashes are those of this process, so they are good for one call of `twice`.
    """

    def __init__(self) -> None:
        self._hashes = array("q")

    def add(self, key: str) -> None:
        """Note the next key."""
        self._hashes.append(hash(key))

    def twice(self, keys: Callable[[], Iterable[str]]) -> IntArray:
        """The positions of keys that came before, sorted.

        Args:
            keys: Gives all keys again, in the same order.
        """
        hashes = np.frombuffer(self._hashes, np.int64) if self._hashes else np.zeros(0, np.int64)
        ordered = np.sort(hashes)
        doubtful = set(ordered[1:][ordered[1:] == ordered[:-1]].tolist())
        if not doubtful:
            return np.zeros(0, np.int64)
        seen: set[str] = set()
        positions = array("q")
        for position, (key, number) in enumerate(zip(keys(), self._hashes, strict=True)):
            if number in doubtful:
                if key in seen:
                    positions.append(position)
                seen.add(key)
        return np.array(positions, np.int64)
