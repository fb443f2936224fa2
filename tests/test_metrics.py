from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapcam.metrics import bootstrap_ci95, box_iou

sides = st.integers(0, 12)
boxes = st.tuples(sides, sides, sides, sides).map(
    lambda s: (min(s[0], s[2]), min(s[1], s[3]), max(s[0], s[2]), max(s[1], s[3]))
)


def pixels(box: tuple[int, int, int, int]) -> set[tuple[int, int]]:
    return {(x, y) for x in range(box[0], box[2]) for y in range(box[1], box[3])}


@given(boxes, boxes)
def test_iou_counts_pixels(a: tuple[int, int, int, int], b: tuple[int, int, int, int]):
    union = len(pixels(a) | pixels(b))
    expected = len(pixels(a) & pixels(b)) / union if union else 0
    assert box_iou([a], [b])[0, 0] == pytest.approx(expected)


def test_iou_is_a_table():
    table = box_iou([(0, 0, 2, 2), (1, 1, 3, 3)], [(0, 0, 2, 2), (5, 5, 6, 6), (0, 0, 4, 4)])
    np.testing.assert_allclose(table, [[1, 0, 1 / 4], [1 / 7, 0, 1 / 4]])
    assert box_iou(np.zeros((0, 4)), [(0, 0, 1, 1)]).shape == (0, 1)


def test_the_interval_is_that_of_a_binomial_and_repeats():
    hits = np.arange(1000) < 700
    low, high = bootstrap_ci95(hits)
    half = 1.96 * np.sqrt(0.7 * 0.3 / 1000)
    assert (low, high) == pytest.approx((0.7 - half, 0.7 + half), abs=0.004)
    assert bootstrap_ci95(hits) == (low, high)
    assert bootstrap_ci95(np.ones(10)) == (1.0, 1.0)
