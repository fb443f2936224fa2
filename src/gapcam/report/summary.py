"""The result in a few sentences, and what a reader must know before believing them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup, escape

from gapcam.report.scores import (
    EVEN_MAP,
    Result,
    baseline_bound,
    cut_bound,
    even_pxap,
    has_boxes,
    headline_row,
    is_upper_bound,
)
from gapcam.report.words import BADGE, NBSP, counted, cut, percent, span


def sentences(result: Result) -> list[Markup]:
    """What came out, in plain words."""
    first = _boxes(result) if has_boxes(result) else _pixels(result)
    return [first, *_classification(result), _threshold(result)]


def banner(result: Result) -> str:
    """What a run that was stopped says of itself; nothing when it was not."""
    if not result["partial"]:
        return ""
    scored, total = counted(result["n"], "picture"), f"{result['n_total']:,}"
    return f"The run was stopped: {scored} of {total} were scored, and every score is over these."


def warnings(result: Result) -> list[str]:
    """What limits the scores: rows left out, pictures that thresholds were chosen on."""
    found = [_left_out(result["data"], "the data set")]
    selection = result["selection"]
    if selection is not None:
        found.append(_left_out(selection, "the selection set"))
        if selection["shared"]:
            shared = counted(selection["shared"], "picture")
            found.append(
                f"{shared} of the selection set are scored as well: "
                "what was chosen there is an upper bound here."
            )
    return [words for words in found if words]


def _left_out(data: Mapping[str, Any], name: str) -> str:
    rows = data.get("left_out") or []
    if not rows:
        return ""
    verb = "was" if len(rows) == 1 else "were"
    return f"{counted(len(rows), 'row')} of {name} {verb} left out, as named below."


def _boxes(result: Result) -> Markup:
    bases = result["baselines"]
    bound = baseline_bound(result, "centred_box")
    return Markup(
        "In {n}{pairs} the class is found with IoU{nbsp}≥{nbsp}0.5 in {value} of cases; "
        "{centred} gets {centred_value}, the whole picture {whole}."
    ).format(
        n=counted(result["n"], "picture"),
        pairs=_pairs(result),
        nbsp=NBSP,
        value=_strong(result, "gt_known"),
        centred="the best centred box" if bound else "a centred box",
        centred_value=_marked(bases["centred_box"]["gt_known"], bound=bound),
        whole=percent(bases["whole_image"]["gt_known"]),
    )


def _pixels(result: Result) -> Markup:
    words = Markup("In {}{} the map ranks the object’s pixels with a PxAP of {}{}{}.")
    even = even_pxap(result)
    return words.format(
        counted(result["n"], "picture"),
        _pairs(result),
        _strong(result, "pxap"),
        "" if even is None else f"; {EVEN_MAP} gets {percent(even)}",
        _mask(result),
    )


def _mask(result: Result) -> Markup:
    row = headline_row(result)
    if row["mask"] is None or row["threshold"] is None:
        return Markup("")
    words = Markup("; cut at {}, mask and truth overlap with IoU{}{}")
    iou = _marked(row["mask"]["iou"], bound=cut_bound(result, row))
    return words.format(cut(row["threshold"]), NBSP, iou)


def _pairs(result: Result) -> str:
    if result["n_targets"] == result["n"]:
        return ""
    return f" ({counted(result['n_targets'], 'pair')} of picture and class)"


def _classification(result: Result) -> list[Markup]:
    if result["top1"] is None:
        return []
    words = Markup("The model’s first guess is a true class in {}")
    sentence = words.format(percent(result["top1"]))
    if result["top1_loc"] is not None:
        both = _marked(result["top1_loc"], bound=is_upper_bound(result, "top1_loc"))
        sentence += Markup(", and class and box are both right in {}").format(both)
    return [sentence + "."]


def _threshold(result: Result) -> Markup:
    row = headline_row(result)
    at = "Each map has its own threshold" if row["threshold"] is None else "Threshold "
    number = "" if row["threshold"] is None else cut(row["threshold"])
    return Markup("{}{}: {}.").format(at, number, row["words"].rstrip("."))


def _strong(result: Result, key: str) -> Markup:
    between = span(result["ci95"].get(key))
    value = Markup("<strong>{}</strong>").format(percent(result[key]))
    badge = Markup(" ") + BADGE if is_upper_bound(result, key) else Markup("")
    return value + badge + escape(f" ({between})" if between else "")


def _marked(value: float | None, *, bound: bool) -> Markup:
    return escape(percent(value)) + (Markup(" ") + BADGE if bound else Markup(""))
