"""Work on many items in threads: in chunks, in order, a bounded number ahead."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

CHUNK = 8
"""The most items a worker takes at a time: more pictures are no faster on one thread."""


def in_chunks(
    work: Callable[[Sequence[Item]], Sequence[Result]],
    items: Iterable[Item],
    workers: int | None = None,
) -> Generator[Result, None, None]:
    """The results of `work` on chunks of items, in order; one chunk more than workers is ahead.

    Args:
        work: Gives one result an item; called in several threads at once.
        items: Read lazily.
        workers: Threads; one a core when None.
    """
    count = workers or os.cpu_count() or 1
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
