"""Masks against score maps, pixel by pixel.

Pixel average precision (PxAP) pools the pixels of all pictures: Choe et al., "Evaluating Weakly
Supervised Object Localization Methods Right", CVPR 2020, section 3.3. `PixelCurve` keeps counts,
never maps, so its memory does not depend on how many pictures it has seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from gapcam.types import ArgumentError, BoolArray, ByteArray, IntArray

Numbers: TypeAlias = npt.NDArray[np.float64]

STEPS = 1000
"""Thresholds of the curve are multiples of 1 / STEPS, as in the protocol."""
EDGE = 0.001
"""Distance of two thresholds; k * EDGE is, bit for bit, the protocol's threshold k."""
WSOL_SIDE = 224
PIXELS_AT_ONCE = 2**15
"""A block of pixels whose temporaries stay in the processor's cache."""
PICTURES_AT_ONCE = 64
"""Pictures whose counts are weighted together in the bootstrap."""

_SLOTS = 2 * STEPS + 1  # slot 2k holds the scores that equal threshold k, 2k + 1 those up to k + 1


class PixelScores(NamedTuple):
    """Pixel scores of a whole set at one threshold, 0..1; NaN where there is nothing to divide."""

    precision: float
    recall: float
    iou: float


def count_pixels(
    score_map: npt.NDArray[Any], truth: BoolArray, ignore: BoolArray | None = None
) -> IntArray:
    """What `PixelCurve` needs of a map: 32 kB, whatever its size.

    Args:
        score_map: `[H, W]`, 0..1.
        truth: `bool [H, W]`, where the object is.
        ignore: `bool [H, W]`, pixels that count neither way; None for none.

    Returns:
        Background and foreground pixels, `[2, 2001]`: those that equal each threshold, and those
        between it and the next.

    Raises:
        ArgumentError: A mask is not bool or not of the map's shape, the map is empty, or a score
            is NaN or outside 0..1.
    """
    _check_pixels(score_map, truth, ignore)
    counts = np.zeros((2, _SLOTS), np.int64)
    for values, kinds in _blocks(score_map, truth, ignore):
        counts += _count_slots(values, kinds)
    return counts


