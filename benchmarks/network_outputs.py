"""What the network says of a scored set at several input sizes, and how boxes are scored on it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

import gapcam
from gapcam.boxes import find_all_regions, scale_box
from gapcam.recipes import DEFAULT
from gapcam.types import FloatArray, Recipe
from localization import IOUS, Example, best_iou, read_examples

SHARED = Path(__file__).parents[2] / "shared" / "data"
THRESHOLDS = tuple(round(t, 2) for t in np.arange(0.06, 0.80, 0.02))
BATCH = 16
BANDS = ((0.0, 0.1), (0.1, 0.25), (0.25, 0.5), (0.5, 1.01))
"""Object area as a share of the picture, of the largest object of the class."""

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Pass:
    """One forward pass over a set.

    Attributes:
        maps: The true class's raw map, `[n, 1, h, w]`.
        fine_features: `[n, 112, 2h, 2w]`.
    """

    maps: FloatArray
    fine_features: FloatArray


class ScoredSet:
    """Pictures with boxes, and the network's outputs at the sizes asked for.

    Args:
        folder: Holds `images/` and `boxes.csv` (see `localization.py`).
    """

    def __init__(self, folder: Path) -> None:
        self.localizer = gapcam.load()
        self.examples = read_examples(folder, self.localizer)
        self.area = np.array([_area_share(example) for example in self.examples])
        self._passes: dict[tuple[int, bool], Pass] = {}

    def at(self, side: int, *, flipped: bool = False) -> Pass:
        """The pass at an input side; of the mirrored pictures, mirrored back, if `flipped`."""
        key = (side, flipped)
        if key not in self._passes:
            parts = list(self._run(side, flipped=flipped))
            joined = [np.concatenate([getattr(p, f.name) for p in parts]) for f in _FIELDS]
            self._passes[key] = Pass(*joined)
        return self._passes[key]

    def _run(self, side: int, *, flipped: bool) -> Iterator[Pass]:
        recipe = dataclasses.replace(DEFAULT, name="study", input_size_hw=(side, side))
        localizer = gapcam.Localizer(self.localizer.engine, self.localizer.card, recipe)
        step = -1 if flipped else 1
        for start in range(0, len(self.examples), BATCH):
            batch = self.examples[start : start + BATCH]
            pixels = np.stack([localizer.read(e.path).pixels[:, ::step] for e in batch])
            truth = np.array([[e.class_id] for e in batch])
            out = localizer.engine.run_maps(np.ascontiguousarray(pixels), truth)
            assert out.fine_features is not None
            yield Pass(out.maps[..., ::step], out.fine_features[..., ::step])

    def ious(self, heat: FloatArray, recipe: Recipe) -> Numbers:
        """Best IoU `[n]` of each picture's first box, heat `[n, h, w]`; 0 without a box."""
        grid_hw = (heat.shape[1], heat.shape[2])
        ious = []
        for found, e in zip(find_all_regions(heat, recipe), self.examples, strict=True):
            box = scale_box(found[0].box_xyxy, grid_hw, e.size_wh[::-1]) if found else None
            ious.append(best_iou(box, e))
        return np.array(ious)

    def sweep(self, heat: FloatArray, recipe: Recipe = DEFAULT) -> Numbers:
        """`ious` at every threshold, `[T, n]`."""
        cuts = [dataclasses.replace(recipe, threshold=t) for t in THRESHOLDS]
        return np.stack([self.ious(heat, cut) for cut in cuts])


_FIELDS = dataclasses.fields(Pass)


def _area_share(example: Example) -> float:
    areas = [(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in example.boxes]
    return max(areas) / (example.size_wh[0] * example.size_wh[1])


def mean_accuracy(ious: Numbers) -> Numbers:
    """The mean over IoU .3, .5, .7 of the accuracy, over the last axis."""
    mean: Numbers = np.mean([(ious >= d).mean(-1) for d in IOUS], axis=0)
    return mean


def choose(tables: Sequence[Numbers]) -> tuple[int, int]:
    """Which table `[T, n]`, and which of its thresholds, has the highest mean accuracy."""
    means = np.stack([mean_accuracy(table) for table in tables])
    which, at = np.unravel_index(int(means.argmax()), means.shape)
    return int(which), int(at)


def cross_select(tables: Sequence[Numbers], fold: npt.NDArray[np.int64]) -> Numbers:
    """IoU `[n]` of each picture, with the table and threshold that the other folds choose.

    Args:
        tables: IoU `[T, n]` of every variant.
        fold: Which fold each picture is in, `[n]`, counted from 0.
    """
    held = np.zeros(len(fold))
    for k in range(fold.max() + 1):
        which, at = choose([table[:, fold != k] for table in tables])
        held[fold == k] = tables[which][at, fold == k]
    return held
