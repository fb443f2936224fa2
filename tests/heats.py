"""Heat maps to cut: drawn by hand, by formula and at random."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gapcam.boxes import Region, find_regions
from gapcam.recipes import PAPER
from gapcam.types import Recipe

EVERY = replace(PAPER, components="all", min_area_share=0)
# Exact in float32, so that oracle and code cut at the same place.
thresholds = st.sampled_from([0.125, 0.2109375, 0.5, 0.75])
unit = st.floats(0, 1, width=32)
some_heat = st.tuples(st.integers(1, 6), st.integers(1, 6)).flatmap(
    lambda hw: arrays(np.float32, hw, elements=unit)
)

# Many separate regions, some within the box of another.
scattered_heat = arrays(
    np.float32, (9, 9), elements=st.one_of(st.just(0.0), st.just(0.1), unit), fill=st.just(0.0)
)


def cut(threshold: float, recipe: Recipe = EVERY) -> Recipe:
    return replace(recipe, threshold=threshold)


def boxes(heat: np.ndarray, threshold: float) -> list[tuple[float, ...]]:
    """The boxes of all regions, in an order that does not depend on ties."""
    return sorted(region.box_xyxy for region in find_regions(heat, cut(threshold)))


def one_region(heat: np.ndarray, threshold: float) -> Region:
    (region,) = find_regions(np.asarray(heat, np.float32), cut(threshold))
    return region


def grid(rows: str) -> np.ndarray:
    """A heat map drawn in digits: 9 is 0.9, a dot is 0."""
    return np.array(
        [[0 if c == "." else int(c) / 10 for c in row] for row in rows.split()], np.float32
    )


def gaussian(size: int, sigma: float, centre_xy: tuple[float, float]) -> np.ndarray:
    places = np.arange(size) + 0.5
    x, y = (np.exp(-((places - c) ** 2) / (2 * sigma**2)) for c in centre_xy)
    return np.outer(y, x).astype(np.float32)


FOUR = grid("""
    55..9....
    55....3..
    55....33.
    .........
    ...77....
""")
