"""From a result to its scores, each with all that belongs beside it. Pure functions.

A score that is None keeps its row while others of its group have a value, and says why; a group
without any value is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from markupsafe import Markup

from gapcam.report.charts import Kind, Tick, whisker
from gapcam.report.words import NBSP, percent, span

Result: TypeAlias = Mapping[str, Any]
Named: TypeAlias = tuple[str, str, str]  # key, name, words
Ticks: TypeAlias = tuple[Tick, ...]

IOUS = ("0.3", "0.5", "0.7")

_CLASSIFICATION = (
    ("top1", "Top-1", "the model's best class is in the picture"),
    ("top5", "Top-5", "one of its five best classes is"),
)
_GIVEN_CLASS = (("gt_known", "GT-known Loc", "the class is given; its box at IoU ≥ 0.5"),)
_WITH_CLASS = (
    ("top1_loc", "Top-1 Loc", "the best class is right, and its box at IoU ≥ 0.5"),
    ("top5_loc", "Top-5 Loc", "one of the five best is right, and its box at IoU ≥ 0.5"),
)
_MEAN_IOU = (("mean_iou", "Mean IoU", "overlap of the predicted box with the best true one"),)
_POINTING = (
    ("pointing", "Pointing game", "the hottest point lies on the object"),
    ("pointing_15px", "Pointing game, 15 px", "it lies on it or at most 15 pixels off"),
    ("energy", "Energy", "the share of all heat that lies on the object"),
)
_MASK = (
    ("precision", "Mask precision", "the share of the predicted pixels that are true"),
    ("recall", "Mask recall", "the share of the true pixels that are predicted"),
    ("iou", "Mask IoU", "pixels that are both, among those that are either"),
)
_AT_HEADLINE = {"top1_loc", "top5_loc", "gt_known", "mean_iou"}
EVEN_MAP = "a map that is the same everywhere"
_NEED_BOXES = "needs true boxes, which this data set does not have"
_NO_MEANING = "has no meaning for these pictures"


@dataclass(frozen=True, slots=True)
class Score:
    """One number with all that belongs beside it.

    Attributes:
        name: What it is called.
        words: What it means, in a few words.
        value: A fraction, or None.
        interval: Its 95 % interval, or None.
        bound: Whether it is an upper bound.
        kind: How it is drawn.
        ticks: The baselines drawn beside it.
        reason: Why there is no value.
    """

    name: str
    words: str
    value: float | None
    interval: Sequence[float] | None = None
    bound: bool = False
    kind: Kind = "dot"
    ticks: Ticks = ()
    reason: str = _NO_MEANING

    @property
    def text(self) -> str:
        """The value as percent."""
        return percent(self.value)

    @property
    def span(self) -> str:
        """The interval as percent."""
        return span(self.interval)

    @property
    def chart(self) -> Markup:
        """The value on the common axis."""
        return whisker(
            self.name,
            self.value,
            self.interval,
            kind=self.kind,
            hollow=self.bound,
            ticks=self.ticks,
        )


class ScoreGroup(NamedTuple):
    """Scores that belong together."""

    title: str
    scores: list[Score]


def has_boxes(result: Result) -> bool:
    """Whether there are true boxes to score."""
    return "centred_box" in (result["baselines"] or {})


def headline_row(result: Result) -> Mapping[str, Any]:
    """The entry of `thresholds` that the result is reported at."""
    row: Mapping[str, Any] = next(row for row in result["thresholds"] if row["headline"])
    return row


def is_upper_bound(result: Result, key: str) -> bool:
    """Whether a free choice behind this score was made on the scored pictures.

    Args:
        result: Its `upper_bounds` name such keys, or what they begin with, up to a dot.
        key: `max_box_acc.0.5`, `gt_known`, ...; what depends on the headline threshold shares its
            provenance.
    """
    named = any(key == bound or key.startswith(f"{bound}.") for bound in result["upper_bounds"])
    return named or (key in _AT_HEADLINE and cut_bound(result, headline_row(result)))


def cut_bound(result: Result, row: Mapping[str, Any]) -> bool:
    """Whether the threshold of this row was chosen on the scored pictures."""
    return bool(row["upper_bound"]) or f"thresholds.{row['source']}" in result["upper_bounds"]


def baseline_bound(result: Result, key: str) -> bool:
    """Whether this baseline was chosen on the scored pictures."""
    entry = result["baselines"][key]
    return bool(entry["upper_bound"]) or f"baselines.{key}" in result["upper_bounds"]


def baseline_ticks(result: Result, whole: float | None, centred: float | None) -> Ticks:
    """The marks of what both baselines reach in a score; none without boxes."""
    if not has_boxes(result):
        return ()
    hollow = baseline_bound(result, "centred_box")
    return (
        Tick("whole picture", whole, "whole", hollow=False),
        Tick("centred box", centred, "centred", hollow=hollow),
    )


def ticks_of(result: Result, key: str) -> Ticks:
    """The same for a score of the whole data set: `gt_known`, `mean_iou`."""
    if not has_boxes(result):
        return ()
    entries = result["baselines"]
    return baseline_ticks(result, entries["whole_image"][key], entries["centred_box"][key])


def headline_groups(result: Result) -> list[ScoreGroup]:
    """All scores of the data set as a whole, group by group."""
    groups = [
        ScoreGroup("Classification", _scores(result, _CLASSIFICATION)),
        ScoreGroup("Localization", _localization(result)),
        ScoreGroup("Pointing", _pointing(result)),
        ScoreGroup("Masks", _masks(result)),
    ]
    return [group for group in groups if any(s.value is not None for s in group.scores)]


def _scores(result: Result, keys: Iterable[Named], ticks: Ticks = ()) -> list[Score]:
    return [
        Score(
            name,
            words,
            result[key],
            result["ci95"].get(key),
            is_upper_bound(result, key),
            ticks=ticks,
            reason=_NO_MEANING if has_boxes(result) else _NEED_BOXES,
        )
        for key, name, words in keys
    ]


def _localization(result: Result) -> list[Score]:
    return [
        *_scores(result, _GIVEN_CLASS, ticks_of(result, "gt_known")),
        *_baselines(result),
        *_scores(result, _WITH_CLASS),
        *_scores(result, _MEAN_IOU, ticks_of(result, "mean_iou")),
        *_max_box_acc(result),
    ]


def _pointing(result: Result) -> list[Score]:
    ticks: Ticks = ()
    if has_boxes(result):
        value = result["baselines"]["whole_image"]["pointing"]
        ticks = (Tick("the picture's centre", value, "whole", hollow=False),)
    return [*_scores(result, _POINTING[:1], ticks), *_scores(result, _POINTING[1:])]


def _baselines(result: Result) -> list[Score]:
    if not has_boxes(result):
        return []
    names = {"whole_image": "Whole picture", "centred_box": "Centred box"}
    return [
        Score(
            name,
            f"baseline{_described(entry, name)}{_gain(entry)}",
            entry["gt_known"],
            entry["gt_known_ci95"],
            baseline_bound(result, key),
            "baseline",
        )
        for key, name in names.items()
        for entry in [result["baselines"][key]]
    ]


def _described(entry: Mapping[str, Any], name: str) -> str:
    words = entry["words"]
    return "" if words.removeprefix("the ") == name.lower() else f": {words}"


def _gain(entry: Mapping[str, Any]) -> str:
    """By how much the map beats a baseline, where the result says so."""
    gain, between = entry.get("gain"), entry.get("gain_ci95")
    if gain is None:
        return ""
    within = f" ({span(between)})" if between else ""
    return f". GT-known Loc minus this: {100 * gain:+.1f} points{within}"


def _max_box_acc(result: Result) -> list[Score]:
    if result["max_box_acc"] is None:
        return []
    singles = [
        Score(
            f"MaxBoxAcc, IoU{NBSP}≥{NBSP}{iou}",
            "one box, at the threshold that suits these pictures best",
            result["max_box_acc"][iou],
            result["ci95"].get(f"max_box_acc.{iou}"),
            is_upper_bound(result, f"max_box_acc.{iou}"),
        )
        for iou in IOUS
    ]
    v2 = Score(
        "MaxBoxAccV2",
        "any of the boxes; mean over the three IoU, each at its best threshold",
        result["max_box_acc_v2"],
        result["ci95"].get("max_box_acc_v2"),
        is_upper_bound(result, "max_box_acc_v2"),
    )
    return [*singles, v2]


def even_pxap(result: Result) -> float | None:
    """The PxAP of a map that is the same everywhere: the share of object pixels."""
    whole: Mapping[str, Any] = (result["baselines"] or {}).get("whole_image", {})
    return whole.get("pxap")


def _masks(result: Result) -> list[Score]:
    even = even_pxap(result)
    pxap = Score(
        "PxAP",
        "area under the precision-recall curve of all pixels",
        result["pxap"],
        result["ci95"].get("pxap"),
        is_upper_bound(result, "pxap"),
        ticks=() if even is None else (Tick(EVEN_MAP, even, "whole", hollow=False),),
    )
    row = headline_row(result)
    if row["mask"] is None:
        return [pxap]
    bound = cut_bound(result, row)
    return [
        pxap,
        *(Score(name, words, row["mask"][key], None, bound) for key, name, words in _MASK),
    ]
