"""What is kept of a scored picture: little, and the same for every picture."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from gapcam.data import Example, Target
from gapcam.evaluate.columns import Columns
from gapcam.evaluate.gallery import chosen_pairs
from gapcam.evaluate.measure import Measured, Task
from gapcam.evaluate.table import Table

T = 255


def task(number: int, classes: int = 1) -> Task:
    targets = tuple(Target((c,), ((0.0, 0.0, 10.0, 5.0),) * (1 + c)) for c in range(classes))
    example = Example(
        f"{number}.jpg", Path(f"{number}.jpg"), (20, 10), 1, targets, f"line {number}"
    )
    return Task(example, tuple(range(classes)))


def measured(random: np.random.Generator, class_id: int = 0) -> Measured:
    ious = random.random(T)
    return Measured(class_id, 3, 0.25, ious, np.maximum(ious, 0.5), (True, True), False, 0.5)


def held(table: Table) -> int:
    """Bytes of everything that grows, the data set's own examples aside."""
    arrays = [value for value in vars(table).values() if hasattr(value, "itemsize")]
    return sum(sys.getsizeof(value) for value in arrays) + table.single.nbytes + table.multi.nbytes


def test_memory_per_pair_is_small_and_does_not_grow():
    random = np.random.default_rng(0)
    table = Table(T, [0, 128])
    sizes = []
    for number in range(20_480):
        table.add(task(number), [measured(random)])
        if number + 1 in (10_240, 20_480):
            sizes.append(held(table))
    per_pair = (sizes[1] - sizes[0]) / 10_240
    assert per_pair < 60 + 2 * 3 * T / 8 + 20
    assert sizes[1] / 20_480 < 280


def test_columns_come_back_as_they_went_in():
    random = np.random.default_rng(1)
    table, rows = Table(T, [7, 9]), []
    for number in range(5):
        rows.append([measured(random, c) for c in range(number % 2 + 1)])
        table.add(task(number, number % 2 + 1), rows[-1])
    flat = [one for row in rows for one in row]
    assert len(table) == len(flat) == 7
    assert table.pictures.tolist() == [0, 1, 1, 2, 3, 3, 4]
    assert table.class_ids.tolist() == [0, 0, 1, 0, 0, 1, 0]
    assert table.objects.tolist() == [1, 1, 2, 1, 1, 2, 1]
    assert table.area.tolist() == [0.25] * 7
    assert np.array_equal(table.ious, [[one.single[7], one.single[9]] for one in flat])
    assert table.mean_ious == pytest.approx(np.mean([one.single for one in flat], axis=0))
    assert table.boxed.all()
    assert not table.has_pixels
    assert np.array_equal(table.single.column(0.5, 3), [one.single[3] >= 0.5 for one in flat])


def test_a_score_over_pictures_asks_for_any_pair_and_one_over_pairs_for_their_mean():
    random = np.random.default_rng(2)
    table = Table(T, [0])
    for number in range(3):
        table.add(task(number, 2), [measured(random, c) for c in range(2)])
    columns = Columns(table)
    hits = np.array([True, False, False, False, True, True])
    columns.add("pairs", hits)
    columns.add("some", hits, [True, True, True, False, False, False])
    columns.add_any("pictures", hits)
    columns.add_any("none", hits, False)
    means, ci95 = columns.results()
    assert means["pairs"] == 0.5
    assert means["some"] == pytest.approx(1 / 3, abs=1e-6)
    assert means["pictures"] == pytest.approx(2 / 3, abs=1e-6)
    columns.add("every", np.ones(6))
    columns.add("never", np.zeros(6))
    means, ci95 = columns.results()
    assert ci95["every"] == [pytest.approx(0.025 ** (1 / 3), abs=1e-6), 1]
    assert ci95["never"] == [0, pytest.approx(1 - 0.025 ** (1 / 3), abs=1e-6)]
    assert means["none"] is None
    assert ci95["none"] is None
    low, high = ci95["pairs"]
    assert low == 0
    assert high == 1


def test_the_gallery_takes_best_worst_and_others_and_none_twice():
    goodness = np.random.default_rng(3).random(40)
    chosen = list(chosen_pairs(goodness, 5, 0))
    by_group = {g: [i for group, i in chosen if group == g] for g in ("best", "worst", "random")}
    order = np.argsort(-goodness).tolist()
    assert by_group["best"] == order[:5]
    assert by_group["worst"] == order[:-6:-1]
    assert len(by_group["random"]) == 5
    assert len({i for _, i in chosen}) == 15
    assert list(chosen_pairs(goodness, 5, 0)) == chosen
    few = list(chosen_pairs(goodness[:4], 5, 0))
    assert sorted(i for _, i in few) == [0, 1, 2, 3]
