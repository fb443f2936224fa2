"""Tables with a column of paths: CSV, TSV, Parquet."""

# Imports pyarrow inside functions: only Parquet needs it.

from __future__ import annotations

import csv
import io
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from typing import IO, Any, Final

from gapcam.types import ArgumentError

TABLE_SUFFIXES: Final = (".csv", ".tsv", ".parquet", ".pq")
PATH_COLUMNS: Final = (
    *("image", "path", "file", "filename", "file_name", "filepath", "file_path"),
    *("image_path", "image_file", "url", "image_url", "uri"),
)
"""What a column of paths is called when none is named; the first that is there is taken."""
_ROWS: Final = 1 << 16


def paths_in_table(name: str, file: IO[bytes], column: str | None) -> Iterator[str]:
    """The paths in a table, row by row, as they are written there.

    Args:
        name: What messages call the table; its suffix says what it is.
        file: The table, at its start; a Parquet table can be sought in.
        column: The column's name; None: the first of `PATH_COLUMNS`, whatever its case.

    Raises:
        ArgumentError: It is not such a table, has no such column, no rows, or a row without a path.
    """
    is_parquet = name.lower().endswith((".parquet", ".pq"))
    values = _parquet(name, file, column) if is_parquet else _csv(name, file, column)
    row = 0
    with closing(values):
        for row, value in enumerate(values, 1):
            if not isinstance(value, str) or not value.strip() or "\0" in value:
                got = "nothing" if value is None or not str(value).strip() else repr(value)
                raise ArgumentError(
                    f"{name}: row {row}: expected the path of a picture, got {got}; "
                    "fill it in, or remove the row"
                )
            yield value.strip()
    if not row:
        raise ArgumentError(
            f"{name}: expected rows that name pictures, the table has none; fill it"
        )


def _chosen(name: str, columns: Sequence[str], column: str | None) -> int:
    lowered = [each.strip().lower() for each in columns]
    if column is not None:
        places = [i for i, each in enumerate(columns) if each.strip() == column]
    else:
        known = next((each for each in PATH_COLUMNS if each in lowered), None)
        places = [i for i, each in enumerate(lowered) if each == known]
    if len(places) == 1:
        return places[0]
    wanted = "a column of paths" if column is None else f"a column {column!r}"
    have = ", ".join(map(repr, columns[:30])) + (", ..." if len(columns) > 30 else "")
    twice = f", {len(places)} of them fit" if places else ""
    raise ArgumentError(
        f"{name}: expected {wanted}, it has the columns {have}{twice}; name one with --column"
    )


# --- CSV --------------------------------------------------------------------------------------


def _csv(name: str, file: IO[bytes], column: str | None) -> Generator[Any, None, None]:
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    try:
        header = text.readline()
        separator = "\t" if name.lower().endswith(".tsv") else max(",;\t", key=header.count)
        columns = next(csv.reader([header], delimiter=separator), [])
        if not columns:
            raise ArgumentError(f"{name}: expected a table with a line of headings, it is empty")
        place = _chosen(name, columns, column)
        rows = csv.reader(text, delimiter=separator)
        yield from (row[place] if place < len(row) else None for row in rows if row)
    except UnicodeDecodeError as error:
        raise ArgumentError(
            f"{name}: expected a table as UTF-8 text, it is not; save it as UTF-8"
        ) from error
    except csv.Error as error:
        raise ArgumentError(
            f"{name}: expected a CSV table, it is broken ({error}); mend it"
        ) from error
    finally:
        text.detach()


# --- Parquet ----------------------------------------------------------------------------------


def _parquet(name: str, file: IO[bytes], column: str | None) -> Generator[Any, None, None]:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise ArgumentError(
            f"{name}: pyarrow is not installed, and Parquet tables need it. "
            "Run: pip install 'gapcam[scale]'"
        ) from error
    try:
        table = parquet.ParquetFile(file)
        columns = table.schema_arrow.names
        chosen = columns[_chosen(name, columns, column)]
        kind = table.schema_arrow.field(chosen).type
        if not _is_text(kind):
            raise ArgumentError(
                f"{name}: expected paths as text in the column {chosen!r}, it has {kind}; "
                "name another with --column"
            )
        for batch in table.iter_batches(_ROWS, columns=[chosen]):
            yield from batch.column(0).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise ArgumentError(
            f"{name}: expected a Parquet table, it is not one or broken "
            f"({' '.join(str(error).split())[:200]}); write it again"
        ) from error


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))
