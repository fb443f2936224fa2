"""Several objects of one class: what splitting components finds, and what it costs.

    python benchmarks/instances.py [--data DIR] [--held-out DIR]

Folders as for `localization.py`. The true class is localized, and the boxes of each picture are
matched with the true boxes one to one (best overlap first, IoU >= 0.5 counts):

- on pictures with several true boxes: recall (the share of a picture's true boxes that is matched,
  mean over pictures), precision (the share of all boxes that is matched), boxes a picture;
- on pictures with one: whether the first box is right, precision, boxes a picture.

`--data` chooses the prominence: the lowest that costs the first box of pictures with one object at
most `MAY_COST`; in 5-fold cross-selection every fold is scored with what the other four choose.
`--held-out` is scored with what all of `--data` chooses. Differences are paired with one box a
picture, 95 % intervals by bootstrap over pictures.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import gapcam
from gapcam.boxes import Region, find_all_regions, scale_box
from gapcam.metrics.bootstrap import bootstrap_ci95
from gapcam.metrics.boxes import box_iou
from gapcam.recipes import BEST, DEFAULT
from gapcam.types import FloatArray, Recipe
from localization import BATCH, SHARED, Example, read_examples

RESULTS = Path(__file__).parent / "results" / "instances.json"
PROMINENCES = tuple(p / 1000 for p in range(100, 501, 25))
MAY_COST = 0.005
FOLDS = 5
RIGHT = 0.5
MATCHED, BOXES, TRUTHS, FIRST = range(4)

Numbers = npt.NDArray[np.float64]
Row = dict[str, object]


def heat_of(examples: Sequence[Example], recipe: Recipe) -> FloatArray:
    """The heat `[n, h, w]` of every picture's true class."""
    localizer = gapcam.load(recipe=recipe)
    planes = []
    for start in range(0, len(examples), BATCH):
        batch = examples[start : start + BATCH]
        pictures = [localizer.read(example.path) for example in batch]
        truth = np.array([[example.class_id] for example in batch])
        planes.append(localizer.see(pictures, truth).heat[:, 0])
    return np.concatenate(planes)


def match(regions: Sequence[Region], example: Example, grid_hw: tuple[int, int]) -> list[float]:
    """How many boxes are matched, how many there are, how many true ones; is the first right?"""
    width, height = example.size_wh
    if not regions:
        return [0, 0, len(example.boxes), 0]
    boxes = [scale_box(region.box_xyxy, grid_hw, (height, width)) for region in regions]
    overlaps = np.array(box_iou(boxes, list(example.boxes)))
    first, matched = overlaps[0].max() >= RIGHT, 0
    while overlaps.max() >= RIGHT:
        box, truth = np.unravel_index(overlaps.argmax(), overlaps.shape)
        overlaps[box], overlaps[:, truth] = 0, 0
        matched += 1
    return [matched, len(boxes), len(example.boxes), first]


def counts_of(heat: FloatArray, examples: Sequence[Example], recipe: Recipe) -> Numbers:
    """`match` of every picture, `[n, 4]`."""
    found = find_all_regions(heat, recipe)
    grid_hw = (heat.shape[1], heat.shape[2])
    rows = [match(regions, e, grid_hw) for regions, e in zip(found, examples, strict=True)]
    return np.array(rows, np.float64)


def summary(counts: Numbers, one_box: Numbers) -> Row:
    """The figures of one rule, and its differences from one box a picture."""
    several = counts[:, TRUTHS] > 1
    many, single = counts[several], counts[~several]
    recall = many[:, MATCHED] / many[:, TRUTHS]
    before = one_box[several][:, MATCHED] / one_box[several][:, TRUTHS]
    first_lost = single[:, FIRST] - one_box[~several][:, FIRST]
    precise = many[:, MATCHED].sum() / many[:, BOXES].sum()
    return {
        "several_recall": float(recall.mean()),
        "several_recall_gain": with_ci(recall - before),
        "several_precision": float(precise),
        "several_boxes": float(many[:, BOXES].mean()),
        "several_first_gain": with_ci(many[:, FIRST] - one_box[several][:, FIRST]),
        "one_first": float(single[:, FIRST].mean()),
        "one_first_gain": with_ci(first_lost),
        "one_boxes": float(single[:, BOXES].mean()),
        "one_precision": float(single[:, MATCHED].sum() / single[:, BOXES].sum()),
    }


