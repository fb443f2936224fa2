"""The batcher alone: nothing is lost, doubled, mixed or stuck, whatever comes when."""

from __future__ import annotations

import threading
import time
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gapcam.serve.batcher import Batcher, ClosingError, QueueFullError

FOREVER = float("inf")


class Doubling:
    """Doubles numbers; remembers its batches; waits at a gate; fails on negative numbers."""

    def __init__(self):
        self.batches, self.gate, self.lock = [], threading.Event(), threading.Lock()
        self.gate.set()

    def __call__(self, items, wants):
        assert self.gate.wait(20)
        with self.lock:
            self.batches.append((wants, list(items)))
        if min(items) < 0:
            raise ValueError(f"negative: {items}")
        return [2 * item for item in items]


def wait_until(true):
    ends = time.monotonic() + 20
    while not true():
        assert time.monotonic() < ends
        time.sleep(0.001)


REQUESTS = st.lists(
    st.tuples(st.lists(st.integers(0, 99), min_size=1, max_size=5), st.sampled_from("abc")),
    max_size=20,
)


@settings(max_examples=60, deadline=None)
@given(requests=REQUESTS, workers=st.integers(1, 3), batch=st.integers(1, 6))
def test_every_item_comes_back_once_in_batches_of_one_kind(requests, workers, batch):
    work = Doubling()
    work.gate.clear()
    batcher = Batcher(work, workers=workers, batch=batch, room=1000)
    taken = [(items, wants, batcher.submit(items, wants, FOREVER)) for items, wants in requests]
    work.gate.set()
    assert batcher.close(20)
    for items, _, futures in taken:
        assert [future.result(0) for future in futures] == [2 * item for item in items]
    assert all(1 <= len(items) <= batch for _, items in work.batches)
    run = Counter((wants, item) for wants, items in work.batches for item in items)
    assert run == Counter((wants, item) for items, wants, _ in taken for item in items)
    if workers == 1:
        for kind in "abc":  # first come, first served, among those who want the same
            came = [item for items, wants, _ in taken if wants == kind for item in items]
            assert [i for wants, items in work.batches if wants == kind for i in items] == came


def test_the_oldest_goes_first_whatever_it_wants():
    work = Doubling()
    batcher = Batcher(work, workers=1, batch=2, room=100)
    work.gate.clear()
    batcher.submit([0], "first", FOREVER)
    wait_until(lambda: batcher.depth == 0)
    for number, wants in enumerate("abab", 1):
        batcher.submit([number], wants, FOREVER)
    work.gate.set()
    assert batcher.close(20)
    assert work.batches == [("first", [0]), ("a", [1, 3]), ("b", [2, 4])]


def test_idle_workers_share_what_comes():
    work = Doubling()
    batcher = Batcher(work, workers=2, batch=8, room=100)
    batcher.submit([0], "a", FOREVER)
    wait_until(lambda: batcher.idle == 2)
    work.batches.clear()
    work.gate.clear()
    batcher.submit(list(range(8)), "a", FOREVER)
    wait_until(lambda: batcher.depth == 0)
    work.gate.set()
    assert batcher.close(20)
    assert sorted(work.batches) == [("a", [0, 1, 2, 3]), ("a", [4, 5, 6, 7])]


def test_a_waiting_item_gets_company():
    work = Doubling()
    batcher = Batcher(work, workers=1, batch=2, room=100, wait_s=20)
    began = time.monotonic()
    batcher.submit([1], "a", FOREVER)
    batcher.submit([2], "a", FOREVER)  # the batch is full: no need to wait on
    assert batcher.close(20)
    assert work.batches == [("a", [1, 2])]
    assert time.monotonic() - began < 10


def test_company_is_waited_for_only_so_long():
    batcher = Batcher(Doubling(), workers=1, batch=2, room=100, wait_s=0.01)
    (future,) = batcher.submit([1], "a", FOREVER)
    assert future.result(20) == 2
    assert batcher.close(20)


def test_a_request_has_room_for_all_it_has_or_for_nothing():
    work = Doubling()
    work.gate.clear()
    batcher = Batcher(work, workers=1, batch=1, room=3)
    running = batcher.submit([1], "a", FOREVER)
    wait_until(lambda: batcher.depth == 0)
    waiting = batcher.submit([2, 3], "a", FOREVER)
    with pytest.raises(QueueFullError, match="the queue is full; try again in 1 s") as full:
        batcher.submit([4, 5], "a", FOREVER)
    assert full.value.retry_s == 1
    assert batcher.depth == 2
    waiting += batcher.submit([6], "a", FOREVER)
    work.gate.set()
    assert [future.result(20) for future in running + waiting] == [2, 4, 6, 12]
    assert batcher.close(20)


