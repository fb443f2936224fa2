"""The work on one shard, the same wherever it runs: read, localize, write one file.

`run_shard` takes what it needs as values that can be pickled, talks to nobody but its caller and
leaves nothing but its shard (and overlays), so threads on one machine and workers on many call the
same function.

Every forward pass of a run has the same number of pictures, taken by their place in the shard: a
batch that is not full, because a picture cannot be read or an earlier run did it, is filled up with
one of its own pictures. So a result does not depend on its neighbours, on the number of workers or
on what was done before, even with networks whose rounding depends on the size of the batch.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from typing import Any

from gapcam.batch.options import Result, RunSpec, ShardDone, Wanted
from gapcam.batch.overlays import overlay_path, save_jpeg
from gapcam.batch.plan import Entry, Reader, ShardTask, identity, inputs_hash, is_relative
from gapcam.batch.shards import ShardFacts, counts_failed, shard_path, write_shard
from gapcam.formats import Record, failure_record, to_record
from gapcam.known_labels import KnownLabels, only
from gapcam.localizer import Localizer
from gapcam.types import Failure, GapcamError, IntArray, Localization, Picture

READ_AHEAD = 16
"""Items that are fetched at once where reading waits for a network."""


BYTES = "<bytes>"
"""What a picture given as bytes is called before it gets the name of its item."""


class StoppedError(Exception):
    """The run was stopped while the shard was under way; nothing of it was written."""


@dataclass(slots=True)
class Clock:
    """Seconds spent in each stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time of the block for a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0) + time.perf_counter() - start


def run_shard(
    localizer: Localizer,
    spec: RunSpec,
    task: ShardTask,
    on_result: Callable[[Result], None] = lambda _: None,
    stopped: Callable[[], bool] = lambda: False,
) -> ShardDone:
    """Do a shard: localize what is not done, write the file.

    Args:
        localizer: What localizes; the one that `spec.about` describes.
        spec: The run.
        task: The shard.
        on_result: Called with each result, before the shard is written.
        stopped: Asked between batches whether to give up.

    Raises:
        OutputError: The shard or an overlay cannot be written.
        StoppedError: `stopped` said so.
    """
    clock, classes = Clock(), Counter[str]()
    records: list[Mapping[str, Any] | None] = list(task.kept or [None] * len(task.entries))
    counts = {Localization: 0, Failure: 0}
    for place, result in _results(localizer, spec, task, clock, stopped):
        counts[type(result)] += 1
        with clock.stage("write"):
            records[place] = record_of(result, masks=spec.masks)
        classes.update(_best_label(result))
        on_result(result)
    with clock.stage("write"):
        _write(spec, task, [record for record in records if record is not None])
    done, failed = counts[Localization], counts[Failure]
    return ShardDone(task.index, done, failed, clock.seconds, classes)


def record_of(result: Result, *, masks: bool = False) -> Record:
    """The JSON-ready record of a result; with `masks`, those of its boxes are in it."""
    if isinstance(result, Failure):
        return failure_record(result)
    return to_record(result, masks=masks)


def localize_entries(
    localizer: Localizer,
    reader: Reader,
    entries: Sequence[Entry],
    wanted: Wanted,
    batch: int,
    clock: Clock | None = None,
) -> list[Result]:
    """Localize a batch of inputs, in order; what cannot be read is a `Failure` in its place.

    Args:
        localizer: What localizes.
        reader: Opens items.
        entries: At most `batch`.
        wanted: As `Localizer.wanted` gives it, or what is known of each picture.
        batch: How many pictures the forward pass has, whatever the number of entries.
        clock: Counts the time of the stages.
    """
    fetched = [partial(_fetch, reader, entry, wanted) for entry in entries]
    asked = partial(_asked, reader, wanted)
    return _localize_fetched(localizer, entries, fetched, asked, batch, clock or Clock())