def with_ci(differences: Numbers) -> str:
    """A mean difference with its interval, in points."""
    low, high = 100 * bootstrap_ci95(differences)
    return f"{100 * differences.mean():+.1f} ({low:+.1f} to {high:+.1f})"


def choose(table: Numbers, one_box: Numbers) -> int:
    """The lowest prominence from which on the first box is never too often lost; else the highest.

    Args:
        table: `[p, n, 4]`, the counts at every prominence.
        one_box: `[n, 4]`.
    """
    single = one_box[:, TRUTHS] == 1
    lost = (one_box[single][:, FIRST] - table[:, single][:, :, FIRST]).mean(1)
    too_many = np.flatnonzero(lost > MAY_COST)
    return min(int(too_many.max()) + 1, len(table) - 1) if len(too_many) else 0


def cross_selected(table: Numbers, one_box: Numbers) -> tuple[Numbers, list[float]]:
    """The counts `[n, 4]` when each fold has the prominence that the others choose, and those."""
    fold = np.random.default_rng(0).permutation(len(one_box)) % FOLDS
    held, chosen = np.zeros_like(one_box), []
    for k in range(FOLDS):
        best = choose(table[:, fold != k], one_box[fold != k])
        chosen.append(PROMINENCES[best])
        held[fold == k] = table[best, fold == k]
    return held, chosen


def study(folder: Path, recipe: Recipe, chosen: float | None) -> tuple[dict[str, Row], float]:
    """Every rule on one set, and the prominence that is chosen there or was given."""
    examples = read_examples(folder, gapcam.load(recipe=recipe))
    heat = heat_of(examples, recipe)

    def counted(components: Any, prominence: float = 0.0) -> Numbers:
        rule = dataclasses.replace(recipe, components=components, prominence=prominence)
        return counts_of(heat, examples, rule)

    one_box = counted("largest")
    table = np.stack([counted("instances", p) for p in PROMINENCES])
    rows = {"one box": summary(one_box, one_box), "all": summary(counted("all"), one_box)}
    for prominence, counts in zip(PROMINENCES, table, strict=True):
        rows[f"instances {prominence:g}"] = summary(counts, one_box)
    if chosen is None:
        held, folds = cross_selected(table, one_box)
        chosen = PROMINENCES[choose(table, one_box)]
        rows["cross-selected"] = {**summary(held, one_box), "prominences": folds}
    best = table[PROMINENCES.index(chosen)]
    rows["chosen"] = {"prominence": chosen, **summary(best, one_box)}
    return rows, chosen


def show(name: str, rows: dict[str, Row]) -> None:
    """Print one set's table."""
    print(f"\n{name}")
    for label, row in rows.items():
        cells = (f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items())
        print(f"  {label:18}" + "  ".join(cells))


def main() -> None:
    """Run, print, store."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=SHARED / "ilsvrc-val-dev")
    parser.add_argument("--held-out", type=Path, default=SHARED / "imagenette-small" / "test")
    arguments = parser.parse_args()
    tables: dict[str, dict[str, Row]] = {}
    for recipe in (DEFAULT, BEST):
        chosen = recipe.prominence  # for the held-out set where the other is not here
        for folder, select in ((arguments.data, True), (arguments.held_out, False)):
            if not (folder / "boxes.csv").is_file():
                print(f"skipped: {folder}/boxes.csv is not here", file=sys.stderr)
                continue
            rows, chosen = study(folder, recipe, None if select else chosen)
            name = folder.name if select else f"{folder.parent.name}/{folder.name}"
            tables[f"{recipe.name} on {name}"] = rows
            show(f"{recipe.name}, threshold {recipe.threshold}, {folder}", rows)
    if tables:
        RESULTS.write_text(json.dumps(tables, indent=1) + "\n")


if __name__ == "__main__":
    main()
