"""The name of each picture in a set, and that no two pictures have the same."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import TypeAlias

import numpy as np

from gapcam.formats.records import AnyPath
from gapcam.types import OutputError

Root: TypeAlias = "AnyPath | Callable[[str], Path]"
"""The folder of the pictures, or a function that gives a picture's path below it."""

_SMALLEST = 1024


class Names:
    """Gives every picture a name of its own.

    Args:
        root: What names are below; None: a picture's name is its path as it is.
        drop_suffix: Whether the annotation's name is that of the picture without its suffix.
    """

    def __init__(self, root: Root | None, *, drop_suffix: bool) -> None:
        self._root = root if root is None or callable(root) else absolute(root)
        self._drop_suffix = drop_suffix
        self._taken = Taken()

    def claim(self, path: str) -> tuple[str, str]:
        """The name of a picture and of its annotation, with `/`.

        Raises:
            OutputError: It has no file name, or another picture has that annotation.
        """
        name = self._name(path)
        if not PurePosixPath(name).name:
            raise OutputError(f"{path!r}: expected a file name, got none; leave this record out")
        stem = PurePosixPath(name).with_suffix("").as_posix() if self._drop_suffix else name
        if not self._taken.add(stem):
            raise OutputError(
                f"{path}: expected an annotation name of its own, got {stem!r}, which another "
                "picture has; rename one of the two, or give their common folder as root"
            )
        return name, stem

    def _name(self, path: str) -> str:
        root = self._root
        if root is None:
            return path
        return _below(path, root) if isinstance(root, Path) else root(path).as_posix()


class Taken:
    """A set of texts that only grows, 16 bytes each or less: it holds 64 bits of their hashes.

    Of a hundred million texts, two different ones have the same hash with a chance of 1 in 3,700.
    """

    def __init__(self) -> None:
        self._slots = np.zeros(_SMALLEST, np.uint64)
        self._count = 0

    def add(self, text: str) -> bool:
        """Put a text in; whether it was not there."""
        number = hash_of(text)
        at = self._slot(number)
        if self._slots[at]:
            return False
        self._slots[at] = number
        self._count += 1
        if self._count * 2 > len(self._slots):
            self._grow()
        return True

    def _slot(self, number: int) -> int:
        """Where a number is, or would go."""
        last = len(self._slots) - 1
        at = number & last
        while (there := int(self._slots[at])) and there != number:
            at = (at + 1) & last
        return at

    def _grow(self) -> None:
        numbers = self._slots[self._slots > 0]
        self._slots = np.zeros(2 * len(self._slots), np.uint64)
        last = len(self._slots) - 1
        at = (numbers & np.uint64(last)).astype(np.int64)
        while len(numbers):
            # All at once: of those that want the same free slot one gets it, the rest go on.
            free = self._slots[at] == 0
            self._slots[at[free]] = numbers[free]
            left = self._slots[at] != numbers
            numbers, at = numbers[left], (at[left] + 1) & last


def hash_of(text: str) -> int:
    """64 bits of a hash of a text, never 0; the same in every process."""
    digest = hashlib.blake2b(os.fsencode(text), digest_size=8).digest()
    return int.from_bytes(digest, "little") or 1


def absolute(path: AnyPath) -> Path:
    """Make absolute and take out `..`; links stay as they were named."""
    return Path(os.path.normpath(Path(path).absolute()))


def _below(path: str, root: Path) -> str:
    whole = absolute(path)
    inside = whole != root and whole.is_relative_to(root)
    return whole.relative_to(root).as_posix() if inside else Path(path).name
