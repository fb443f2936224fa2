"""The study behind the recipes: what each step of refinement is worth, and what was dropped.

    python benchmarks/recipes.py [--data DIR] [--held-out DIR] [--dropped]

`--data` (see `localization.py`) is scored by cross-selection: 5 folds, 10 times over; whatever a
row chooses (its threshold; in the rows "nested" also the centring) is chosen on the other four
folds, so every picture reports. Gains are paired with the paper's rule on the same pictures, with
95 % intervals by bootstrap over pictures. `--held-out` is scored with what all of `--data` chose.
`--dropped` also measures what was tried and left out (`recipes_dropped.py`).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gapcam.localizer import to_heat
from gapcam.maps import normalize_max
from gapcam.recipes import BEST, DEFAULT, PAPER, RELEASED
from gapcam.refine import affinity, fuse
from gapcam.resample import resample
from gapcam.types import FloatArray, Recipe
from localization import CENTRED_WH, IOUS, centred_ious
from network_outputs import (
    BANDS,
    SHARED,
    THRESHOLDS,
    Numbers,
    ScoredSet,
    choose,
    cross_select,
    mean_accuracy,
)

RESULTS = Path(__file__).parent / "results" / "recipes.json"
FOLDS, REPEATS, RESAMPLES = 5, 10, 5000
CENTRINGS = (0.0, 0.25, 0.5, 0.75, 1.0)

Heat = Callable[[ScoredSet], FloatArray]
Row = dict[str, Any]


def spread(side: int, centring: float, over: int | None = None) -> Heat:
    """Heat of the maps at one side, spread over the affinity of a pass (the same by default)."""
    return lambda of: _heat(_spread(of, side, centring, over or side), of.at(side).maps)


def fused(sides: Sequence[int], centring: float, over: int) -> Heat:
    """Heat of two passes' maps, both spread over the affinity of one, averaged."""

    def heat(of: ScoredSet) -> FloatArray:
        first, second = (_spread(of, side, centring, over) for side in sides)
        return _heat(fuse(first, second), of.at(over).maps)

    return heat


def _spread(of: ScoredSet, side: int, centring: float, over: int) -> FloatArray:
    return affinity(of.at(side).maps, of.at(over).fine_features, centring)


def _heat(evidence: FloatArray, maps: FloatArray) -> FloatArray:
    return to_heat(evidence, maps, DEFAULT)[:, 0]


def plain(of: ScoredSet, kind: Literal["bilinear", "bicubic"] = "bilinear") -> FloatArray:
    """The paper's heat: the map over its maximum."""
    return normalize_max(resample(of.at(224).maps, (56, 56), kind))[:, 0]


def plain_minmax(of: ScoredSet) -> FloatArray:
    """The same with our normalization and interpolation."""
    return _heat(of.at(224).maps, of.at(224).maps)


STEPS: Mapping[str, Sequence[Heat]] = {
    "plain map, threshold chosen": [plain],
    "plain map, min-max, bicubic": [plain_minmax],
    "+ affinity, centring 1": [spread(224, 1.0)],
    "+ centring .25: default": [spread(224, 0.25)],
    "the same at 192: fast": [spread(192, 0.25)],
    "map at 448 over affinity at 448": [spread(448, 0.25)],
    "map at 448 over affinity at 224": [spread(448, 0.25, 224)],
    "maps at 224 and 448 over affinity at 224": [fused((224, 448), 0.25, 224)],
    "+ split into instances: best": [fused((224, 448), 0.25, 224)],
    "default, centring nested": [spread(224, c) for c in CENTRINGS],
    "best, centring nested": [fused((224, 448), c, 224) for c in CENTRINGS],
}


