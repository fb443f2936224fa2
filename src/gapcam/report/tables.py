"""From a result to its tables: thresholds side by side, groups of pictures, classes.

Pure functions. A column without any value is left out, and so is a table without columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from gapcam.report.scores import (
    IOUS,
    Result,
    Score,
    Ticks,
    baseline_ticks,
    cut_bound,
    has_boxes,
    is_upper_bound,
    ticks_of,
)
from gapcam.report.words import bare_percent, count, cut

_NOT_SCORED = "not scored for this rule"
_SOURCES = {"recipe": "Recipe", "selection": "Selection set", "otsu": "Otsu", "oracle": "Oracle"}


class Column(NamedTuple):
    """A column: its heading, and the keys under which a row has its value."""

    title: str
    path: tuple[str, ...]


class ThresholdRow(NamedTuple):
    """One way to choose a threshold, and what comes of it.

    Attributes:
        title: Where the threshold comes from.
        words: The same in full.
        cut: The threshold.
        bound: Whether it was chosen on the scored pictures.
        headline: Whether the result is reported at it.
        lead: The score in the first column, which is drawn.
        cells: Those in the other columns, as texts.
    """

    title: str
    words: str
    cut: str
    bound: bool
    headline: bool
    lead: Score
    cells: list[str]


class BreakdownRow(NamedTuple):
    """One group of pairs: its name, how many, the score that is drawn, the others as texts."""

    name: str
    n: str
    lead: Score
    cells: list[str]


class Breakdown(NamedTuple):
    """Scores by a property of the picture: headings of the score columns, and rows."""

    title: str
    words: str
    columns: list[str]
    rows: list[BreakdownRow]
    bound: bool


class ClassTable(NamedTuple):
    """Scores by class.

    Attributes:
        columns: Headings, each with how it is sorted: `text` or `number`.
        rows: Texts, the class first.
        gaps: Whether a cell has no value.
        bound: Whether what depends on the threshold is an upper bound.
    """

    columns: list[tuple[str, str]]
    rows: list[list[str]]
    gaps: bool
    bound: bool


_THRESHOLD_COLUMNS = (
    Column("GT-known Loc", ("gt_known",)),
    Column("Top-1 Loc", ("top1_loc",)),
    Column("Top-5 Loc", ("top5_loc",)),
    Column("Mean IoU", ("mean_iou",)),
    *(Column(f"IoU ≥ {iou}", ("box_acc", iou)) for iou in IOUS if iou != "0.5"),  # is GT-known
    Column("Mask precision", ("mask", "precision")),
    Column("Mask recall", ("mask", "recall")),
    Column("Mask IoU", ("mask", "iou")),
)
_MEASURES = (
    Column("GT-known Loc", ("gt_known",)),
    Column("Mean IoU", ("mean_iou",)),
    Column("Pointing game", ("pointing",)),
)
_CLASS_COLUMNS = (Column("Top-1", ("top1",)), Column("Top-1 Loc", ("top1_loc",)), *_MEASURES)


def value_at(entry: Any, path: Sequence[str]) -> float | None:
    """What a row has under these keys; None where the way ends early."""
    for key in path:
        if entry is None:
            return None
        entry = entry[key]
    value: float | None = entry
    return value


def _used(columns: Iterable[Column], rows: Sequence[Mapping[str, Any]]) -> list[Column]:
    return [c for c in columns if any(value_at(row, c.path) is not None for row in rows)]


def _cells(columns: Iterable[Column], row: Mapping[str, Any]) -> list[str]:
    return [bare_percent(value_at(row, column.path)) for column in columns]


def threshold_table(result: Result) -> tuple[list[str], list[ThresholdRow]]:
    """Headings of the score columns, and rows, of the thresholds side by side.

    The first score is GT-known Loc, or with masks only the mask's IoU.
    """
    rows = result["thresholds"]
    columns = _used(_THRESHOLD_COLUMNS, rows)
    if not columns:
        return [], []
    lead = columns.pop(0 if has_boxes(result) else -1)
    titles = [lead.title, *(column.title for column in columns)]
    return titles, [_threshold_row(result, row, lead, columns) for row in rows]


def _threshold_row(
    result: Result, row: Mapping[str, Any], lead: Column, columns: Iterable[Column]
) -> ThresholdRow:
    bound = cut_bound(result, row)
    title = _SOURCES.get(row["source"], row["source"])
    interval = row["gt_known_ci95"] if has_boxes(result) else None
    ticks = ticks_of(result, "gt_known")
    name = f"{title}: {lead.title}"
    return ThresholdRow(
        title,
        row["words"],
        "one a map" if row["threshold"] is None else cut(row["threshold"]),
        bound,
        row["headline"],
        Score(name, "", value_at(row, lead.path), interval, bound, "dot", ticks, _NOT_SCORED),
        _cells(columns, row),
    )


def breakdowns(result: Result) -> list[Breakdown]:
    """Scores by size and by number of objects, where there are any."""
    tables = (
        ("by_size", "By size of the object", "The share of the picture that the object covers."),
        ("by_count", "By number of objects", "How many objects of the class the picture holds."),
    )
    shown = [_breakdown(result, *table) for table in tables]
    return [table for table in shown if table.rows]


def _breakdown(result: Result, key: str, title: str, words: str) -> Breakdown:
    rows = result[key] or []
    columns = _used(_MEASURES, rows)
    if not columns:
        return Breakdown(title, words, [], [], bound=False)
    lead, *others = columns
    bound = is_upper_bound(result, "gt_known")
    views = [
        BreakdownRow(
            row["bin"], count(row["n"]), _group_score(result, row, lead), _cells(others, row)
        )
        for row in rows
    ]
    return Breakdown(title, words, [column.title for column in columns], views, bound)


def _group_score(result: Result, row: Mapping[str, Any], lead: Column) -> Score:
    key = lead.path[0]
    known = key == "gt_known"
    ticks: Ticks = ()
    if known:
        ticks = baseline_ticks(result, row["whole_image"], row["centred_box"])
    interval = row["gt_known_ci95"] if known else None
    bound = is_upper_bound(result, key)
    name = f"{row['bin']}: {lead.title}"
    return Score(name, "", row[key], interval, bound, "bar", ticks)


def class_table(result: Result) -> ClassTable:
    """Scores by class, in the result's order."""
    rows = result["by_class"]
    columns = _used(_CLASS_COLUMNS, rows)
    titles = [("Class", "text"), ("Id", "number"), ("Pairs", "number")]
    titles += [(f"{column.title} (%)", "number") for column in columns]
    texts = [
        [str(row["class"]), str(row["class_id"]), str(row["n"]), *_cells(columns, row)]
        for row in rows
    ]
    gaps = any(value_at(row, column.path) is None for row in rows for column in columns)
    return ClassTable(titles, texts, gaps, is_upper_bound(result, "gt_known"))
