"""From the table of all pairs to the scores: a dictionary that JSON and the report share.

Everything is a fraction in 0..1; `docs/evaluation.md` says what each key means.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from gapcam.evaluate import entries
from gapcam.evaluate.columns import Columns
from gapcam.evaluate.cuts import Centred, Cut
from gapcam.evaluate.groups import groups_of
from gapcam.evaluate.protocols import Protocol
from gapcam.evaluate.table import IOUS, Table
from gapcam.metrics.baselines import best_centred_box, centred_ious
from gapcam.types import BoolArray

Numbers: TypeAlias = npt.NDArray[np.float64]

HIT_ROW = IOUS.index(0.5)
TOP = 5
WHOLE = (1.0, 1.0)


@dataclass(frozen=True, slots=True, eq=False)
class _Row:
    """What one way of making boxes gives for each pair: IoU `[n]`, or hits alone `[3, n]`."""

    key: str
    hits: BoolArray
    ious: Numbers | None = None


def best_threshold(table: Table, protocol: Protocol) -> float:
    """The threshold whose mean accuracy over IoU .3, .5, .7 (one box) is highest; the lowest such.

    For pairs with masks only: the one with the highest IoU of all pixels, pooled.
    """
    if table.boxed.any():
        return float(protocol.thresholds[table.single.accuracy().mean(0).argmax()])
    return best_pixel_threshold(table)


def best_pixel_threshold(table: Table) -> float:
    """The threshold with the highest IoU of all pixels, pooled."""
    curve = table.pixels
    ious = [curve.at(threshold).iou for threshold in curve.thresholds.tolist()]
    return round(float(curve.thresholds[int(np.argmax(ious))]), 3)


def best_centre(table: Table, protocol: Protocol) -> tuple[float, float] | None:
    """The centred box with the highest accuracy at IoU .5, the headline; None without boxes."""
    truths, sizes = truths_of(table, protocol)
    return best_centred_box(truths, sizes, iou=0.5) if truths else None


def truths_of(table: Table, protocol: Protocol) -> tuple[list[Numbers], Numbers]:
    """The true boxes of every pair that has some, and the size of its frame, `[n, 2]`."""
    pairs = [
        (target.boxes, task.example.size_wh)
        for task in table.tasks
        for target in task.example.targets
        if target.boxes
    ]
    frames = [protocol.frame_wh(size_wh) for _, size_wh in pairs]
    sizes = np.array(frames, np.float64).reshape(-1, 2)
    return [protocol.truths(boxes, size_wh) for boxes, size_wh in pairs], sizes


def score(
    table: Table, protocol: Protocol, cuts: Sequence[Cut], centred: Centred | None
) -> entries.Entry:
    """Every score of a table.

    Args:
        table: Of `protocol`, with the IoU kept at the threshold of each of `cuts`, in order.
        protocol: As the table was made.
        cuts: The fixed thresholds; the last is the one that the result is reported at.
        centred: The centred box to stand beside it; None when there are no boxes.
    """
    every = [*cuts, *_free_cuts(table, protocol)]
    columns = Columns(table)
    _add_general(columns, table)
    rows: list[_Row] = []
    if table.boxed.any() and centred is not None:
        rows = _rows(table, protocol, every)
        head, base = rows[len(cuts) - 1], _baseline_rows(table, protocol, centred)
        for row in (*rows, *base):
            _add_row(columns, table, row)
        _add_upper_bounds(columns, table)
        _add_gains(columns, table, head, base)
        for key, inside in groups_of(table).items():
            _add_group(columns, table, key, inside, [head, *base])
    means, ci95 = columns.results()
    return entries.result(
        entries.Numbers95(means, ci95),
        table,
        protocol,
        every,
        cuts[-1],
        centred,
        rows[len(cuts) - 1].ious if rows else None,
    )


def _free_cuts(table: Table, protocol: Protocol) -> list[Cut]:
    """The thresholds that need no choice, and those that make the best of one."""
    oracle = "best on the scored pictures: an upper bound"
    otsu = Cut("otsu", "Otsu on each map: label-free", None)
    if not table.boxed.any():
        return [otsu, Cut("oracle", f"{oracle} (pixel IoU)", best_pixel_threshold(table), True)]
    best = table.single.accuracy()[HIT_ROW].argmax()
    return [otsu, Cut("oracle", f"{oracle} (IoU .5)", float(protocol.thresholds[best]), True)]


def _rows(table: Table, protocol: Protocol, every: Sequence[Cut]) -> list[_Row]:
    """A row a cut; the IoU itself is known at all but the oracle's."""
    rows = []
    for i, cut in enumerate(every):
        if cut.source == "oracle":
            hits = np.zeros((len(IOUS), len(table)), np.bool_)
            at = int(np.flatnonzero(protocol.thresholds == cut.threshold)[0])
            for r, iou in enumerate(IOUS):
                hits[r, table.boxed] = table.single.column(iou, at)
            rows.append(_Row(cut.source, hits))
        else:
            ious = table.otsu_ious if cut.source == "otsu" else table.ious[:, i]
            rows.append(_row(cut.source, ious))
    return rows


