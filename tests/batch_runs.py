"""Runs over many small pictures, in this process, in others, and killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import gapcam
from gapcam.batch import RESULTS, UNFINISHED, RunOptions, Summary, localize_into
from gapcam.cli import app
from gapcam.paths import expand_paths
from picture_files import smooth_pixels

GAPCAM = [sys.executable, "-m", "gapcam"]
Record = dict[str, Any]


def small_picture(path: Path, seed: int = 0, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(smooth_pixels(30, 40, seed)).save(path, **options)
    return path


def copies(folder: Path, number: int) -> Path:
    """A folder of many names (hard links, each a file of its own) for a few small pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    first = [small_picture(folder / f"{i:04}.jpg", i) for i in range(min(4, number))]
    for i in range(4, number):
        os.link(first[i % 4], folder / f"{i:04}.jpg")
    return folder


def spoil(path: Path, data: bytes = b"no picture") -> Path:
    """Another content for one name: the other names of the file keep theirs."""
    path.unlink()
    path.write_bytes(data)
    return path


def run(
    localizer: gapcam.Localizer, folder: Path | str, out: Path, **options: Any
) -> tuple[list[str], Summary]:
    """A run over a folder without overlays: the names as their results came, and the end."""
    seen: list[str] = []
    workers = options.pop("workers", None)
    summary = localize_into(
        localizer,
        expand_paths([str(folder)]),
        RunOptions(out, **({"overlays": False} | options)),
        lambda result: seen.append(result.name),
        workers,
    )
    return seen, summary


def lines(path: Path) -> list[Record]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def records(out: Path) -> list[Record]:
    return lines(out / RESULTS)


def files(out: Path) -> dict[str, bytes]:
    """Every file of a run's folder."""
    found = sorted(path for path in out.rglob("*") if path.is_file())
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in found}


def gapcam_run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [*GAPCAM, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def shards_done(out: Path) -> int:
    return len(list((out / UNFINISHED).glob("part-*")))


def stop_after(count: int, how: signal.Signals, *arguments: object) -> tuple[int, str]:
    """Start the command, send it a signal once it has that many shards."""
    out = Path(str(arguments[arguments.index("--out") + 1]))
    command = [*GAPCAM, *map(str, arguments)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        until = time.monotonic() + 200
        while process.poll() is None and shards_done(out) < count:
            assert time.monotonic() < until, "the run wrote nothing"
            time.sleep(0.001)
        process.send_signal(how)
        _, errors = process.communicate(timeout=200)
    return process.returncode, errors


def forked(work: Callable[[], object]) -> int:
    """Do work in a child process, which has this one's models; returns its id."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the child uses no thread of this one
        child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    return child


def end_of(child: int) -> int:
    """Wait for a child: its exit status, or minus the signal that ended it."""
    until = time.monotonic() + 120
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > until:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            pytest.fail("a child process hangs")
        time.sleep(0.001)


def killed_after(count: int, out: Path, wait: float, work: Callable[[], object]) -> bool:
    """Do work in a child that is killed a while after it has written that many shards.

    Returns:
        Whether it was killed, rather than done before.
    """
    child = forked(work)
    until = time.monotonic() + 120
    still = os.WEXITED | os.WNOHANG | os.WNOWAIT
    while shards_done(out) < count and os.waitid(os.P_PID, child, still) is None:
        assert time.monotonic() < until, "the run wrote nothing"
        time.sleep(0.001)
    time.sleep(wait)
    os.kill(child, signal.SIGKILL)
    return end_of(child) == -signal.SIGKILL


def stop_at_step(number: int, below: Path, how: signal.Signals) -> None:
    """Have this process send itself a signal at its n-th step on a file below a folder.

    A step is what Python reports to audit hooks: opening, renaming, removing, making a folder.
    """
    steps = 0

    def count(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal steps
        if event.startswith(("open", "os.", "shutil.")) and any(
            str(below) in str(argument) for argument in arguments
        ):
            steps += 1
            if steps == number:
                os.kill(os.getpid(), how)

    sys.addaudithook(count)


def killed_at_step(number: int, below: Path, work: Callable[[], object]) -> bool:
    """Do work in a child that is killed at its n-th step on a file below a folder.

    Returns:
        Whether it was killed, rather than done before it came so far.
    """

    def watched() -> None:
        stop_at_step(number, below, signal.SIGKILL)
        work()

    return end_of(forked(watched)) == -signal.SIGKILL


def stopped_at_step(number: int, how: signal.Signals, *arguments: object) -> tuple[int, str]:
    """The command in a child that gets a signal at its n-th step on a file of its --out.

    Returns:
        How it ended (see `end_of`), and what it wrote to standard error.
    """
    out = Path(str(arguments[arguments.index("--out") + 1]))
    said = out.parent / f"{out.name}.said"

    def command() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        stop_at_step(number, out, how)
        with said.open("w", encoding="utf-8") as sys.stderr:
            try:
                app([*map(str, arguments)])
            except SystemExit as end:
                sys.stderr.flush()
                os._exit(int(end.code or 0))

    code = end_of(forked(command))
    return code, said.read_text(encoding="utf-8")
