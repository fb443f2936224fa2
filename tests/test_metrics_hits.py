from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from gapcam.metrics import hits
from gapcam.metrics.hits import HitTable
from gapcam.types import ArgumentError


def table_of(ious: np.ndarray, step: int = 1000) -> HitTable:
    table = HitTable(ious.shape[1])
    for start in range(0, len(ious), step):
        table.add(ious[start : start + step])
    return table


@pytest.mark.parametrize("thresholds", [1, 7, 8, 9, 100])
@pytest.mark.parametrize("step", [1, 13, 5000])
def test_every_answer_comes_back(thresholds: int, step: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(hits, "PAIRS_AT_ONCE", 32)
    ious = np.random.default_rng(thresholds).random((101, thresholds))
    table = table_of(ious, step)
    assert len(table) == 101
    for row, delta in enumerate(HitTable.IOUS):
        np.testing.assert_array_equal(table.hit_counts()[row], (ious >= delta).sum(0))
        np.testing.assert_allclose(table.accuracy()[row], (ious >= delta).mean(0))
        for index in range(thresholds):
            np.testing.assert_array_equal(table.column(delta, index), ious[:, index] >= delta)


def test_an_iou_that_is_just_met_is_a_hit():
    table = HitTable(2)
    for delta in HitTable.IOUS:
        table.add([[delta, np.nextafter(delta, 0)]])
    assert table.column(0.3, 0).tolist() == [True, True, True]
    assert table.column(0.3, 1).tolist() == [False, True, True]
    assert table.column(0.5, 0).tolist() == [False, True, True]
    assert table.column(0.7, 1).tolist() == [False, False, False]
    assert table.accuracy() == pytest.approx(np.array([[3, 2], [2, 1], [1, 0]]) / 3)


def test_a_pair_takes_three_bits_a_threshold():
    table = table_of(np.zeros((8 * hits.PAIRS_AT_ONCE, 1000)))
    assert table.nbytes / len(table) == 375
    table.add(np.zeros((1, 1000)))  # a new block, no copy of the others
    assert table.nbytes == 375 * 9 * hits.PAIRS_AT_ONCE
    assert table_of(np.zeros((hits.PAIRS_AT_ONCE, 9))).nbytes == 6 * hits.PAIRS_AT_ONCE


def test_growing_copies_nothing():
    table, ious = HitTable(1000), np.zeros((64, 1000))
    tracemalloc.start()
    for _ in range(40 * hits.PAIRS_AT_ONCE // 64):
        table.add(ious)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert table.nbytes == 375 * 40 * hits.PAIRS_AT_ONCE
    assert peak - table.nbytes < 1e6  # 3 blocks; a copy would take 40


def test_the_counts_are_the_callers_own():
    table = table_of(np.ones((2, 3)))
    table.hit_counts()[:] = 0
    assert table.accuracy().tolist() == [[1, 1, 1]] * 3


def test_an_empty_table_has_columns_but_no_accuracy():
    table = HitTable(3)
    table.add(np.zeros((0, 3)))
    assert len(table) == 0
    assert table.nbytes == 0
    assert table.column(0.5, 2).tolist() == []
    assert table.column(0.5, 2).dtype == bool
    with pytest.raises(ArgumentError, match="hits: expected at least one picture"):
        table.accuracy()


@pytest.mark.parametrize(
    ("ious", "message"),
    [
        (np.zeros((4, 2)), r"ious: expected \[n, 3\], got an array \[4, 2\]"),
        (np.zeros(3), r"ious: expected \[n, 3\], got an array \[3\]"),
        (np.full((1, 3), 1.5), "ious: expected 0..1, got 1.5 to 1.5"),
        (np.full((1, 3), -1), "ious: expected 0..1, got -1 to -1"),
        (np.full((1, 3), np.nan), "ious: expected 0..1, got nan"),
    ],
)
def test_what_is_no_iou_is_refused(ious, message):
    table = HitTable(3)
    with pytest.raises(ArgumentError, match=message):
        table.add(ious)
    assert len(table) == 0


def test_what_was_not_asked_for_is_not_there():
    table = table_of(np.zeros((2, 3)))
    with pytest.raises(ArgumentError, match=r"iou: expected one of \(0.3, 0.5, 0.7\), got 0.4"):
        table.column(0.4, 0)
    for index in (-1, 3):
        with pytest.raises(ArgumentError, match=f"threshold_index: expected 0 to 2, got {index}"):
            table.column(0.5, index)
    with pytest.raises(ArgumentError, match="thresholds: expected at least 1, got 0"):
        HitTable(0)
