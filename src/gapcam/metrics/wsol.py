"""Boxes from score maps as the WSOL benchmark scores them: MaxBoxAcc and MaxBoxAccV2.

Choe et al., "Evaluating Weakly Supervised Object Localization Methods Right", CVPR 2020, section
3.3. The protocol has conventions of its own, which hold in this module only:

- Everything happens on a square of 224 x 224 pixels; true boxes are scaled to it and truncated.
- A score map is cut as `uint8`: {gray > t} with t = int(threshold * highest gray). So there are
  no more than 255 different cuts, t = 0..254, however many thresholds are asked for.
- A box ends at x + w and y + h, a pixel more than the region has, but not past the map; IoU counts
  both ends as inside, another pixel. Where nothing is above t the box is (0, 0, 0, 0), one pixel.
- `single` takes the contour with the largest area, measured through the pixel centres; `multi` the
  best of all contours, those around holes and those inside of holes included.

`level_ious` gives the IoU of every level; what to make of them over pictures and thresholds is the
caller's. With numba (the extra `evaluate`) a map's levels are scored in one pass, see `level_sets`;
without it they are traced with OpenCV one by one: the same numbers, many times slower.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from gapcam.types import ArgumentError, ByteArray, IntArray

Numbers: TypeAlias = npt.NDArray[np.float64]
Levels: TypeAlias = tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]
"""Of some maps: `single [k, 255]`, `multi [k, 255]`, the boxes behind `single` `[k, 255, 4]`."""

SIDE = 224
"""Side of the square that maps and boxes are brought to, pixels."""
LEVELS = 255
"""How many cuts of a `uint8` map there are."""
THRESHOLDS: Numbers = np.arange(0, 1, 0.001)
"""The thresholds of the protocol, `[1000]`."""
THRESHOLDS.setflags(write=False)

MAPS_A_THREAD = 8
"""Fewer are not worth another thread."""
MAPS_AT_ONCE = 32
"""The most that a thread scores before it looks up: enough to be quick, few enough to stop."""
_NO_BOX = np.zeros((1, 4), np.int64)


class LevelIous(NamedTuple):
    """How well each map's boxes fit at each level, 0..1; a hit is `>= delta`.

    Attributes:
        single: `float64 [n, 255]`, the box of the largest contour with the true box it fits best.
        multi: `float64 [n, 255]`, the best pair of a contour's box and a true box.
    """

    single: Numbers
    multi: Numbers


def level_of(thresholds: npt.ArrayLike, peak: npt.ArrayLike = LEVELS) -> IntArray:
    """The level that each threshold cuts at: `int(threshold * peak)`, in float64.

    Args:
        thresholds: Any shape, each in 0..1 and below 1.
        peak: The highest gray of the map, 0..255; for several maps any shape that broadcasts.

    Returns:
        Levels 0..254, an index into what `level_ious` gives.

    Raises:
        ArgumentError: A threshold or a peak is out of range.
    """
    cuts, peaks = np.asarray(thresholds, np.float64), np.asarray(peak, np.float64)
    if not np.all((cuts >= 0) & (cuts < 1)):
        raise ArgumentError(f"thresholds: expected numbers from 0 up to 1, got {_range(cuts)}")
    if not np.all((peaks >= 0) & (peaks <= LEVELS)):
        raise ArgumentError(f"peak: expected grays 0..{LEVELS}, got {_range(peaks)}")
    levels: IntArray = np.asarray((cuts * peaks).astype(np.int64))
    return levels


def score_maps(maps: npt.NDArray[Any]) -> Numbers:
    """Class maps as the protocol scores them: bicubic to 224 x 224, then min-max, in float64.

    Resampling is OpenCV's bicubic (`align_corners=False`), in single precision for maps of no more.
    A map that is constant, or with NaN or infinity in it, becomes zeros; the protocol says so of
    constant maps and NaN.

    Args:
        maps: `[n, h, w]`, float, raw.

    Returns:
        `float64 [n, 224, 224]`, 0..1; 400 kB a map.

    Raises:
        ArgumentError: `maps` is not `[n, h, w]`, empty, or not float.
    """
    if maps.ndim != 3 or 0 in maps.shape[1:] or maps.dtype.kind != "f":
        raise ArgumentError(f"maps: expected float [n, h, w], got {_kind(maps)}")
    scores = np.zeros((len(maps), SIDE, SIDE))
    kind = np.float32 if maps.dtype.itemsize <= 4 else np.float64
    for score, raw in zip(scores, maps.astype(kind, copy=False), strict=True):
        if raw.min() == raw.max():  # resampling would round it to what is not quite constant
            continue
        resized = cv2.resize(raw, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
        large = resized.astype(np.float64, copy=False)
        if np.isfinite(large).all():
            large -= large.min()
            highest = large.max()
            if highest > 0:
                np.divide(large, highest, out=score)
    return scores


def quantize(score_maps: npt.NDArray[Any]) -> ByteArray:
    """Score maps as gray: times 255, truncated.

    Args:
        score_maps: `[n, H, W]`, float, 0..1; multiplied in their own precision.

    Returns:
        `uint8 [n, H, W]`.

    Raises:
        ArgumentError: A score is NaN or outside 0..1, or the maps are not float.
    """
    if score_maps.dtype.kind != "f":
        raise ArgumentError(f"score_maps: expected float, got {_kind(score_maps)}")
    gray = np.empty(score_maps.shape, np.uint8)
    white = score_maps.dtype.type(255)
    for one, plane in zip(score_maps, gray, strict=True):  # one by one they stay in the cache
        if not (one.min(initial=0) >= 0 and one.max(initial=0) <= 1):  # refuses NaN
            raise ArgumentError(f"score_maps: expected scores in 0..1, got {_range(one)}")
        plane[:] = one * white
    return gray


def truncated_boxes(boxes_xyxy: npt.ArrayLike, size_wh: npt.ArrayLike) -> IntArray:
    """True boxes in the protocol's square: `int(x * 224 / width)`, `int(y * 224 / height)`.

    Args:
        boxes_xyxy: `[m, 4]`, pixels of the picture.
        size_wh: Width and height of the picture, pixels, `[2]`; or of each box's, `[m, 2]`.

    Returns:
        `int64 [m, 4]`, pixels of the square; x1 and y1 count as inside.

    Raises:
        ArgumentError: A box is not finite or ends before it starts, or a size is not positive.
    """
    boxes = np.asarray(boxes_xyxy, np.float64)
    sizes = np.asarray(size_wh, np.float64)
    if boxes.ndim != 2 or boxes.shape[1] != 4 or not np.isfinite(boxes).all():
        raise ArgumentError(f"boxes_xyxy: expected finite numbers [m, 4], got {_kind(boxes)}")
    if sizes.shape not in ((2,), (len(boxes), 2)) or not np.all(sizes > 0):
        raise ArgumentError(f"size_wh: expected width and height in pixels, got {sizes.tolist()}")
    _check_sides("boxes_xyxy", boxes)
    truncated: IntArray = (boxes * float(SIDE) / np.tile(sizes, 2)).astype(np.int64)
    return truncated


def inclusive_iou(boxes: npt.ArrayLike, others: npt.ArrayLike) -> Numbers:
    """Intersection over union of every box with every other, both ends counted as inside.

    Args:
        boxes: `[N, 4]`, whole numbers x0, y0, x1, y1; a box around one pixel has x0 = x1.
        others: `[M, 4]`.

    Returns:
        `[N, M]`, 0..1.

    Raises:
        ArgumentError: A box ends before it starts.
    """
    a = np.asarray(boxes).reshape(-1, 1, 4)
    b = np.asarray(others).reshape(1, -1, 4)
    _check_sides("boxes", a)
    _check_sides("others", b)
    overlap = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    shared = np.maximum(overlap + 1, 0).prod(-1)
    areas = [(c[..., 2:] - c[..., :2] + 1).prod(-1) for c in (a, b)]
    ratio: Numbers = shared / (areas[0] + areas[1] - shared)
    return ratio


def level_ious(
    gray: ByteArray, truths: Sequence[npt.NDArray[Any]], workers: int | None = None
) -> LevelIous:
    """The protocol's IoU of every map at every level.

    Args:
        gray: `uint8 [n, H, W]`. A map's levels from its highest gray on have no contour.
        truths: For each map its true boxes, whole numbers `[m, 4]`, m >= 1, both ends inside.
        workers: Threads; one a core when None. They change no number.

    Returns:
        The IoU of both kinds, `[n, 255]` each.

    Raises:
        ArgumentError: `gray` is not `uint8 [n, H, W]`, a map has no true box, a true box is not
            whole or ends before it starts, or `workers` is less than 1.
    """
    _check_gray(gray)
    if len(truths) != len(gray):
        raise ArgumentError(
            f"truths: expected true boxes for each of {len(gray)} maps, got {len(truths)}"
        )
    own = [_whole_boxes(boxes, i) for i, boxes in enumerate(truths)]
    singles = np.zeros((len(gray), LEVELS))
    multis = np.zeros((len(gray), LEVELS))

    def store(some: slice, levels: Levels) -> None:
        singles[some], multis[some], _ = levels

    _score_each(gray, own, workers, store)
    return LevelIous(singles, multis)


def level_boxes(gray: ByteArray, workers: int | None = None) -> IntArray:
    """The box of the largest contour of every map at every level.

    Args:
        gray: `uint8 [n, H, W]`.
        workers: Threads; one a core when None.

    Returns:
        `int64 [n, 255, 4]`, both ends inside; (0, 0, 0, 0) where there is no contour.

    Raises:
        ArgumentError: `gray` is not `uint8 [n, H, W]`, or `workers` is less than 1.
    """
    _check_gray(gray)
    boxes = np.zeros((len(gray), LEVELS, 4), np.int64)

    def store(some: slice, levels: Levels) -> None:
        boxes[some] = levels[2]

    _score_each(gray, [_NO_BOX] * len(gray), workers, store)
    return boxes


def _score_each(
    gray: ByteArray,
    truths: Sequence[IntArray],
    workers: int | None,
    store: Callable[[slice, Levels], None],
) -> None:
    """Score and store all maps, a block at a time; `count` threads take every `count`-th block."""
    if workers is not None and workers < 1:
        raise ArgumentError(f"workers: expected at least 1, got {workers}")
    count = min(workers or os.cpu_count() or 1, -(-len(gray) // MAPS_A_THREAD))
    size = max(1, min(MAPS_AT_ONCE, -(-len(gray) // max(1, count))))
    blocks = [slice(start, start + size) for start in range(0, len(gray), size)]

    def score(own: Sequence[slice]) -> None:
        score_some = _scorer(gray.shape[1:])
        for block in own:
            store(block, score_some(gray[block], truths[block]))

    if count <= 1:
        score(blocks)
        return
    with ThreadPoolExecutor(count, thread_name_prefix="gapcam") as pool:
        list(pool.map(score, [blocks[first::count] for first in range(count)]))


def _scorer(size_hw: tuple[int, ...]) -> Callable[[ByteArray, Sequence[IntArray]], Levels]:
    """The fastest way there is to score maps of that size; every way gives the same numbers."""
    try:
        from gapcam.metrics import level_sets
    except ImportError:  # no numba here
        return _trace_maps
    scratch = level_sets.make_scratch(*size_hw)
    return lambda gray, truths: level_sets.score_maps(gray, truths, scratch)


def _trace_maps(gray: ByteArray, truths: Sequence[IntArray]) -> Levels:
    """Score maps by tracing the contours of every level: the protocol, word for word."""
    single, multi = np.zeros((2, len(gray), LEVELS))
    largest = np.zeros((len(gray), LEVELS, 4), np.int64)
    for i, level in np.ndindex(len(gray), LEVELS):
        boxes, areas = _contours(gray[i], level)
        ious = inclusive_iou(boxes, truths[i]).max(axis=1)
        first = int(np.argmax(areas))
        single[i, level], multi[i, level] = ious[first], ious.max()
        largest[i, level] = boxes[first]
    return single, multi, largest


def _contours(gray: ByteArray, level: int) -> tuple[IntArray, list[float]]:
    """Boxes `[k, 4]` and areas `[k]` of all contours of {gray > level}, as OpenCV lists them."""
    mask = np.where(gray > level, np.uint8(255), np.uint8(0))
    contours, _ = cv2.findContours(mask, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
    if not contours:
        return _NO_BOX, [0.0]
    boxes = np.array([cv2.boundingRect(contour) for contour in contours], np.int64)
    boxes[:, 2:] = np.minimum(boxes[:, :2] + boxes[:, 2:], np.array(gray.shape[::-1]) - 1)
    return boxes, [cv2.contourArea(contour) for contour in contours]


def _check_gray(gray: ByteArray) -> None:
    if gray.ndim != 3 or gray.dtype != np.uint8 or 0 in gray.shape[1:]:
        raise ArgumentError(f"gray: expected uint8 [n, H, W], got {_kind(gray)}")


def _whole_boxes(boxes: npt.NDArray[Any], index: int) -> IntArray:
    name = f"truths[{index}]"
    if boxes.ndim != 2 or boxes.shape[1] != 4 or not len(boxes) or boxes.dtype.kind not in "iu":
        raise ArgumentError(f"{name}: expected whole numbers [m, 4], m >= 1, got {_kind(boxes)}")
    _check_sides(name, boxes)
    whole: IntArray = np.ascontiguousarray(boxes, np.int64)
    return whole


def _check_sides(name: str, boxes: npt.NDArray[Any]) -> None:
    reversed_ = (boxes[..., 2:] < boxes[..., :2]).any(-1)
    if reversed_.any():
        worst = boxes[reversed_][0].tolist()
        raise ArgumentError(f"{name}: expected x0 <= x1 and y0 <= y1, got the box {worst}")


def _kind(array: npt.NDArray[Any]) -> str:
    return f"{array.dtype} {list(array.shape)}"


def _range(numbers: npt.NDArray[Any]) -> str:
    return f"{numbers.min():g} to {numbers.max():g}"
