"""Shard files: a range of the inputs, one record a picture, in the order of the inputs.

A shard is written under a temporary name, synced and renamed: the file is there if, and only if,
its pictures are done. As JSONL its first record also holds `run`: what the shard says of the run
(model, SHA-256, whole recipe, classes) and of itself (`ShardFacts`). It stays a record a line, so
that line readers need no exception; a failed picture is a record with `error` in its place.
As Parquet see `gapcam.batch.parquet`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gapcam.batch.options import ShardKind
from gapcam.formats import Record, read_records, record_line
from gapcam.outputs import replacing
from gapcam.types import ArgumentError

RUN = "run"
"""The key of the first record of a JSONL shard that holds what the shard says of itself."""


@dataclass(frozen=True, slots=True)
class ShardFacts:
    """What a shard says of itself.

    Attributes:
        shard: Its number.
        first: The place of its first picture among the inputs.
        pictures: How many it holds, failures included.
        failed: How many of them failed.
        inputs: A hash of its pictures' identities, in order.
        relative: Whether a path in it only means something in the run's working folder.
    """

    shard: int
    first: int
    pictures: int
    failed: int
    inputs: str
    relative: bool


def shard_name(index: int, kind: ShardKind) -> str:
    """What the file of a shard is called: names sort in the order of the inputs."""
    return f"part-{index:06}.{kind}"


def shard_path(folder: Path, index: int, kind: ShardKind) -> Path:
    """Where a shard is."""
    return folder / shard_name(index, kind)


def shard_files(folder: Path, kind: ShardKind) -> list[int]:
    """The numbers of the shards that are in a folder, sorted."""
    start, end = "part-", f".{kind}"
    names = [entry.name for entry in os.scandir(folder)] if folder.is_dir() else []
    inner = [n[len(start) : -len(end)] for n in names if n.startswith(start) and n.endswith(end)]
    return sorted(int(number) for number in inner if number.isdecimal())


def write_shard(
    path: Path,
    kind: ShardKind,
    facts: ShardFacts,
    records: Sequence[Mapping[str, Any]],
    about: Mapping[str, Any],
) -> None:
    """Write a shard, whole or not at all.

    Raises:
        OutputError: It cannot be written.
    """
    if kind == "parquet":
        from gapcam.batch.parquet import write_parquet

        write_parquet(path, facts, records, about)
        return
    with replacing(path, binary=True) as out:
        for i, record in enumerate(records):
            more = {RUN: {**about, **asdict(facts)}} if i == 0 else {}
            out.write(record_line({**record, **more}).encode("utf-8"))
        out.flush()
        os.fsync(out.fileno())  # a renamed file must not come back empty after a power cut


def read_facts(path: Path, kind: ShardKind) -> ShardFacts | None:
    """What a shard says of itself; None when there is no such shard.

    Raises:
        ArgumentError: It is spoilt.
    """
    if not path.exists():
        return None
    if kind == "parquet":
        from gapcam.batch.parquet import read_parquet_run

        said = read_parquet_run(path)
    else:
        said = next(read_records(path), {}).get(RUN)
    try:
        return ShardFacts(**{key: said[key] for key in ShardFacts.__dataclass_fields__})
    except (TypeError, KeyError) as error:
        raise ArgumentError(_spoilt(path, "a shard that says what it holds")) from error


def read_shard(path: Path, kind: ShardKind) -> list[Record]:
    """The records of a shard, as they were written.

    Raises:
        ArgumentError: It is spoilt.
    """
    facts = read_facts(path, kind)
    if kind == "parquet":
        from gapcam.batch.parquet import read_parquet

        records = read_parquet(path)
    else:
        records = [dict(record) for record in read_records(path)]
        for record in records[:1]:
            del record[RUN]
    if facts is None or len(records) != facts.pictures:
        expected = 0 if facts is None else facts.pictures
        raise ArgumentError(_spoilt(path, f"{expected} records") + f" It has {len(records)}.")
    return records


def shard_lines(path: Path) -> Iterator[bytes]:
    """The lines of a JSONL shard, each as if its record were alone.

    Raises:
        ArgumentError: It is spoilt.
    """
    facts = read_facts(path, "jsonl")
    count = 0
    with path.open("rb") as lines:
        for line in lines:
            count += 1
            if count == 1:
                record = json.loads(line)
                del record[RUN]
                yield record_line(record).encode("utf-8")
            else:
                yield line
    if facts is None or count != facts.pictures:
        raise ArgumentError(_spoilt(path, f"{facts and facts.pictures} records"))


def counts_failed(records: Iterable[Mapping[str, Any]]) -> int:
    """How many records are failures."""
    return sum("error" in record for record in records)


def _spoilt(path: Path, expected: str) -> str:
    return f"{path}: expected {expected}; delete the file, --resume does its pictures again."
