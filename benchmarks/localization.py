"""How good are the boxes? Every recipe on real ILSVRC pictures, beside the trivial boxes.

    python benchmarks/localization.py [--data DIR] [--held-out DIR]

`--data` holds `images/` and `boxes.csv` (image,class_id,width,height,x0,y0,x1,y1); thresholds of
our recipes were chosen there, so their rows also say what 5-fold cross-validation gives when each
fold's threshold is chosen on the other four. `--held-out` is a set that nothing was chosen on.
Pictures are squashed whole; boxes are ours (original pixels, half-open, IoU >= 0.5 counts).
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

import gapcam
from gapcam.boxes import find_regions, scale_box
from gapcam.metrics.bootstrap import bootstrap_ci95
from gapcam.metrics.boxes import box_iou
from gapcam.types import Box, Localization, Recipe

SHARED = Path(__file__).parents[2] / "shared" / "data"
RESULTS = Path(__file__).parent / "results" / "localization.json"
IOUS = (0.3, 0.5, 0.7)
CENTRED_WH = (0.70, 0.75)
THRESHOLDS = tuple(round(t, 2) for t in np.arange(0.10, 0.70, 0.02))
BATCH = 32

Numbers = npt.NDArray[np.float64]
Row = dict[str, object]


@dataclass(frozen=True)
class Example:
    """One picture with its class and the boxes of that class."""

    path: Path
    class_id: int
    size_wh: tuple[int, int]
    boxes: tuple[Box, ...]


def read_examples(folder: Path, localizer: gapcam.Localizer) -> list[Example]:
    """The pictures of `boxes.csv`, classes by id or WordNet id."""
    rows: dict[str, list[dict[str, str]]] = {}
    with (folder / "boxes.csv").open() as file:
        for row in csv.DictReader(file):
            rows.setdefault(row["image"], []).append(row)
    return [
        Example(
            path=folder / "images" / name,
            class_id=int(of[0]["class_id"])
            if "class_id" in of[0]
            else localizer.class_id(of[0]["class"]),
            size_wh=(int(of[0]["width"]), int(of[0]["height"])),
            boxes=tuple(
                (float(r["x0"]), float(r["y0"]), float(r["x1"]), float(r["y1"])) for r in of
            ),
        )
        for name, of in sorted(rows.items())
    ]


def best_iou(box: Box | None, example: Example) -> float:
    """The IoU with the box of the class that fits best; 0 with no box."""
    return 0.0 if box is None else float(box_iou([box], list(example.boxes)).max())


def localize(
    localizer: gapcam.Localizer, examples: Sequence[Example]
) -> tuple[list[Localization], list[Localization]]:
    """The five best classes of every picture, and its true class."""
    best, known = [], []
    for start in range(0, len(examples), BATCH):
        batch = examples[start : start + BATCH]
        pictures = [localizer.read(example.path) for example in batch]
        paths = [example.path for example in batch]
        best += localizer.localize(pictures, paths, 5)
        truth = np.array([[example.class_id] for example in batch])
        known += localizer.localize(pictures, paths, truth)
    return best, known


def score(examples: Sequence[Example], best: list[Localization], known: list[Localization]) -> Row:
    """All scores of one recipe."""
    ious = np.array(
        [best_iou(k.detections[0].box_xyxy, e) for k, e in zip(known, examples, strict=True)]
    )
    ranked = [
        [(d.class_id == e.class_id, best_iou(d.box_xyxy, e) >= 0.5) for d in b.detections]
        for b, e in zip(best, examples, strict=True)
    ]
    row = {
        "top1": np.array([right[0][0] for right in ranked]),
        "mean_top_score": np.array([b.detections[0].score for b in best]),
        "top5": np.array([any(c for c, _ in right) for right in ranked]),
        "top1_loc": np.array([all(right[0]) for right in ranked]),
        "top5_loc": np.array([any(all(r) for r in right) for right in ranked]),
    }
    return {**{k: float(v.mean()) for k, v in row.items()}, **iou_scores(ious)}


def iou_scores(ious: Numbers) -> Row:
    """GT-known Loc with its interval, and the mean over IoU .3, .5, .7."""
    low, high = bootstrap_ci95(ious >= 0.5)
    return {
        "gt_known": float((ious >= 0.5).mean()),
        "gt_known_ci95": f"{100 * low:.1f} to {100 * high:.1f}",
        "mean_iou357": float(np.mean([(ious >= d).mean() for d in IOUS])),
    }


def baseline(examples: Sequence[Example], share_wh: tuple[float, float]) -> Row:
    """The score of the same centred box in every picture."""
    return iou_scores(centred_ious(examples, share_wh))


def centred_ious(examples: Sequence[Example], share_wh: tuple[float, float]) -> Numbers:
    """Best IoU `[n]` of the same centred box in every picture."""
    x, y = (1 - share_wh[0]) / 2, (1 - share_wh[1]) / 2
    ious = [
        best_iou((x * w, y * h, (1 - x) * w, (1 - y) * h), e)
        for e in examples
        for w, h in [e.size_wh]
    ]
    return np.array(ious)


def threshold_ious(
    examples: Sequence[Example], known: list[Localization], recipe: Recipe
) -> Numbers:
    """IoU `[T, n]` of every picture at every threshold."""
    table = np.zeros((len(THRESHOLDS), len(examples)))
    for i, threshold in enumerate(THRESHOLDS):
        cut = dataclasses.replace(recipe, threshold=threshold)
        for j, (found, example) in enumerate(zip(known, examples, strict=True)):
            heat = found.detections[0].heat
            regions = find_regions(heat, cut)
            if regions:
                grid_hw = (heat.shape[0], heat.shape[1])
                box = scale_box(regions[0].box_xyxy, grid_hw, found.size_hw)
                table[i, j] = best_iou(box, example)
    return table


def cross_validated(ious: Numbers, folds: int = 5) -> Row:
    """Scores when each fold's threshold is the best, by mean over IoU .3, .5, .7, of the others."""
    fold = np.random.default_rng(0).permutation(ious.shape[1]) % folds
    held = np.zeros(ious.shape[1])
    chosen = []
    for k in range(folds):
        means = np.mean([(ious[:, fold != k] >= d).mean(1) for d in IOUS], axis=0)
        chosen.append(THRESHOLDS[int(means.argmax())])
        held[fold == k] = ious[int(means.argmax()), fold == k]
    return {**iou_scores(held), "thresholds": chosen}


