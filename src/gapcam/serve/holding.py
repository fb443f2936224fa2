"""How many bytes of pictures the server holds at once: arriving, waiting and running."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from gapcam.serve.errors import RequestError


class Held:
    """A bound on bytes, shared by all requests.

    Args:
        room: The most bytes.
    """

    def __init__(self, room: int) -> None:
        self._room, self._used, self._lock = room, 0, threading.Lock()

    @property
    def used(self) -> int:
        """Bytes held now."""
        return self._used

    def take(self, count: int) -> bool:
        """Hold so many more; False, and none, where there is no room."""
        with self._lock:
            if self._used + count > self._room:
                return False
            self._used += count
            return True

    def give(self, count: int) -> None:
        """Hold so many less."""
        with self._lock:
            self._used -= count


class Share:
    """What one request holds."""

    def __init__(self, held: Held) -> None:
        self._held, self._count = held, 0

    def take(self, count: int) -> None:
        """Hold so many more bytes.

        Raises:
            RequestError: 429: all requests together hold as much as the server takes.
        """
        if not self._held.take(count):
            raise RequestError(
                429,
                "the server holds as many bytes of pictures as it takes on; try again in 1 s",
                headers={"Retry-After": "1"},
            )
        self._count += count

    def give_after(self, futures: Sequence[Future[Any]]) -> None:
        """Give everything back once none of these needs it any more."""
        left, lock = len(futures), threading.Lock()
        if not left:
            self._held.give(self._count)

        def done(_: Future[Any]) -> None:
            nonlocal left
            with lock:
                left -= 1
                last = left == 0
            if last:
                self._held.give(self._count)

        for future in futures:
            future.add_done_callback(done)
