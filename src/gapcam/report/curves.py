"""From a result to its charts: accuracy at every threshold, precision and recall, the histogram.

Pure functions. Values that the page shows when a reader points at a threshold travel as texts of
numbers (`data-` attributes), thinned so that the page stays small.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from gapcam.report.charts import Curve, Mark, histogram, plot, thinned
from gapcam.report.scores import IOUS, Result, cut_bound, headline_row
from gapcam.report.words import count, counted, cut, percent

HIT = 0.5
"""The IoU from which a box counts in every score that names none."""


class Reading(NamedTuple):
    """A line of a chart's legend: its name, the value at the headline threshold, and all values.

    Attributes:
        name: What the line is called.
        series: Its class in the style sheet; empty for the position itself.
        dashed: Whether it is drawn dashed.
        text: The value where the cursor stands at first.
        values: All values, blank-separated, `-` where there is none.
        percent: Whether they are shown as percent.
    """

    name: str
    series: str
    dashed: bool
    text: str
    values: str
    percent: bool = True


class Chart(NamedTuple):
    """A chart that can be read off at every position.

    Attributes:
        svg: The chart.
        places: Positions of the values on x, blank-separated, 0..1.
        start: Index of the position where the cursor stands at first.
        readings: The legend; the first line is the position's own name.
        oracle: Whether a hollow mark is drawn.
        headline: Whether a filled mark is drawn.
    """

    svg: Markup
    places: str
    start: int
    readings: list[Reading]
    oracle: bool
    headline: bool


def accuracy_chart(result: Result) -> Chart | None:
    """Accuracy at every threshold, one box and any box; None without boxes."""
    curves = result["curves"]
    if curves is None or not curves["single"]:
        return None
    keep = thinned(len(curves["thresholds"]))
    xs = [curves["thresholds"][i] for i in keep]
    lines = [
        Curve(f"iou-{iou[2:]}", xs, [curves[kind][iou][i] for i in keep], kind == "multi", label)
        for kind in ("multi", "single")
        for iou in IOUS
        for label in [f"IoU ≥ {iou}" if kind == "single" else ""]
    ]
    head, marks = headline_row(result), _accuracy_marks(result)
    start = _nearest(xs, head["threshold"])
    svg = plot(
        "Accuracy at every threshold",
        _peaks_in_words(curves),
        lines,
        marks,
        ("threshold, fraction of the normalized map", "accuracy, %"),
        head["threshold"],
    )
    readings = [_position("threshold", xs, start, head["threshold"])]
    readings += [_reading(line, start, head) for line in (*lines[3:], *lines[:3])]
    return _chart(svg, xs, start, readings, marks)


def _accuracy_marks(result: Result) -> list[Mark]:
    return [
        Mark(
            row["threshold"],
            row["box_acc"][iou],
            f"IoU ≥ {iou}, {row['source']} threshold {cut(row['threshold'])}: "
            f"{percent(row['box_acc'][iou])}{', an upper bound' if bound else ''}",
            f"iou-{iou[2:]}",
            bound,
        )
        for row in _marked_rows(result)
        for bound in [cut_bound(result, row)]
        for iou in IOUS
        if row["box_acc"][iou] is not None
    ]


def _marked_rows(result: Result) -> list[Mapping[str, Any]]:
    """The oracle's threshold and the headline's, the latter on top."""
    rows = [row for row in result["thresholds"] if row["source"] == "oracle" or row["headline"]]
    return sorted((row for row in rows if row["threshold"] is not None), key=_is_headline)


def _is_headline(row: Mapping[str, Any]) -> bool:
    return bool(row["headline"])


def _peaks_in_words(curves: Mapping[str, Any]) -> str:
    peaks = []
    for iou in IOUS:
        known = [v for v in curves["single"][iou] if v is not None]
        if known:
            at = curves["thresholds"][curves["single"][iou].index(max(known))]
            peaks.append(f"IoU {iou}: highest {percent(max(known))} at threshold {cut(at)}")
    return "One box. " + "; ".join(peaks) + "."


def _reading(line: Curve, start: int, head: Mapping[str, Any]) -> Reading:
    iou = f"0.{line.series.removeprefix('iou-')}"
    value = line.ys[start]
    if not line.dashed and head["threshold"] is not None:
        value = head["box_acc"][iou]
    name = f"IoU ≥ {iou}, {'any box' if line.dashed else 'one box'}"
    return Reading(name, line.series, line.dashed, percent(value), _numbers(line.ys))


def pixel_chart(result: Result) -> Chart | None:
    """Precision and recall of all pixels at every threshold; None without masks."""
    pixel = (result["curves"] or {}).get("pixel")
    if not pixel:
        return None
    points = zip(pixel["thresholds"], pixel["recall"], pixel["precision"], strict=True)
    whole = [point for point in points if None not in point]
    if not whole:
        return None
    kept = [whole[i] for i in thinned(len(whole))]
    cuts, recall, precision = (list(values) for values in zip(*kept, strict=True))
    head, marks = headline_row(result), _pixel_marks(result)
    start = _nearest(cuts, head["threshold"])
    at = head["mask"] or {"precision": precision[start], "recall": recall[start]}
    svg = plot(
        "Precision and recall of pixels",
        f"Area under the curve (PxAP): {percent(result['pxap'])}.",
        [Curve("pixel", recall, precision)],
        marks,
        ("recall", "precision, %"),
        at["recall"],
    )
    readings = [
        _position("threshold", cuts, start, head["threshold"]),
        Reading("precision", "pixel", False, percent(at["precision"]), _numbers(precision)),
        Reading("recall", "", False, percent(at["recall"]), _numbers(recall)),
    ]
    return _chart(svg, recall, start, readings, marks)


def _pixel_marks(result: Result) -> list[Mark]:
    return [
        Mark(
            row["mask"]["recall"],
            row["mask"]["precision"],
            f"{row['source']} threshold {cut(row['threshold'])}: "
            f"precision {percent(row['mask']['precision'])}, "
            f"recall {percent(row['mask']['recall'])}{', an upper bound' if bound else ''}",
            "pixel",
            bound,
        )
        for row in _marked_rows(result)
        for bound in [cut_bound(result, row)]
        if row["mask"] is not None and None not in (row["mask"]["recall"], row["mask"]["precision"])
    ]


def _chart(
    svg: Markup, xs: Sequence[float], start: int, readings: list[Reading], marks: Iterable[Mark]
) -> Chart:
    hollow = {mark.hollow for mark in marks}
    return Chart(svg, _numbers(xs), start, readings, True in hollow, False in hollow)


def _position(name: str, cuts: Sequence[float], start: int, exact: float | None) -> Reading:
    text = cut(cuts[start] if exact is None else exact)
    return Reading(name, "", False, text, _numbers(cuts), percent=False)


def _nearest(values: Sequence[float], wanted: float | None) -> int:
    """The index of the value nearest to the wanted one; the middle one when none is wanted."""
    if wanted is None:
        return len(values) // 2
    return min(range(len(values)), key=lambda i: abs(values[i] - wanted))


def _numbers(values: Iterable[float | None]) -> str:
    return " ".join("-" if value is None else f"{value:.4g}" for value in values)


def iou_chart(result: Result) -> tuple[Markup, str] | None:
    """How the IoU of the predicted boxes is spread, and that in words; None without boxes."""
    bins = result["iou_histogram"]
    if bins is None or not sum(bins["counts"]):
        return None
    total = sum(bins["counts"])
    hits = sum(
        n for low, n in zip(bins["edges"], bins["counts"], strict=False) if low >= HIT - 1e-9
    )
    words = f"{count(hits)} of {counted(total, 'pair')} ({percent(hits / total)}) have IoU ≥ {HIT}."
    title = "IoU of the predicted boxes"
    return histogram(title, words, bins["edges"], bins["counts"], HIT), words