def _row(key: str, ious: Numbers) -> _Row:
    return _Row(key, np.stack([ious >= iou for iou in IOUS]), ious)


def _baseline_rows(table: Table, protocol: Protocol, centred: Centred) -> list[_Row]:
    truths, sizes = truths_of(table, protocol)
    shares = np.array([WHOLE, centred.share_wh])
    ious = np.zeros((len(table), 2))
    ious[table.boxed] = centred_ious(shares, truths, sizes)
    return [_row("whole_image", ious[:, 0]), _row("centred_box", ious[:, 1])]


def _add_general(columns: Columns, table: Table) -> None:
    columns.add_any("top1", table.ranks == 0)
    columns.add_any("top5", table.ranks < TOP)
    columns.add("pointing", table.pointing[:, 0])
    columns.add("pointing_15px", table.pointing[:, 1])
    columns.add("energy", table.energy)
    columns.add("centre_pointing", table.centre)


def _add_row(columns: Columns, table: Table, row: _Row) -> None:
    hits = row.hits[HIT_ROW]
    columns.add(f"{row.key}.gt_known", hits, table.boxed)
    for rank, name in ((1, "top1_loc"), (TOP, "top5_loc")):
        columns.add_any(f"{row.key}.{name}", hits & (table.ranks < rank), table.boxed)
    for i, iou in enumerate(IOUS):
        columns.add(f"{row.key}.box_acc.{iou}", row.hits[i], table.boxed)
    if row.ious is not None:
        columns.add(f"{row.key}.mean_iou", row.ious, table.boxed)


def _add_upper_bounds(columns: Columns, table: Table) -> None:
    """MaxBoxAcc and its V2: each IoU with the threshold that is best on these very pictures."""
    v2 = np.zeros(len(table))
    for i, iou in enumerate(IOUS):
        for name, hits in (("max_box_acc", table.single), ("multi", table.multi)):
            column = np.zeros(len(table))
            column[table.boxed] = hits.column(iou, int(hits.accuracy()[i].argmax()))
            columns.add(f"{name}.{iou}", column, table.boxed)
            v2 += column / len(IOUS) if name == "multi" else 0
    columns.add("max_box_acc_v2", v2, table.boxed)


def _add_gains(columns: Columns, table: Table, head: _Row, base: Sequence[_Row]) -> None:
    """By how much GT-known beats each baseline, pair by pair."""
    for row in base:
        gain = head.hits[HIT_ROW].astype(np.float64) - row.hits[HIT_ROW]
        columns.add(f"gain.{row.key}", gain, table.boxed)


def _add_group(
    columns: Columns, table: Table, key: str, inside: BoolArray, rows: Sequence[_Row]
) -> None:
    head, *base = rows
    columns.add(f"{key}.gt_known", head.hits[HIT_ROW], inside)
    columns.add(f"{key}.mean_iou", head.ious if head.ious is not None else 0.0, inside)
    columns.add(f"{key}.pointing", table.pointing[:, 0], inside)
    for row in base:
        columns.add(f"{key}.{row.key}", row.hits[HIT_ROW], inside)
