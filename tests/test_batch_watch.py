"""What is said while a run goes on and at its end, to people and to machines."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import gapcam
from batch_runs import GAPCAM, copies, run, spoil, stop_after
from gapcam.batch import STAGES
from gapcam.cli import app
from gapcam.cli.watch import Progress
from gapcam.parallel import cores


def localize(*arguments: object) -> tuple[int, list[str]]:
    done = CliRunner().invoke(app, ["localize", *map(str, arguments), "--no-overlays"])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    assert done.stdout == ""
    return done.exit_code, done.stderr.splitlines()


def events(said: list[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in said]


@pytest.fixture
def folder(localizer: gapcam.Localizer, tmp_path: Path) -> Path:
    del localizer  # has built the model
    folder = copies(tmp_path / "in", 20)
    spoil(folder / "0003.jpg")
    (folder / "notes.txt").touch()
    return folder


def test_the_log_of_a_run_is_json_lines_from_its_start_to_its_end(folder: Path, tmp_path: Path):
    out = tmp_path / "out"
    code, said = localize(folder, "--out", out, "--json-log", "--workers", 3)
    assert code == 1
    first, failure, last = events(said)
    assert all(isinstance(event.pop("time"), float) for event in (first, failure, last))
    assert first == {
        "event": "started",
        "model": "efficientnet-lite0",
        "recipe": "default",
        "pictures": 20,
        "workers": 3,
        "threads_each": 1,
    }
    path = str(folder / "0003.jpg")
    assert (failure["event"], failure["path"], failure["kind"]) == ("failure", path, "picture")
    assert failure["message"].startswith(path)
    counts = ("pictures", "localized", "failed", "earlier", "workers", "ignored")
    assert [last[key] for key in counts] == [20, 19, 1, 0, 3, 1]
    assert last["written"] == [str(out / "localizations.jsonl"), str(out / "errors.jsonl")]
    assert last["stage_seconds"].keys() == set(STAGES) - {"draw"}
    assert last["bottleneck"] == max(last["stage_seconds"], key=last["stage_seconds"].get)
    assert 1 <= last["classes"] <= 4
    assert last["seconds"] > 0
    assert sum(last["stage_seconds"].values()) <= 3 * last["seconds"]


def test_the_log_says_progress_every_few_seconds(
    folder: Path, small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("gapcam.cli.watch.PROGRESS_SECONDS", 0.0)
    arguments = (folder, "--out", tmp_path / "out", "--model", small_model)
    run_once = localize(*arguments)
    assert run_once[0] == 1
    _, said = localize(*arguments, "--json-log", "--resume")
    steps = [event for event in events(said) if event["event"] == "progress"]
    assert steps[-1]["done"] == steps[-1]["failed"] == 1
    assert steps[-1]["earlier"] == 19
    assert steps[-1]["pictures"] == 20
    assert steps[-1]["seconds_left"] == 0
    assert steps[-1]["per_second"] == pytest.approx(1 / steps[-1]["seconds"], rel=0.05)


def test_the_log_says_what_ended_a_run(folder: Path, tmp_path: Path):
    code, said = localize(folder, "--out", tmp_path / "out", "--json-log", "--top", 0)
    assert code == 2
    *_, error = events(said)
    assert (error["event"], error["kind"]) == ("error", "argument")
    assert error["message"] == "top: expected 1 to 1000 (the model's classes), got 0"
    (tmp_path / "file").touch()
    code, said = localize(folder, "--out", tmp_path / "file", "--json-log")
    assert code == 1
    assert events(said)[-1]["kind"] == "output"
    done = CliRunner().invoke(app, ["localize", str(folder), "--json-log"])
    assert done.exit_code == 2
    assert json.loads(done.stderr)["message"] == "--json-log needs --out: say where to write"


def test_the_log_says_that_a_run_was_interrupted(folder: Path, tmp_path: Path):
    import signal

    for i in range(20, 200):
        os.link(folder / "0000.jpg", folder / f"{i:04}.jpg")
    more = ("--json-log", "--no-overlays")
    code, said = stop_after(2, signal.SIGINT, "localize", folder, "--out", tmp_path / "out", *more)
    assert code == 130
    assert events(said.splitlines())[-1]["event"] == "interrupted"


def test_a_quiet_run_names_failures_and_nothing_else(
    folder: Path, small_model: Path, tmp_path: Path
):
    model = ("--model", str(small_model))
    code, said = localize(folder, "--out", tmp_path / "out", "--quiet", *model)
    assert code == 1
    (failure,) = said
    assert failure.startswith(f"gapcam: {folder / '0003.jpg'}: expected a picture")
    done = CliRunner().invoke(app, ["localize", str(folder), "-q", "--format", "jsonl", *model])
    assert done.stderr.splitlines() == [failure]


def test_the_end_says_classes_rate_workers_and_where_the_time_went(
    folder: Path, small_model: Path, tmp_path: Path
):
    arguments = (folder, "--out", tmp_path / "out", "--model", small_model)
    code, said = localize(*arguments, "--workers", 2)
    assert code == 1
    assert said[1] == "19 pictures localized, 1 failed. Written:"
    classes = r"(1 class|[2-4] classes) found \(best of a picture\): \S.* \d+(, \.\.\.)?\."
    assert re.fullmatch(classes, said[4])
    assert "2 workers, 1 thread each" in said[5]
    assert said[6:] == ["1 other file ignored."]
    _, said = localize(*arguments, "--workers", 1, "--resume")
    assert said[1] == "0 pictures localized, 19 done before, 1 failed. Written:"
    assert said[4] == "No class found."
    assert "1 worker, 1 thread each" in said[5]


def test_a_terminal_gets_a_bar_with_rate_and_time_left_and_failures_on_their_lines(
    folder: Path, small_model: Path, tmp_path: Path
):
    pty = pytest.importorskip("pty", reason="needs a pseudo-terminal")
    terminal, screen = pty.openpty()
    words = ["localize", folder, "--out", tmp_path / "out", "--no-overlays", "--model", small_model]
    command = [*GAPCAM, *map(str, words)]
    env = os.environ | {"TERM": "xterm", "COLUMNS": "300"}
    assert subprocess.run(command, stderr=screen, env=env, check=False).returncode == 1
    text = os.read(terminal, 100_000).decode()
    os.close(terminal)
    os.close(screen)
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text).replace("\r", "\n").split("\n")
    assert any(re.search(r"20/20 +([\d.]+/s)? +0:00:\d\d left 0:00:00 +1 failed", s) for s in shown)
    assert any(s.startswith(f"gapcam: {folder / '0003.jpg'}: expected") for s in shown)


def test_seconds_of_the_stages_add_up_to_the_time_of_the_workers(
    quick: gapcam.Localizer, folder: Path, tmp_path: Path
):
    _, summary = run(quick, folder, tmp_path / "out", workers=1)
    assert sum(summary.seconds.values()) <= summary.wall_seconds
    assert sum(summary.seconds.values()) >= 0.5 * summary.wall_seconds
    assert summary.bottleneck == "forward"
    assert sum(summary.classes.values()) <= 19


def test_time_left_is_what_is_left_at_the_rate_so_far():
    progress = Progress(total=100, done=20, earlier=30)
    progress.started -= 10
    assert progress.per_second == pytest.approx(2, rel=0.05)
    assert progress.seconds_left == pytest.approx(25, rel=0.05)
    assert Progress(total=None, done=3).seconds_left is None
    assert Progress(total=3).seconds_left is None


def test_no_more_workers_than_the_cores_that_may_be_used():
    assert 1 <= cores() <= (os.cpu_count() or 1)
    bound = (
        "import os; os.sched_setaffinity(0, {0}); from gapcam.parallel import cores; print(cores())"
    )
    done = subprocess.run([GAPCAM[0], "-c", bound], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"
