"""Pooled features of many pictures, computed once and kept in a file that survives a kill.

A head-only run never changes the trunk, so a picture's features are computed once. They go into
`features.npy`, rows in order; `features.json` says what they are of and how many rows are whole.
Rows are written and synced to the disk before the count that covers them, and the count replaces
its file at once, so that a kill at any moment loses at most the chunks that were under way, one
more than there are threads. Chunks begin at the same rows in every run: a run that is taken up
again gives the same bytes.

Rows are written like any file, not through a memory map: on a full disk a map ends the process
with a signal, a write gives an error.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gapcam.outputs import output_errors, replacing
from gapcam.parallel import CHUNK, in_chunks
from gapcam.types import (
    ArgumentError,
    ByteArray,
    FloatArray,
    IntArray,
    ModelError,
    OutputError,
    PictureError,
    SizeHW,
)

if TYPE_CHECKING:
    from gapcam.engines import Engine
    from gapcam.training.labelled import LabelledSet
    from gapcam.training.plan import Pool, Progress

VALUES = "features.npy"
STATE = "features.json"
FORMAT = 1
TAP_SHARE = 0.1
LARGE_BYTES = 2**30
"""From here on a note says how much room the features take."""

_OTHER = {
    "format": "another version of gapcam",
    "model": "another model",
    "pictures": "other or changed pictures",
    "input_size_hw": "another input size",
    "pool": "another pool",
    "share": "another share of tap",
}
"""What another value of a key of the state means."""

Read = Callable[[Path], ByteArray]


@dataclass(frozen=True, slots=True, eq=False)
class PooledFeatures:
    """The pooled features of some pictures of a data set.

    Attributes:
        values: `[n, K]`, a read-only memory map of the file; row i is of picture `indices[i]`.
        indices: Of the pictures in the data set, `[n]`.
        notes: What was chosen for the user, in words.
    """

    values: FloatArray
    indices: IntArray
    notes: tuple[str, ...]

    def rows(self, indices: IntArray) -> IntArray:
        """The rows `[m]` that hold pictures `indices [m]` of the data set.

        Raises:
            ArgumentError: A picture has no row.
        """
        order = np.argsort(self.indices, kind="stable")
        places = np.searchsorted(self.indices, indices, sorter=order)
        found: IntArray = order[np.minimum(places, len(order) - 1)]
        missing = indices[self.indices[found] != indices]
        if len(missing):
            raise ArgumentError(f"picture {missing[0]} of the data set: it has no features here")
        return found


def pool_features(features: FloatArray, pool: Pool, share: float = TAP_SHARE) -> FloatArray:
    """One number a channel: `[B, K, h, w]` to `[B, K]`.

    `gap`: the mean (Zhou et al., CVPR 2016). `gmp`: the maximum (Oquab et al., CVPR 2015). `tap`:
    the mean of the positions above `share` times the channel's maximum (Bae et al., ECCV 2020,
    equation 3), 0 where there is none.

    Args:
        features: The trunk's, `[B, K, h, w]`.
        pool: `gap`, `gmp` or `tap`.
        share: Of `tap`, 0 up to 1.

    Raises:
        ArgumentError: Another pool: `lse` pools class maps, not features.
    """
    if pool == "gap":
        mean: FloatArray = features.mean((2, 3))
        return mean
    highest: FloatArray = features.max((2, 3))
    if pool == "gmp":
        return highest
    if pool == "tap":
        above = features > np.float32(share) * highest[:, :, None, None]
        count = np.maximum(above.sum((2, 3)), 1).astype(np.float32)
        pooled: FloatArray = np.where(above, features, np.float32(0)).sum((2, 3)) / count
        return pooled
    raise ArgumentError(
        f"pool {pool}: a head alone can be fitted on gap, gmp and tap, which pool features before "
        f"the head; {pool} does not. Add --finetune, or use --pool gap"
    )


def pooled_features(
    engine: Engine,
    data: LabelledSet,
    indices: IntArray,
    read: Read,
    size_hw: SizeHW,
    folder: Path,
    pool: Pool = "gap",
    *,
    share: float = TAP_SHARE,
    progress: Progress = lambda *_: None,
    workers: int | None = None,
) -> PooledFeatures:
    """Compute the pooled features of pictures, or take up and reuse what an earlier run computed.

    Each thread takes a chunk from file to features, a bounded number of chunks ahead; that is
    fastest with an engine of one thread (decision 0004).

    Args:
        engine: Gives the features; used by several threads at once.
        data: Its names and paths are used.
        indices: Which pictures, `[n]`, each once.
        read: Gives the pixels of a file, squashed to `size_hw`; called by several threads at once.
        size_hw: The input size, pixels.
        folder: Where `features.npy` and `features.json` are kept.
        pool: `gap`, `gmp` or `tap`, as `pool_features`.
        share: Of `tap`.
        progress: Called with each picture.
        workers: Threads; one a core when None.

    Returns:
        The features. Those that the folder holds of another model, of other or changed pictures,
        or that are damaged, are computed anew, and a note says so.

    Raises:
        ArgumentError: No pictures, or a pool that has no pooled features.
        PictureError: A picture cannot be read. What is done stays.
        ModelError: A feature is not finite, or the engine does not give `[B, K, h, w]`.
        OutputError: The disk is full or the folder cannot be written. What is done stays.
    """
    if not len(indices):
        raise ArgumentError("features: expected at least one picture, got none")
    pool_features(np.zeros((1, 1, 1, 1), np.float32), pool, share)  # refuses a pool before work
    names = [data.names[i] for i in indices]
    paths = [data.paths[i] for i in indices]
    subject = _subject(engine, names, paths, size_hw, pool, share)
    store = _Store(folder, subject, len(paths))
    work = _Work(engine, read, size_hw, pool, share)
    start = store.done
    progress("computing features", start, len(paths))
    # An iterator, not a sequence: chunks then have the same rows whatever is left to do.
    rows = in_chunks(work, iter(list(zip(names, paths, strict=True))[start:]), workers)
    with closing(rows), closing(store):
        for number, row in enumerate(rows, start + 1):
            store.append(row)
            progress("computing features", number, len(paths))
    return PooledFeatures(store.load(), np.asarray(indices, np.int64), tuple(store.notes))


@dataclass(frozen=True, slots=True)
class _Work:
    """From files to pooled features, in one thread."""

    engine: Engine
    read: Read
    size_hw: SizeHW
    pool: Pool
    share: float

    def __call__(self, chunk: Sequence[tuple[str, Path]]) -> Sequence[FloatArray]:
        pixels = np.stack([self._pixels(name, path) for name, path in chunk])
        features = self.engine.run(pixels).features
        if features.ndim != 4 or len(features) != len(chunk):
            raise ModelError(
                f"features: expected [{len(chunk)}, K, h, w], the engine gave "
                f"{list(features.shape)}; choose another layer of this model"
            )
        finite = np.isfinite(features).all((1, 2, 3))
        if not finite.all():
            name = chunk[int(finite.argmin())][0]
            raise ModelError(f"{name}: its features are not all finite; check the model's weights")
        return list(pool_features(features, self.pool, self.share).astype(np.float32, copy=False))

    def _pixels(self, name: str, path: Path) -> ByteArray:
        try:
            pixels = self.read(path)
        except PictureError as error:
            raise PictureError(
                f"{name}: could be read when the data was inspected, and no longer can ({error}). "
                "Put it back and resume, or start anew without it"
            ) from error
        if pixels.shape != (*self.size_hw, 3):
            raise ArgumentError(
                f"{name}: expected pixels {[*self.size_hw, 3]}, got {list(pixels.shape)}"
            )
        return pixels


def _subject(
    engine: Engine,
    names: Sequence[str],
    paths: Sequence[Path],
    size_hw: SizeHW,
    pool: Pool,
    share: float,
) -> dict[str, Any]:
    """All that the features depend on, JSON-ready."""
    digest = hashlib.sha256()
    for name, path in zip(names, paths, strict=True):
        try:
            status = path.stat()
        except OSError as error:
            raise PictureError(f"{name}: cannot be read ({error}); put it back") from error
        fields = (os.fsencode(name).hex(), status.st_size, status.st_mtime_ns)
        digest.update(json.dumps(fields).encode())
    return {
        "format": FORMAT,
        "model": engine.fingerprint,
        "pictures": digest.hexdigest(),
        "input_size_hw": list(size_hw),
        "pool": pool,
        "share": share if pool == "tap" else None,
    }


class _Store:
    """The rows on the disk and the state that says how many of them are whole.

    Args:
        folder: Where; made when missing.
        subject: What the rows depend on.
        count: How many rows there will be, n.
    """

    def __init__(self, folder: Path, subject: Mapping[str, Any], count: int) -> None:
        self._values = folder / VALUES
        self._state = folder / STATE
        self._subject = subject
        self._count = count
        self._pending: list[bytes] = []
        self.notes: list[str] = []
        self.done = 0
        self._checksum = 0
        with output_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self._take_up()
        with output_errors(self._values):
            if not self.done:  # the state first, or it could pass for the state of new rows
                self._state.unlink(missing_ok=True)
            self._file = self._values.open("r+b" if self.done else "w+b", buffering=0)
            self._file.seek(0, os.SEEK_END)

    def append(self, row: FloatArray) -> None:
        """Add a row; a whole chunk, and the last, goes to the disk.

        Raises:
            OutputError: It cannot be written.
        """
        if not self.done and not self._pending:
            self._begin(len(row))
        self._pending.append(row.astype("<f4").tobytes())
        if len(self._pending) == CHUNK or self.done + len(self._pending) == self._count:
            self._write()

    def load(self) -> FloatArray:
        """All rows `[n, K]`, read-only."""
        with output_errors(self._values):
            values: FloatArray = np.load(self._values, mmap_mode="r")
        return values

    def close(self) -> None:
        """Close the file; rows of a chunk that is not whole are left out."""
        with output_errors(self._values):
            self._file.close()

    def _begin(self, channels: int) -> None:
        """Write the header of the whole array, when there is room for its rows."""
        size = 4 * channels * self._count
        with output_errors(self._values):
            free = shutil.disk_usage(self._values.parent).free
        if size > free:
            raise OutputError(
                f"{self._values}: the features take {_in_words(size)}, the disk has "
                f"{_in_words(free)} left; free some space, or choose another output folder"
            )
        if size >= LARGE_BYTES:
            self.notes.append(f"{VALUES} takes {_in_words(size)}")
        header = {"descr": "<f4", "fortran_order": False, "shape": (self._count, channels)}
        with output_errors(self._values):
            np.lib.format.write_array_header_1_0(self._file, header)

    def _write(self) -> None:
        chunk = b"".join(self._pending)
        checksum = zlib.crc32(chunk, self._checksum)
        done = self.done + len(self._pending)
        with output_errors(self._values):
            _write_all(self._file, chunk)
            os.fsync(self._file.fileno())
        with replacing(self._state) as out:
            out.write(json.dumps({**self._subject, "rows": done, "crc32": checksum}) + "\n")
        self.done, self._checksum = done, checksum
        self._pending.clear()

    def _take_up(self) -> None:
        """Keep the whole rows of an earlier run, if they are of the same and undamaged."""
        state = self._earlier()
        if state is None:
            return
        other = [key for key, value in self._subject.items() if state.get(key) != value]
        rows, end = state.get("rows"), None
        if not other:
            end = self._end_of(rows, state.get("crc32"))
        if end is None:
            why = f"of {' and '.join(_OTHER[key] for key in other)}" if other else "damaged"
            self.notes.append(f"the features in {self._values} were {why}: computed anew")
            return
        with output_errors(self._values):
            os.truncate(self._values, end)  # rows that were written and not counted
        self.done, self._checksum = int(state["rows"]), int(state["crc32"])

    def _earlier(self) -> dict[str, Any] | None:
        """The state of an earlier run; None where there is none, empty where it is damaged."""
        try:
            found = json.loads(self._state.read_text("utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            return dict(self._subject)
        return found if isinstance(found, dict) else dict(self._subject)

    def _end_of(self, rows: object, checksum: object) -> int | None:
        """Where that many rows end, bytes; None where the file does not hold just these."""
        whole = isinstance(rows, int) and (rows == self._count or rows % CHUNK == 0)
        if not isinstance(rows, int) or not whole or not 0 < rows <= self._count:
            return None
        try:
            with self._values.open("rb") as file:
                np.lib.format.read_magic(file)
                shape, fortran, kind = np.lib.format.read_array_header_1_0(file)
                if fortran or kind != np.dtype("<f4") or len(shape) != 2 or shape[0] != self._count:
                    return None
                size = 4 * rows * shape[1]
                found, left = 0, size
                while left and (block := file.read(min(left, 2**20))):
                    found = zlib.crc32(block, found)
                    left -= len(block)
                return file.tell() if not left and found == checksum else None
        except (OSError, ValueError):
            return None


def _write_all(file: Any, data: bytes) -> None:
    """A file without a buffer may take a part of the bytes."""
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]


def _in_words(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
