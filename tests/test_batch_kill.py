"""Runs that are killed, interrupted and filled up, and what --resume makes of them."""

from __future__ import annotations

import os
import random
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

import gapcam
from batch_runs import (
    GAPCAM,
    copies,
    files,
    killed_after,
    killed_at_step,
    run,
    shards_done,
    spoil,
    stopped_at_step,
)
from gapcam.batch import ERRORS, RESULTS, SETTINGS, SHARDS, UNFINISHED
from gapcam.cli import app

COUNT = 60
BROKEN = (0, 41, 59)
SHARDS_OF_COUNT = 15
KILLS = 8


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = copies(tmp_path_factory.mktemp("many") / "in", COUNT)
    for i in BROKEN:
        spoil(folder / f"{i:04}.jpg")
    return folder


@pytest.fixture(scope="module")
def undisturbed(
    pictures: Path, small: gapcam.Localizer, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    run(small, pictures, out)
    found = files(out)
    assert found.keys() == {RESULTS, ERRORS, SETTINGS}
    assert found[RESULTS].count(b"\n") == COUNT
    return found


def localize(*arguments: object) -> Result:
    """The command in this process, without overlays."""
    return CliRunner().invoke(app, ["localize", *map(str, arguments), "--no-overlays"])


def results(out: Path) -> dict[str, bytes]:
    """The files but the settings, which name the working folder."""
    return {name: data for name, data in files(out).items() if name != SETTINGS}


def expected(undisturbed: dict[str, bytes]) -> dict[str, bytes]:
    return {name: data for name, data in undisturbed.items() if name != SETTINGS}


def test_a_run_that_is_killed_again_and_again_ends_with_the_bytes_of_an_undisturbed_one(
    small: gapcam.Localizer,
    small_model: Path,
    pictures: Path,
    undisturbed: dict[str, bytes],
    tmp_path: Path,
):
    chance, kills, out = random.Random(20), 0, tmp_path / "0"
    while kills < KILLS:
        more = {"resume": out.exists(), "workers": chance.randint(1, 5)}
        work = partial(run, small, pictures, out, **more)
        if killed_after(shards_done(out) + 1, out, chance.uniform(0, 0.02), work):
            kills += 1
        elif (out / RESULTS).exists():  # on a fast machine it may end first
            assert results(out) == expected(undisturbed)
            out = tmp_path / str(kills)
    done = localize(pictures, "--out", out, "--model", small_model, "--resume")
    assert done.exit_code == 1, done.stderr
    assert results(out) == expected(undisturbed)


def test_an_unfinished_run_is_only_taken_up_when_asked_and_with_its_settings(
    pictures: Path, small_model: Path, tmp_path: Path
):
    arguments = [str(pictures), "--out", str(tmp_path), "--model", str(small_model)]
    code, _ = stopped_at_step(40, signal.SIGKILL, "localize", *arguments, "--no-overlays")
    assert code == -signal.SIGKILL
    assert 1 < shards_done(tmp_path) < SHARDS_OF_COUNT
    before = files(tmp_path)
    for more, message in (
        ([], f"holds an unfinished run: add --resume to take it up, or delete {tmp_path}"),
        (["--resume", "--top", "2"], "that run had top=5, this one has top=2; use the same"),
        (["--resume", "--shards"], "that run had shards=None, this one has shards='jsonl'"),
        (["--resume", "--shard-size", "9"], "that run had shard_size=4, this one has shard_size=9"),
        (["--resume", "--recipe", "paper"], "that run had recipe={'name': 'default', "),
        (["--retry-errors"], "there is an unfinished one: --resume also tries errors again"),
        (["--resume", "--retry-errors"], "--resume and --retry-errors exclude each other"),
    ):
        refused = localize(*arguments, *more)
        assert refused.exit_code == 2
        assert message in refused.stderr
        assert files(tmp_path) == before


@pytest.mark.parametrize("kind", [None, "parquet"])
def test_a_run_killed_at_any_step_on_its_files_resumes_to_the_same_bytes(
    small: gapcam.Localizer, tmp_path: Path, kind: str | None
):
    folder = copies(tmp_path / "in", 3)
    spoil(folder / "0001.jpg")
    options = {"shards": kind, "shard_size": 2, "workers": 1}
    run(small, folder, tmp_path / "whole", **options)
    whole = files(tmp_path / "whole")
    out, number = tmp_path / "out", 0
    while True:
        number += 1 if kind is None else 3
        shutil.rmtree(out, ignore_errors=True)
        if not killed_at_step(number, out, lambda: run(small, folder, out, **options)):
            break
        run(small, folder, out, resume=True, **options)
        assert files(out) == whole, number
    assert number > 20
    assert files(out) == whole


@pytest.mark.parametrize("kind", [None, "parquet"])
def test_a_finished_run_whose_retry_is_killed_at_any_step_loses_nothing(
    small: gapcam.Localizer, tmp_path: Path, kind: str | None
):
    folder = copies(tmp_path / "in", 4)
    options = {"shards": kind, "shard_size": 2, "workers": 1}
    run(small, folder, tmp_path / "whole", **options)
    whole = files(tmp_path / "whole")
    good = (folder / "0001.jpg").read_bytes()
    spoil(folder / "0001.jpg")
    run(small, folder, tmp_path / "before", **options)
    spoil(folder / "0001.jpg", good)
    out, number = tmp_path / "out", 0
    while True:
        number += 3
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(tmp_path / "before", out)
        again = {"retry_errors": True, **options}
        if not killed_at_step(number, out, lambda again=again: run(small, folder, out, **again)):
            break
        run(small, folder, out, resume=True, **options)
        assert files(out) == whole, number
    assert number > 10
    assert files(out) == whole


def test_ctrl_c_ends_a_run_with_one_line_and_it_resumes(
    pictures: Path, small_model: Path, undisturbed: dict[str, bytes], tmp_path: Path
):
    out = tmp_path / "out"
    arguments = (pictures, "--out", out, "--model", small_model)
    more = ("--no-overlays", "--quiet")
    code, errors = stopped_at_step(40, signal.SIGINT, "localize", *arguments, *more)
    assert code == 130
    assert 1 < shards_done(out) < SHARDS_OF_COUNT
    *failures, last = errors.splitlines()
    assert last == "gapcam: interrupted; with --out, add --resume to take the run up again"
    assert all("0000.jpg" in line for line in failures)
    assert localize(*arguments, "--resume").exit_code == 1
    assert results(out) == expected(undisturbed)


def test_a_killed_run_with_overlays_resumes_to_all_overlays(
    pictures: Path, small_model: Path, tmp_path: Path
):
    few, out = tmp_path / "few", tmp_path / "out"
    few.mkdir()
    for path in sorted(pictures.iterdir())[1:25]:
        os.link(path, few / path.name)
    arguments = ("localize", few, "--out", out, "--format", "csv", "--model", small_model)
    code, _ = stopped_at_step(40, signal.SIGKILL, *arguments)
    assert code == -signal.SIGKILL
    assert 1 < shards_done(out) < 8
    assert CliRunner().invoke(app, [*map(str, arguments), "--resume"]).exit_code == 0
    names = {f"{path.stem}_cam.jpg" for path in few.iterdir()}
    assert {path.name for path in (out / "overlays").glob("*.jpg")} == names
    assert len((out / "boxes.csv").read_text().splitlines()) == 25


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=48k", "tmpfs", str(disk)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode != 0:
        pytest.skip(f"this user cannot mount a small disk: {done.stderr.strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_ends_a_run_with_one_line_and_it_resumes_when_there_is_space(
    small_disk: Path, pictures: Path, small_model: Path, undisturbed: dict[str, bytes]
):
    arguments = (pictures, "--out", small_disk, "--model", small_model)
    full = localize(*arguments)
    assert full.exit_code == 1
    last = full.stderr.splitlines()[-1]
    assert last.startswith(f"gapcam: {small_disk / UNFINISHED}")
    assert last.endswith(
        ": cannot be written (No space left on device); free some space, or choose another output "
        "folder"
    )
    subprocess.run(["mount", "-o", "remount,size=1m", str(small_disk)], check=True)
    assert localize(*arguments, "--resume").exit_code == 1
    assert results(small_disk) == expected(undisturbed)


def test_a_file_size_limit_ends_a_run_with_one_line_and_it_resumes(
    pictures: Path, small_model: Path, undisturbed: dict[str, bytes], tmp_path: Path
):
    arguments = (pictures, "--out", tmp_path, "--model", small_model)
    words = ["localize", *map(str, arguments), "--no-overlays"]
    command = "ulimit -f 16; exec " + shlex.join([*GAPCAM, *words])
    full = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert full.returncode == 1
    assert full.stderr.splitlines()[-1] == (
        f"gapcam: {tmp_path / RESULTS}: cannot be written (File too large); free some space, or "
        "choose another output folder"
    )
    assert shards_done(tmp_path) == SHARDS_OF_COUNT
    assert (tmp_path / SHARDS).exists() is False
    assert localize(*arguments, "--resume").exit_code == 1
    assert results(tmp_path) == expected(undisturbed)
