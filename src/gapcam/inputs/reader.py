"""Reading one item, in any thread or process."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from gapcam.inputs.items import Held, Item, Member, Remote
from gapcam.inputs.network import PATIENT, Patience, fetch
from gapcam.inputs.shards import LIMIT, too_large
from gapcam.inputs.urls import is_url, parts_of, safe_part
from gapcam.types import GapcamError, PictureError


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads items and names what is made from them: small, picklable, good in any thread.

    Attributes:
        root: The deepest folder that holds all local inputs, absolute.
        url_root: The parts that all URLs share (`gapcam.inputs.urls.parts_of`), folders only.
        slow: Whether items come from a network, so that several are worth asking for at once.
        patience: How long the network may take.
    """

    root: Path
    url_root: tuple[str, ...] = ()
    slow: bool = False
    patience: Patience = PATIENT

    def read(self, item: Item) -> str | bytes:
        """A local path, which is not looked at here, or the bytes of the picture's file.

        Raises:
            PictureError: The bytes cannot be had; it names the item.
        """
        source = item.source
        if isinstance(source, str):
            return source
        if isinstance(source, Held):
            return source.data
        if isinstance(source, Member):
            return _member(item.name, source)
        return _remote(source, self.patience)

    def identity(self, item: Item) -> str:
        """What a picture is called whatever the working folder and the spelling of its path."""
        return item.name if is_url(item.name) else os.path.abspath(item.name)

    def relative(self, name: str) -> Path:
        """An item's name below the root of all inputs: unique, never outside, safe on disk."""
        if is_url(name):
            return Path(*parts_of(name)[len(self.url_root) :])
        below = Path(os.path.abspath(name)).relative_to(self.root)
        return Path(*map(safe_part, below.parts))


def _member(name: str, source: Member) -> bytes:
    if source.size > LIMIT:
        raise too_large(name, source.size)
    try:
        with open(source.archive, "rb") as file:
            file.seek(source.offset)
            data = file.read(source.size)
    except OSError as error:
        raise PictureError(
            f"{name}: its archive cannot be read any more ({error.strerror}); put it back"
        ) from error
    if len(data) < source.size:
        raise PictureError(
            f"{name}: expected {source.size:,} bytes, its archive has become shorter; "
            "put the old one back, or run anew"
        )
    return data


def _remote(source: Remote, patience: Patience) -> bytes:
    try:
        return fetch(source.url, LIMIT, patience)
    except PictureError:
        raise
    except GapcamError as error:  # a package that is missing on this machine only
        raise PictureError(str(error)) from None