def _results(
    localizer: Localizer,
    spec: RunSpec,
    task: ShardTask,
    clock: Clock,
    stopped: Callable[[], bool],
) -> Iterator[tuple[int, Result]]:
    """What is to be done of a shard: places and results, in order, overlays written."""
    kept = task.kept or [None] * len(task.entries)
    todo = [place for place, record in enumerate(kept) if record is None]
    asked = partial(_asked, spec.reader, spec.wanted)
    with closing(_fetches(spec, [task.entries[place] for place in todo])) as fetches:
        # A batch is a range of places, so that it holds the same pictures in every run.
        for _, group in groupby(todo, lambda place: place // spec.batch):
            if stopped():
                raise StoppedError
            places = list(group)
            entries = [task.entries[place] for place in places]
            fetched = [next(fetches) for _ in places]
            found = _localize_fetched(localizer, entries, fetched, asked, spec.batch, clock)
            for place, result in zip(places, found, strict=True):
                yield place, _with_overlay(result, spec, clock) if spec.overlays else result


Fetched = Callable[[], Any]
"""Gives a source, or raises why there is none."""


def _fetches(spec: RunSpec, entries: Sequence[Entry]) -> Generator[Fetched, None, None]:
    """Sources of entries, in order; fetched ahead in threads where that waits for a network."""
    fetch = partial(_fetch, spec.reader, wanted=spec.wanted)
    if not spec.reader.slow:
        yield from (partial(fetch, entry) for entry in entries)
        return
    ahead: deque[Future[Any]] = deque()
    pool = ThreadPoolExecutor(READ_AHEAD, thread_name_prefix="gapcam-read")
    try:
        for entry in entries:
            ahead.append(pool.submit(fetch, entry))
            if len(ahead) > READ_AHEAD:
                yield ahead.popleft().result
        while ahead:
            yield ahead.popleft().result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _fetch(reader: Reader, entry: Entry, wanted: Wanted) -> Any:
    if isinstance(entry, Failure):
        raise entry.error
    if isinstance(wanted, KnownLabels):
        wanted.wanted(entry, reader)  # raises where nothing is known, before anything is read
    return reader.read(entry)


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a batch is asked for: for `Localizer.see`, and of each picture where that differs."""

    wanted: IntArray | int
    ids: Sequence[tuple[int, ...]] | None


def _asked(reader: Reader, wanted: Wanted, entries: Sequence[Entry]) -> _Asked:
    if not isinstance(wanted, KnownLabels):
        return _Asked(wanted, None)
    ids = [wanted.wanted(entry, reader) for entry in entries if not isinstance(entry, Failure)]
    return _Asked(wanted.rows(ids), ids)


def _localize_fetched(
    localizer: Localizer,
    entries: Sequence[Entry],
    fetched: Sequence[Fetched],
    asked: Callable[[Sequence[Entry]], _Asked],
    batch: int,
    clock: Clock,
) -> list[Result]:
    with clock.stage("read"):
        read = [_read(localizer, *pair) for pair in zip(entries, fetched, strict=True)]
    good = [one for one in zip(read, entries, strict=True) if not isinstance(one[0], Failure)]
    if not good:
        return [one for one in read if isinstance(one, Failure)]
    full = good + good[:1] * (batch - len(good))
    pictures = [one[0] for one, _ in full if not isinstance(one, Failure)]
    sources = [one[1] for one, _ in full if not isinstance(one, Failure)]
    what = asked([entry for _, entry in full])
    with clock.stage("forward"):
        seen = localizer.see(pictures, what.wanted)
    with clock.stage("boxes"):
        results = localizer.cut(seen, pictures, sources)
    if what.ids is not None:
        results = [only(*pair) for pair in zip(results, what.ids, strict=True)]
    found = iter(results)
    return [one if isinstance(one, Failure) else next(found) for one in read]


def _read(localizer: Localizer, entry: Entry, fetch: Fetched) -> tuple[Picture, Any] | Failure:
    """A picture by its own name, with what it was read from."""
    try:
        source = fetch()
        return replace(localizer.read(source), name=entry.name), source
    except GapcamError as error:
        words = str(error)
        if not words.startswith(BYTES):
            return Failure(entry.name, error)
        return Failure(entry.name, type(error)(entry.name + words[len(BYTES) :]))


def _with_overlay(result: Result, spec: RunSpec, clock: Clock) -> Result:
    """Write the overlay of a result; a picture that can no longer be read becomes a failure."""
    if isinstance(result, Failure):
        return result
    path = overlay_path(spec.reader, result.name, spec.out_dir)
    with clock.stage("draw"):
        try:
            picture = result.draw()
        except GapcamError as error:
            return Failure(result.name, error)
        save_jpeg(picture, path)
    return result


def _best_label(result: Result) -> list[str]:
    """The best class that has a box, if any."""
    found = () if isinstance(result, Failure) else result.detections
    return [d.label for d in found if d.box_xyxy is not None][:1]


def _write(spec: RunSpec, task: ShardTask, records: Sequence[Mapping[str, Any]]) -> None:
    names = [entry.name for entry in task.entries]
    facts = ShardFacts(
        shard=task.index,
        first=task.first,
        pictures=len(records),
        failed=counts_failed(records),
        inputs=inputs_hash([identity(name, spec.base) for name in names]),
        relative=any(map(is_relative, names)),
    )
    path = shard_path(spec.folder, task.index, spec.kind)
    write_shard(path, spec.kind, facts, records, spec.about)
