"""Many requests, one engine: pictures wait in one bounded queue and are run in small batches.

A worker thread a core takes what waits, at most a batch of items that want the same, and runs it on
one thread (decision 0004). Under load batches fill by themselves; with workers idle, what waits is
shared among them. The queue never grows beyond its bound: who comes when it is full is turned away
at once.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class QueueFullError(Exception):
    """There is no room.

    Args:
        retry_s: When there should be, seconds from now.
    """

    def __init__(self, retry_s: float) -> None:
        super().__init__(f"the queue is full; try again in {retry_s:.0f} s")
        self.retry_s = retry_s


class ClosingError(Exception):
    """The batcher is stopping and takes nothing more."""


@dataclass(slots=True, eq=False)
class _Waiting(Generic[Item, Result]):
    item: Item
    wants: Hashable
    ends: float
    since: float = field(default_factory=time.monotonic)
    future: Future[Result] = field(default_factory=Future)


class Batcher(Generic[Item, Result]):
    """Runs items in batches, in threads of its own, which begin with the first item.

    Args:
        work: Takes items that want the same, and what that is; gives one result an item. Where it
            raises for several items, each is tried alone, so that one cannot fail another.
        workers: Threads.
        batch: The most items at once.
        room: The most items that wait.
        wait_s: How long the first item of a batch waits for company.
        on_batch: Called with the seconds that each item of a batch has waited.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Item], Hashable], Sequence[Result]],
        *,
        workers: int,
        batch: int,
        room: int,
        wait_s: float = 0.0,
        on_batch: Callable[[Sequence[float]], None] = lambda _: None,
    ) -> None:
        self._work, self._batch, self._room, self._wait_s = work, batch, room, wait_s
        self._on_batch = on_batch
        self._waiting: deque[_Waiting[Item, Result]] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._idle = 0
        self._rate = 0.0  # items a second, a running mean
        self._threads = [
            threading.Thread(target=self._serve, name=f"gapcam-engine-{i}", daemon=True)
            for i in range(workers)
        ]
        self._started = False

    @property
    def depth(self) -> int:
        """How many items wait."""
        return len(self._waiting)

    @property
    def idle(self) -> int:
        """How many workers wait for something to do."""
        return self._idle

    @property
    def closing(self) -> bool:
        """Whether nothing more is taken."""
        return self._closing

    def submit(self, items: Sequence[Item], wants: Hashable, ends: float) -> list[Future[Result]]:
        """Queue all items of a request, or none.

        Args:
            items: What to run.
            wants: What it is run with; items that want the same share batches.
            ends: `time.monotonic()` after which nobody waits for it any more: what has not begun
                then is cancelled.

        Raises:
            QueueFullError: There is no room for all of them.
            ClosingError: The batcher is stopping.
        """
        made = [_Waiting[Item, Result](item, wants, ends) for item in items]
        with self._changed:
            if self._closing:
                raise ClosingError
            if len(self._waiting) + len(made) > self._room:
                raise QueueFullError(self._retry_s())
            self._start()
            self._waiting.extend(made)
            self._changed.notify_all()
        return [waiting.future for waiting in made]

    def withdraw(self, futures: Sequence[Future[Result]]) -> None:
        """Cancel those that have not begun; they leave the queue, and their items memory."""
        if not [future for future in futures if future.cancel()]:
            return
        with self._changed:
            left = [waiting for waiting in self._waiting if not waiting.future.cancelled()]
            self._waiting.clear()
            self._waiting.extend(left)

    def close(self, timeout_s: float | None = None) -> bool:
        """Take nothing more and finish what waits.

        Args:
            timeout_s: How long to wait for it; None: until it is finished.

        Returns:
            Whether all of it was finished in time.
        """
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        ends = None if timeout_s is None else time.monotonic() + timeout_s
        for thread in self._threads if self._started else ():
            thread.join(None if ends is None else max(0.0, ends - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _start(self) -> None:
        if not self._started:
            self._started = True
            for thread in self._threads:
                thread.start()

    def _retry_s(self) -> float:
        return max(1.0, len(self._waiting) / self._rate) if self._rate else 1.0

    def _serve(self) -> None:
        while (batch := self._next()) is not None:
            live = [w for w in batch if w.future.set_running_or_notify_cancel()]
            if live:
                began = time.monotonic()
                self._on_batch([began - waiting.since for waiting in live])
                self._run(live)
                self._measure(len(live), time.monotonic() - began)
            del batch, live  # or an idle worker would hold the last pictures

    def _run(self, batch: Sequence[_Waiting[Item, Result]]) -> None:
        try:
            results = self._work([waiting.item for waiting in batch], batch[0].wants)
            pairs = list(zip(batch, results, strict=True))
        except BaseException as error:  # those who wait are told, and the thread lives on
            if len(batch) == 1:
                batch[0].future.set_exception(error)
            else:
                for waiting in batch:
                    self._run([waiting])
        else:
            for waiting, result in pairs:
                waiting.future.set_result(result)

    def _next(self) -> list[_Waiting[Item, Result]] | None:
        """The next batch; None when closing and nothing waits."""
        with self._changed:
            self._idle += 1
            try:
                while not self._waiting:
                    if self._closing:
                        return None
                    self._changed.wait()
                self._wait_for_company()
                return self._taken()
            finally:
                self._idle -= 1

    def _wait_for_company(self) -> None:
        ends = time.monotonic() + self._wait_s
        while 0 < len(self._waiting) < self._batch and not self._closing:
            left = ends - time.monotonic()
            if left <= 0 or not self._changed.wait(left):
                return

    def _taken(self) -> list[_Waiting[Item, Result]]:
        """The oldest item and those after it that want the same; the others keep their order."""
        now = time.monotonic()
        share = min(self._batch, math.ceil(len(self._waiting) / self._idle))
        taken: list[_Waiting[Item, Result]] = []
        kept: list[_Waiting[Item, Result]] = []
        while self._waiting and len(taken) < share:
            waiting = self._waiting.popleft()
            if waiting.ends <= now:
                waiting.future.cancel()
            elif not taken or waiting.wants == taken[0].wants:
                taken.append(waiting)
            else:
                kept.append(waiting)
        self._waiting.extendleft(reversed(kept))
        return taken

    def _measure(self, items: int, seconds: float) -> None:
        rate = items * len(self._threads) / max(seconds, 1e-6)
        with self._changed:
            self._rate = rate if not self._rate else 0.9 * self._rate + 0.1 * rate
