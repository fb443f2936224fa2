"""Pictures a second and core: on one machine, and on a Ray cluster of two workers on it.

    python benchmarks/ray_rate.py [--pictures N] [--recipes default fast best]

JPEGs of 500 x 400 made from the sample pictures, under N names. For each recipe `gapcam localize`
runs over them with two threads and with two Ray workers, without overlays. The rate of the local
run is that of its whole course; that of the Ray run is given twice: of its whole course, which
holds the start of the workers, and from the first shard that came to the last (`steady`), which is
what a long run has. Rates by the CPU seconds that the processes used (`per_cpu_s`) also hold on a
machine that does other things. Both results are compared byte for byte.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

import gapcam
from gapcam.batch import RESULTS, RunOptions, ShardDone, localize_into
from gapcam.batch.on_ray import Cluster, joined, localize_on_ray
from gapcam.inputs import open_inputs
from gapcam.types import Failure

STORED = Path(__file__).parent / "results" / "ray_rate.json"
SIZE_WH = (500, 400)
WORKERS = 2
SHARD = 32


def make_pictures(folder: Path, count: int) -> None:
    """`count` names (hard links) for the sample pictures at 500 x 400."""
    folder.mkdir()
    sources = gapcam.sample_pictures()
    for i in range(count):
        path, first = folder / f"{i:05}.jpg", folder / f"{i % len(sources):05}.jpg"
        if i < len(sources):
            with Image.open(sources[i]) as picture:
                picture.convert("RGB").resize(SIZE_WH).save(path, quality=90)
        else:
            os.link(first, path)


def cpu_of_workers() -> float:
    """CPU seconds that the worker processes used."""
    ticks = 0
    for folder in Path("/proc").iterdir():
        with suppress(OSError):
            if folder.name.isdecimal() and b"MapWorker" in (folder / "cmdline").read_bytes():
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def rates(folder: Path, out: Path, recipe: str, count: int) -> dict[str, Any]:
    """One recipe on both engines."""
    localizer = gapcam.load(recipe=recipe, threads=1)
    asked = partial(RunOptions, overlays=False, shard_size=SHARD)
    inputs = open_inputs([str(folder)])
    before = time.process_time()
    here = localize_into(localizer, inputs, asked(out / f"{recipe}-here"), workers=WORKERS)
    local_cpu = count / (time.process_time() - before)
    times: list[tuple[float, float, int]] = []

    def on_shard(done: ShardDone, _: Sequence[Failure]) -> None:
        times.append((time.perf_counter(), cpu_of_workers(), done.localized))

    there = localize_on_ray(
        localizer,
        inputs,
        asked(out / f"{recipe}-ray"),
        Cluster(concurrency=WORKERS),
        on_shard=on_shard,
    )
    local = count / here.wall_seconds / WORKERS
    (since, cpu_since, _), (until, cpu_until, _) = times[WORKERS - 1], times[-1]
    rest = sum(n for _, _, n in times[WORKERS:])
    steady = rest / (until - since) / WORKERS
    one, other = ((out / f"{recipe}-{where}" / RESULTS).read_bytes() for where in ("here", "ray"))
    return {
        "local_per_core_s": local,
        "ray_per_core_s_with_start": count / there.wall_seconds / WORKERS,
        "ray_per_core_s_steady": steady,
        "ray_over_local_steady": steady / local,
        "local_per_cpu_s": local_cpu,
        "ray_per_cpu_s_steady": rest / (cpu_until - cpu_since),
        "ray_over_local_per_cpu_s": rest / (cpu_until - cpu_since) / local_cpu,
        "core_hours_per_million": 1e6 / local_cpu / 3600,
        "same_bytes": one == other,
    }


def main() -> None:
    """Run, print, store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=1024)
    parser.add_argument("--recipes", nargs="+", default=["default", "fast", "best"])
    given = parser.parse_args()
    results: dict[str, Any] = {
        "conditions": {
            "cores": os.cpu_count(),
            "load_at_start": os.getloadavg()[0],
            "machine": platform.machine(),
            "python": platform.python_version(),
            "pictures": given.pictures,
            "size_wh": SIZE_WH,
            "workers": WORKERS,
        }
    }
    with tempfile.TemporaryDirectory() as name, joined(Cluster(concurrency=WORKERS)):
        make_pictures(Path(name) / "in", given.pictures)
        for recipe in given.recipes:
            results[recipe] = rates(Path(name) / "in", Path(name), recipe, given.pictures)
    text = json.dumps(results, indent=1)
    print(text)
    STORED.write_text(text + "\n")


if __name__ == "__main__":
    main()