def evaluate(folder: Path, *, select: bool) -> dict[str, Row]:
    """Every recipe and baseline on one set."""
    table: dict[str, Row] = {}
    for recipe in gapcam.RECIPES.values():
        localizer = gapcam.load(recipe=recipe)
        examples = read_examples(folder, localizer)
        best, known = localize(localizer, examples)
        table[recipe.name] = {"threshold": recipe.threshold, **score(examples, best, known)}
        if select and recipe.refine != "none":
            crossed = cross_validated(threshold_ious(examples, known, recipe))
            table[f"{recipe.name}, 5-fold threshold"] = crossed
    table["centred box .70 x .75"] = baseline(examples, CENTRED_WH)
    table["whole picture"] = baseline(examples, (1.0, 1.0))
    return table


def show(name: str, table: dict[str, Row]) -> None:
    """Print one set's table, percent."""
    columns = ("top1", "mean_top_score", "top5", "top1_loc", "top5_loc", "gt_known", "mean_iou357")
    print(f"\n{name}\n{'':26}" + "".join(f"{c:>15}" for c in columns) + "   95 % of gt_known")
    for row, scores in table.items():
        cells = [scores.get(c) for c in columns]
        text = "".join(f"{100 * c:15.1f}" if isinstance(c, float) else f"{'':15}" for c in cells)
        print(f"{row:26}{text}   {scores['gt_known_ci95']}")


def main() -> None:
    """Run, print, store."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=SHARED / "ilsvrc-val-dev")
    parser.add_argument("--held-out", type=Path, default=SHARED / "imagenette-small" / "test")
    arguments = parser.parse_args()
    tables = {}
    for folder, select in ((arguments.data, True), (arguments.held_out, False)):
        if not (folder / "boxes.csv").is_file():
            print(f"skipped: {folder}/boxes.csv is not here", file=sys.stderr)
            continue
        name = folder.name if select else f"{folder.parent.name}/{folder.name}"
        tables[name] = evaluate(folder, select=select)
        show(name, tables[name])
    if tables:
        RESULTS.write_text(json.dumps(tables, indent=1) + "\n")


if __name__ == "__main__":
    main()