class Study:
    """Scores variants on a set by cross-selection, beside the paper's rule.

    Args:
        data: The pictures that choose and report.
        held_out: Pictures that only report; None without.
    """

    def __init__(self, data: ScoredSet, held_out: ScoredSet | None) -> None:
        self.data, self.held_out = data, held_out
        self._paper = data.ious(plain(data), PAPER)[np.newaxis]
        n = len(data.examples)
        rng = np.random.default_rng(0)
        self._folds = [rng.permutation(n) % FOLDS for _ in range(REPEATS)]
        self._draws = rng.integers(0, n, (RESAMPLES, n))

    def variant(self, heats: Sequence[Heat], recipe: Recipe = DEFAULT) -> Row:
        """A row whose variant (if several) and threshold are chosen on the other folds.

        Args:
            heats: Each variant's heat.
            recipe: How heat is cut, apart from the threshold.
        """
        tables = [self.data.sweep(heat(self.data), recipe) for heat in heats]
        held = np.stack([cross_select(tables, fold) for fold in self._folds])
        which, at = choose(tables)
        row = self._row(held)
        row["threshold"] = THRESHOLDS[at]
        row["lower"] = {
            str(THRESHOLDS[i]): self._scored(tables[which][i])
            for i in range(max(at - 3, 0), at + 1)
        }
        if len(heats) > 1:
            row["chosen_on_all"] = which
        if self.held_out is not None:
            swept = self.held_out.sweep(heats[which](self.held_out), recipe)
            row["held_out"] = _scores(swept[at][np.newaxis])
        return row

    def fixed(self, ious: Callable[[ScoredSet], Numbers]) -> Row:
        """A row with nothing to choose."""
        row = self._row(ious(self.data)[np.newaxis])
        if self.held_out is not None:
            row["held_out"] = _scores(ious(self.held_out)[np.newaxis])
        return row

    def _scored(self, held: Numbers) -> Row:
        hits, area = (np.atleast_2d(held) >= 0.5).mean(0), self.data.area
        bands = [(area >= low) & (area < high) for low, high in BANDS]
        by_area = [percent(hits[band].mean()) for band in bands]
        return {**_scores(np.atleast_2d(held)), "by_area": by_area}

    def _row(self, held: Numbers) -> Row:
        hits = (held >= 0.5).mean(0)
        row = self._scored(held)
        for name, own, paper in (
            ("gain_gt_known", hits, (self._paper >= 0.5).mean(0)),
            ("gain_mean_357", _means(held), _means(self._paper)),
        ):
            gain = own - paper
            low, high = np.percentile(gain[self._draws].mean(1), [2.5, 97.5])
            row[name] = [percent(v) for v in (gain.mean(), low, high)]
        return row


def _means(held: Numbers) -> Numbers:
    """Each picture's accuracy, averaged over repeats and IoU .3, .5, .7."""
    mean: Numbers = np.mean([(held >= d).mean(0) for d in IOUS], axis=0)
    return mean


def _scores(held: Numbers) -> Row:
    return {
        "gt_known": percent((held >= 0.5).mean()),
        "mean_357": percent(float(np.mean(mean_accuracy(held)))),
    }


def percent(share: float) -> float:
    """In percent, one digit."""
    return round(100 * float(share), 1)


def show(name: str, row: Row) -> None:
    """Print one row."""
    gain, mean_gain, held_out = row["gain_gt_known"], row["gain_mean_357"], row.get("held_out")
    other = f"{held_out['gt_known']} / {held_out['mean_357']}" if held_out else ""
    print(
        f"{name:48} {row['gt_known']:5} / {row['mean_357']:5}  {gain[0]:+5} ({gain[1]:+} to "
        f"{gain[2]:+})  {mean_gain[0]:+5}  {row.get('threshold', '')!s:5} {row['by_area']}  {other}"
    )


def main() -> None:
    """Run, print, store."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=SHARED / "ilsvrc-val-dev")
    parser.add_argument("--held-out", type=Path, default=SHARED / "imagenette-small" / "test")
    parser.add_argument("--dropped", action="store_true", help="also what was tried and left out")
    arguments = parser.parse_args()
    if not (arguments.data / "boxes.csv").is_file():
        sys.exit(f"skipped: {arguments.data}/boxes.csv is not here")
    held_out = arguments.held_out if (arguments.held_out / "boxes.csv").is_file() else None
    study = Study(ScoredSet(arguments.data), ScoredSet(held_out) if held_out else None)
    table: dict[str, Row] = {
        "whole picture": study.fixed(lambda of: centred_ious(of.examples, (1.0, 1.0))),
        "centred box .70 x .75": study.fixed(lambda of: centred_ious(of.examples, CENTRED_WH)),
        "paper": study.fixed(lambda of: of.ious(plain(of), PAPER)),
        "released": study.fixed(lambda of: of.ious(plain(of, "bicubic"), RELEASED)),
    }
    variants = dict(STEPS)
    if arguments.dropped:
        from recipes_dropped import DROPPED

        variants |= DROPPED
    print(f"{'':48} GT-known / mean .3 .5 .7, gain over paper (95 %), gain of the mean")
    for name, row in table.items():
        show(name, row)
    for name, heats in variants.items():
        table[name] = study.variant(heats, BEST if "best" in name else DEFAULT)
        show(name, table[name])
    RESULTS.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
