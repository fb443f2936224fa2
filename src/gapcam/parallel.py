"""Work on many items in threads: in chunks, in order, a bounded number ahead."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

CHUNK = 8
"""The most items a worker takes at a time: more pictures are no faster on one thread."""

CGROUP_LIMIT = Path("/sys/fs/cgroup/cpu.max")


def cores() -> int:
    """How many cores this process may use: those it is bound to, and no more than its quota."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        quota, period = CGROUP_LIMIT.read_text().split()
        allowed = math.ceil(int(quota) / int(period))
    except (OSError, ValueError, ZeroDivisionError):  # no such file, or "max": no limit
        return bound or 1
    return max(1, min(bound or 1, allowed))


def in_chunks(
    work: Callable[[Sequence[Item]], Sequence[Result]],
    items: Iterable[Item],
    workers: int | None = None,
    size: int | None = None,
) -> Generator[Result, None, None]:
    """The results of `work` on chunks of items, in order; one chunk more than workers is ahead.

    Args:
        work: Gives one result an item; called in several threads at once.
        items: Read lazily.
        workers: Threads; one a core when None.
        size: Items a chunk; None: `CHUNK`, fewer where that leaves workers without one.
    """
    count = workers or cores()
    if size is None:
        size = min(CHUNK, math.ceil(len(items) / count)) if isinstance(items, Sequence) else CHUNK
    remaining = iter(items)
    waiting: deque[Future[Sequence[Result]]] = deque()
    pool = ThreadPoolExecutor(count, thread_name_prefix="gapcam")
    try:
        while True:
            while len(waiting) <= count and (chunk := list(islice(remaining, size))):
                waiting.append(pool.submit(work, chunk))
            if not waiting:
                return
            yield from waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
