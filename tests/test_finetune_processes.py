"""Two real processes train as one does; a failure of one stops both."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import finetune_runs
from finetune_runs import TRAINED, Net, options, outcome, train
from gapcam.training.batches import EpochPlan, epoch_order, evaluation_requests
from gapcam.training.together import is_first_process


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("together")
    command = [sys.executable, finetune_runs.__file__, "together", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    return folder


def said(folder: Path, rank: int) -> dict:
    return json.loads((folder / f"said-{rank}.json").read_text())


def test_two_processes_give_what_one_gives(together: Path, tmp_path: Path):
    one = train(
        tmp_path / "run", options(batch_size=8, augment=("crop", "flip")), net=Net(plain=True)
    )
    rows, best, stopped = said(together, 0)["outcome"]
    expected_rows, expected_best, expected_stopped = outcome(one)
    assert (best, stopped) == (expected_best, expected_stopped)
    for row, expected in zip(rows, expected_rows, strict=True):
        assert row == pytest.approx(expected, abs=1e-4)
        # thirteen pictures on two processes: each is counted once
        assert row["validation_accuracy"] == pytest.approx(expected["validation_accuracy"])
    weights = torch.load(together / "net-0.pt", weights_only=True)
    for name, value in one.net.state_dict().items():
        torch.testing.assert_close(weights[name], value, atol=1e-4, rtol=1e-4)


def test_every_process_has_the_result_and_the_first_alone_tells(together: Path):
    first, second = said(together, 0), said(together, 1)
    assert first["outcome"] == second["outcome"]
    assert (first["told"], second["told"]) == ([0, 1, 2, 3], [])
    one, other = (torch.load(together / f"net-{r}.pt", weights_only=True) for r in (0, 1))
    assert finetune_runs.same_weights(one, other)


def test_a_picture_that_one_process_cannot_read_stops_both(together: Path):
    for rank in (0, 1):
        error = said(together, rank)["error"]
        assert error.startswith("PictureError")
        assert f"{TRAINED + 1}.png" in error


@given(st.data())
def test_every_picture_is_in_one_step_of_one_process(data: st.DataObject):
    processes = data.draw(st.integers(1, 4))
    pictures = data.draw(st.integers(processes, 60))
    size, accumulate = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 4))
    plan = EpochPlan(pictures, size, processes, accumulate)
    order = epoch_order(np.arange(100, 100 + pictures), seed=1, epoch=2)
    asked = [plan.requests(2, order, process) for process in range(processes)]

    rows = [row for requests in asked for request in requests for row in request.rows]
    assert sorted(rows) == list(range(100, 100 + pictures))
    assert {len(requests) for requests in asked} == {plan.steps}
    sizes = [len(request.rows) for requests in asked for request in requests]
    assert min(sizes) >= 1
    assert max(sizes) <= size + (pictures // processes < -(-pictures // (size * processes)))

    # what Lightning and DDP make of it: a mean over every update's pictures
    value = np.random.default_rng(0).random(200)
    for first in range(0, plan.steps, accumulate):
        part = [r for requests in asked for r in requests[first : first + accumulate]]
        got = sum(r.share * value[list(r.rows)].mean() for r in part) / (accumulate * processes)
        assert got == pytest.approx(value[[row for r in part for row in r.rows]].mean())
    assert plan.updates == len(range(0, plan.steps, accumulate))


@given(st.integers(0, 30), st.integers(1, 5), st.integers(1, 7))
def test_every_validation_picture_is_seen_once(pictures: int, processes: int, size: int):
    rows = np.arange(50, 50 + pictures)
    seen = [
        row
        for process in range(processes)
        for request in evaluation_requests(rows, size, process, processes)
        for row in request.rows
    ]
    assert sorted(seen) == rows.tolist()


@pytest.mark.parametrize(
    ("environment", "first"),
    [
        ({}, True),
        ({"LOCAL_RANK": "0"}, True),
        ({"LOCAL_RANK": "1"}, False),
        ({"LOCAL_RANK": "0", "NODE_RANK": "1"}, False),
        ({"RANK": "2", "LOCAL_RANK": "0"}, False),
        ({"SLURM_PROCID": "1"}, False),
    ],
)
def test_which_process_writes(environment: dict, first: bool, monkeypatch: pytest.MonkeyPatch):
    for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert is_first_process() is first
