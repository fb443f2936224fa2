"""Shards as Parquet: one row a detection, plain columns that pandas, DuckDB and Spark read.

A picture without a box for a class still has the row, with nulls; a failed picture is one row with
`error_kind` and `error`, all else null. So every picture is there, and `WHERE error IS NULL` leaves
the good ones. `picture` is the place of the picture among the inputs: rows that share it are one
picture's, best class first. `model`, `model_sha256` and `recipe` are columns; the whole recipe is
in the file's metadata, as JSON under the key `gapcam`.

Imported only where Parquet is written or read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gapcam.formats import Record
from gapcam.outputs import replacing
from gapcam.types import ArgumentError

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ModuleNotFoundError as missing:
    raise ArgumentError(
        f"{missing.name} is not installed, and Parquet needs it. Run: pip install 'gapcam[scale]'"
    ) from missing

if TYPE_CHECKING:
    from gapcam.batch.shards import ShardFacts

METADATA = b"gapcam"
BOX = ("x0", "y0", "x1", "y1")
PEAK = ("peak_x", "peak_y")

SCHEMA = pa.schema(
    [
        pa.field("picture", pa.int64(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("rank", pa.int32()),
        pa.field("label", pa.dictionary(pa.int32(), pa.string())),
        pa.field("class_id", pa.int32()),
        pa.field("score", pa.float64()),
        *(pa.field(side, pa.float64()) for side in (*BOX, *PEAK)),
        pa.field("mask", pa.string()),
        pa.field("notes", pa.list_(pa.string())),
        pa.field("error_kind", pa.string()),
        pa.field("error", pa.string()),
        pa.field("path_bytes", pa.binary()),
        pa.field("model", pa.dictionary(pa.int32(), pa.string())),
        pa.field("model_sha256", pa.dictionary(pa.int32(), pa.string())),
        pa.field("recipe", pa.dictionary(pa.int32(), pa.string())),
    ]
)
"""The columns; `docs/scale.md` says what each holds."""


def write_parquet(
    path: Path,
    facts: ShardFacts,
    records: Sequence[Mapping[str, Any]],
    about: Mapping[str, Any],
) -> None:
    """Write a shard, whole or not at all.

    Raises:
        OutputError: It cannot be written.
    """
    said = json.dumps({**about, **asdict(facts)})
    rows = [row for i, record in enumerate(records) for row in _rows(record, facts.first + i)]
    sha256 = about["model_sha256"]
    for row in rows:
        row["model_sha256"] = sha256
    table = pa.Table.from_pylist(rows, schema=SCHEMA.with_metadata({METADATA: said.encode()}))
    with replacing(path, binary=True) as out:
        pq.write_table(table, out, compression="zstd")
        out.flush()
        os.fsync(out.fileno())


def read_parquet_run(path: Path) -> Any:
    """What a shard says of the run and of itself; None where it says nothing.

    Raises:
        ArgumentError: It is not a Parquet file.
    """
    try:
        metadata = pq.read_schema(path).metadata or {}
        return json.loads(metadata.get(METADATA, b"null"))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ArgumentError(
            f"{path}: expected a Parquet file that gapcam wrote ({error}); delete it, --resume "
            "does its pictures again"
        ) from error


def read_parquet(path: Path) -> list[Record]:
    """The records of a shard, as they were before they were rows."""
    rows = pq.read_table(path, partitioning=None).to_pylist()
    return [_record(list(group)) for _, group in groupby(rows, lambda row: row["picture"])]


def _rows(record: Mapping[str, Any], place: int) -> Iterator[Record]:
    """The rows of a picture: one a detection, at least one."""
    shared = {"picture": place, "path": _shown(record["path"])}
    if shared["path"] != record["path"]:
        shared["path_bytes"] = os.fsencode(record["path"])
    if "error" in record:
        error = record["error"]
        yield {**shared, "error_kind": error["kind"], "error": _shown(error["message"])}
        return
    shared |= {key: record[key] for key in ("width", "height", "model", "recipe")}
    shared["notes"] = record.get("notes")
    for rank, found in enumerate(record["detections"]):
        yield {**shared, "rank": rank, **_found_row(found)}
    if not record["detections"]:
        yield shared


def _found_row(found: Mapping[str, Any]) -> Record:
    places = (*_numbers(BOX, found["box"]), *_numbers(PEAK, found["peak"]))
    mask = found.get("segmentation")
    row = {key: found[key] for key in ("label", "class_id", "score")} | dict(places)
    return row | ({} if mask is None else {"mask": mask["counts"]})


def _numbers(names: Sequence[str], values: Iterable[float] | None) -> Iterable[tuple[str, float]]:
    return () if values is None else zip(names, values, strict=True)


def _record(rows: Sequence[Record]) -> Record:
    first = rows[0]
    odd = first["path_bytes"]
    path = first["path"] if odd is None else os.fsdecode(odd)
    if first["error"] is not None:
        error = {"kind": first["error_kind"], "message": first["error"]}
        return {"path": path, "error": error}
    record = {"path": path, **{k: first[k] for k in ("width", "height", "model", "recipe")}}
    record["detections"] = [_found(row) for row in rows if row["label"] is not None]
    return record | ({"notes": first["notes"]} if first["notes"] else {})


def _found(row: Record) -> Record:
    box, peak = [row[side] for side in BOX], [row[side] for side in PEAK]
    found = {
        **{key: row[key] for key in ("label", "class_id", "score")},
        "box": None if box[0] is None else box,
        "peak": None if peak[0] is None else peak,
    }
    counts = row.get("mask")
    size = [row["height"], row["width"]]
    return found | ({} if counts is None else {"segmentation": {"size": size, "counts": counts}})


def _shown(text: str) -> str:
    r"""Text as UTF-8 can hold it: bytes of odd file names as `\udcXX`."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
