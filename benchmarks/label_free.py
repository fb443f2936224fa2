"""What can be chosen, and trusted, without a single box? Thresholds, recipes, agreement.

    python benchmarks/label_free.py [--data DIR] [--held-out DIR]

Every recipe sees the pictures of two scored sets (see `localization.py`) as they are, mirrored and
at two larger sizes, with the true class. Rules then pick a threshold from that alone, and are
scored against the threshold chosen with boxes (5-fold on `--data`; on `--held-out` the one of
`--data`) and the best of the set itself (oracle): mean over IoU .3 .5 .7 and GT-known, percent.
Users' sets: 50 pictures at random, or with small or large objects preferred, one object size or
class only. Agreement is then judged as a predictor of right boxes.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gapcam.agreement import (
    FACTOR,
    THRESHOLDS,
    agreement,
    boxes_at,
    pooled_otsu,
    threshold_for_share,
)
from gapcam.label_free import other_sizes
from gapcam.localizer import to_heat
from gapcam.metrics.bootstrap import bootstrap_ci95
from gapcam.metrics.boxes import box_areas, box_iou, paired_iou
from gapcam.metrics.otsu import otsu_thresholds
from gapcam.recipes import BEST, DEFAULT, FAST, PAPER
from gapcam.refine import fuse, refine
from gapcam.types import FloatArray, Recipe
from localization import BATCH, IOUS, RESULTS, SHARED
from network_outputs import BANDS, ScoredSet

OUT = RESULTS.parent / "label_free.json"
STUDIED = (FAST, DEFAULT, BEST, PAPER)
DRAWS, SET_SIZE, FOLDS = 100, 50, 5

Numbers = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Row = dict[str, object]
Rule = Callable[[Integers], Integers]  # pictures to threshold indices


@dataclass(frozen=True, eq=False)
class Signals:
    """One recipe on one set; T thresholds, n pictures.

    `iou` with the box of the class that fits best, `area` of the box, `flip` and `sizes` (the IoU
    with the boxes of other views): `[T, n]`; `otsu`, `agree` (at the recipe's threshold), `share`
    (of the picture that the largest object covers), `class_id`: `[n]`; `heat`: `[n, h, w]`.
    """

    iou: Numbers
    area: Numbers
    flip: Numbers
    sizes: Numbers
    otsu: Numbers
    heat: FloatArray
    agree: Numbers
    share: Numbers
    class_id: Integers


def heat_of(data: ScoredSet, recipe: Recipe, *, flipped: bool = False) -> FloatArray:
    """What `Localizer.see` gives for the true class, `[n, h, w]`, from passes recipes share."""
    coarse = data.at(recipe.input_size_hw[0], flipped=flipped)
    found = refined(coarse.maps, coarse.fine_features, recipe)
    if recipe.evidence_size_hw is not None:
        finer = data.at(recipe.evidence_size_hw[0], flipped=flipped)
        found = fuse(found, refined(finer.maps, coarse.fine_features, recipe))
    return to_heat(found, coarse.maps, recipe)[:, 0]


def refined(maps: FloatArray, features: FloatArray, recipe: Recipe) -> FloatArray:
    """`gapcam.refine.refine`, a batch at a time."""
    parts = [slice(i, i + BATCH) for i in range(0, len(maps), BATCH)]
    return np.concatenate([refine(maps[p], features[p], recipe) for p in parts])


def gather(data: ScoredSet, recipe: Recipe) -> Signals:
    """See the whole set in every view."""
    examples, multiple = data.examples, data.localizer.card.size_multiple
    heat = heat_of(data, recipe)
    others = [heat_of(data, recipe, flipped=True)]
    others += [heat_of(data, resized) for resized in other_sizes(recipe, multiple)]
    tables = [[boxes_at(h, recipe, t) for t in THRESHOLDS] for h in (heat, *others)]
    boxes = np.nan_to_num(np.array(tables[0]))
    truths = [np.array(e.boxes) / np.array(e.size_wh * 2) for e in examples]
    fits = [[box_iou(b, g).max() for b, g in zip(of, truths, strict=True)] for of in boxes]
    paired = [paired_iou(boxes, np.nan_to_num(np.array(other))) for other in tables[1:]]
    return Signals(
        iou=np.array(fits),
        area=box_areas(boxes),
        flip=paired[0],
        sizes=np.mean(paired[1:], axis=0),
        otsu=otsu_thresholds(heat),
        heat=heat,
        agree=agreement(heat, others, recipe),
        share=data.area,
        class_id=np.array([e.class_id for e in examples]),
    )


def hits(iou: Numbers) -> Numbers:
    """The mean over IoU .3 .5 .7 of right or wrong, each box for itself."""
    mean: Numbers = np.mean([iou >= d for d in IOUS], axis=0)
    return mean


def nearest(threshold: float) -> int:
    """The index of a threshold."""
    return int(np.abs(np.array(THRESHOLDS) - threshold).argmin())


def chosen_with_boxes(s: Signals) -> tuple[Integers, int, list[float]]:
    """The threshold of each picture chosen on the other folds, of all, and each fold's factor."""
    n = s.iou.shape[1]
    fold = np.random.default_rng(0).permutation(n) % FOLDS
    held, factors = np.zeros(n, np.int64), []
    for k in range(FOLDS):
        held[fold == k] = best = int(hits(s.iou[:, fold != k]).mean(1).argmax())
        factors.append(float(s.area[best, fold != k].mean() / s.share[fold != k].mean()))
    return held, int(hits(s.iou).mean(1).argmax()), factors


def rules(s: Signals, kept: Integers) -> dict[str, Rule]:
    """Every rule: which threshold (an index) it gives each of the pictures asked for."""

    def all_alike(values: Callable[[Integers], Numbers]) -> Rule:
        return lambda ix: np.full(len(ix), int(values(ix).argmax()))

    def mean(ix: Integers) -> float:
        return float(s.share[ix].mean())

    def half_way(factor: float) -> Rule:
        def pick(ix: Integers) -> Integers:
            said = min(mean(ix) * factor, 1.0)
            at = THRESHOLDS[int(np.median(kept[ix]))]
            return np.full(len(ix), nearest(threshold_for_share(s.area[:, ix].mean(1), at, said)))

        return pick

    steadiness = -np.abs(np.gradient(np.log(np.maximum(s.area, 1e-3)), THRESHOLDS, axis=0))
    return {
        "oracle": all_alike(lambda ix: hits(s.iou[:, ix]).mean(1)),
        "recipe's threshold": lambda ix: kept[ix],
        "most flip agreement": all_alike(lambda ix: s.flip[:, ix].mean(1)),
        "most size agreement": all_alike(lambda ix: s.sizes[:, ix].mean(1)),
        "most flip agreement, each": lambda ix: s.flip[:, ix].argmax(0),
        "most size agreement, each": lambda ix: s.sizes[:, ix].argmax(0),
        "steadiest area": all_alike(lambda ix: steadiness[:, ix].mean(1)),
        "steadiest area, each": lambda ix: steadiness[:, ix].argmax(0),
        "Otsu, each": lambda ix: np.array([nearest(t) for t in s.otsu[ix]]),
        "Otsu, pooled": lambda ix: np.full(len(ix), nearest(pooled_otsu(s.heat[ix]))),
        "centred-box prior": all_alike(lambda ix: -abs(s.area[:, ix].mean(1) - 0.525)),
        "object size": all_alike(lambda ix: -abs(s.area[:, ix].mean(1) - FACTOR * mean(ix))),
        **{f"half way to object size x {f:g}": half_way(f) for f in (0.67, 0.8, 1, 1.25, 1.5)},
    }


def users_sets(s: Signals, one_class: bool) -> dict[str, list[Integers]]:
    """Which pictures simulated users have."""
    random, n = np.random.default_rng(1), len(s.share)

    def drawn(lean: float) -> list[Integers]:
        p = np.exp(lean * s.share) / np.exp(lean * s.share).sum()
        return [random.choice(n, SET_SIZE, replace=False, p=p) for _ in range(DRAWS)]

    sets = {"all": [np.arange(n)], "50": drawn(0), "50 small": drawn(-3), "50 large": drawn(3)}
    sets |= {f"size {a:g}": [np.flatnonzero((s.share >= a) & (s.share < b))] for a, b in BANDS}
    classes = [np.flatnonzero(s.class_id == c) for c in np.unique(s.class_id)]
    return sets | ({"one class": classes} if one_class else {})


def thresholds(s: Signals, kept: Integers, one_class: bool) -> dict[str, Row]:
    """Every rule on every user's set, and its gap to the recipe's threshold with its interval."""
    sets, table, everything = users_sets(s, one_class), {}, np.arange(s.iou.shape[1])
    by_size = [ix for group, (ix, *_) in sets.items() if group.startswith("size")]
    base = hits(s.iou[kept, everything])
    for name, rule in rules(s, kept).items():
        row: Row = {}
        for group, members in sets.items():
            found = [s.iou[rule(ix), ix] for ix in members]
            scores = np.mean([(hits(f).mean(), (f >= 0.5).mean()) for f in found], axis=0)
            row[group] = [round(100 * float(score), 1) for score in scores]
        row["threshold"] = round(float(np.array(THRESHOLDS)[rule(everything)].mean()), 2)
        for label, parts in {"gap": [everything], "gap, a size at a time": by_size}.items():
            ix = np.concatenate(parts)
            picked = np.concatenate([rule(part) for part in parts])
            gap = 100 * (hits(s.iou[picked, ix]) - base[ix])
            row[label] = [round(float(v), 1) for v in (gap.mean(), *bootstrap_ci95(gap))]
        table[name] = row
    return table


def auroc(signal: Numbers, right: npt.NDArray[np.bool_]) -> float:
    """How often a right box has the higher signal; half for a tie."""
    return float((np.sign(signal[right][:, np.newaxis] - signal[~right]) / 2 + 0.5).mean())


def trust(s: Signals, at: int, edges: Numbers) -> Row:
    """Does the signal of a picture say whether its box is right?"""
    right = s.iou[at] >= 0.5
    signals = {"agreement": s.agree, "flip": s.flip[at], "sizes": s.sizes[at]}
    signals["box area"] = s.area[at]
    quarter = np.searchsorted(edges, s.agree, side="right")
    random = np.random.default_rng(0)
    row: Row = {"gt_known": float(right.mean()), "mean agreement": float(s.agree.mean())}
    for name, signal in signals.items():
        draws = (random.integers(0, len(right), len(right)) for _ in range(300))
        spread = np.quantile([auroc(signal[i], right[i]) for i in draws], [0.025, 0.975])
        row[f"auroc, {name}"] = [round(float(v), 3) for v in (auroc(signal, right), *spread)]
    row["quarters"] = np.round(edges, 3).tolist()
    row["right by quarter"] = [round(float(right[quarter == k].mean()), 3) for k in range(4)]
    return row | {"pictures by quarter": np.bincount(quarter, minlength=4).tolist()}


def set_trust(s: Signals, at: int, groups: list[Integers]) -> Row:
    """Does the mean agreement of a set say which share of its boxes is right?"""
    right = s.iou[at] >= 0.5
    means = np.transpose([[s.agree[ix].mean(), right[ix].mean()] for ix in groups])
    return {"correlation": round(float(np.corrcoef(means)[0, 1]), 2), "sets": len(groups)}


def recipe_choice(sets: dict[str, Signals]) -> Row:
    """What it costs to take the recipe whose views agree most, against always taking the best."""
    random, right = np.random.default_rng(2), {}
    signals: dict[str, dict[str, Numbers]] = {"agreement": {}, "flip": {}, "always best": {}}
    for recipe in STUDIED:
        s, at = sets[recipe.name], nearest(recipe.threshold)
        right[recipe.name] = hits(s.iou[at])
        signals["agreement"][recipe.name], signals["flip"][recipe.name] = s.agree, s.flip[at]
        signals["always best"][recipe.name] = np.full(len(s.share), float(recipe is BEST))
    lost: dict[str, list[float]] = {name: [] for name in signals}
    for _ in range(3 * DRAWS):
        ix = random.choice(len(s.share), SET_SIZE, replace=False)
        score = {name: float(values[ix].mean()) for name, values in right.items()}
        for name, signal in signals.items():
            means = {recipe: values[ix].mean() for recipe, values in signal.items()}
            lost[name].append(max(score.values()) - score[max(means, key=means.__getitem__)])
    return {f"points lost, {name}": round(100 * float(np.mean(v)), 2) for name, v in lost.items()}


def study(folders: dict[str, Path]) -> dict[str, Row]:
    """All recipes on all sets; the first set is the one that thresholds are chosen on."""
    report: dict[str, Row] = {name: {} for name in folders}
    sets = {name: ScoredSet(path) for name, path in folders.items()}
    seen = {name: {r.name: gather(data, r) for r in STUDIED} for name, data in sets.items()}
    first = next(iter(seen))
    for recipe in STUDIED:
        held, best, factors = chosen_with_boxes(seen[first][recipe.name])
        edges = np.quantile(seen[first][recipe.name].agree, [0.25, 0.5, 0.75])
        at = nearest(recipe.threshold)
        for name, of in seen.items():
            s = of[recipe.name]
            kept = held if name == first else np.full(len(s.share), best)
            groups = users_sets(s, name != first)
            report[name][recipe.name] = {
                "thresholds": thresholds(s, kept, name != first),
                "trust": trust(s, at, edges),
                "set trust": {g: set_trust(s, at, m) for g, m in groups.items() if len(m) > 1},
                "box size over object size, folds": [round(f, 2) for f in factors],
            }
    for name, of in seen.items():
        report[name]["choosing the recipe"] = recipe_choice(of)
    return report


def main() -> None:
    """Run, print, store."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=SHARED / "ilsvrc-val-dev")
    parser.add_argument("--held-out", type=Path, default=SHARED / "imagenette-small" / "test")
    arguments = parser.parse_args()
    folders = {"ilsvrc-val-dev": arguments.data, "imagenette-small/test": arguments.held_out}
    if missing := [path for path in folders.values() if not (path / "boxes.csv").is_file()]:
        print(f"skipped: {missing[0]}/boxes.csv is not here", file=sys.stderr)
        return
    report = study(folders)
    OUT.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
