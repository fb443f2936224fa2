from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest

from gapcam.metrics import bootstrap
from gapcam.metrics.bootstrap import bootstrap_ci95
from gapcam.types import ArgumentError


def binomial_interval(hits: int, n: int) -> tuple[float, float]:
    """The interval of infinitely many rounds: percentiles of Binomial(n, hits / n) / n."""
    p = hits / n
    chances = [math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]
    reached = np.cumsum(chances)
    low, high = (int(np.argmax(reached >= q)) for q in (0.025, 0.975))
    return low / n, high / n


def drawn_again(sums: np.ndarray, counts: np.ndarray, rounds: int, seed: int) -> np.ndarray:
    """The definition: draw n pictures with replacement, divide the sums, sort the scores."""
    random = np.random.default_rng(seed)
    n = len(sums)
    scores = []
    for _ in range(rounds):
        picked = random.integers(0, n, n)
        scores.append([sum(s[i] for i in picked) / sum(c[i] for i in picked)
                       for s, c in zip(sums.T, counts.T, strict=True)])  # fmt: skip
    return np.quantile(scores, (0.025, 0.975), axis=0).T


@pytest.mark.parametrize(("hits", "n"), [(70, 100), (5, 200), (250, 500)])
def test_the_interval_is_that_of_a_binomial(hits: int, n: int):
    found = bootstrap_ci95(np.arange(n) < hits, rounds=20_000)
    assert found == pytest.approx(binomial_interval(hits, n), abs=1.01 / n)


def test_it_holds_the_truth_19_times_in_20():
    random = np.random.default_rng(0)
    hits = random.random((300, 1000)) < 0.6  # a column a data set
    low, high = bootstrap_ci95(hits).T
    covered = ((low <= 0.6) & (high >= 0.6)).mean()
    assert covered == pytest.approx(0.95, abs=0.02)


def test_a_score_is_a_ratio_over_the_pictures_that_were_drawn():
    random = np.random.default_rng(1)
    counts = random.integers(1, 5, (30, 3)).astype(float)
    sums = counts * random.random((30, 3))
    found = bootstrap_ci95(sums, counts, rounds=50, seed=7)
    np.testing.assert_allclose(found, drawn_again(sums, counts, 50, 7), rtol=1e-12)


def test_pairs_of_one_picture_come_and_go_together():
    hits = (np.random.default_rng(2).random(200) < 0.5).astype(float)
    once = bootstrap_ci95(hits)
    tenfold = bootstrap_ci95(hits * 10, np.full(200, 10.0))
    np.testing.assert_allclose(tenfold, once, rtol=1e-12)
    as_if_independent = bootstrap_ci95(np.repeat(hits, 10))
    ratio = np.diff(tenfold)[0] / np.diff(as_if_independent)[0]
    assert ratio == pytest.approx(math.sqrt(10), rel=0.1)


def test_each_score_is_what_it_is_alone():
    random = np.random.default_rng(3)
    sums, counts = random.random((40, 4)), random.integers(0, 3, 40).astype(float)
    sums *= counts[:, None] > 0
    together = bootstrap_ci95(sums, counts)
    assert together.shape == (4, 2)
    for column, row in zip(sums.T, together, strict=True):
        np.testing.assert_allclose(bootstrap_ci95(column, counts), row, rtol=1e-12)


def test_one_score_unpacks_into_low_and_high():
    hits = np.arange(1000) < 700
    low, high = bootstrap_ci95(hits)
    half = 1.96 * np.sqrt(0.7 * 0.3 / 1000)
    assert (low, high) == pytest.approx((0.7 - half, 0.7 + half), abs=0.004)
    assert bootstrap_ci95(hits).tolist() == [low, high]
    assert bootstrap_ci95(hits, seed=1).tolist() != [low, high]
    assert bootstrap_ci95(np.ones(10)).tolist() == [1, 1]


def test_one_picture_is_all_there_is():
    assert bootstrap_ci95([0.25]).tolist() == [0.25, 0.25]
    assert bootstrap_ci95([[3.0, 0.0]], [[4.0, 2.0]]).tolist() == [[0.75, 0.75], [0, 0]]


def test_nothing_counted_is_nan():
    assert np.isnan(bootstrap_ci95([])).all()
    assert bootstrap_ci95(np.zeros((0, 3))).shape == (3, 2)
    assert bootstrap_ci95(np.zeros((5, 0))).shape == (0, 2)
    found = bootstrap_ci95([[1.0, 0], [1, 0]], [[1.0, 0], [1, 0]])
    np.testing.assert_array_equal(found, [[1, 1], [np.nan, np.nan]])


def test_draws_that_count_nothing_are_left_out():
    sums, counts = np.zeros(4), np.zeros(4)
    sums[2], counts[2] = 3, 4  # drawn in about two rounds of three
    assert bootstrap_ci95(sums, counts).tolist() == [0.75, 0.75]
    missed = [bootstrap_ci95(sums, counts, rounds=1, seed=s) for s in range(20)]
    assert 0 < np.isnan(missed).any(axis=1).sum() < 20


def test_the_seed_decides_not_the_size_of_the_blocks(monkeypatch: pytest.MonkeyPatch):
    sums = np.random.default_rng(4).random((50, 2))
    whole = bootstrap_ci95(sums, rounds=100)
    monkeypatch.setattr(bootstrap, "WEIGHTS_AT_ONCE", 150)
    np.testing.assert_allclose(bootstrap_ci95(sums, rounds=100), whole, rtol=1e-12)


def test_memory_does_not_grow_with_the_rounds():
    sums = np.random.default_rng(5).random((20_000, 2))
    peaks = []
    for rounds in (60, 240):
        tracemalloc.start()
        bootstrap_ci95(sums, rounds=rounds)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 50_000 < 40e6


@pytest.mark.parametrize(
    ("sums", "counts", "rounds", "message"),
    [
        (
            np.zeros((2, 2, 2)),
            None,
            10,
            r"sums: expected \[n, m\] or \[n\], got an array \[2, 2, 2",
        ),
        (
            np.zeros((3, 2)),
            np.ones((2, 2)),
            10,
            r"counts: expected the shape of sums, \[3, 2\], got",
        ),
        (np.zeros(3), np.ones((3, 1)), 10, r"got \[3, 1\]"),
        ([1, np.nan], None, 10, "sums: expected finite numbers, got NaN"),
        ([1, 1], [1, np.inf], 10, "counts: expected finite numbers"),
        ([1, 1], [1, -2], 10, "counts: expected 0 or more, got -2"),
        ([1, 1], [1, 0], 10, "sums: expected 0 where counts are 0"),
        ([1, 1], None, 0, "rounds: expected at least 1, got 0"),
    ],
)
def test_what_cannot_be_resampled_is_refused(sums, counts, rounds, message):
    with pytest.raises(ArgumentError, match=message):
        bootstrap_ci95(sums, counts, rounds)
