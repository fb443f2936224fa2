"""One training a folder: a lock that dies with the process that holds it.

The system keeps the lock: POSIX record locks, on Windows a locked byte. Both end with the process
however it ends, so a killed run leaves none behind, and worker processes that outlive it for some
seconds do not hold it. They keep out other processes only, not a second run in the same one.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
from pathlib import Path
from typing import IO

from gapcam.outputs import output_errors
from gapcam.types import ArgumentError

LOCK = ".lock"
"""The file's name; it stays in the folder, and means nothing unless a process holds it."""
NO_LOCKS = (
    "this file system has no locks: take care that no other training writes into the same folder"
)

_HELD = {errno.EACCES, errno.EAGAIN, errno.EDEADLK}
_UNKNOWN = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}
_FAR = 1 << 30  # Windows forbids reading what is locked: a byte beyond the words


class RunLock:
    """Held from the start until `release`, or until the process ends.

    Args:
        folder: An existing folder.

    Attributes:
        note: Why the folder is not locked after all, in words; None: it is.

    Raises:
        ArgumentError: Another process trains in this folder.
        OutputError: The lock's file cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOCK
        self.note: str | None = None
        with output_errors(self._path):
            self._file = self._path.open("a+b", buffering=0)
        try:
            _take(self._file)
        except OSError as error:
            self._refuse_or_note(folder, error)
        self._write(f"process {os.getpid()} on {socket.gethostname()}")

    def release(self) -> None:
        """Let others train here; a second call does nothing."""
        if not self._file.closed:
            self._write("")
            self._file.close()

    def _refuse_or_note(self, folder: Path, error: OSError) -> None:
        if error.errno in _UNKNOWN:
            self.note = NO_LOCKS
            return
        holder = self._holder()
        self._file.close()
        if error.errno not in _HELD:
            with output_errors(self._path):
                raise error
        raise ArgumentError(
            f"{folder}: another training ({holder}) writes into this folder; wait for it, or "
            "choose another --out"
        ) from error

    def _holder(self) -> str:
        self._file.seek(0)
        return self._file.read(300).decode("utf-8", "replace") or "process unknown"

    def _write(self, words: str) -> None:
        with output_errors(self._path):
            self._file.truncate(0)
            self._file.write(words.encode())


if sys.platform == "win32":
    import msvcrt

    def _take(file: IO[bytes]) -> None:
        file.seek(_FAR)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        file.seek(0)

else:
    import fcntl

    def _take(file: IO[bytes]) -> None:
        fcntl.lockf(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