class PixelCurve:
    """Precision and recall of pixels over a set of pictures, at every threshold, streaming.

    As the protocol has it, the curve counts a pixel as found where its score is *at least* the
    threshold, and ends at threshold 1. `at` is strict (`score > threshold`), as the package cuts
    its maps. The interval of PxAP comes from an online bootstrap: each of `replicates` curves
    counts each picture Poisson(1) times (Oza and Russell, "Online Bagging and Boosting", AISTATS
    2001; Chamandy et al., "Estimating Uncertainty for Massive Data Streams", Google 2012). Every
    map that is added counts as a picture of its own.

    Attributes:
        pictures: How many maps were added.
    """

    def __init__(self, *, replicates: int = 200, seed: int = 0) -> None:
        """Start with nothing counted.

        Args:
            replicates: How many bootstrap curves to keep; 0 for none.
            seed: The same seed and the same order of pictures give the same interval.

        Raises:
            ArgumentError: `replicates` is negative.
        """
        if replicates < 0:
            raise ArgumentError(f"replicates: expected 0 or more, got {replicates}")
        self.pictures = 0
        self._slots = np.zeros((2, _SLOTS), np.int64)  # background, foreground
        self._replicas = np.zeros((replicates, 2 * (STEPS + 1)))
        self._random = np.random.default_rng(seed)
        self._waiting: list[Numbers] = []

    def add(
        self, score_map: npt.NDArray[Any], truth: BoolArray, ignore: BoolArray | None = None
    ) -> None:
        """Count the pixels of one picture.

        Args:
            score_map: `[H, W]`, 0..1.
            truth: `bool [H, W]`, where the object is.
            ignore: `bool [H, W]`, pixels that count neither way; None for none.

        Raises:
            ArgumentError: A mask is not bool or not of the map's shape, the map is empty, or a
                score is NaN or outside 0..1.
        """
        self.add_counts(count_pixels(score_map, truth, ignore))

    def add_counts(self, counts: IntArray) -> None:
        """Count the pixels of one picture, given what `count_pixels` gave for its map.

        The counts of several maps of one picture may be summed: a picture is what is resampled.
        """
        self._slots += counts
        self.pictures += 1
        if len(self._replicas):
            self._waiting.append(_per_threshold(counts).ravel().astype(np.float64))
            if len(self._waiting) == PICTURES_AT_ONCE:
                self._weigh()

    @property
    def thresholds(self) -> Numbers:
        """The thresholds of the curve, ascending: 0, 0.001, ..., 1, `[1001]`."""
        grid: Numbers = np.arange(STEPS + 1, dtype=np.float64) * EDGE
        return grid

    @property
    def precision(self) -> Numbers:
        """The share of found pixels that are foreground, `[1001]`; NaN where none is found.

        Raises:
            ArgumentError: No foreground pixel was added; so do the other scores.
        """
        hits, found, _ = self._found()
        return _divide(hits, found)

    @property
    def recall(self) -> Numbers:
        """The share of foreground pixels that are found, `[1001]`, falling."""
        hits, _, foreground = self._found()
        return hits / foreground

    @property
    def iou(self) -> Numbers:
        """Found and foreground over found or foreground, `[1001]`."""
        hits, found, foreground = self._found()
        return hits / (found + foreground - hits)

    @property
    def pxap(self) -> float:
        """PxAP = sum_l P(t_l) (R(t_l) - R(t_(l-1))) from the highest threshold down, 0..1."""
        self._found()
        return float(_average_precision(_per_threshold(self._slots)))

    @property
    def pxap_ci95(self) -> tuple[float, float]:
        """Where PxAP lies with 95 % confidence, over pictures; NaN without replicates.

        Replicates that happen to hold no foreground are left out.
        """
        self._found()
        self._weigh()
        values = _average_precision(self._replicas.reshape(-1, 2, STEPS + 1))
        values = values[~np.isnan(values)]
        if not values.size:
            return float("nan"), float("nan")
        low, high = np.quantile(values, (0.025, 0.975))
        return float(low), float(high)

    def at(self, threshold: float) -> PixelScores:
        """Pooled scores of the mask `score > threshold`.

        Raises:
            ArgumentError: The threshold is not a multiple of 0.001 in 0..1, or no foreground pixel
                was added.
        """
        foreground = self._found()[2]
        wrong, hits = self._strictly_above(threshold).tolist()
        found = hits + wrong
        return PixelScores(
            precision=hits / found if found else float("nan"),
            recall=hits / foreground,
            iou=hits / (foreground + wrong),
        )

    def _strictly_above(self, threshold: float) -> IntArray:
        """Background and foreground pixels above the threshold, `[2]`."""
        if not 0 <= threshold <= 1:
            raise ArgumentError(f"threshold: expected 0..1, got {threshold}")
        step = round(threshold * STEPS)
        if abs(step * EDGE - threshold) > 1e-12:
            raise ArgumentError(
                f"threshold: expected a multiple of {EDGE}, at which pixels are counted, got "
                f"{threshold}; round it"
            )
        above: IntArray = self._slots[:, 2 * step + 1 :].sum(axis=1)
        return above

    def _found(self) -> tuple[IntArray, IntArray, int]:
        """Foreground found `[1001]`, pixels found `[1001]`, and foreground in all."""
        background, hits = _at_least(_per_threshold(self._slots))
        if not hits[0]:
            raise ArgumentError(
                f"masks: expected foreground, got none in {self.pictures} pictures; "
                "check which value of the masks is the object"
            )
        return hits, hits + background, int(hits[0])

    def _weigh(self) -> None:
        """Add the waiting pictures to every replicate, each Poisson(1) times."""
        if self._waiting:
            shape = (len(self._waiting), len(self._replicas))
            weights = self._random.poisson(1.0, shape).astype(np.float64)
            self._replicas += weights.T @ np.stack(self._waiting)  # exact: integers below 2^53
            self._waiting.clear()


def mask_iou(predicted: BoolArray, truth: BoolArray, ignore: BoolArray | None = None) -> float:
    """Intersection over union of two masks `bool [H, W]`, ignored pixels left out.

    Returns:
        0..1; 0 where both are empty, as for boxes.

    Raises:
        ArgumentError: A mask is not bool, or the shapes differ.
    """
    _check_mask("predicted", predicted, truth.shape)
    _check_mask("truth", truth, truth.shape)
    either, both = predicted | truth, predicted & truth
    if ignore is not None:
        _check_mask("ignore", ignore, truth.shape)
        either, both = either & ~ignore, both & ~ignore
    union = np.count_nonzero(either)
    return np.count_nonzero(both) / union if union else 0.0


def wsol_mask(
    truth_masks: Sequence[npt.NDArray[Any]],
    ignore_masks: Sequence[npt.NDArray[Any]] = (),
    side: int = WSOL_SIDE,
) -> tuple[BoolArray, BoolArray]:
    """The masks of one picture as the WSOL mask protocol sees them (Choe et al., CVPR 2020).

    Each mask is squashed to `side` x `side` by nearest neighbour: pixel i reads pixel
    floor(i n / side), as OpenCV's `INTER_NEAREST` does (corner-aligned, not by centres). The truth
    is the union of the instances; the ignored region is the rest of the ignore masks.

    Args:
        truth_masks: One a instance, `[H, W]`, bool, or uint8 where more than 127 is the object.
        ignore_masks: Likewise.
        side: Side of the square, pixels.

    Returns:
        Truth and ignore, `bool [side, side]`.

    Raises:
        ArgumentError: There is no truth mask, or a mask is not a bool or uint8 plane.
    """
    if not len(truth_masks):
        raise ArgumentError("truth_masks: expected a mask for each instance, got none")
    truth, ignore = (_union(masks, side) for masks in (truth_masks, ignore_masks))
    return truth, ignore & ~truth


