"""What an earlier run made of pictures that have since moved to other shards.

Only needed when the inputs have changed between a run and its resumption: then records are found by
their pictures' identities. The index is a file (SQLite), so memory stays flat here too.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from gapcam.batch.options import ShardKind
from gapcam.batch.plan import identity
from gapcam.batch.shards import ShardFacts, read_facts, read_shard, shard_files, shard_path
from gapcam.formats import Record
from gapcam.outputs import output_errors

FOLDER = "earlier"
INDEX = "index.sqlite"
SHARDS_HELD = 4


class Earlier:
    """The records of shards that no longer fit the inputs, by picture.

    Args:
        work: The run's working folder; such shards are set aside below it.
        kind: What shards are written as.
        base: The folder that the relative paths of the records go from.
        here: The folder that the relative paths of pictures asked for go from.
    """

    def __init__(self, work: Path, kind: ShardKind, base: str, here: str) -> None:
        self._work, self._kind, self._base, self._here = work, kind, base, here
        self._folder = work / FOLDER
        self._index: sqlite3.Connection | None = None
        self._read = lru_cache(SHARDS_HELD)(self._read_shard)
        if self._folder.exists():
            self._open()

    @property
    def empty(self) -> bool:
        """Whether there is nothing to be found."""
        return self._index is None

    def set_aside(self, start: int) -> None:
        """Move the shards from number `start` on out of the way, to be found by picture.

        Raises:
            OutputError: They cannot be moved, or the index cannot be written.
        """
        indices = [i for i in shard_files(self._work, self._kind) if i >= start]
        if not indices:
            return
        with output_errors(self._folder):
            self._folder.mkdir(exist_ok=True)
            taken = shard_files(self._folder, self._kind)
            free = taken[-1] + 1 if taken else 0
            for number, index in enumerate(indices, free):
                old = shard_path(self._work, index, self._kind)
                old.replace(shard_path(self._folder, number, self._kind))
        self._open()

    def facts(self) -> Iterator[ShardFacts]:
        """What the shards that were set aside say of themselves."""
        for number in shard_files(self._folder, self._kind):
            facts = read_facts(shard_path(self._folder, number, self._kind), self._kind)
            if facts is not None:
                yield facts

    def take(self, names: Sequence[str]) -> tuple[Record | None, ...]:
        """The records of pictures by name, None where there is none."""
        if self._index is None:
            return (None,) * len(names)
        query = "SELECT shard, line FROM records WHERE id = ?"
        found = [self._index.execute(query, (key,)).fetchone() for key in self._keys(names)]
        return tuple(at and self._read(at[0])[at[1]] for at in found)

    def leave_out(self, names: Sequence[str]) -> None:
        """These pictures are given: their records are not among the rest."""
        if self._index is not None:
            keys = [(key,) for key in self._keys(names)]
            self._index.execute("BEGIN")
            self._index.executemany("DELETE FROM records WHERE id = ?", keys)
            self._index.execute("COMMIT")

    def rest(self) -> Iterator[Record]:
        """The records that were not left out, in order."""
        if self._index is not None:
            query = "SELECT shard, line FROM records ORDER BY shard, line"
            for shard, line in self._index.execute(query):
                yield self._read(shard)[line]

    def close(self) -> None:
        """Close the index."""
        if self._index is not None:
            self._index.close()

    def _keys(self, names: Sequence[str]) -> list[bytes]:
        return [_key(name, self._here) for name in names]

    def _read_shard(self, number: int) -> list[Record]:
        return read_shard(shard_path(self._folder, number, self._kind), self._kind)

    def _open(self) -> None:
        """Make the index of what was set aside."""
        self.close()
        self._read.cache_clear()
        path = self._folder / INDEX
        with output_errors(path):
            path.unlink(missing_ok=True)
            try:
                self._index = self._filled(path)
            except sqlite3.OperationalError as error:
                raise OSError(str(error)) from error

    def _filled(self, path: Path) -> sqlite3.Connection:
        index = sqlite3.connect(path, isolation_level=None)
        index.execute("PRAGMA journal_mode = OFF")  # made anew after a kill
        index.execute("PRAGMA synchronous = OFF")
        index.execute(
            "CREATE TABLE records (id BLOB PRIMARY KEY, shard INT, line INT) WITHOUT ROWID"
        )
        for number in shard_files(self._folder, self._kind):
            rows = [
                (_key(record["path"], self._base), number, line)
                for line, record in enumerate(self._read_shard(number))
                if "error" not in record
            ]
            index.execute("BEGIN")
            index.executemany("INSERT OR IGNORE INTO records VALUES (?, ?, ?)", rows)
            index.execute("COMMIT")
        return index


def _key(name: str, base: str) -> bytes:
    return hashlib.sha256(os.fsencode(identity(name, base))).digest()[:16]
