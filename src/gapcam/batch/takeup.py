"""What is left to do of a run: its shards compared with the inputs, one at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice

from gapcam.batch.earlier import Earlier
from gapcam.batch.manifest import RESULTS, SETTINGS, RunFolder
from gapcam.batch.options import RunSpec
from gapcam.batch.plan import (
    Inputs,
    ShardTask,
    identity,
    inputs_hash,
    is_relative,
    shards,
)
from gapcam.batch.shards import (
    ShardFacts,
    counts_failed,
    read_facts,
    read_shard,
    shard_path,
    write_shard,
)
from gapcam.formats import Record, read_records
from gapcam.types import ArgumentError


def left_to_do(
    spec: RunSpec,
    inputs: Inputs,
    size: int,
    started_in: str,
    on_earlier: Callable[[int], None],
) -> Iterator[ShardTask]:
    """The shards that are still to do, with the records that an earlier run made of their pictures.

    A shard that is there and holds the pictures it should is left alone, but for its failures,
    which are tried again. When the inputs have changed, the shards from there on are made anew from
    the records that there are; pictures that are no longer given keep theirs, at the end.

    Args:
        spec: The run.
        inputs: The pictures.
        size: How many go into a shard.
        started_in: The working folder that the records' relative paths go from.
        on_earlier: Called with how many pictures of a shard are done already.

    Raises:
        ArgumentError: A shard is spoilt, or holds relative paths that go from another folder.
    """
    earlier = Earlier(spec.folder, spec.kind, started_in, spec.base)
    try:
        for facts in earlier.facts():
            _check_folder(facts, spec, started_in)
        index = -1
        for task in shards(inputs, size):
            index = task.index
            left = _left_of(task, spec, earlier, started_in)
            kept = task.entries if left is None else [k for k in left.kept or () if k]
            if kept:
                on_earlier(len(kept))
            if left is not None:
                yield left
        _keep_the_rest(spec, inputs, earlier, index + 1, size, started_in)
    finally:
        earlier.close()


def only_failures(
    spec: RunSpec,
    inputs: Inputs,
    size: int,
    started_in: str,
    on_earlier: Callable[[int], None],
) -> Iterator[ShardTask]:
    """The shards of a finished run that hold failures, to be tried again; nothing else is done.

    Args:
        spec: The run.
        inputs: The pictures, the same as the run's.
        size: How many are in a shard.
        started_in: The working folder that the records' relative paths go from.
        on_earlier: Called with how many pictures of a shard are done already.

    Raises:
        ArgumentError: The pictures are not those of the run.
    """
    for task in shards(inputs, size):
        facts = read_facts(shard_path(spec.folder, task.index, spec.kind), spec.kind)
        if facts is None or facts.inputs != _hash(task, spec):
            raise ArgumentError(
                f"{spec.out_dir / SETTINGS}: the pictures are not those of that run, from number "
                f"{task.first + 1} on; --retry-errors takes the same, --resume also what is new"
            )
        _check_folder(facts, spec, started_in)
        on_earlier(facts.pictures - facts.failed)
        if facts.failed:
            yield _without_failures(task, spec)


def split_results(run: RunFolder, spec: RunSpec, size: int, started_in: str) -> None:
    """Make the shards of a finished run from its one file of results.

    Raises:
        ArgumentError: The file is spoilt.
        OutputError: They cannot be written.
    """
    with run.making() as folder:
        into = replace(spec, folder=folder)
        records = read_records(run.folder / RESULTS)
        index = 0
        while chunk := list(islice(records, size)):
            _write(into, index, size, chunk, started_in)
            index += 1


def _left_of(task: ShardTask, spec: RunSpec, earlier: Earlier, started_in: str) -> ShardTask | None:
    """What is to do of a shard; None when it is done."""
    facts = read_facts(shard_path(spec.folder, task.index, spec.kind), spec.kind)
    if facts is not None:
        _check_folder(facts, spec, started_in)
        if facts.inputs == _hash(task, spec):
            return _without_failures(task, spec) if facts.failed else None
        earlier.set_aside(task.index)
    if earlier.empty:
        return task
    return replace(task, kept=earlier.take([entry.name for entry in task.entries]))


def _without_failures(task: ShardTask, spec: RunSpec) -> ShardTask:
    records = read_shard(shard_path(spec.folder, task.index, spec.kind), spec.kind)
    return replace(task, kept=tuple(None if "error" in r else r for r in records))


def _hash(task: ShardTask, spec: RunSpec) -> str:
    return inputs_hash([identity(entry.name, spec.base) for entry in task.entries])


def _check_folder(facts: ShardFacts, spec: RunSpec, started_in: str) -> None:
    if facts.relative and started_in != spec.base:
        raise ArgumentError(
            f"{spec.out_dir / SETTINGS}: that run was started in {started_in}, and its records "
            "have relative paths; resume it from there"
        )


def _keep_the_rest(
    spec: RunSpec, inputs: Inputs, earlier: Earlier, start: int, size: int, started_in: str
) -> None:
    """Put the records of pictures that are no longer given into shards from number `start` on."""
    earlier.set_aside(start)
    if earlier.empty:
        return
    for task in shards(inputs, size):
        earlier.leave_out([entry.name for entry in task.entries])
    rest = earlier.rest()
    index = start
    while chunk := list(islice(rest, size)):
        _write(spec, index, size, chunk, started_in)
        index += 1


def _write(
    spec: RunSpec, index: int, size: int, records: Sequence[Record], started_in: str
) -> None:
    """Write records that are there already as a shard."""
    names = [record["path"] for record in records]
    facts = ShardFacts(
        shard=index,
        first=index * size,
        pictures=len(records),
        failed=counts_failed(records),
        inputs=inputs_hash([identity(name, started_in) for name in names]),
        relative=any(map(is_relative, names)),
    )
    path = shard_path(spec.folder, index, spec.kind)
    write_shard(path, spec.kind, facts, records, spec.about)