def _union(masks: Sequence[npt.NDArray[Any]], side: int) -> BoolArray:
    union = np.zeros((side, side), bool)
    for mask in masks:
        if mask.ndim != 2 or not mask.size or mask.dtype not in (np.bool_, np.uint8):
            raise ArgumentError(
                f"mask: expected bool or uint8 [H, W], got {mask.dtype} {list(mask.shape)}"
            )
        rows, columns = (_nearest(n, side) for n in mask.shape)
        seen = mask[rows[:, np.newaxis], columns]
        union |= seen if seen.dtype == np.bool_ else seen > 127
    return union


def _nearest(n: int, side: int) -> IntArray:
    """Which of n pixels each pixel of the square reads; written as OpenCV rounds it."""
    step = 1.0 / (side / n)
    read: IntArray = np.minimum(np.floor(np.arange(side) * step).astype(np.int64), n - 1)
    return read


def _check_pixels(score_map: npt.NDArray[Any], truth: BoolArray, ignore: BoolArray | None) -> None:
    if score_map.ndim != 2 or not score_map.size:
        raise ArgumentError(f"score_map: expected [H, W], got {list(score_map.shape)}")
    _check_mask("truth", truth, score_map.shape)
    if ignore is not None:
        _check_mask("ignore", ignore, score_map.shape)
    low, high = float(score_map.min()), float(score_map.max())
    if not (low >= 0 and high <= 1):  # also refuses NaN
        raise ArgumentError(f"score_map: expected scores in 0..1, got {low:g} to {high:g}")


def _check_mask(name: str, mask: BoolArray, shape: tuple[int, ...]) -> None:
    if mask.dtype != np.bool_ or mask.shape != shape:
        raise ArgumentError(
            f"{name}: expected bool {list(shape)}, got {mask.dtype} {list(mask.shape)}"
        )


def _blocks(
    score_map: npt.NDArray[Any], truth: BoolArray, ignore: BoolArray | None
) -> Iterator[tuple[Numbers, ByteArray]]:
    """Scores, flat, and each pixel's kind: 0 background, 1 foreground, 2 and 3 ignored."""
    scores, kinds = score_map.ravel(), truth.ravel().view(np.uint8)
    ignored = None if ignore is None else ignore.ravel().view(np.uint8)
    for start in range(0, scores.size, PIXELS_AT_ONCE):
        block = slice(start, start + PIXELS_AT_ONCE)
        kind: ByteArray = kinds[block]
        if ignored is not None:
            kind = kind | ignored[block] * np.uint8(2)
        yield scores[block].astype(np.float64), kind


def _count_slots(values: Numbers, kinds: ByteArray) -> IntArray:
    """How many background and foreground scores lie in each slot, `[2, _SLOTS]`.

    Only the threshold nearest to a score can be misjudged by rounding; comparing with it puts the
    score where a search among the thresholds would. 16 bits hold 4 kinds of 2,001 slots.
    """
    steps = np.rint(values * STEPS)
    nearest = steps * EDGE
    slots = (2 * steps - 1).astype(np.int16)
    slots += (values >= nearest).view(np.int8)
    slots += (values > nearest).view(np.int8)
    slots += kinds.astype(np.int16) * _SLOTS
    counts: IntArray = np.bincount(slots, minlength=2 * _SLOTS)[: 2 * _SLOTS].reshape(2, _SLOTS)
    return counts


def _per_threshold(slots: IntArray) -> IntArray:
    """Scores from each threshold to the next, `[..., 1001]`."""
    bins: IntArray = np.add.reduceat(slots, np.arange(0, _SLOTS, 2), axis=-1)
    return bins


def _at_least(bins: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Scores that are at least each threshold, `[..., 1001]`."""
    return bins[..., ::-1].cumsum(axis=-1)[..., ::-1]


def _average_precision(bins: npt.NDArray[Any]) -> Numbers:
    """Average precision `[...]` of counts `[..., 2, 1001]`; NaN without foreground."""
    background, hits = np.moveaxis(_at_least(bins), -2, 0)
    precision = np.divide(hits, hits + background, where=hits > 0, out=np.zeros(hits.shape))
    return _divide((precision * bins[..., 1, :]).sum(axis=-1), hits[..., 0])


def _divide(parts: npt.NDArray[Any], wholes: npt.NDArray[Any]) -> Numbers:
    quotient: Numbers = np.divide(
        parts, wholes, where=wholes > 0, out=np.full(np.shape(wholes), np.nan)
    )
    return quotient
