"""Two real processes train as one does; a failure of one stops both."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import finetune_runs
from finetune_runs import TRAINED, Net, Odd, options, outcome, train
from gapcam.training.batches import EpochPlan, epoch_order, evaluation_requests
from gapcam.training.together import is_first_process


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def started(program: str, folder: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, finetune_runs.__file__, program, str(folder)],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> None:
    out, err = process.communicate(timeout=200)
    assert (process.returncode, out, err) == (0, "", "")


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("together")
    ended(started("together", folder))
    return folder


@pytest.fixture(scope="module")
def said(together: Path) -> dict:
    """What the program said; only the user's own process comes to its end."""
    (line,) = (together / "said.jsonl").read_text().splitlines()
    return json.loads(line)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory):
    """The same training in one process of a program that never had several."""
    chosen = options(batch_size=8, augment=("crop", "flip"))
    return train(tmp_path_factory.mktemp("alone") / "run", chosen, net=Net(plain=True))


def test_two_processes_give_what_one_gives(together: Path, said: dict, alone):
    rows, best, stopped = said["outcome"]
    expected_rows, expected_best, expected_stopped = outcome(alone)
    assert (best, stopped) == (expected_best, expected_stopped)
    for row, expected in zip(rows, expected_rows, strict=True):
        assert row == pytest.approx(expected, abs=1e-4)
        # thirteen pictures on two processes: each is counted once
        assert row["validation_accuracy"] == pytest.approx(expected["validation_accuracy"])
    weights = torch.load(together / "net.pt", weights_only=True)
    for name, value in alone.net.state_dict().items():
        torch.testing.assert_close(weights[name], value, atol=1e-4, rtol=1e-4)
    assert said["told"] == [0, 1, 2, 3]


def test_frozen_and_whole_numbers_stay_as_they_are(together: Path, said: dict):
    given = Odd()
    assert said["learns"] == {name: v.requires_grad for name, v in given.named_parameters()}
    weights = torch.load(together / "net.pt", weights_only=True)
    for name in ("unused", "whole", "count"):
        assert torch.equal(weights[name], given.state_dict()[name])


def test_a_later_run_of_the_program_is_as_if_it_were_the_first(said: dict, alone):
    assert said["left"] == said["left at the end"] == []
    assert said["alone"] == json.loads(json.dumps(outcome(alone)))
    rows = said["outcome"][0]
    expected = [[row["train_loss"], row["validation_loss"]] for row in rows[:3]]
    assert said["before the loss"] == expected  # of the third run, in two processes again


def test_a_process_that_is_lost_ends_the_run(said: dict):
    assert said["lost"].startswith(
        "ModelError: training failed: process 2 of 2 ended with exit code -9; see what it said"
    )


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """What two processes said that the test started, as a launcher does; with their weights."""
    folder, ranks = tmp_path_factory.mktemp("launched"), ("0", "1")
    finetune_runs.write_set(folder / "pictures")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meet = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    processes = [started("launched", folder, LOCAL_RANK=r, NODE_RANK="0", **meet) for r in ranks]
    for process in processes:
        ended(process)
    return [
        json.loads((folder / f"said-{rank}.json").read_text())
        | {"weights": torch.load(folder / f"net-{rank}.pt", weights_only=True)}
        for rank in ranks
    ]


def test_every_launched_process_has_the_result_and_the_first_alone_tells(launched, said: dict):
    first, second = launched
    assert first["outcome"] == second["outcome"] == said["outcome"]
    assert (first["told"], second["told"]) == ([0, 1, 2, 3], [])
    assert finetune_runs.same_weights(first["weights"], second["weights"])


def test_launched_processes_stop_together_and_go_on_to_the_next_run(launched: list[dict]):
    for one in launched:
        assert one["broken"].startswith("PictureError")
        assert f"broken-1/{TRAINED + 1}.png: expected a picture" in one["broken"]
        assert "this program is one of 2 processes that were started together" in one["alone"]


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
