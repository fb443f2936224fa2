"""`gapcam train`, killed again and again, goes on with --resume to what it would have been.

As a program, it does the runs: each is a process of its own, which SIGKILL ends.
"""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path

import numpy as np
import pytest

from exporter import list_operators_once
from train_sets import write_classes, write_hf

RUNS = {
    "head-only": [],
    "finetune": ["--finetune", "--epochs", "3", "--batch-size", "4", "--ema", "0.5"],
}
# (what, how many times): the n-th picture that is read, or just before a file's n-th replacement.
# The moments of a run in order, as the next one begins where the one before was killed.
KILLS = {
    "head-only": [
        ("features.json", 2),
        ("read", 12),  # in the features, of which 8 are kept
        ("head.csv", 1),
        ("model.onnx", 1),
        ("run.json", 2),  # the first says that it goes on, the second that it is finished
        ("training.html", 1),
    ],
    "finetune": [
        ("read", 42),  # in epoch 1, after the inspection and the validation of epoch 0
        ("last.ckpt", 2),  # of epoch 2
        ("read", 9),  # in epoch 2
        ("random", 0),
        ("model.onnx", 1),
    ],
}


FIRST = os.getpid()


def run(folder: Path, method: str, name: str, *kill: object) -> int:
    """A process that trains, is killed at that moment, and says how it ended."""
    child = os.fork()
    if child == 0:
        try:
            os._exit(train(folder, method, name, *kill))
        except BaseException:
            traceback.print_exc()
            os._exit(99)
    if kill and kill[0] == "random":
        delay = float(np.random.default_rng().uniform(0.05, 1.0))
        threading.Timer(delay, os.kill, (child, signal.SIGKILL)).start()
    ended = os.waitpid(child, 0)[1]
    return -os.WTERMSIG(ended) if os.WIFSIGNALED(ended) else os.WEXITSTATUS(ended)


def train(folder: Path, method: str, name: str, what: str = "", count: int = 0) -> int:
    from gapcam.cli import app

    shapes = str(folder / "shapes")
    seen = {"read": 0, what: 0}

    def watch(event: str, arguments: tuple) -> None:
        if event == "open" and str(arguments[0]).startswith(shapes):
            seen["read"] += 1
        elif event == "os.rename" and Path(os.fsdecode(arguments[1])).name == what:
            seen[what] += 1
        else:
            return
        if seen[what] == count:
            if method == "head-only":
                note_opened(folder, what, seen["read"])
            os.kill(os.getpid(), signal.SIGKILL)

    if what:
        sys.addaudithook(watch)
    if os.getpid() != FIRST:
        said = os.open(folder / f"{name}.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(said, 1)
        os.dup2(said, 2)
    command = ["train", shapes, "--model", f"hf:{folder / 'net'}", *RUNS[method]]
    try:
        app([*command, "--out", str(folder / name), "--resume"])
    except SystemExit as end:
        sys.stdout.flush()
        return int(end.code or 0)
    return 98


def note_opened(folder: Path, what: str, pictures: int) -> None:
    """How many pictures a process had opened when it was killed."""
    path = folder / "opened.json"
    noted = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**noted, what: pictures}))


def all_runs(folder: Path) -> None:
    import lightning.pytorch  # noqa: F401  (once for all processes)
    import torch

    import gapcam.training.finetune  # noqa: F401

    torch.set_num_threads(1)
    list_operators_once()
    write_classes(folder / "shapes")
    write_hf(folder / "net")
    ends: dict[str, list[int]] = {}
    for method in RUNS:
        here = method == "head-only"  # what it imports then is there for all processes
        ends[f"{method} whole"] = [(train if here else run)(folder, method, f"{method}-whole")]
        name = f"{method}-killed"
        ends[f"{method} killed"] = [run(folder, method, name, *kill) for kill in KILLS[method]]
        ends[f"{method} end"] = [run(folder, method, name)]
    (folder / "ends.json").write_text(json.dumps(ends))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, __file__, str(folder)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, (time.monotonic() - began, done.stderr)
    return folder


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("method", RUNS)
def test_the_runs_were_killed_and_then_ended_well(runs: Path, method: str):
    ends = json.loads((runs / "ends.json").read_text())
    said = (runs / f"{method}-killed.txt").read_text()
    assert ends[f"{method} whole"] == ends[f"{method} end"] == [0], said
    for kill, end in zip(KILLS[method], ends[f"{method} killed"], strict=True):
        # a random moment may come too late for a run that has little left to do
        assert end == -signal.SIGKILL or (kill[0] == "random" and end == 0), (kill, said)


@pytest.mark.parametrize("method", RUNS)
def test_a_killed_run_ends_with_the_same_model_and_records(runs: Path, method: str):
    whole, killed = runs / f"{method}-whole", runs / f"{method}-killed"
    names = {str(path.relative_to(whole)) for path in whole.rglob("*") if path.is_file()}
    assert {str(path.relative_to(killed)) for path in killed.rglob("*") if path.is_file()} == names
    assert {"model.onnx", "training.html", "samples/final.jpg"} <= names
    # times of day and seconds differ; zip archives and the page hold such, config.json the command
    timed = {"run.json", "metrics.csv", "training.html", "checkpoints/last.ckpt", "features.json"}
    configs = [json.loads((run / "config.json").read_text()) for run in (whole, killed)]
    assert configs[0].pop("command").replace("-whole", "-killed") == configs[1].pop("command")
    assert configs[0] == configs[1]
    for name in sorted(names - timed - {"config.json"}):
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name
    states = [json.loads((run / "run.json").read_text()) for run in (whole, killed)]
    assert states[0]["result"] == states[1]["result"]
    assert states[1]["state"] == "finished"
    assert "<b>Running</b>" not in (killed / "training.html").read_text()


def test_the_epochs_are_the_same_but_for_their_seconds(runs: Path):
    tables = [read(runs / f"finetune-{name}" / "metrics.csv") for name in ("whole", "killed")]
    for row in (*tables[0], *tables[1]):
        assert float(row.pop("seconds")) >= 0
    assert tables[0] == tables[1]
    assert [row["epoch"] for row in tables[0]] == ["0", "1", "2", "3"]
    samples = sorted(path.name for path in (runs / "finetune-killed" / "samples").iterdir())
    assert samples == [*(f"epoch_{epoch:03d}.jpg" for epoch in range(4)), "final.jpg"]


def test_features_that_are_done_are_not_computed_again(runs: Path):
    opened = json.loads((runs / "opened.json").read_text())
    assert opened["features.json"] >= 24  # to look at, and then for features
    assert opened["head.csv"] in (8, 16)  # what was not done
    assert opened["model.onnx"] == 0
    assert "computed anew" not in (runs / "head-only-killed.txt").read_text()


if __name__ == "__main__":
    all_runs(Path(sys.argv[1]))
