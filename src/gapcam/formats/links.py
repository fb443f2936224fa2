"""Links to pictures, where trainers look for them: nothing is copied."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

from gapcam.formats.names import Root, absolute
from gapcam.outputs import output_errors

MARK = ".gapcam-links"
"""A file in a folder of links: what looks for pictures passes the folder over."""


class Links:
    """A folder of symbolic links, one a picture, named as the set names it.

    Pictures that lie there already, because the set is written beside them, need none.

    Args:
        folder: Where the links go.
        root: As in `gapcam.formats.names.Names`.
    """

    def __init__(self, folder: Path, root: Root) -> None:
        self._folder = folder
        self._at_home = not callable(root) and absolute(root) == absolute(folder)
        self._missing = 0
        self._marked = False

    def add(self, path: str, name: str) -> None:
        """Link a picture; one that is no local file is counted.

        Raises:
            OutputError: The link cannot be made.
        """
        if self._at_home:
            return
        target = absolute(path)
        if not target.is_file():
            self._missing += 1
            return
        link = self._folder / name
        with output_errors(link):
            link.parent.mkdir(parents=True, exist_ok=True)
            if not self._marked:
                (self._folder / MARK).touch()
                self._marked = True
            _replace_link(link, target)

    def drop(self, name: str) -> None:
        """Remove the link of a picture that is not in the set, if an earlier run made one.

        Raises:
            OutputError: It cannot be removed.
        """
        link = self._folder / name
        if not self._at_home and link.is_symlink():
            remove(link)

    def notes(self) -> tuple[str, ...]:
        """What the user has to do."""
        if not self._missing:
            return ()
        some = "1 picture is" if self._missing == 1 else f"{self._missing:,} pictures are"
        return (
            f"{some} not linked: no local files; put them below {self._folder} under the names of "
            "their annotations before you train",
        )


def remove(path: Path) -> None:
    """Remove a file, if it is there.

    Raises:
        OutputError: It cannot be removed.
    """
    with output_errors(path), suppress(FileNotFoundError):
        path.unlink()


def _replace_link(link: Path, target: Path) -> None:
    try:
        link.symlink_to(target)
    except FileExistsError:
        if link.is_symlink():
            if link.readlink() == target:
                return
            link.unlink()
            link.symlink_to(target)
        elif not os.path.samefile(link, target):  # noqa: PTH121
            raise FileExistsError(errno.EEXIST, "another file has that name") from None
    except NotImplementedError as error:
        raise OSError(errno.ENOTSUP, "this system has no symbolic links") from error
