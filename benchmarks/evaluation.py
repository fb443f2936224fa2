"""The evaluator on real pictures: parity with published numbers, choices made on other pictures.

    python benchmarks/evaluation.py [--data DIR] [--golden DIR] [--tiles DIR] [--reports DIR]

1. `wsol` on the embedded model's plain class maps, beside what the reference evaluator gave for
   maps of the same network, threshold by threshold; and PxAP of the reference's own maps
   (`--golden` holds `wsol_boxes.npz` and `wsol_masks.npz`).
2. Every recipe on one half of `--data`, with threshold and centred box chosen on the other half.
3. `--tiles` holds `train/<class>/`, `test/<class>/` and `test-masks/<class>/` of pictures of
   surface defects: a linear head is fitted to the embedded network's pooled features on class
   labels alone, and its maps are scored against the masks, the threshold chosen on one half of
   them and reported on the other. The masks are used for nothing else.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import gapcam
from gapcam.data import Dataset, read_dataset
from gapcam.evaluate import evaluate
from gapcam.evaluate.gallery import gallery
from gapcam.metrics import wsol
from gapcam.metrics.pixels import PixelCurve, wsol_mask
from gapcam.report import write_report
from tile_model import fit_tile_model

SHARED = Path(__file__).parents[2] / "shared"
RESULTS = Path(__file__).parent / "results" / "evaluation.json"

Row = dict[str, Any]


def halves(dataset: Dataset) -> tuple[Dataset, Dataset]:
    """Every other picture, by a seeded shuffle."""
    order = np.random.default_rng(0).permutation(len(dataset.examples))
    first, second = np.sort(order[::2]), np.sort(order[1::2])
    return tuple(  # type: ignore[return-value]
        dataclasses.replace(
            dataset,
            name=f"{dataset.name}, {words} half",
            examples=tuple(dataset.examples[i] for i in indices),
        )
        for words, indices in (("one", first), ("other", second))
    )


def parity(dataset: Dataset, golden: Path) -> Row:
    """How far our own maps' curves are from the reference's on the same network."""
    result = evaluate(gapcam.load(recipe="paper", threads=1), dataset, protocol="wsol").result
    reference = np.load(golden)
    levels = (reference["thresholds"] * 255).astype(int)
    farthest = {
        f"{ours} {iou}": float(
            np.abs(
                np.array(result["curves"][ours][iou])[levels] * 100
                - reference[f"{theirs}_acc_{name}"]
            ).max()
        )
        for ours, theirs in (("single", "single"), ("multi", "multi"))
        for iou, name in (("0.3", "30"), ("0.5", "50"), ("0.7", "70"))
    }
    return {
        "max_box_acc": 100 * result["max_box_acc"]["0.5"],
        "max_box_acc_reference": float(reference["single_acc_50"].max()),
        "max_box_acc_v2": 100 * result["max_box_acc_v2"],
        "max_box_acc_v2_reference": float(
            np.mean([reference[f"multi_acc_{iou}"].max() for iou in (30, 50, 70)])
        ),
        "largest_difference_at_any_threshold": farthest,
        "pictures_per_second": result["speed"]["pictures_per_second"],
    }


def mask_parity(golden: Path, masks: Path) -> Row:
    """PxAP of the reference's maps and masks, the whole way from mask files."""
    reference = np.load(golden)
    curve = PixelCurve()
    scores = wsol.score_maps(reference["maps"])
    for i, (name, score_map) in enumerate(zip(reference["masks"], scores, strict=True)):
        mask = np.asarray(Image.open(masks / str(name)).convert("L"))
        ignore = np.zeros_like(mask)
        if i % 2:  # as the reference was run: the left quarter is ignored
            ignore[:, : mask.shape[1] // 4] = 255
        curve.add(score_map, *wsol_mask([mask], [ignore]))
    return {"pxap": 100 * curve.pxap, "pxap_reference": float(reference["pxap"])}


def short(result: Row) -> Row:
    """What a table needs."""
    keys = ("n", "top1", "top1_loc", "gt_known", "pointing", "pxap", "threshold")
    return {
        **{key: result[key] for key in keys},
        "ci95": {key: result["ci95"][key] for key in ("gt_known", "pxap")},
        "thresholds": {
            row["source"]: {key: row[key] for key in ("threshold", "gt_known", "box_acc", "mask")}
            for row in result["thresholds"]
        },
        "baselines": result["baselines"]
        and {
            name: {key: row[key] for key in ("gt_known", "gain", "gain_ci95", "share_wh")}
            for name, row in result["baselines"].items()
        },
    }


def on_halves(localizer: gapcam.Localizer, dataset: Dataset, report: Path | None) -> Row:
    """Choose on one half, report on the other."""
    one, other = halves(dataset)
    done = evaluate(localizer, other, select_on=one, skip_bad=True)
    if report is not None:
        done.result["data"] |= {"images": dataset.name, "boxes": None, "masks": None}
        write_report(report, done.result, tuple(gallery(localizer, done)))
    return short(done.result)


def main() -> None:
    """Run, print, store."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=SHARED / "data" / "ilsvrc-val-dev")
    parser.add_argument("--golden", type=Path, default=SHARED / "golden")
    parser.add_argument("--tiles", type=Path, default=SHARED / "data" / "magnetic-tile")
    parser.add_argument("--reports", type=Path, default=None)
    arguments = parser.parse_args()
    table: dict[str, Row] = {}
    if arguments.reports is not None:
        arguments.reports.mkdir(parents=True, exist_ok=True)
    if (arguments.data / "boxes.csv").is_file():
        dataset = read_dataset(arguments.data / "images", arguments.data / "boxes.csv")
        if (arguments.golden / "wsol_boxes.npz").is_file():
            table["wsol parity"] = parity(dataset, arguments.golden / "wsol_boxes.npz")
        for name in ("default", "fast", "best", "paper"):  # `released` is slow to sweep
            report = arguments.reports and arguments.reports / f"{name}.html"
            localizer = gapcam.load(recipe=name, threads=1)
            table[f"{dataset.name}, halves, {name}"] = on_halves(localizer, dataset, report)
    else:
        print(f"skipped: {arguments.data}/boxes.csv is not here", file=sys.stderr)
    if (arguments.tiles / "test-masks").is_dir():
        if (arguments.golden / "wsol_masks.npz").is_file():
            masks = arguments.golden / "wsol_masks.npz"
            table["wsol mask parity"] = mask_parity(masks, arguments.tiles / "test-masks")
        table |= tiles(arguments.tiles, arguments.reports)
    else:
        print(f"skipped: {arguments.tiles}/test-masks is not here", file=sys.stderr)
    print(json.dumps(table, indent=1))
    if table:
        RESULTS.write_text(json.dumps(table, indent=1) + "\n")


def tiles(folder: Path, reports: Path | None) -> dict[str, Row]:
    """Maps of a head fitted on class labels, against masks."""
    dataset = read_dataset(folder / "test", None, folder / "test-masks")
    table = {}
    with tempfile.TemporaryDirectory() as scratch:
        model = fit_tile_model(folder / "train", Path(scratch) / "tiles.onnx")
        for recipe in ("default", "paper"):
            localizer = gapcam.load(model, recipe=recipe, threads=1)
            report = reports and reports / f"tiles-{recipe}.html"
            table[f"magnetic-tile masks, halves, {recipe}"] = on_halves(localizer, dataset, report)
    return table


if __name__ == "__main__":
    main()
