"""Does a finer grid localize better, with the same weights? The embedded trunk, dilated.

    python benchmarks/training_dilation.py [--data DIR] [--strides 16 8] [--every N]

`--data` holds `images/` and `boxes.csv`, as for localization.py; 630 ILSVRC validation pictures
where they are there. The trunk's own head on features of stride 32, and of the finer ones; plain
maps, the recipe `paper`. GT-known Loc at its threshold, .2, and at the best threshold of each;
differences are paired, intervals bootstrap over pictures. Nothing is trained.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

import gapcam
from gapcam.boxes import find_regions, scale_box
from gapcam.localizer import to_heat
from gapcam.metrics.bootstrap import bootstrap_ci95
from gapcam.models.embedded import load_network
from gapcam.models.trunks import embedded_trunk
from gapcam.recipes import PAPER
from gapcam.types import FloatArray, Recipe
from localization import SHARED, Example, best_iou, read_examples

RESULTS = Path(__file__).parent / "results" / "training_dilation.json"
THRESHOLDS = tuple(round(float(t), 2) for t in np.arange(0.08, 0.5, 0.04))
BATCH = 10
IOU = 0.5
STRIDE = 32

Hits = npt.NDArray[np.bool_]


def class_maps(
    localizer: gapcam.Localizer, examples: list[Example], stride: int
) -> list[FloatArray]:
    """The raw map of each picture's class, on a grid of this stride."""
    trunk = embedded_trunk(None if stride == STRIDE else stride).trunk.eval()
    weights = load_network().head.weight.detach()
    maps: list[FloatArray] = []
    for start in range(0, len(examples), BATCH):
        some = examples[start : start + BATCH]
        pixels = np.stack([localizer.read(example.path).pixels for example in some])
        images = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() - 127) / 128
        with torch.inference_mode():
            features = trunk(images)
        for one, example in zip(features, some, strict=True):
            found = torch.tensordot(weights[example.class_id], one, 1)
            maps.append(found.numpy().astype(np.float32))
    return maps


def hits(maps: list[FloatArray], examples: list[Example], thresholds: tuple[float, ...]) -> Hits:
    """Whether the one box at each threshold has IoU .5 with a box of the class, `[t, n]`."""
    rows = []
    for threshold in thresholds:
        recipe = Recipe(**{**_fields(PAPER), "threshold": threshold})
        rows.append([_hit(m, example, recipe) for m, example in zip(maps, examples, strict=True)])
    return np.array(rows)


def _fields(recipe: Recipe) -> dict[str, Any]:
    return {name: getattr(recipe, name) for name in recipe.__dataclass_fields__}


def _hit(one: FloatArray, example: Example, recipe: Recipe) -> bool:
    heat = to_heat(one, one, recipe)
    size_hw = (example.size_wh[1], example.size_wh[0])
    regions = find_regions(heat, recipe)
    if not regions:
        return False
    box = scale_box(regions[0].box_xyxy, (heat.shape[0], heat.shape[1]), size_hw)
    return best_iou(box, example) >= IOU


def main() -> None:
    """Run every stride; print and store the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=SHARED / "ilsvrc-val-dev")
    parser.add_argument("--strides", type=int, nargs="*", default=[16, 8])
    parser.add_argument("--every", type=int, default=1, help="take every N-th picture")
    given = parser.parse_args()
    if not given.data.is_dir():
        raise SystemExit(f"SKIPPED: {given.data} is not there; name pictures with --data")
    localizer = gapcam.load(threads=1)
    examples = read_examples(given.data, localizer)[:: given.every]
    found: dict[int, Hits] = {}
    rows: list[dict[str, Any]] = []
    for stride in (STRIDE, *given.strides):
        began = time.perf_counter()
        maps = class_maps(localizer, examples, stride)
        seconds = time.perf_counter() - began
        found[stride] = hits(maps, examples, (PAPER.threshold, *THRESHOLDS))
        row = _row(stride, found[stride], found[STRIDE])
        rows.append({**row, "pictures": len(examples), "seconds": round(seconds, 1)})
        print(rows[-1], flush=True)
    if given.every == 1:
        RESULTS.write_text(json.dumps(rows, indent=1) + "\n")


def _row(stride: int, hit: Hits, base: Hits) -> dict[str, Any]:
    best, best_base = (int(h[1:].mean(axis=1).argmax()) + 1 for h in (hit, base))
    row: dict[str, Any] = {
        "stride": stride,
        "gt_known": float(hit[0].mean()),
        "best_gt_known": float(hit[best].mean()),
        "best_threshold": THRESHOLDS[best - 1],
    }
    if hit is not base:
        for name, gain in (
            ("gain", hit[0].astype(float) - base[0]),
            ("best_gain", hit[best].astype(float) - base[best_base]),
        ):
            row[name] = float(gain.mean())
            row[f"{name}_ci95"] = [float(end) for end in bootstrap_ci95(gain)]
    return row


if __name__ == "__main__":
    main()
