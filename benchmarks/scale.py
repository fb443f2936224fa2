"""Twenty thousand pictures on one machine: rate, memory, kills, broken files, a full disk.

    python benchmarks/scale.py PICTURES_FOLDER [--pictures N] [--kills N] [--broken N] [--ray]

The pictures of the folder are multiplied under new names (hard links: each a file of its own), and
some of the names hold broken files: flipped bits, files cut short, other kinds of file, nothing.
Four runs with `gapcam localize`, compared byte for byte:

- undisturbed, its memory taken every second;
- killed (SIGKILL) at random moments and taken up again with `--resume` until it ends;
- with five workers, on the first pictures only;
- on a file system too small for its results, taken up again when that has room.

With `--ray`, instead: undisturbed, and on a Ray cluster of this machine with two workers, of which
one is killed in the middle.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results" / "scale.json"
SUFFIXES = {".jpg", ".jpeg"}
KINDS = ("bits flipped", "cut short", "another kind of file", "empty")
FEW = 600
SMALL_DISK_KB = 200


def multiply(sources: Sequence[Path], folder: Path, count: int, broken: int, seed: int) -> None:
    """`count` names in `folder` for the source pictures, `broken` of them spoilt."""
    chance = random.Random(seed)
    places = chance.sample(range(count), broken)
    spoilt = {place: KINDS[i % len(KINDS)] for i, place in enumerate(places)}
    for i in range(count):
        source = sources[i % len(sources)]
        path = folder / f"{i // 1000:03}" / f"{i:06}{source.suffix.lower()}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if i in spoilt:
            path.write_bytes(spoil(source.read_bytes(), spoilt[i], chance))
        else:
            os.link(source, path)


def spoil(data: bytes, kind: str, chance: random.Random) -> bytes:
    """A picture file spoilt so that it is no picture any more."""
    if kind == "empty":
        return b""
    if kind == "another kind of file":
        return chance.choice([b"%PDF-1.7\n", b"\x00" * 4096, b"<html></html>", b"PK\x03\x04"])
    if kind == "cut short":
        return data[: chance.randrange(1, len(data) * 3 // 4)]
    header = bytearray(data)
    for place in (0, 1, 2, *chance.sample(range(3, len(data)), 20)):  # else many decoders read on
        header[place] ^= 1 << chance.randrange(8)
    return bytes(header)


def command(folder: Path, out: Path, *more: str) -> list[str]:
    """A run without overlays."""
    line = [sys.executable, "-m", "gapcam", "localize", str(folder), "--out", str(out)]
    return [*line, "--no-overlays", *more]


def undisturbed(folder: Path, out: Path) -> dict[str, Any]:
    """A whole run, its memory taken every second from when it has begun to work."""
    log = out.with_suffix(".log")
    memory = []
    start = time.monotonic()
    with log.open("wb") as errors:
        process = subprocess.Popen(command(folder, out, "--json-log"), stderr=errors)
        while process.poll() is None:
            time.sleep(1)
            if (out / "unfinished").exists():
                memory.append(resident_mb(process.pid))
    events = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    finished = next(event for event in events if event["event"] == "finished")
    sizes = np.array([mb for mb in memory if mb > 0] or [0.0])
    tenths = [round(float(np.median(part)), 1) for part in np.array_split(sizes, 10) if len(part)]
    return {
        "exit_code": process.returncode,
        "wall_s": time.monotonic() - start,
        "pictures_per_s": finished["pictures"] / finished["seconds"],
        "finished": {k: v for k, v in finished.items() if k not in ("time", "written", "event")},
        "peak_mb": float(sizes.max()),
        "median_mb_by_tenth_of_the_run": tenths,
        "failures_said": sum(event["event"] == "failure" for event in events),
    }


def resident_mb(pid: int) -> float:
    """Resident memory of a process; 0 when it is gone."""
    try:
        words = Path(f"/proc/{pid}/statm").read_text().split()
    except OSError:
        return 0.0
    return int(words[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def killed(folder: Path, out: Path, kills: int, seconds: float, seed: int) -> dict[str, Any]:
    """A run that is killed at random moments and taken up again until it ends."""
    chance = random.Random(seed)
    moments, started = [], time.monotonic()
    for _ in range(kills):
        line = command(folder, out, *(["--resume"] if out.exists() else []))
        process = subprocess.Popen(line, stderr=subprocess.DEVNULL)
        wait = chance.uniform(0.2, seconds / kills)
        try:
            process.wait(wait)
            break  # it ended before its time came
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            moments.append(round(wait, 2))
    resume = ["--resume"] if out.exists() else []
    last = subprocess.run(command(folder, out, *resume), stderr=subprocess.PIPE, check=False)
    return {
        "kills": len(moments),
        "killed_after_s": moments,
        "exit_code": last.returncode,
        "wall_s": time.monotonic() - started,
    }


def on_ray(folder: Path, out: Path, seconds: float) -> dict[str, Any]:
    """A run on two Ray workers, of which one is killed after half of the time."""
    started = time.monotonic()
    line = command(folder, out, "--engine", "ray", "--concurrency", "2")
    process = subprocess.Popen(line, stderr=subprocess.DEVNULL)
    time.sleep(seconds / 2)
    found = subprocess.run(["pgrep", "-f", "^ray::MapWorker"], capture_output=True, check=False)
    workers = [int(pid) for pid in found.stdout.split()]
    parts = len(list((out / "unfinished").glob("part-*")))
    for pid in workers[:1]:
        os.kill(pid, signal.SIGKILL)
    return {
        "workers_there": len(workers),
        "killed_when_shards_done": parts,
        "exit_code": process.wait(),
        "wall_s": time.monotonic() - started,
    }


def full_disk(folder: Path, count: int, work: Path) -> dict[str, Any]:
    """A run on a file system that is too small, and again when it has room."""
    disk = work / "disk"
    disk.mkdir()
    size = f"size={SMALL_DISK_KB}k"
    mount = ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(disk)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        return {"skipped": "this user cannot mount a small file system"}
    try:
        full = subprocess.run(
            command(folder, disk / "out"), capture_output=True, text=True, check=False
        )
        subprocess.run(["mount", "-o", "remount,size=256m", str(disk)], check=True)
        resumed = subprocess.run(
            command(folder, disk / "out", "--resume"), capture_output=True, text=True, check=False
        )
        return {
            "pictures": count,
            "exit_code": full.returncode,
            "last_line": full.stderr.splitlines()[-1].replace(str(disk), "DISK"),
            "resumed_exit_code": resumed.returncode,
            "sha256": digest(disk / "out" / "localizations.jsonl"),
        }
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def digest(path: Path) -> str:
    """The SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def check(folder: Path, out: Path, count: int, broken: int) -> dict[str, Any]:
    """Each picture once, in order; the broken ones among the errors."""
    lines = (out / "localizations.jsonl").read_text("utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    paths = [record["path"] for record in records]
    expected = sorted(str(path) for path in folder.rglob("*") if path.is_file())
    errors = (out / "errors.jsonl").read_text("utf-8").splitlines()
    return {
        "pictures": len(paths),
        "each_once_in_order": paths == expected and len(paths) == count,
        "errors": len(errors),
        "errors_are_those_broken": len(errors) == broken,
        "sha256": digest(out / "localizations.jsonl"),
    }


def main() -> None:
    """Run, print, store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pictures", type=int, default=20_000)
    parser.add_argument("--broken", type=int, default=500)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--ray", action="store_true")
    given = parser.parse_args()
    sources = sorted(p for p in given.folder.rglob("*") if p.suffix.lower() in SUFFIXES)
    if not sources:
        print(f"{given.folder}: no JPEG there; skipped")
        return
    with tempfile.TemporaryDirectory(dir=os.environ.get("SCALE_TMP")) as name:
        results = measure(sources, Path(name), given)
    text = json.dumps(results, indent=1)
    print(text)
    path = RESULTS.with_name("scale_ray.json") if given.ray else RESULTS
    path.write_text(text + "\n")


def measure(sources: Sequence[Path], work: Path, given: argparse.Namespace) -> dict[str, Any]:
    """All runs."""
    folder, few = work / "pictures", work / "few"
    multiply(sources, folder, given.pictures, given.broken, 0)
    multiply(sources, few, FEW, FEW // 40, 1)
    results: dict[str, Any] = {
        "conditions": {
            "cores": os.cpu_count(),
            "machine": platform.machine(),
            "python": platform.python_version(),
            "pictures": given.pictures,
            "broken": given.broken,
        }
    }
    results["undisturbed"] = undisturbed(folder, work / "whole")
    results["check"] = check(folder, work / "whole", given.pictures, given.broken)
    seconds = results["undisturbed"]["wall_s"]
    if given.ray:
        ray = on_ray(folder, work / "ray", seconds)
        again = check(folder, work / "ray", given.pictures, given.broken)
        return {**results, "ray": {**ray, "byte_equal": again == results["check"]}}
    results["killed"] = killed(folder, work / "killed", given.kills, seconds, 2)
    again = check(folder, work / "killed", given.pictures, given.broken)
    results["killed"]["byte_equal"] = again == results["check"]
    digests = []
    for workers in (1, 5):
        out = work / f"few{workers}"
        subprocess.run(
            command(few, out, "--workers", str(workers)), check=False, stderr=subprocess.DEVNULL
        )
        digests.append(digest(out / "localizations.jsonl"))
    results["workers_1_and_5_byte_equal"] = digests[0] == digests[1]
    results["full_disk"] = full_disk(few, FEW, work)
    equal = results["full_disk"].get("sha256") == digests[0]
    results["full_disk"]["byte_equal_after_resume"] = equal
    return results


if __name__ == "__main__":
    main()
