"""What finding pictures leaves behind, and paths as text: they keep the user's spelling."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from gapcam.types import ArgumentError, Failure

_MOST_FOLDERS: Final = 10_000


@dataclass(slots=True)
class Tally:
    """What finding pictures leaves behind, besides them; complete once all were found.

    Attributes:
        folders: The folders that arguments stand for; what `root` is the common folder of.
        failures: Subfolders that could not be listed.
        ignored: Files that were passed over.
    """

    folders: set[str] = field(default_factory=set)
    failures: list[Failure] = field(default_factory=list)
    ignored: int = 0

    def add_folder(self, folder: str) -> None:
        """Note one more; a list may name pictures in millions of folders, so they are merged."""
        self.folders.add(folder)
        if len(self.folders) > _MOST_FOLDERS:
            self.folders = {str(self.root())}

    def root(self) -> Path:
        """The deepest folder that holds all.

        Raises:
            ArgumentError: They are on several drives.
        """
        return _common_folder(self.folders)


def parent_of(path: str) -> str:
    """Its folder, `.` for the working one."""
    return os.path.dirname(path) or "."


def check_argument(argument: str) -> None:
    """Refuse what is no path on any system.

    Raises:
        ArgumentError: It is empty or has a zero byte.
    """
    if not argument or "\0" in argument:
        raise ArgumentError(f"PATH {argument!r}: expected a path, got an empty or impossible one")


class Resolver:
    """Real paths; folders are looked up once, which a long list of files is glad of."""

    def __init__(self) -> None:
        self._folders: dict[str, str] = {}

    def __call__(self, path: str) -> str:
        """The real path."""
        folder, name = os.path.split(path)
        if name in ("", ".", "..") or os.path.islink(path):
            return os.path.realpath(path)
        if folder not in self._folders:
            if len(self._folders) >= _MOST_FOLDERS:
                self._folders.clear()
            self._folders[folder] = os.path.realpath(folder)
        return os.path.join(self._folders[folder], name)


def _common_folder(folders: set[str]) -> Path:
    try:
        return Path(os.path.commonpath([os.path.abspath(folder) for folder in folders]))
    except ValueError as error:
        raise ArgumentError(
            "PATH: expected paths on one drive, they are on several; run once for each"
        ) from error
