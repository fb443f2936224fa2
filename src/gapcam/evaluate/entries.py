"""The shape of a result: what `--json` writes and the report shows.

Everything is a fraction in 0..1, None where a score has no meaning; `docs/evaluation.md` says what
each key means.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from gapcam.evaluate.columns import rounded
from gapcam.evaluate.cuts import Centred, Cut
from gapcam.evaluate.groups import BINS, groups_of
from gapcam.evaluate.protocols import Protocol
from gapcam.evaluate.table import IOUS, Table

Entry: TypeAlias = dict[str, Any]
Numbers: TypeAlias = npt.NDArray[np.float64]

HISTOGRAM_EDGES = np.arange(21) / 20
GENERAL = ("top1", "top5", "pointing", "pointing_15px", "energy")
AT_HEADLINE = ("top1_loc", "top5_loc", "gt_known", "mean_iou")


@dataclass(frozen=True, slots=True)
class Numbers95:
    """Scores by name and their 95 % intervals; a name that was never scored is None."""

    means: dict[str, float | None]
    ci95: dict[str, list[float] | None]

    def mean(self, name: str) -> float | None:
        """The score."""
        return self.means.get(name)

    def interval(self, name: str) -> list[float] | None:
        """Its interval."""
        return self.ci95.get(name)


def result(
    scores: Numbers95,
    table: Table,
    protocol: Protocol,
    every: Sequence[Cut],
    headline: Cut,
    centred: Centred | None,
    headline_ious: Numbers | None,
) -> Entry:
    """All entries that the table decides.

    Args:
        scores: Every number, with its interval.
        table: What was scored.
        protocol: How.
        every: All thresholds.
        headline: The one that the result is reported at.
        centred: The centred box beside it; None without boxes.
        headline_ious: IoU of every pair at the headline threshold, `[n]`; None without boxes.
    """
    names = {name: name for name in GENERAL}
    names |= {name: f"{headline.source}.{name}" for name in AT_HEADLINE}
    bound_names = [*(f"max_box_acc.{iou}" for iou in IOUS), "max_box_acc_v2"]
    with_ci = {**names, **{name: name for name in bound_names}}
    pxap = table.pixels.pxap if table.has_pixels else None
    ci95 = {key: scores.interval(name) for key, name in with_ci.items()}
    ci95["pxap"] = [rounded(v) for v in table.pixels.pxap_ci95] if table.has_pixels else None
    bounds = [scores.mean(f"max_box_acc.{iou}") for iou in IOUS]
    return {
        "n": len(table.tasks),
        "n_targets": len(table),
        **{key: scores.mean(name) for key, name in names.items()},
        "max_box_acc": None
        if headline_ious is None
        else dict(zip(map(str, IOUS), bounds, strict=True)),
        "max_box_acc_v2": scores.mean("max_box_acc_v2"),
        "pxap": None if pxap is None else rounded(pxap),
        "threshold": headline.threshold,
        "threshold_source": headline.source,
        "upper_bounds": _upper_bounds(every, centred, headline_ious is not None),
        "ci95": ci95,
        "thresholds": [
            _cut(scores, cut, table, protocol, headline=cut is headline) for cut in every
        ],
        "baselines": _baselines(scores, table, centred),
        "curves": _curves(table, protocol),
        "iou_histogram": None if headline_ious is None else _histogram(headline_ious[table.boxed]),
        **{name: _groups(scores, table, name) for name in BINS},
        "by_class": _by_class(table, headline_ious),
    }


def _upper_bounds(every: Sequence[Cut], centred: Centred | None, boxes: bool) -> list[str]:
    """The keys whose free choice was made on the scored pictures."""
    keys = ["max_box_acc", "max_box_acc_v2"] if boxes else []
    keys += [f"thresholds.{cut.source}" for cut in every if cut.upper_bound]
    if centred is not None and centred.upper_bound:
        keys.append("baselines.centred_box")
    return keys


def _box_scores(scores: Numbers95, key: str) -> Entry:
    return {
        "gt_known": scores.mean(f"{key}.gt_known"),
        "gt_known_ci95": scores.interval(f"{key}.gt_known"),
        "top1_loc": scores.mean(f"{key}.top1_loc"),
        "top5_loc": scores.mean(f"{key}.top5_loc"),
        "mean_iou": scores.mean(f"{key}.mean_iou"),
        "box_acc": {str(iou): scores.mean(f"{key}.box_acc.{iou}") for iou in IOUS},
    }


def _cut(scores: Numbers95, cut: Cut, table: Table, protocol: Protocol, *, headline: bool) -> Entry:
    mean_iou = None
    if cut.source == "oracle" and table.boxed.any():  # its IoUs were not kept one by one
        mean_iou = rounded(table.mean_ious[protocol.thresholds == cut.threshold][0])
    mask = _mask(table, cut) if table.has_pixels else None
    return {
        "source": cut.source,
        "words": cut.words,
        "threshold": cut.threshold,
        "upper_bound": cut.upper_bound,
        "headline": headline,
        **_box_scores(scores, cut.source),
        **({} if mean_iou is None else {"mean_iou": mean_iou}),
        "mask": mask,
    }


def _mask(table: Table, cut: Cut) -> Entry:
    """Pixel scores at a threshold; pixels are counted to a thousandth of it."""
    if cut.threshold is None:
        hits, found, truth = table.otsu_pixels.tolist()
        precision, recall, iou = hits / max(found, 1), hits / truth, hits / (found + truth - hits)
    else:
        precision, recall, iou = table.pixels.at(round(cut.threshold, 3))
    return {
        "precision": None if np.isnan(precision) else rounded(precision),
        "recall": rounded(recall),
        "iou": rounded(iou),
    }


def _baselines(scores: Numbers95, table: Table, centred: Centred | None) -> Entry:
    """The trivial answers: the whole picture and, where there are boxes, a centred one."""
    kinds = {"whole_image": ("the whole picture", (1.0, 1.0), False)}
    if centred is not None:
        kinds["centred_box"] = (centred.words, centred.share_wh, centred.upper_bound)
    return {
        key: {
            "words": words,
            "share_wh": list(share_wh),
            "upper_bound": upper_bound,
            **_box_scores(scores, key),
            "pointing": scores.mean("centre_pointing"),
            "gain": scores.mean(f"gain.{key}"),
            "gain_ci95": scores.interval(f"gain.{key}"),
            **_everywhere(table if key == "whole_image" and table.has_pixels else None),
        }
        for key, (words, share_wh, upper_bound) in kinds.items()
    }


def _everywhere(table: Table | None) -> Entry:
    """Pixel scores of a map that is the same everywhere: the share of object pixels."""
    if table is None:
        return {"pxap": None, "mask": None}
    share = rounded(table.pixels.precision[0])  # every pixel reaches the threshold 0
    return {"pxap": share, "mask": {"precision": share, "recall": 1.0, "iou": share}}


def _curves(table: Table, protocol: Protocol) -> Entry:
    curves: Entry = {"thresholds": None, "single": None, "multi": None, "pixel": None}
    if table.boxed.any():
        curves["thresholds"] = _list(protocol.thresholds)
        for name, hits in (("single", table.single), ("multi", table.multi)):
            accuracy = hits.accuracy()
            curves[name] = {str(iou): _list(accuracy[i]) for i, iou in enumerate(IOUS)}
    if table.has_pixels:
        curves["pixel"] = {
            "thresholds": _list(table.pixels.thresholds),
            "precision": _list(table.pixels.precision),
            "recall": _list(table.pixels.recall),
        }
    return curves


def _list(values: Numbers) -> list[float | None]:
    return [None if np.isnan(value) else rounded(value) for value in values.tolist()]


def _histogram(ious: Numbers) -> Entry:
    counts, _ = np.histogram(ious, HISTOGRAM_EDGES)
    return {"edges": _list(HISTOGRAM_EDGES), "counts": counts.tolist()}


def _groups(scores: Numbers95, table: Table, name: str) -> list[Entry]:
    inside = groups_of(table)
    columns = ("gt_known", "mean_iou", "pointing", "whole_image", "centred_box")
    return [
        {
            "bin": words,
            "n": int(inside[key].sum()),
            **{column: scores.mean(f"{key}.{column}") for column in columns},
            "gt_known_ci95": scores.interval(f"{key}.gt_known"),
        }
        for i, (words, _, _) in enumerate(BINS[name])
        for key in [f"{name}.{i}"]
        if inside[key].any()
    ]


def _by_class(table: Table, ious: Numbers | None) -> list[Entry]:
    """A row a class that occurs, by its id."""
    ids, owner = np.unique(table.class_ids, return_inverse=True)
    total = np.bincount(owner)

    def mean(values: npt.ArrayLike, valid: npt.ArrayLike = True) -> list[float | None]:
        weights = np.broadcast_to(np.asarray(valid, np.float64), owner.shape)
        counts = np.bincount(owner, weights)
        sums = np.bincount(owner, np.asarray(values) * weights)
        return _list(np.where(counts > 0, sums / np.where(counts > 0, counts, 1), np.nan))

    columns = {"top1": mean(table.ranks == 0), "pointing": mean(table.pointing[:, 0])}
    if ious is not None:
        hits = ious >= 0.5
        columns["top1_loc"] = mean(hits & (table.ranks == 0), table.boxed)
        columns["gt_known"] = mean(hits, table.boxed)
        columns["mean_iou"] = mean(ious, table.boxed)
    none = [None] * len(ids)
    keys = ("top1", "top1_loc", "gt_known", "mean_iou", "pointing")
    return [
        {
            "class_id": int(class_id),
            "n": int(total[i]),
            **{key: columns.get(key, none)[i] for key in keys},
        }
        for i, class_id in enumerate(ids)
    ]
