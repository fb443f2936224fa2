"""What was tried on the way to the recipes and left out; run by `recipes.py --dropped`.

Each is a variant of `default` (one pass at 224) unless its name says otherwise, and gains nothing
that its interval or the held-out set confirms, or costs more than it gains.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from gapcam.localizer import to_heat
from gapcam.maps import normalize_minmax
from gapcam.recipes import DEFAULT
from gapcam.refine import affinity, similarity
from gapcam.resample import resample
from gapcam.types import FloatArray
from network_outputs import ScoredSet
from recipes import Heat, fused, spread

TINY = 1e-12
Change = Callable[[FloatArray], FloatArray]


def _same(values: FloatArray) -> FloatArray:
    return values


def kernel(
    affinities: Change = _same,
    seeds: Change = lambda m: np.maximum(m, 0),
    *,
    side: int = 224,
    normalize: bool = True,
    steps: int = 1,
) -> Heat:
    """`default` with another affinity, other seeds, no row scaling, or several steps."""

    def heat(of: ScoredSet) -> FloatArray:
        fine = of.at(224).fine_features
        count, _, height, width = fine.shape
        maps = seeds(resample(of.at(side).maps, (height, width), "bicubic"))
        flat = maps.reshape(count, 1, height * width)
        alike = affinities(similarity(fine, DEFAULT.centring))
        if normalize:
            # Symmetric, so the product's rows are scaled by scaling the columns here.
            alike = alike / np.maximum(alike.sum(1, keepdims=True), TINY)
        for _ in range(steps):
            flat = flat @ alike
        return _heat(flat.reshape(count, 1, height, width), of)

    return heat


def _heat(evidence: FloatArray, of: ScoredSet) -> FloatArray:
    return to_heat(evidence, of.at(224).maps, DEFAULT)[:, 0]


def near(sigma: float) -> Change:
    """Affinity that fades with the distance between places, in picture sides."""

    def fade(alike: FloatArray) -> FloatArray:
        side = round(alike.shape[1] ** 0.5)
        y, x = np.divmod(np.arange(side * side), side)
        squared = ((y[:, None] - y) ** 2 + (x[:, None] - x) ** 2) / side**2
        faded: FloatArray = alike * np.exp(-squared / (2 * sigma**2)).astype(np.float32)
        return faded

    return fade


def flipped(of: ScoredSet) -> FloatArray:
    """Maps and affinities of the picture and its mirror image, averaged: two passes."""
    heats = []
    for mirror in (False, True):
        one = of.at(224, flipped=mirror)
        heats.append(_heat(affinity(one.maps, one.fine_features, DEFAULT.centring), of))
    return normalize_minmax(np.mean(heats, axis=0))


def sharpened(of: ScoredSet) -> FloatArray:
    """The spread map times the plain one: what both see."""
    plain = resample(of.at(224).maps, (56, 56), "bicubic")[:, 0]
    return normalize_minmax(np.sqrt(spread(224, 0.25)(of) * normalize_minmax(plain)))


def two_class(of: ScoredSet) -> FloatArray:
    """Likeness to the heated places less likeness to the others: one prototype of each."""
    one = of.at(224)
    spread_map = affinity(one.maps, one.fine_features, DEFAULT.centring)
    count, channels, height, width = one.fine_features.shape
    share = normalize_minmax(spread_map).reshape(count, 1, -1)
    g = one.fine_features.reshape(count, channels, -1)
    g = g - DEFAULT.centring * g.mean(-1, keepdims=True)
    g = _unit(g)
    inside, outside = (_unit((g * w).sum(-1, keepdims=True)) for w in (share, 1 - share))
    contrast = (g * (inside - outside)).sum(1).reshape(count, 1, height, width)
    return _heat(contrast, of)


def _unit(vectors: FloatArray) -> FloatArray:
    """Scaled to length 1 along the second axis."""
    lengths: FloatArray = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), TINY)
    return vectors / lengths


DROPPED: Mapping[str, Sequence[Heat]] = {
    "centring 0": [spread(224, 0.0)],
    "centring .5": [spread(224, 0.5)],
    "one pass at 256": [spread(256, 0.25)],
    "one pass at 320": [spread(320, 0.25)],
    "one pass at 320, centring .75": [spread(320, 0.75)],
    "map at 256 over affinity at 224": [spread(256, 0.25, 224)],
    "map at 320 over affinity at 224": [spread(320, 0.25, 224)],
    "maps at 224 and 256 over affinity at 224": [fused((224, 256), 0.25, 224)],
    "maps at 224 and 320 over affinity at 224": [fused((224, 320), 0.25, 224)],
    "maps at 320 and 448 over affinity at 224": [fused((320, 448), 0.25, 224)],
    "picture and mirror image": [flipped],
    "affinity squared": [kernel(np.square)],
    "affinity above .1": [kernel(lambda a: np.maximum(a - np.float32(0.1), 0))],
    "affinity that fades over .35 of a side": [kernel(near(0.35))],
    "rows not scaled": [kernel(normalize=False)],
    "two steps": [kernel(steps=2)],
    "seeds keep their sign": [kernel(seeds=_same)],
    "seeds to the power .5": [kernel(seeds=lambda m: np.sqrt(np.maximum(m, 0)))],
    "seeds cut off at .3 of their maximum": [
        kernel(seeds=lambda m: np.clip(m, 0, 0.3 * m.max((-2, -1), keepdims=True)))
    ],
    "spread map times plain map": [sharpened],
    "two prototypes": [two_class],
}
