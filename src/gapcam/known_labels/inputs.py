"""What labels need of the inputs of a run: their names."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from gapcam.types import Failure


class Item(Protocol):
    """One picture among the inputs."""

    @property
    def name(self) -> str:
        """What its record calls it."""


class Reader(Protocol):
    """What tells pictures apart (`gapcam.inputs`)."""

    def relative(self, name: str) -> Path:
        """A picture's path below the root of all inputs."""


class Inputs(Protocol):
    """The pictures of a run."""

    @property
    def reader(self) -> Reader:
        """What names them."""

    def __iter__(self) -> Iterator[Any]:
        """Items, and a `Failure` for what cannot be listed."""


def identity(name: str) -> str:
    """The absolute path or the address of a picture, by its name."""
    return name if "://" in name else os.path.abspath(name)  # noqa: PTH100  # links stay


def items_of(inputs: Inputs) -> Iterator[Any]:
    """The pictures, without what could not be listed."""
    return (entry for entry in inputs if not isinstance(entry, Failure))
