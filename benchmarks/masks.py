"""Is a mask that is cut along the picture's edges better than the plain one?

    python benchmarks/masks.py [--tiles DIR] [--data DIR]

`--tiles` holds `train/<class>/`, `test/<class>/` and `test-masks/<class>/` of surface defects. A
linear head is fitted on class labels; the true class's map is enlarged to the picture, filtered,
and scored against the mask: PxAP, and the mean IoU of `heat > threshold`. Setting (by PxAP + mean
IoU) and threshold (by mean IoU) are chosen on the other half. Intervals: 95 %, bootstrap over
pictures; gains are paired: of a filter over the same map without it, of a map over the first one.
- guided: He et al., "Guided Image Filtering", ECCV 2010, the grey picture as guide, then rescaled;
  written here with `cv2.boxFilter`: OpenCV has it in its contrib build alone;
- blur: the same filter blind to the picture (epsilon to infinity): what smoothing alone gives;
- grabcut: `cv2.grabCut` from hot and cold seeds, one iteration at no more than 128 pixels a side
  (it takes seconds a picture at full size); the heat is averaged with its mask.

`--data` (see `localization.py`): boxes, mean accuracy over IoU .3, .5, .7, 5-fold cross-selection;
of the guided filter's epsilons the first alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

import gapcam
from gapcam.data.masks import FOREGROUND
from gapcam.engines import Engine
from gapcam.images import load_picture, resize_picture
from gapcam.maps import class_maps, normalize_max, normalize_minmax
from gapcam.metrics.bootstrap import bootstrap_ci95
from gapcam.metrics.otsu import otsu_thresholds
from gapcam.metrics.pixels import count_pixels, mask_iou
from gapcam.recipes import DEFAULT
from gapcam.refine import affinity
from gapcam.resample import resample
from gapcam.types import BoolArray, ByteArray, FloatArray
from localization import IOUS
from network_outputs import SHARED, Numbers, ScoredSet, cross_select, mean_accuracy
from tile_model import fit

RESULTS = Path(__file__).parent / "results" / "masks.json"
BATCH, ROUNDS, FOLDS, GRID, BOX_GRID = 16, 1000, 5, (56, 56), (112, 112)
SIZES = {"224": (224,), "320": (320,), "448": (448,), "224+448": (224, 448)}
CENTRINGS = {"plain": None, "affinity 1": 1.0, "affinity .25": 0.25}
RECIPE_MAPS = ("224 affinity .25", "224+448 affinity .25")
RADII = (1 / 32, 1 / 16, 1 / 8, 1 / 4)  # shares of the square root of the picture's area
EPSILONS = (1e-4, 1e-3, 1e-2)  # the guide is 0..1
SEEDS = ((0.2, 0.7), (0.3, 0.9))  # colder: background for sure; hotter: object for sure
THRESHOLDS = np.arange(0.18, 0.75, 0.04)

Row = dict[str, Any]


def run(engine: Engine, paths: Sequence[Path], side: int) -> tuple[FloatArray, FloatArray]:
    """Features and fine features of pictures at an input side."""
    read = (load_picture(path, at_least_hw=(2 * side, 2 * side)).pixels for path in paths)
    seen = np.stack([resize_picture(pixels, (side, side)) for pixels in read])
    kept = [engine.run(seen[start : start + BATCH]) for start in range(0, len(seen), BATCH)]
    features = np.concatenate([out.features for out in kept])
    return features, np.concatenate([out.fine_features for out in kept])


def heats(maps: Mapping[int, FloatArray], fine: FloatArray) -> dict[str, FloatArray]:
    """Heat `[n, 56, 56]` of every size and spreading, over the features at 224."""
    table = {}
    for name, centring in CENTRINGS.items():
        scale = normalize_max if centring is None else normalize_minmax
        for size, sides in SIZES.items():
            if set(sides) <= set(maps):
                found = sum(at_grid(maps[side], fine, centring) for side in sides)
                table[f"{size} {name}"] = scale(np.asarray(found))
    return table


def at_grid(maps: FloatArray, fine: FloatArray, centring: float | None) -> FloatArray:
    """Maps `[n, 1, h, w]` with peak 1, spread if there is a centring, `[n, 56, 56]`."""
    if centring is None:
        return normalize_max(resample(maps, GRID, "bicubic"))[:, 0]
    return resample(normalize_max(affinity(maps, fine, centring)), GRID, "bicubic")[:, 0]


def guided(heat: FloatArray, pixels: ByteArray, radius: float, epsilon: float) -> FloatArray:
    """The guided filter of heat `[H, W]` (equations 5 to 8), rescaled; epsilon inf: no edges."""
    k = 2 * max(1, round(radius * heat.size**0.5)) + 1
    mean = partial(cv2.boxFilter, ddepth=-1, ksize=(k, k), borderType=cv2.BORDER_REFLECT)
    guide = pixels.mean(2, dtype=np.float32) / 255
    mean_guide, mean_heat = mean(guide), mean(heat)
    covariance = mean(guide * heat) - mean_guide * mean_heat
    slope = covariance / (mean(guide * guide) - mean_guide**2 + epsilon)
    smooth = np.asarray(mean(slope) * guide + mean(mean_heat - slope * mean_guide), np.float32)
    return np.asarray(normalize_minmax(smooth[np.newaxis])[0])


def grabcut(heat: FloatArray, pixels: ByteArray, low: float, high: float) -> FloatArray:
    """Heat averaged with the mask that `cv2.grabCut` grows from it; the heat where it cannot."""
    scale = min(1.0, 128 / max(heat.shape))
    small = np.asarray(cv2.resize(heat, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA))
    seen = cv2.resize(pixels, small.shape[::-1], interpolation=cv2.INTER_AREA)
    mask = np.where(small > (low + high) / 2, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    mask[small < low], mask[small > high] = cv2.GC_BGD, cv2.GC_FGD
    if np.ptp(mask & 1) == 0:
        return heat
    cv2.setRNGSeed(0)
    none: Any = None  # no rectangle: the mask says where to start
    cv2.grabCut(seen, mask, none, np.zeros((1, 65)), np.zeros((1, 65)), 1, cv2.GC_INIT_WITH_MASK)
    cut = cv2.resize((mask & 1).astype(np.float32), heat.shape[::-1])
    return np.asarray((heat + cut) / 2, np.float32)


def settings(name: str) -> dict[str, Callable[[FloatArray, ByteArray], FloatArray]]:
    """Every setting of a filter, by its words."""
    if name == "grabcut":
        return {f"seeds {s}, ": partial(grabcut, low=s[0], high=s[1]) for s in SEEDS}
    return {
        f"radius {r:.3f}, epsilon {e:g}, ": partial(guided, radius=r, epsilon=e)
        for r in RADII
        for e in (EPSILONS if name == "guided" else (np.inf,))
    }


def tile_heats(folder: Path, paths: Sequence[Path]) -> dict[str, FloatArray]:
    """Heats of the true classes: the head fitted at 224, and maps at 448 with one fitted there."""
    engine = gapcam.load().engine
    train = sorted((folder / "train").glob("*/*.jpg"))
    names, labels = np.unique([path.parent.name for path in train], return_inverse=True)
    truth = np.searchsorted(names, [path.parent.name for path in paths])[:, np.newaxis]
    outputs = {side: run(engine, paths, side) for side in (224, 320, 448)}
    table: dict[str, FloatArray] = {}
    for at, sides, words in ((224, (224, 320, 448), ""), (448, (448,), ", head fitted at 448")):
        weights, _ = fit(run(engine, train, at)[0].mean((2, 3)), labels, len(names))
        maps = {side: class_maps(outputs[side][0], weights, truth) for side in sides}
        table |= {f"{k}{words}": heat for k, heat in heats(maps, outputs[224][1]).items()}
    return table


class Scores(NamedTuple):
    """Pixels from each threshold to the next `[n, 2, 1001]`, and IoU `[n, 1000]` or `[n]`."""

    bins: Numbers
    ious: Numbers
    chosen: tuple[str, ...] = ()


def count(maps: Sequence[FloatArray], masks: Sequence[BoolArray]) -> Scores:
    pairs = zip(maps, masks, strict=True)
    slots = np.stack([count_pixels(np.clip(heat, 0, 1), mask) for heat, mask in pairs])
    wrong, hits = slots[..., ::-1].cumsum(-1)[..., ::-1][..., 1::2].swapaxes(0, 1)
    bins = np.add.reduceat(slots, np.arange(0, slots.shape[-1], 2), axis=-1).astype(np.float64)
    return Scores(bins, hits / (np.array([[mask.sum()] for mask in masks]) + wrong))


def pxap(bins: Numbers) -> Numbers:
    """PxAP `[...]` of pooled counts `[..., 2, 1001]`."""
    found = bins[..., ::-1].cumsum(-1)[..., ::-1]
    precision = found[..., 1, :] / np.maximum(found.sum(-2), 1)
    score: Numbers = (precision * bins[..., 1, :]).sum(-1) / found[..., 1, 0]
    return score


def hold(options: Mapping[str, Scores], half: npt.NDArray[np.int64]) -> Scores:
    """Each half with the setting and the threshold that the other half chose."""
    first = next(iter(options.values()))
    bins, ious, chosen = np.empty_like(first.bins), np.empty(len(half)), []
    for mine, other in ((half == 0, half == 1), (half == 1, half == 0)):
        means = {name: s.ious[other].mean(0) for name, s in options.items()}
        worth = {name: pxap(s.bins[other].sum(0)) for name, s in options.items()}
        best = max(options, key=lambda name: worth[name] + means[name].max())
        at = int(means[best].argmax())
        bins[mine], ious[mine] = options[best].bins[mine], options[best].ious[mine, at]
        chosen.append(f"{best}threshold {at / 1000}")
    return Scores(bins, ious, tuple(chosen))


def draws(held: Scores) -> Numbers:
    """PxAP and mean IoU, `[2, 1 + rounds]`: first of the pictures, then of each resampling."""
    n = len(held.ious)
    drawn = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), ROUNDS)
    weights = np.concatenate([np.ones((1, n)), drawn])
    pooled = (weights @ held.bins.reshape(n, -1)).reshape(len(weights), 2, -1)
    return np.stack([pxap(pooled), weights @ held.ious / n])


def row(held: Scores, reference: Scores | None) -> Row:
    """Percent, with intervals; gains over a reference where there is one."""
    gains = {} if reference is None else {"_gain": draws(held) - draws(reference)}
    cells: Row = {"chosen": held.chosen}
    for words, pair in {"": draws(held), **gains}.items():
        for name, of in zip(("pxap", "mean_iou"), pair, strict=True):
            cells[name + words] = percent(of[0])
            cells[f"{name}{words}_ci95"] = percent(np.quantile(of[1:], (0.025, 0.975)))
    return cells


def percent(values: npt.ArrayLike) -> Any:
    return np.round(100 * np.asarray(values, np.float64), 1).tolist()


def study_tiles(folder: Path) -> Row:
    """Every map, plain and filtered, against the masks."""
    files = sorted((folder / "test-masks").glob("*/*.png"))
    drawn = {path: np.asarray(Image.open(path).convert("L")) > FOREGROUND for path in files}
    kept = {path: mask for path, mask in drawn.items() if mask.any()}
    paths = [folder / "test" / path.parent.name / f"{path.stem}.jpg" for path in kept]
    masks = list(kept.values())
    pixels = [load_picture(path).pixels for path in paths]
    half = np.random.default_rng(0).permutation(len(paths)) % 2
    even = hold({"": count([np.ones(m.shape, np.float32) for m in masks], masks)}, half)
    table: Row = {"left out, empty mask": [path.stem for path in files if path not in kept]}
    table["even map"], first = row(even, None), None
    for name, heat in tile_heats(folder, paths).items():
        pairs = zip(heat, masks, strict=True)
        large = [np.asarray(cv2.resize(h, m.shape[::-1]), np.float32) for h, m in pairs]
        plain = hold({"": count(large, masks)}, half)
        cuts = [h > t for h, t in zip(large, otsu_thresholds(heat), strict=True)]
        otsu = list(map(mask_iou, cuts, masks))
        table[name] = row(plain, first) | {"mean_iou_otsu": percent(np.mean(otsu))}
        first, held = first or plain, {}
        for kind in ("blur", "guided", "grabcut")[: 3 if name in RECIPE_MAPS else 2]:
            options = {}
            for words, apply in settings(kind).items():
                start = time.perf_counter()
                cut = [apply(h, p) for h, p in zip(large, pixels, strict=True)]
                milliseconds = 1000 * (time.perf_counter() - start) / len(cut)
                options[words] = count(cut, masks)
            held[kind] = hold(options, half)
            cost = {"ms_a_picture": round(milliseconds, 1)}
            table[f"{name}, {kind}"] = row(held[kind], plain) | cost
        table[f"{name}, guided, gain over blur"] = row(held["guided"], held["blur"])
    return table


def study_boxes(folder: Path) -> Row:
    """Boxes of the recipes' maps, plain and filtered."""
    scored, table = ScoredSet(folder), {}
    pixels = [load_picture(example.path).pixels for example in scored.examples]
    maps = {side: scored.at(side).maps for side in (224, 448)}
    every = heats(maps, scored.at(224).fine_features)
    for name in RECIPE_MAPS:
        pairs = zip(every[name], pixels, strict=True)
        large = [(np.asarray(cv2.resize(h, p.shape[1::-1]), np.float32), p) for h, p in pairs]
        plain = held_boxes([sweep(scored, [heat for heat, _ in large])])
        table[name] = {"accuracy": percent(mean_accuracy(plain))}
        for kind, step in (("blur", 1), ("guided", len(EPSILONS)), ("grabcut", 1)):
            cuts = ([f(h, p) for h, p in large] for f in list(settings(kind).values())[::step])
            held = held_boxes([sweep(scored, cut) for cut in cuts])
            gains = np.mean([(held >= d) * 1.0 - (plain >= d) for d in IOUS], axis=0)
            table[f"{name}, {kind}"] = {"accuracy": percent(mean_accuracy(held))}
            cells = {"gain": percent(gains.mean()), "gain_ci95": percent(bootstrap_ci95(gains))}
            table[f"{name}, {kind}"] |= cells
    return table


