"""`gapcam train --devices 2`: two processes, one run."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import gapcam
from exporter import list_operators_once
from gapcam.cli import app
from train_sets import write_classes, write_hf

list_operators_once()

TUNE = ["--finetune", "--epochs", "1", "--augment", "none", "--workers", "0"]


def command(name: str, *more: str) -> list[str]:
    return ["train", "shapes", "--out", name, "--model", "hf:net", *TUNE, *more]


def gapcam_train(folder: Path, name: str, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gapcam", *command(name, *more)],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("together")
    write_classes(folder / "shapes")
    write_hf(folder / "net")
    return folder


def records(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_two_processes_give_one_run_and_the_accuracy_of_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    done = gapcam_train(folder, "two", "--devices", "2", "--batch-size", "4")
    assert done.returncode == 0, done.stderr
    monkeypatch.chdir(folder)
    alone = CliRunner().invoke(app, command("one", "--batch-size", "8"))
    assert alone.exit_code == 0, alone.stderr

    # said once: the second process says nothing
    assert done.stdout.count("Validation accuracy") == 1
    assert [line.split(":")[0] for line in done.stderr.splitlines()[1:]] == [
        "Epoch 0 of 1",
        "Epoch 1 of 1",
    ]
    names = [
        {str(path.relative_to(folder / run)) for path in (folder / run).rglob("*")}
        for run in ("one", "two")
    ]
    assert {name for name in names[0] ^ names[1] if "best-" not in name} == set()

    # Each process has batch norm statistics of its own half of a batch, so these nets differ a
    # little: four pictures of six decide between them.
    one, two = records(folder / "one"), records(folder / "two")
    assert one[0]["validation_loss"] == two[0]["validation_loss"]
    assert one[0]["validation_accuracy"] == two[0]["validation_accuracy"]
    for row, other in zip(one[1:], two[1:], strict=True):
        assert float(row["validation_loss"]) == pytest.approx(
            float(other["validation_loss"]), abs=0.05
        )
    results = [
        json.loads((folder / run / "run.json").read_text())["result"] for run in ("one", "two")
    ]
    assert abs(results[0]["accuracy"] - results[1]["accuracy"]) <= 2 / 6 + 1e-9
    pixels = np.zeros((1, 32, 32, 3), np.uint8)
    assert gapcam.load(folder / "two").engine.run(pixels).logits.shape == (1, 3)


@pytest.mark.parametrize("added", [False, True])
def test_an_error_is_told_by_one_process_of_a_machine(
    added: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    if added:
        monkeypatch.setenv("LOCAL_RANK", "1")
    done = CliRunner().invoke(app, ["train", str(tmp_path / "no"), "--out", str(tmp_path / "run")])
    assert done.exit_code == 1
    assert ("there is no such path" in done.stderr) is not added
    assert not added or done.output == ""
    assert not (tmp_path / "run").exists()
