"""What pictures without boxes say of a recipe's boxes. Pure functions, and what was measured.

Rules that read a threshold off unlabelled pictures were measured against the threshold that comes
with the recipe (`benchmarks/label_free.py`): none beat it beyond its interval on both measured
sets, and views agree most on boxes that hold the whole picture. Two things do help:

- *agreement*: how little a box moves when the picture is mirrored or seen at another size says
  which boxes to look at (`agreement`, `expected_accuracy`);
- *the size of the objects*, one number that a person can give without drawing a box: the
  threshold goes half way to where the boxes have that size (`threshold_for_share`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from gapcam.boxes import find_all_regions
from gapcam.metrics.boxes import box_areas, paired_iou
from gapcam.metrics.otsu import otsu_thresholds
from gapcam.types import ArgumentError, FloatArray, Recipe

Numbers: TypeAlias = npt.NDArray[np.float64]

THRESHOLDS = tuple(round(0.10 + 0.02 * i, 2) for i in range(36))
"""Where boxes are cut to see how their size moves: .10 to .80."""

CUT_STEP = 0.08
"""Agreement is read at the threshold and this much to either side of it, so that one jump of a
box does not decide."""


@dataclass(frozen=True, slots=True)
class Study:
    """What `benchmarks/label_free.py` measured of one recipe, with the class known.

    Attributes:
        gt_known: Share of right boxes (IoU >= .5) on 630 ILSVRC validation pictures, 0..1.
        otsu_gap: Mean over IoU .3 .5 .7 with the pooled Otsu threshold less that with the
            recipe's own, with its 95 % interval, points, same pictures.
        quarters: The three agreements that split those pictures into quarters.
        right: Share of right boxes from the least to the most agreeing quarter, there and,
            by the same three agreements, on 254 pictures of ten classes (imagenette) that no
            choice was made on.
        auroc: How often a right box agrees better than a wrong one, on either set.
    """

    gt_known: float
    otsu_gap: tuple[float, float, float]
    quarters: tuple[float, float, float]
    right: tuple[tuple[float, ...], tuple[float, ...]]
    auroc: tuple[float, float]


MODEL = "efficientnet-lite0"
"""The network that everything here was measured with."""

FACTOR = 1.15
"""How many times as large as its object a box is on average where boxes score best (default
recipe; 1.12 to 1.19 over five folds)."""

STUDIES: Mapping[str, Study] = MappingProxyType(
    {
        "fast": Study(
            gt_known=0.705,
            otsu_gap=(0.2, -1.0, 1.3),
            quarters=(0.682, 0.795, 0.874),
            right=((0.456, 0.726, 0.834, 0.804), (0.243, 0.684, 0.721, 0.847)),
            auroc=(0.68, 0.76),
        ),
        "default": Study(
            gt_known=0.725,
            otsu_gap=(-0.1, -1.1, 0.8),
            quarters=(0.73, 0.824, 0.891),
            right=((0.487, 0.771, 0.866, 0.778), (0.324, 0.596, 0.821, 0.821)),
            auroc=(0.65, 0.75),
        ),
        "best": Study(
            gt_known=0.754,
            otsu_gap=(0.8, 0.3, 1.5),
            quarters=(0.762, 0.852, 0.92),
            right=((0.595, 0.764, 0.866, 0.791), (0.417, 0.644, 0.755, 0.871)),
            auroc=(0.62, 0.72),
        ),
        "paper": Study(
            gt_known=0.667,
            otsu_gap=(-5.2, -7.0, -3.4),
            quarters=(0.722, 0.796, 0.864),
            right=((0.506, 0.631, 0.815, 0.715), (0.372, 0.586, 0.776, 0.745)),
            auroc=(0.62, 0.71),
        ),
    }
)
"""From `benchmarks/results/label_free.json`."""


def pooled_otsu(heat: FloatArray) -> float:
    """One threshold that splits all heat `[n, h, w]` in 0..1 best (`gapcam.metrics.otsu`).

    Raises:
        ArgumentError: Not `[n, h, w]`, no map at all, or a value outside 0..1.
    """
    if heat.ndim != 3 or not heat.size:
        raise ArgumentError(f"heat: expected [n, h, w] with n >= 1, got {list(heat.shape)}")
    return float(otsu_thresholds(heat.reshape(1, -1, heat.shape[2]))[0])


def boxes_at(heat: FloatArray, recipe: Recipe, threshold: float) -> Numbers:
    """The largest box of each map at a threshold, `[n, 4]`, as fractions of the picture.

    NaN where nothing is hot; arguments as `gapcam.boxes.find_all_regions`.
    """
    boxes = np.full((len(heat), 4), np.nan)
    scale = np.array([heat.shape[2], heat.shape[1]] * 2, np.float64)
    for i, found in enumerate(find_all_regions(heat, replace(recipe, threshold=threshold))):
        if found:
            boxes[i] = np.array(found[0].box_xyxy) / scale
    return boxes


def agreement(heat: FloatArray, views: Sequence[FloatArray], recipe: Recipe) -> Numbers:
    """How well the box of each picture agrees with the boxes of other views of it, `[n]`, 0..1.

    The mean IoU over the views and over three cuts: the recipe's threshold and `CUT_STEP` to
    either side, kept within .02 and .98.

    Args:
        heat: `[n, h, w]`, 0..1.
        views: Heat of the same pictures seen otherwise, mirrored back; each on a grid of its own.
        recipe: Its threshold and its rule for components.

    Raises:
        ArgumentError: There is no view.
    """
    if not views:
        raise ArgumentError("views: expected at least one other view of the pictures, got none")
    cuts = np.clip(recipe.threshold + CUT_STEP * np.array([-1, 0, 1]), 0.02, 0.98).tolist()
    own = [boxes_at(heat, recipe, cut) for cut in cuts]
    pairs = [
        paired_iou(np.nan_to_num(box), np.nan_to_num(boxes_at(view, recipe, cut)))
        for view in views
        for box, cut in zip(own, cuts, strict=True)
    ]
    mean: Numbers = np.mean(pairs, axis=0)
    return mean


def box_shares(heat: FloatArray, recipe: Recipe) -> Numbers:
    """Mean share of the picture in the box, `[T]`, at each of `THRESHOLDS`; no box counts 0."""
    boxes = [boxes_at(heat, recipe, threshold) for threshold in THRESHOLDS]
    return np.array([box_areas(np.nan_to_num(b)).mean() for b in boxes])


def threshold_for_share(shares: npt.ArrayLike, kept: float, object_share: float) -> float:
    """The threshold for objects of a known size: half way from the kept one to where sizes fit.

    Boxes that score best are `FACTOR` times as large as the objects, so that is where sizes fit.
    Half way, because a person's figure is rough. Measured with the default recipe, mean over
    IoU .3 .5 .7: 5 and 4 points better on sets of one object size, 3 or more where the figure is
    a fifth too low and 2 or more where it is a quarter too high; no better on mixed sets, where
    a figure that is half too high costs 3 to 5 points (`benchmarks/label_free.py`).

    Args:
        shares: `[T]` from `box_shares`.
        kept: The recipe's threshold.
        object_share: Mean share of the picture that the objects' boxes cover, 0..1.

    Raises:
        ArgumentError: `object_share` is not between 0 and 1.
    """
    given: Any = object_share  # Any: callers may give anything
    number = isinstance(given, int | float) and not isinstance(given, bool)
    if not number or not 0 < object_share <= 1:
        raise ArgumentError(
            f"object share: expected a share of the picture above 0 and up to 1 (0.25 is a "
            f"quarter), got {object_share!r}"
        )
    fits = np.abs(np.asarray(shares, np.float64) - FACTOR * object_share).argmin()
    return round((kept + THRESHOLDS[int(fits)]) / 2, 2)


def expected_accuracy(agreements: npt.ArrayLike, study: Study) -> tuple[float, float]:
    """Between which shares of the boxes are right, judged by how well views agree.

    Each picture counts as right as often as the measured pictures of its quarter were, by one
    measured set and by the other: low and high of the two means, 0..1.

    Args:
        agreements: `[n]`, n >= 1.
        study: Measured with the same recipe and model.
    """
    quarter = np.searchsorted(study.quarters, np.asarray(agreements, np.float64), side="right")
    means = [float(np.array(right)[quarter].mean()) for right in study.right]
    return min(means), max(means)