def test_one_item_that_fails_fails_alone():
    work = Doubling()
    batcher = Batcher(work, workers=1, batch=8, room=100, wait_s=0.05)
    futures = batcher.submit([1, -1, 2], "a", FOREVER)
    assert futures[0].result(20) == 2
    assert futures[2].result(20) == 4
    with pytest.raises(ValueError, match=r"negative: \[-1\]"):
        futures[1].result(20)
    assert batcher.submit([3], "a", FOREVER)[0].result(20) == 6  # the thread lives
    assert batcher.close(20)


def test_work_that_returns_too_little_is_an_error_and_not_a_request_that_waits_for_ever():
    batcher = Batcher(lambda items, wants: [], workers=1, batch=8, room=100)
    with pytest.raises(ValueError, match="zip"):
        batcher.submit([1], "a", FOREVER)[0].result(20)
    assert batcher.close(20)


def test_what_nobody_waits_for_any_more_is_not_run():
    work = Doubling()
    work.gate.clear()
    batcher = Batcher(work, workers=1, batch=1, room=100)
    batcher.submit([0], "a", FOREVER)
    wait_until(lambda: batcher.depth == 0)
    late = batcher.submit([1, 2], "a", time.monotonic())
    withdrawn = batcher.submit([3, 4], "a", FOREVER)
    kept = batcher.submit([5], "a", FOREVER)
    batcher.withdraw(withdrawn)
    assert batcher.depth == 3
    work.gate.set()
    assert kept[0].result(20) == 10
    assert batcher.close(20)
    assert all(future.cancelled() for future in late + withdrawn)
    assert [items for _, items in work.batches] == [[0], [5]]


def test_withdrawing_what_is_done_changes_nothing():
    batcher = Batcher(Doubling(), workers=1, batch=1, room=100)
    futures = batcher.submit([1], "a", FOREVER)
    assert futures[0].result(20) == 2
    batcher.withdraw(futures)
    assert futures[0].result(0) == 2
    assert batcher.close(20)


def test_closing_finishes_what_waits_and_takes_nothing_more():
    work = Doubling()
    batcher = Batcher(work, workers=2, batch=3, room=1000)
    futures = batcher.submit(list(range(100)), "a", FOREVER)
    assert not batcher.closing
    assert batcher.close(20)
    assert batcher.closing
    assert [future.result(0) for future in futures] == [2 * i for i in range(100)]
    with pytest.raises(ClosingError):
        batcher.submit([1], "a", FOREVER)
    assert batcher.close(0)


def test_closing_says_when_it_took_too_long():
    work = Doubling()
    work.gate.clear()
    batcher = Batcher(work, workers=1, batch=1, room=10)
    (future,) = batcher.submit([1], "a", FOREVER)
    assert not batcher.close(0.01)
    work.gate.set()
    assert future.result(20) == 2
    assert batcher.close(20)


def test_many_threads_at_once():
    work = Doubling()
    batcher = Batcher(work, workers=2, batch=4, room=16)
    results, full = [], Counter()

    def client(number):
        for i in range(100):
            item = 100 * number + i
            try:
                futures = batcher.submit([item], item % 3, FOREVER)
            except QueueFullError:
                full[number] += 1
            else:
                results.append((item, futures[0].result(20)))

    threads = [threading.Thread(target=client, args=(number,)) for number in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert batcher.close(20)
    assert len(results) + full.total() == 2400
    assert all(result == 2 * item for item, result in results)
    assert sum(len(items) for _, items in work.batches) == len(results)
    assert batcher.depth == 0


def test_when_to_return_follows_from_how_fast_it_goes():
    work = Doubling()
    batcher = Batcher(
        lambda items, wants: time.sleep(0.2) or work(items, wants), workers=1, batch=1, room=20
    )
    batcher.submit([0], "a", FOREVER)[0].result(20)
    wait_until(lambda: batcher.idle == 1)
    batcher.submit(list(range(20)), "a", FOREVER)
    with pytest.raises(QueueFullError) as found:
        batcher.submit(list(range(20)), "a", FOREVER)
    assert 2 < found.value.retry_s < 8
    assert not batcher.close(0)
