"""Slow, obvious re-implementations, written from the papers and definitions, not from gapcam.

Plain loops in float64; readability before speed. Nothing here imports the code that it checks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]

# --- resampling --------------------------------------------------------------------------------


def linear_kernel(distance: float) -> float:
    """The tent: 1 at 0, 0 from 1 on."""
    return max(0.0, 1 - abs(distance))


def cubic_kernel(distance: float) -> float:
    """Keys (IEEE TASSP 1981), equation for a general a; a = -0.75 as in OpenCV and PyTorch."""
    a, d = -0.75, abs(distance)
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    if d < 2:
        return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
    return 0.0


def resample_map(values: Array, size_hw: tuple[int, int], kind: str) -> Array:
    """One map `[h, w]` at `[H, W]`: every output sample is a weighted sum of its neighbours."""
    kernel = linear_kernel if kind == "bilinear" else cubic_kernel
    height, width = values.shape
    result = np.zeros(size_hw)
    for row in range(size_hw[0]):
        y = (row + 0.5) * height / size_hw[0] - 0.5
        for column in range(size_hw[1]):
            x = (column + 0.5) * width / size_hw[1] - 0.5
            for j in range(math.floor(y) - 1, math.floor(y) + 3):
                for i in range(math.floor(x) - 1, math.floor(x) + 3):
                    value = float(values[min(max(j, 0), height - 1), min(max(i, 0), width - 1)])
                    result[row, column] += kernel(y - j) * kernel(x - i) * value
    return result


# --- maps --------------------------------------------------------------------------------------


def class_maps(features: Array, weights: Array, classes: Array) -> Array:
    """Zhou et al., equation 2: M_c(x, y) = sum_k w_ck f_k(x, y)."""
    batch, channels, height, width = features.shape
    result = np.zeros((batch, classes.shape[1], height, width))
    for b in range(batch):
        for n in range(classes.shape[1]):
            for y in range(height):
                for x in range(width):
                    for k in range(channels):
                        weight = float(weights[classes[b, n], k])
                        result[b, n, y, x] += weight * float(features[b, k, y, x])
    return result


def pooled_logits(features: Array, weights: Array, bias: Array) -> Array:
    """What the network itself does: mean over places, then the linear layer."""
    batch, channels = features.shape[:2]
    result = np.zeros((batch, len(weights)))
    for b in range(batch):
        pooled = [float(np.mean(features[b, k], dtype=np.float64)) for k in range(channels)]
        for c in range(len(weights)):
            terms = (float(weights[c, k]) * pooled[k] for k in range(channels))
            result[b, c] = math.fsum(terms) + float(bias[c])
    return result


def softmax(logits: list[float]) -> list[float]:
    """exp(x_i) / sum_j exp(x_j), with the largest logit taken out."""
    top = max(logits)
    terms = [math.exp(x - top) for x in logits]
    return [term / math.fsum(terms) for term in terms]


def top_ids(logits: list[float], count: int) -> list[int]:
    """Ids of the highest logits; of equal ones the lower id comes first."""
    return sorted(range(len(logits)), key=lambda i: (-logits[i], i))[:count]


def normalize_max(values: Array) -> Array:
    """One map: negative cells are 0, the others a fraction of the highest."""
    top = float(values.max())
    return np.array([[max(float(v), 0.0) / top if top > 0 else 0.0 for v in r] for r in values])


def normalize_minmax(values: Array) -> Array:
    """One map: the lowest cell is 0, the highest 1; zero without a positive cell."""
    low, top = float(values.min()), float(values.max())
    if top <= 0:
        return np.zeros(values.shape)
    if low == top:
        return np.ones(values.shape)
    return np.array([[(float(v) - low) / (top - low) for v in r] for r in values])


def percentile(values: list[float], fraction: float) -> float:
    """The value that this fraction of the sorted cells lies below, linear between two cells."""
    ordered = sorted(values)
    place = fraction * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def normalize_ivr(values: Array, fraction: float) -> Array:
    """One map: cells up to the percentile are 0, the highest 1; zero without a positive cell."""
    top = float(values.max())
    if top <= 0:
        return np.zeros(values.shape)
    low = percentile([float(v) for v in values.ravel()], fraction)
    if low == top:  # nothing is left above it: the percentile is not subtracted
        low = 0.0
    return np.array([[max(float(v) - low, 0.0) / (top - low) for v in r] for r in values])


# --- refinement --------------------------------------------------------------------------------


def affinity(maps: Array, fine_features: Array, centring: float = 1.0) -> Array:
    """R = A relu(M on g's grid), A = relu(g^T g) with rows of sum 1, g = f - centring mean f."""
    batch, classes = maps.shape[:2]
    channels, height, width = fine_features.shape[1:]
    places = [(y, x) for y in range(height) for x in range(width)]
    result = np.zeros((batch, classes, height, width))
    for b in range(batch):
        means = [
            centring * float(np.mean(fine_features[b, k], dtype=np.float64))
            for k in range(channels)
        ]
        g = {}
        for y, x in places:
            vector = [float(fine_features[b, k, y, x]) - means[k] for k in range(channels)]
            length = math.sqrt(math.fsum(v * v for v in vector))
            g[y, x] = [v / length for v in vector]
        seeds = [np.maximum(resample_map(m, (height, width), "bicubic"), 0) for m in maps[b]]
        for here in places:
            row = {p: max(0.0, sum(u * v for u, v in zip(g[here], g[p], strict=True))) for p in g}
            total = math.fsum(row.values())
            for n in range(classes):
                heat = math.fsum(row[p] / total * seeds[n][p] for p in places)
                result[b, n, here[0], here[1]] = heat
    return result


# --- regions and boxes -------------------------------------------------------------------------


@dataclass(frozen=True)
class SampledRegion:
    """A region seen on a fine grid of samples, in units of the coarse grid.

    `box_xyxy` bounds the centres of its samples, so that the true region ends less than `pitch`
    beyond it on every side.
    """

    box_xyxy: tuple[float, float, float, float]
    pitch: float
    area: int
    cells: frozenset[tuple[int, int]]


def components(hot: Array) -> list[frozenset[tuple[int, int]]]:
    """The 8-connected sets of true cells `(row, column)`, by flood fill, in reading order."""
    waiting = {(int(y), int(x)) for y, x in zip(*np.nonzero(hot), strict=True)}
    found = []
    for start in sorted(waiting):
        if start not in waiting:
            continue
        waiting.remove(start)
        cells, edge = {start}, [start]
        while edge:
            y, x = edge.pop()
            around = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & waiting
            waiting -= around
            cells |= around
            edge += around
        found.append(frozenset(cells))
    return found


def bilinear_surface(heat: Array, size_hw: tuple[int, int]) -> Array:
    """The heat at the pixel centres of a picture of that size; constant beyond the outer cells."""
    top, bottom, down = _neighbours(heat.shape[0], size_hw[0])
    left, right, along = _neighbours(heat.shape[1], size_hw[1])
    values = heat.astype(np.float64)
    upper = values[top][:, left] * (1 - along) + values[top][:, right] * along
    lower = values[bottom][:, left] * (1 - along) + values[bottom][:, right] * along
    surface: Array = upper * (1 - down[:, None]) + lower * down[:, None]
    return surface


def owners(labels: Array, size_hw: tuple[int, int]) -> Array:
    """Which component each pixel centre belongs to: the one with a cell in its bilinear patch.

    `labels` is 0 where cold. Any two of the four cells of a patch touch, so there is at most one.
    """
    top, bottom, down = _neighbours(labels.shape[0], size_hw[0])
    left, right, along = _neighbours(labels.shape[1], size_hw[1])
    bottom, right = np.where(down > 0, bottom, top), np.where(along > 0, right, left)
    corners = [labels[rows][:, columns] for rows in (top, bottom) for columns in (left, right)]
    owner: Array = np.max(corners, axis=0)
    return owner


def _neighbours(n_in: int, n_out: int) -> tuple[Array, Array, Array]:
    """The cell before each pixel centre, the cell after it, and how far it is between them."""
    places = np.clip([(i + 0.5) * n_in / n_out - 0.5 for i in range(n_out)], 0, n_in - 1)
    before = np.floor(places).astype(int)
    return before, np.minimum(before + 1, n_in - 1), places - before


def component_masks(
    heat: Array, threshold: float, size_hw: tuple[int, int]
) -> list[tuple[frozenset[tuple[int, int]], Array]]:
    """Every component of the hot cells, and the pixels whose centres lie in its region."""
    found = components(heat > threshold)
    labels = np.zeros(heat.shape, dtype=int)
    for number, cells in enumerate(found, start=1):
        for cell in cells:
            labels[cell] = number
    above = bilinear_surface(heat, size_hw) > threshold
    owner = owners(labels, size_hw)
    return [(cells, above & (owner == n)) for n, cells in enumerate(found, start=1)]


def sampled_regions(heat: Array, threshold: float, factor: int = 65) -> list[SampledRegion]:
    """The regions of the bilinear surface, sampled `factor` times a cell.

    An odd factor puts samples on the cell centres and on the lines that join them, so that no
    sliver of a region along such a line is missed.
    """
    size_hw = (heat.shape[0] * factor, heat.shape[1] * factor)
    regions = []
    for cells, inside in component_masks(heat, threshold, size_hw):
        rows, columns = np.nonzero(inside.any(1))[0], np.nonzero(inside.any(0))[0]
        ends = [columns[0], rows[0], columns[-1], rows[-1]]
        x0, y0, x1, y1 = ((int(end) + 0.5) / factor for end in ends)
        regions.append(SampledRegion((x0, y0, x1, y1), 1 / factor, len(cells), cells))
    return regions


def region_pixels(
    heat: Array, threshold: float, cell: tuple[int, int], size_hw: tuple[int, int]
) -> Array:
    """The mask of the region that holds a cell `(row, column)`, its own pixel always set."""
    for cells, inside in component_masks(heat, threshold, size_hw):
        if cell in cells:
            row = math.floor((cell[0] + 0.5) * size_hw[0] / heat.shape[0])
            column = math.floor((cell[1] + 0.5) * size_hw[1] / heat.shape[1])
            inside[row, column] = True
            return inside
    raise AssertionError(f"cell {cell} is not above {threshold}")