def sweep(scored: ScoredSet, large: Sequence[FloatArray]) -> Numbers:
    """IoU `[T, n]`."""
    grid = [cv2.resize(heat, BOX_GRID, interpolation=cv2.INTER_AREA) for heat in large]
    cuts = [dataclasses.replace(DEFAULT, threshold=float(t)) for t in THRESHOLDS]
    return np.stack([scored.ious(normalize_minmax(np.stack(grid)), cut) for cut in cuts])


def held_boxes(tables: Sequence[Numbers]) -> Numbers:
    """IoU `[n]` with setting and threshold of each fold chosen on the others."""
    n = tables[0].shape[1]
    return cross_select(tables, np.random.default_rng(0).permutation(n) % FOLDS)


def main() -> None:
    """Run, print, store."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiles", type=Path, default=SHARED / "magnetic-tile")
    parser.add_argument("--data", type=Path, default=SHARED / "ilsvrc-val-dev")
    given, table = parser.parse_args(), {}
    tiles, boxes = given.tiles / "test-masks", given.data / "boxes.csv"
    for name, path, study in (("masks", tiles, study_tiles), ("boxes", boxes, study_boxes)):
        if path.exists():
            table[name] = study(path.parent)
        else:
            print(f"skipped: {path} is not here", file=sys.stderr)
    print(json.dumps(table, indent=1))
    if len(table) == 2:
        RESULTS.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
