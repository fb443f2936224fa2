from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapcam.metrics.boxes import best_iou, box_iou
from gapcam.types import ArgumentError

sides = st.integers(0, 12)
boxes = st.tuples(sides, sides, sides, sides).map(
    lambda s: (min(s[0], s[2]), min(s[1], s[3]), max(s[0], s[2]), max(s[1], s[3]))
)


def pixels(box: tuple[int, int, int, int], last: int = 0) -> set[tuple[int, int]]:
    return {(x, y) for x in range(box[0], box[2] + last) for y in range(box[1], box[3] + last)}


def counted_iou(a: set[tuple[int, int]], b: set[tuple[int, int]]) -> float:
    return len(a & b) / len(a | b) if a | b else 0.0


@given(boxes, boxes)
def test_iou_counts_pixels(a, b):
    assert box_iou([a], [b])[0, 0] == pytest.approx(counted_iou(pixels(a), pixels(b)))


@given(boxes, boxes)
def test_inclusive_iou_counts_pixels_the_last_one_too(a, b):
    expected = counted_iou(pixels(a, last=1), pixels(b, last=1))
    assert box_iou([a], [b], inclusive=True)[0, 0] == pytest.approx(expected)


def test_one_pixel_is_one_pixel_in_both_conventions():
    """Half-open boxes with inclusive IoU, as some evaluators mix them, give 1/4 instead."""
    assert box_iou([(2, 2, 3, 3)], [(2, 2, 3, 3)]) == 1
    assert box_iou([(2, 2, 2, 2)], [(2, 2, 2, 2)], inclusive=True) == 1
    assert box_iou([(2, 2, 3, 3)], [(2, 2, 2, 2)], inclusive=True) == 1 / 4


def test_inclusive_boxes_that_touch_share_their_last_pixel():
    assert box_iou([(0, 0, 4, 0)], [(4, 0, 9, 0)], inclusive=True) == pytest.approx(1 / 10)
    assert box_iou([(0, 0, 4, 1)], [(4, 0, 9, 1)]) == 0
    assert box_iou([(0, 0, 4, 0)], [(5, 0, 9, 0)], inclusive=True) == 0


def test_iou_is_a_table():
    table = box_iou([(0, 0, 2, 2), (1, 1, 3, 3)], [(0, 0, 2, 2), (5, 5, 6, 6), (0, 0, 4, 4)])
    np.testing.assert_allclose(table, [[1, 0, 1 / 4], [1 / 7, 0, 1 / 4]])
    assert box_iou(np.zeros((0, 4)), [(0, 0, 1, 1)]).shape == (0, 1)
    assert box_iou((0, 0, 1, 1), []).shape == (1, 0)


def test_a_box_that_ends_before_it_starts_is_empty():
    assert box_iou([(5, 5, 2, 9)], [(0, 0, 10, 10), (5, 5, 2, 9)]).tolist() == [[0, 0]]
    assert box_iou([(5, 5, 3, 9)], [(0, 0, 10, 10)], inclusive=True) == 0


def test_the_best_fit_is_taken():
    truths = [(0, 0, 2, 2), (5, 5, 6, 6), (0, 0, 4, 4)]
    found = best_iou([(1, 1, 3, 3), (5, 5, 6, 6)], truths)
    np.testing.assert_allclose(found, [1 / 4, 1])
    assert best_iou([(1, 1, 3, 3)], []).tolist() == [0]
    assert best_iou([], truths).shape == (0,)
    assert best_iou((2, 2, 3, 3), (2, 2, 2, 2), inclusive=True) == 1 / 4


@pytest.mark.parametrize("wrong", [[1, 2, 3], [[1, 2, 3]], np.zeros((2, 2, 4)), 7.0])
def test_what_is_no_table_of_boxes_is_refused(wrong):
    with pytest.raises(ArgumentError, match=r"boxes: expected x0, y0, x1, y1 a row, \[N, 4\], got"):
        box_iou(wrong, [(0, 0, 1, 1)])
    with pytest.raises(ArgumentError, match="got an array"):
        box_iou([(0, 0, 1, 1)], wrong)
