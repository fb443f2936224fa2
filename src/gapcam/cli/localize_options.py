"""What `gapcam localize` can be told."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer


class Format(str, Enum):
    """What results can be written as."""

    jsonl = "jsonl"
    coco = "coco"
    yolo = "yolo"
    voc = "voc"
    csv = "csv"
    parquet = "parquet"


RECORDS = (None, Format.jsonl, Format.parquet)
"""What a run's records are written as; other formats are made from them."""

PathsArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="PATH...",
        show_default=False,
        help="Pictures: files, folders (searched recursively), glob patterns, .txt lists with one "
        "path a line, CSV or Parquet tables with a column of paths, .tar archives, addresses "
        "(s3://, gs://, https://), or - for a list on standard input.",
    ),
]
TopOption = Annotated[
    int | None,
    typer.Option(
        "--top",
        "-k",
        metavar="K",
        show_default="5, or 1 for coco, yolo, voc and csv",
        help="Localize the K best classes of each picture.",
    ),
]
ClassOption = Annotated[
    list[str] | None,
    typer.Option(
        "--class",
        "-c",
        metavar="NAME",
        show_default=False,
        help="Localize this class, whatever its rank; give it again for more classes.",
    ),
]
OutOption = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        metavar="DIR",
        show_default=False,
        help="Write results into this folder: localizations.jsonl, errors.jsonl where pictures "
        "failed, annotations in the chosen format, overlays and a contact sheet.",
    ),
]
FormatOption = Annotated[
    Format | None,
    typer.Option(
        "--format",
        "-f",
        show_default="a table, or jsonl with --out",
        help="All but jsonl need --out; jsonl without --out goes to standard output. parquet "
        "writes shards, a row a detection.",
    ),
]
OverlaysOption = Annotated[
    bool, typer.Option(help="With --out: draw an overlay of each picture and a contact sheet.")
]
ResumeOption = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="With --out: keep what an earlier run did, do the rest, retry what failed.",
    ),
]
RetryOption = Annotated[
    bool,
    typer.Option(
        "--retry-errors",
        help="With --out: take up a finished run and retry what failed, nothing else.",
    ),
]
ColumnOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        show_default=False,
        help="The column of CSV and Parquet tables that holds the paths.",
    ),
]
ShardsOption = Annotated[
    bool,
    typer.Option(
        "--shards",
        help="With --out: keep the records as shards/part-*.jsonl, each with the model's hash and "
        "recipe, instead of one file.",
    ),
]
ShardSizeOption = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        show_default="512, fewer where there are few",
        help="Pictures a shard: what is written, and lost by a kill, at once.",
    ),
]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        show_default="one a core",
        help="Pictures are read and localized by this many threads; results are the same.",
    ),
]
QuietOption = Annotated[
    bool, typer.Option("--quiet", "-q", help="No progress bar and no summary; failures are named.")
]
JsonLogOption = Annotated[
    bool,
    typer.Option(
        "--json-log",
        help="With --out: started, progress, failure and finished as JSON lines on standard error.",
    ),
]


def class_name(text: str) -> str | int:
    """A class as it was typed: its id where that is a number."""
    return int(text) if text.isdecimal() else text
