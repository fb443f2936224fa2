"""The journal by itself, and real runs that are killed, interrupted, filled up and resumed."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import gapcam
from gapcam.cli import app
from gapcam.journal import PARTIAL, RESULTS, SETTINGS, Journal
from gapcam.types import ArgumentError, OutputError

COUNT = 100
GAPCAM = [sys.executable, "-m", "gapcam"]
SETTINGS_USED = {"model": "m", "top": 3, "classes": None}


def record(path: str, *, good: bool = True) -> dict[str, Any]:
    if not good:
        return {"path": path, "error": {"kind": "picture", "message": "broken"}}
    size = {"width": 4, "height": 3, "model": "m", "recipe": "r"}
    return {"path": path, **size, "detections": []}


def write(folder: Path, *records: dict[str, Any], resume: bool = False, end: bool = False) -> None:
    with Journal(folder, SETTINGS_USED, resume=resume) as journal:
        for one in records:
            journal.append(one)
        if end:
            journal.finish()


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def gapcam_run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [*GAPCAM, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def stop_after(count: int, how: signal.Signals, *arguments: object) -> tuple[int, str]:
    """Start a run, send it a signal once its partial file has that many lines."""
    partial = Path(str(arguments[arguments.index("--out") + 1])) / PARTIAL
    command = [*GAPCAM, *map(str, arguments)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        until = time.monotonic() + 60
        while not (partial.exists() and partial.read_bytes().count(b"\n") >= count):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < until, "the run wrote nothing"
            time.sleep(0.001)
        process.send_signal(how)
        _, errors = process.communicate(timeout=60)
    return process.returncode, errors


def assert_same_records(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> None:
    """Each picture once, and the same found in it; scores may differ by rounding."""
    assert sorted(r["path"] for r in one) == sorted(r["path"] for r in other)
    others = {r["path"]: r for r in other}
    for r in one:
        expected = others[r["path"]]
        assert r.keys() == expected.keys()
        for d, e in zip(r.get("detections", ()), expected.get("detections", ()), strict=True):
            assert d["score"] == pytest.approx(e["score"], abs=1e-5)
            assert d | {"score": 0} == e | {"score": 0}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory, localizer: gapcam.Localizer) -> Path:
    """A folder of many names for the sample photographs (hard links: each a file of its own)."""
    del localizer  # builds the model before any clock runs
    folder = tmp_path_factory.mktemp("many")
    for i, sample in enumerate(gapcam.sample_pictures()):
        shutil.copy(sample, folder / f"0_{sample.name}")
        for j in range(i, COUNT, 4):
            os.link(folder / f"0_{sample.name}", folder / f"{j:04}_{sample.name}")
        (folder / f"0_{sample.name}").unlink()
    return folder


@pytest.fixture(scope="module")
def undisturbed(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    assert gapcam_run("localize", pictures, "--out", out, "--no-overlays").returncode == 0
    found = lines(out / RESULTS)
    assert len(found) == COUNT
    return found


# --- the journal -------------------------------------------------------------------------------


def test_lines_are_on_disk_as_soon_as_they_are_appended_and_renamed_at_the_end(tmp_path: Path):
    with Journal(tmp_path / "new" / "run", SETTINGS_USED, resume=False) as journal:
        folder = tmp_path / "new" / "run"
        journal.append(record("a"))
        assert lines(folder / PARTIAL) == [record("a")]
        assert not (folder / RESULTS).exists()
        journal.finish()
    assert lines(folder / RESULTS) == [record("a")]
    assert {p.name for p in folder.iterdir()} == {RESULTS, SETTINGS}
    assert json.loads((folder / SETTINGS).read_text()) == SETTINGS_USED


def test_resuming_keeps_whole_good_lines_and_drops_the_rest(tmp_path: Path):
    write(tmp_path, record("a"), record("bad", good=False), record("b"), record("a"))
    with (tmp_path / PARTIAL).open("ab") as file:
        file.write(b'{"path":"c","wid')
    with Journal(tmp_path, SETTINGS_USED, resume=True) as journal:
        assert journal.done == {"a", "b"}
        journal.append(record("c"))
        journal.finish()
    assert lines(tmp_path / RESULTS) == [record("a"), record("b"), record("c")]


def test_a_line_cut_inside_a_letter_is_dropped(tmp_path: Path):
    write(tmp_path, record("a"))
    with (tmp_path / PARTIAL).open("ab") as file:
        file.write('{"path":"é'.encode()[:-1])
    with Journal(tmp_path, SETTINGS_USED, resume=True) as journal:
        assert journal.done == {"a"}
    assert lines(tmp_path / PARTIAL) == [record("a")]


def test_resuming_nothing_starts_anew(tmp_path: Path):
    with Journal(tmp_path / "new", SETTINGS_USED, resume=True) as journal:
        assert journal.done == frozenset()


def test_an_unfinished_run_is_not_overwritten(tmp_path: Path):
    write(tmp_path, record("a"))
    message = f"holds an unfinished run: add --resume to take it up, or delete .*{PARTIAL}"
    with pytest.raises(ArgumentError, match=message):
        write(tmp_path, record("b"))
    assert lines(tmp_path / PARTIAL) == [record("a")]


def test_other_settings_are_refused_and_both_are_named(tmp_path: Path):
    write(tmp_path, record("a"))
    message = r"run\.json: that run had top=3, this one has top=5; use the same settings"
    with pytest.raises(ArgumentError, match=message):
        Journal(tmp_path, SETTINGS_USED | {"top": 5}, resume=True)
    assert lines(tmp_path / PARTIAL) == [record("a")]
    assert json.loads((tmp_path / SETTINGS).read_text()) == SETTINGS_USED


def test_classes_compare_equal_after_json(tmp_path: Path):
    settings = SETTINGS_USED | {"classes": ("tabby", 3)}
    with Journal(tmp_path, settings, resume=False):
        pass
    with Journal(tmp_path, settings, resume=True):
        pass


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", '"x"', "\udcff"])
def test_spoilt_settings_are_refused_by_name(tmp_path: Path, text: str):
    write(tmp_path, record("a"))
    (tmp_path / SETTINGS).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ArgumentError, match=r"run\.json: "):
        Journal(tmp_path, SETTINGS_USED, resume=True)


def test_a_spoilt_line_in_the_middle_is_refused_with_its_number(tmp_path: Path):
    write(tmp_path, record("a"))
    with (tmp_path / PARTIAL).open("ab") as file:
        file.write(b"spoilt\n")
    before = (tmp_path / PARTIAL).read_bytes()
    with pytest.raises(ArgumentError, match="line 2: expected a JSON record"):
        Journal(tmp_path, SETTINGS_USED, resume=True)
    assert (tmp_path / PARTIAL).read_bytes() == before


def test_a_new_run_that_fails_to_start_keeps_the_finished_one_out_of_a_resume(tmp_path: Path):
    write(tmp_path, record("a"), end=True)
    (tmp_path / SETTINGS).unlink()
    (tmp_path / SETTINGS).mkdir()
    (tmp_path / SETTINGS / "x").touch()
    with pytest.raises(OutputError, match=r"run\.json: cannot be written"):
        Journal(tmp_path, SETTINGS_USED | {"top": 9}, resume=False)
    shutil.rmtree(tmp_path / SETTINGS)
    with Journal(tmp_path, SETTINGS_USED | {"top": 9}, resume=True) as journal:
        assert journal.done == frozenset()


def test_a_finished_run_is_replaced_by_a_new_one_only_at_its_end(tmp_path: Path):
    write(tmp_path, record("a"), end=True)
    with Journal(tmp_path, SETTINGS_USED, resume=False) as journal:
        journal.append(record("b"))
        assert lines(tmp_path / RESULTS) == [record("a")]
        journal.finish()
    assert lines(tmp_path / RESULTS) == [record("b")]


# --- real runs ---------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 17, 60])
def test_a_killed_run_resumes_without_loss_or_duplicates(
    pictures: Path, undisturbed: list[dict[str, Any]], tmp_path: Path, count: int
):
    arguments = ("localize", pictures, "--out", tmp_path, "--no-overlays")
    code, _ = stop_after(count, signal.SIGKILL, *arguments)
    assert code == -signal.SIGKILL
    kept = (tmp_path / PARTIAL).read_bytes().count(b"\n")
    with (tmp_path / PARTIAL).open("ab") as file:
        file.write(b'{"path":"half a li')

    refused = CliRunner().invoke(app, [*map(str, arguments)])
    assert refused.exit_code == 2
    assert "holds an unfinished run: add --resume to take it up" in refused.stderr
    other = CliRunner().invoke(app, [*map(str, arguments), "--resume", "--top", "2"])
    assert other.exit_code == 2
    assert "that run had top=5, this one has top=2; use the same settings" in other.stderr

    resumed = gapcam_run(*arguments, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert f"{COUNT - kept} pictures localized, {kept} done before. Written:" in resumed.stderr
    assert_same_records(lines(tmp_path / RESULTS), undisturbed)
    assert {p.name for p in tmp_path.iterdir()} == {RESULTS, SETTINGS}


def test_ctrl_c_ends_a_run_with_one_line_and_it_resumes(
    pictures: Path, undisturbed: list[dict[str, Any]], tmp_path: Path
):
    arguments = ("localize", pictures, "--out", tmp_path, "--no-overlays")
    code, errors = stop_after(20, signal.SIGINT, *arguments)
    assert code == 130
    assert errors == "gapcam: interrupted; with --out, add --resume to take the run up again\n"
    assert gapcam_run(*arguments, "--resume").returncode == 0
    assert_same_records(lines(tmp_path / RESULTS), undisturbed)


def test_a_killed_run_with_overlays_resumes_to_all_overlays(pictures: Path, tmp_path: Path):
    few = tmp_path / "few"
    few.mkdir()
    for path in sorted(pictures.iterdir())[:40]:
        os.link(path, few / path.name)
    arguments = ("localize", few, "--out", tmp_path / "out", "--format", "csv")
    stop_after(3, signal.SIGKILL, *arguments)
    assert gapcam_run(*arguments, "--resume").returncode == 0
    names = {f"{path.stem}_cam.jpg" for path in few.iterdir()}
    assert {path.name for path in (tmp_path / "out" / "overlays").glob("*.jpg")} == names
    assert len((tmp_path / "out" / "boxes.csv").read_text().splitlines()) == 41


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", str(disk)]
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
    small_disk: Path, pictures: Path, undisturbed: list[dict[str, Any]]
):
    arguments = ("localize", pictures, "--out", small_disk, "--no-overlays")
    full = gapcam_run(*arguments)
    assert full.returncode == 1
    partial = small_disk / PARTIAL
    expected = f"gapcam: {partial}: cannot be written (No space left on device); free some space, "
    assert full.stderr == expected + "or choose another output folder\n"
    subprocess.run(["mount", "-o", "remount,size=1m", str(small_disk)], check=True)
    assert gapcam_run(*arguments, "--resume").returncode == 0
    assert_same_records(lines(small_disk / RESULTS), undisturbed)


def test_a_file_size_limit_ends_a_run_with_one_line_and_it_resumes(
    pictures: Path, undisturbed: list[dict[str, Any]], tmp_path: Path
):
    arguments = ("localize", pictures, "--out", tmp_path, "--no-overlays")
    command = "ulimit -f 16; exec " + shlex.join([*GAPCAM, *map(str, arguments)])
    full = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert full.returncode == 1
    assert full.stderr.splitlines() == [
        f"gapcam: {tmp_path / PARTIAL}: cannot be written (File too large); free some space, "
        "or choose another output folder"
    ]
    assert gapcam_run(*arguments, "--resume").returncode == 0
    assert_same_records(lines(tmp_path / RESULTS), undisturbed)
