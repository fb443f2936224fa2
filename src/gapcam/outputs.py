"""Writing files so that a reader never sees half of one, and an error says what to do."""

from __future__ import annotations

import errno
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from gapcam.types import OutputError

_RIGHTS = "make the folder writable, or choose another output folder"
_SPACE = "free some space, or choose another output folder"
_ADVICE = dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), _RIGHTS)
_ADVICE |= dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), _SPACE)


@contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """Turn the errors of writing this path into an OutputError that says what to do.

    Raises:
        OutputError: Anything the system says.
    """
    try:
        yield
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        advice = _ADVICE.get(getattr(error, "errno", 0), "choose another output folder")
        raise OutputError(f"{path}: cannot be written ({reason}); {advice}") from error


@contextmanager
def replacing(path: Path, *, binary: bool = False) -> Iterator[IO[Any]]:
    """Write a file under a temporary name beside it; rename it when whole, else remove it.

    Text is UTF-8; bytes that are not (of odd file names) pass through as they are.

    Raises:
        OutputError: The folder or the file cannot be written.
    """
    part = path.parent / f".gapcam-{uuid.uuid4().hex}.tmp"
    try:
        with output_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with _open(part, binary) as out:
                yield out
            part.replace(path)
    finally:
        with suppress(OSError):
            part.unlink()


def _open(path: Path, binary: bool) -> IO[Any]:
    if binary:
        return path.open("wb")
    return path.open("w", encoding="utf-8", errors="surrogateescape", newline="")
