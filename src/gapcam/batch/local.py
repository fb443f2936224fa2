"""Shards on one machine: a thread each, as many as there are cores, a bounded number under way."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from threading import Event, Lock

from gapcam.batch.options import Result, RunSpec, ShardDone
from gapcam.batch.plan import ShardTask
from gapcam.batch.work import StoppedError, run_shard
from gapcam.localizer import Localizer


def run_locally(
    localizer: Localizer,
    spec: RunSpec,
    tasks: Iterable[ShardTask],
    workers: int,
    on_result: Callable[[Result], None] = lambda _: None,
) -> Generator[ShardDone, None, None]:
    """Do shards in threads; yields what came of each as they end, in any order.

    Each worker takes a shard from files to records on one core (`docs/decisions/0004`), so the
    localizer should have been loaded with `threads=1` where there are several.

    Args:
        localizer: What localizes; shared by the workers.
        spec: The run.
        tasks: Shards, read lazily: one more than workers is held.
        workers: How many threads.
        on_result: Called with each result, by one worker at a time.

    Raises:
        OutputError: A shard cannot be written; the others that are under way are given up.
    """
    stop, lock = Event(), Lock()

    def told(result: Result) -> None:
        with lock:
            on_result(result)

    remaining, pending = iter(tasks), set[Future[ShardDone]]()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="gapcam")

    def submit(task: ShardTask) -> Future[ShardDone]:
        return pool.submit(run_shard, localizer, spec, task, told, stop.is_set)

    try:
        while True:
            pending.update(map(submit, islice(remaining, workers + 1 - len(pending))))
            if not pending:
                return
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            yield from _results(done)
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)


def _results(done: Iterable[Future[ShardDone]]) -> Iterable[ShardDone]:
    """The results of shards that ended: those that went well first, so that they are counted."""
    failed = None
    for future in done:
        error = future.exception()
        if error is None:
            yield future.result()
        elif failed is None or isinstance(failed, StoppedError):
            failed = error
    if failed is not None:
        raise failed
