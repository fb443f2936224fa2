"""One component of heat, several objects: components to instances. Pure functions.

Objects of one class that stand close share a component of {heat > threshold}, but each has a peak
of its own. A peak is an instance when it rises by more than the *prominence* above the saddle to
any higher peak (in mathematical morphology its *dynamics*; Grimaud, SPIE 1769, 1992). The instances
then grow downhill until they meet, as in the watershed by flooding (Vincent and Soille, IEEE PAMI
1991), here in a few steps of heat. To split class maps so, and the bounds of the parts between the
samples, are ours.

Between the samples heat is bilinear (see `gapcam.boxes`). The parts meet there on midlines: a
*quadrant*, the quarter of a cell on one side of its centre both across and down, has one owner.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from gapcam.types import BoolArray, FloatArray, SizeHW

LEVELS = 4
"""In how many steps of heat the instances grow; more of them gave no better boxes."""

AROUND = np.ones((3, 3), np.uint8)
COLD = -2.0

Labels: TypeAlias = npt.NDArray[np.int32]
Numbers: TypeAlias = npt.NDArray[np.float64]
Indices: TypeAlias = npt.NDArray[Any]


def split_components(heat: FloatArray, threshold: float, prominence: float) -> Labels:
    """The instances of one heat map; see the module for the rule.

    Every component keeps its highest peak as an instance, and every instance is 8-connected. The
    labels of a flipped map are the flipped labels, unless two peaks are equally high.

    Args:
        heat: `[h, w]` in 0..1.
        threshold: Where it is cut, exclusive.
        prominence: How far a peak must rise above its saddle, exclusive, in the unit of the heat.

    Returns:
        `int32 [h, w]`: 0 where the heat is not above the threshold, else the number of the
        sample's instance, counted from 1 in falling order of their peaks.
    """
    hot = heat > np.float32(threshold)
    surface = np.where(hot, heat, COLD).astype(np.float32)
    components, labels = _join(hot)
    peaks, domes = _find_peaks(surface, prominence)
    if len(peaks) > components:
        return _grow(surface, domes, threshold)
    numbers = np.zeros(components + 1, np.int32)
    numbers[labels.ravel()[peaks]] = np.arange(1, components + 1)
    return numbers[labels]


def _join(marked: BoolArray) -> tuple[int, Labels]:
    """How many components the marked samples make, and their labels."""
    count, labels = cv2.connectedComponents(marked.view(np.uint8), connectivity=8)
    return count - 1, np.asarray(labels)


def _find_peaks(surface: FloatArray, prominence: float) -> tuple[list[int], Labels]:
    """The peaks that are instances, highest first: where (flat), and each one's dome, numbered.

    The dome of a peak is what lies around it, no lower than the peak less the prominence. The peak
    is an instance if its dome holds no higher sample. Any lower summit in the dome is none: its own
    dome holds this one.
    """
    summits = np.flatnonzero((surface >= cv2.dilate(surface, AROUND)) & (surface > COLD))
    peaks: list[int] = []
    domes, seen = np.zeros(surface.shape, np.int32), np.zeros(surface.size, np.bool_)
    for summit in summits[np.argsort(-surface.flat[summits], kind="stable")]:
        if not seen[summit]:
            top = surface.flat[summit]
            _, labels = _join((surface >= top - np.float32(prominence)) & (surface > COLD))
            dome = labels == labels.flat[summit]
            seen |= dome.ravel()
            if surface[dome].max() == top:
                peaks.append(int(summit))
                domes[dome] = len(peaks)
    return peaks, domes


def _grow(surface: FloatArray, domes: Labels, threshold: float) -> Labels:
    """The domes' numbers spread to all hot samples, the hottest first; a tie is the higher peak's.

    Within a step of heat they spread sample by sample at the same pace.
    """
    # Dilation hands on the larger number, the higher peak's; float32, as OpenCV dilates no int32.
    count = domes.max()
    grown = np.where(domes > 0, count + 1 - domes, 0).astype(np.float32)
    for level in np.linspace(surface.max(), threshold, LEVELS + 1, dtype=np.float32)[1:]:
        within = surface > level
        while True:
            spread = np.where(within & (grown == 0), cv2.dilate(grown, AROUND), grown)
            if np.array_equal(spread, grown):
                break
            grown = spread
    return np.where(grown > 0, count + 1 - grown, 0).astype(np.int32)


def part_boxes(heat: FloatArray, labels: Labels, threshold: float) -> Numbers:
    """The exact boxes of parts of {heat > threshold} on the bilinear surface.

    In a quadrant the surface is bilinear, so the part above the threshold reaches farthest on one
    of the quadrant's edges, and along an edge the surface is a straight line.

    Args:
        heat: `[h, w]`.
        labels: `int32 [h, w]`, the part of each sample above the threshold, 1 to n; else 0.
        threshold: Where the heat is cut, exclusive.

    Returns:
        `[n, 4]`, x0, y0, x1, y1 in grid units (the whole grid is `(0, 0, w, h)`).
    """
    owner, count = _quadrants(heat, labels), int(labels.max())
    cut = float(np.float32(threshold))
    corners = _halve(_halve(heat.astype(np.float64)).T).T
    x0, x1 = _extents(corners, owner, count, cut)
    y0, y1 = _extents(corners.T, owner.T, count, cut)
    return np.stack([x0, y0, x1, y1], axis=1)


def part_pixels(
    heat: FloatArray, labels: Labels, cell: tuple[int, int], size_hw: SizeHW
) -> BoolArray:
    """The pixels of a picture whose centres lie in the quadrants of one part.

    Args:
        heat: `[h, w]`.
        labels: `int32 [h, w]`, as for `part_boxes`.
        cell: Row and column of a sample of the part.
        size_hw: Size of the picture, pixels.

    Returns:
        `bool [H, W]`. Where the heat is above the threshold is another question.
    """
    inside = _quadrants(heat, labels) == labels[cell]
    rows, columns = (
        (2 * np.arange(pixels) + 1) * cells // pixels
        for pixels, cells in zip(size_hw, heat.shape, strict=True)
    )
    chosen: BoolArray = inside[rows[:, np.newaxis], columns]
    return chosen


def _quadrants(heat: FloatArray, labels: Labels) -> Labels:
    """The owner of each quadrant, `[2h, 2w]`, 0 for none.

    It is the part of the quadrant's own sample. Near other samples a cold one's quadrant can be
    hot: then it belongs to the hottest of the three others that the surface joins there.
    """
    (y, beyond_y), (x, beyond_x) = (_samples(side) for side in heat.shape)
    own = labels[np.ix_(y, x)]
    best, top = np.zeros_like(own), np.full(own.shape, COLD)
    for corner in (np.ix_(y, beyond_x), np.ix_(beyond_y, x), np.ix_(beyond_y, beyond_x)):
        label, value = labels[corner], heat[corner]
        better = (label > 0) & ((value > top) | ((value == top) & (label < best)))
        best, top = np.where(better, label, best), np.where(better, value, top)
    owner: Labels = np.where(own > 0, own, best)
    return owner


def _samples(side: int) -> tuple[Indices, Indices]:
    """Of each half cell: its own sample, and the one beyond, which at the border is its own."""
    halves = np.arange(2 * side)
    return halves // 2, np.clip((halves - 1) // 2 + halves % 2, 0, side - 1)


def _halve(rows: Numbers) -> Numbers:
    """Rows read at 1/2, 3/2, ... as they are at 0, 1/2, 1, ...: `[n, m]` to `[2n + 1, m]`."""
    halved = np.empty((2 * len(rows) + 1, rows.shape[1]))
    halved[1::2] = rows
    halved[2:-1:2] = (rows[:-1] + rows[1:]) / 2
    halved[[0, -1]] = rows[[0, -1]]
    return halved


def _extents(corners: Numbers, owner: Labels, count: int, cut: float) -> tuple[Numbers, Numbers]:
    """Where each part begins and ends along the last axis: `[n]` each.

    Args:
        corners: `[2h + 1, 2w + 1]`, the heat at the corners of the quadrants.
        owner: `[2h, 2w]`, the part of each quadrant.
        count: How many parts.
        cut: The threshold.
    """
    left, right = corners[:, :-1], corners[:, 1:]
    starts_in, ends_in = left > cut, right > cut
    crossing = np.zeros(left.shape)
    np.divide(left - cut, left - right, out=crossing, where=starts_in != ends_in)
    first = np.where(starts_in, 0, np.where(ends_in, crossing, np.inf))
    last = np.where(ends_in, 1, np.where(starts_in, crossing, -np.inf))
    at = np.arange(left.shape[1]) / 2
    low, high = np.full(count + 1, np.inf), np.full(count + 1, -np.inf)
    np.minimum.at(low, owner, at + np.minimum(first[:-1], first[1:]) / 2)
    np.maximum.at(high, owner, at + np.maximum(last[:-1], last[1:]) / 2)
    return low[1:], high[1:]
