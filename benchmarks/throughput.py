"""How fast is a folder, against decoding alone and the forward pass alone?

    python benchmarks/throughput.py PICTURES_FOLDER [--pictures N] [--rounds N]

The pictures of the folder, multiplied under new names (hard links), are localized into a folder of
results as `gapcam localize` does it. In the same run, in turn, on all cores:

- decode alone: every picture read and resized to the network's input;
- forward alone: the plain network (no maps, no boxes) on as many pictures that are in memory;
- the pipeline: files in, records out.

Where both share the cores, no pipeline can be faster than the sum of their work: `of_the_work` is
the rate over `1 / (1 / decode + 1 / forward)`, `over_slower` the rate over the slower of the two.
The stages of the pipeline, as it counts them itself, say where the rest goes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

import gapcam
from gapcam.batch import RunOptions, Summary, localize_into
from gapcam.engines.onnx import OnnxEngine
from gapcam.parallel import CHUNK, cores
from gapcam.paths import expand_paths

RESULTS = Path(__file__).parent / "results" / "throughput.json"
SUFFIXES = {".jpg", ".jpeg"}
HELD = 64
"""Pictures in memory that the forward pass goes round."""


def multiply(sources: Sequence[Path], folder: Path, count: int) -> None:
    """`count` names in `folder` for the source pictures."""
    for i in range(count):
        source = sources[i % len(sources)]
        os.link(source, folder / f"{i:06}{source.suffix.lower()}")


def seconds(work: Callable[[], object]) -> float:
    """How long it takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure(folder: Path, rounds: int) -> dict[str, Any]:
    """Each of the three in turn, `rounds` times; medians of the rates and of the ratios."""
    localizer = gapcam.load(threads=1)
    engine = localizer.engine
    assert isinstance(engine, OnnxEngine)
    paths = expand_paths([str(folder)])
    count, workers = len(paths.paths), cores()
    pixels = np.stack([localizer.read(path).pixels for path in paths.paths[:HELD]])
    summaries: list[Summary] = []

    def on_all_cores(work: Callable[[int], object]) -> None:
        with ThreadPoolExecutor(workers) as pool:
            for _ in pool.map(work, range(0, count, CHUNK)):
                pass

    def decode(start: int) -> None:
        for path in paths.paths[start : start + CHUNK]:
            localizer.read(path)

    def forward(start: int) -> None:
        at = start % HELD
        engine.run_logits(pixels[at : at + min(CHUNK, count - start)])

    def pipeline() -> None:
        with tempfile.TemporaryDirectory() as out:
            options = RunOptions(Path(out), overlays=False)
            summaries.append(localize_into(localizer, paths, options))

    works = [lambda: on_all_cores(decode), lambda: on_all_cores(forward), pipeline]
    times = np.array([[seconds(work) for work in works] for _ in range(rounds + 1)])[1:]
    rates = count / times
    slower, work = rates[:, :2].min(1), 1 / (1 / rates[:, 0] + 1 / rates[:, 1])
    last = summaries[-1]
    return {
        "pictures": count,
        "workers": workers,
        "decode_alone_per_s": float(np.median(rates[:, 0])),
        "forward_alone_per_s": float(np.median(rates[:, 1])),
        "pipeline_per_s": float(np.median(rates[:, 2])),
        "over_slower": float(np.median(rates[:, 2] / slower)),
        "of_the_work": float(np.median(rates[:, 2] / work)),
        "stage_share": {
            stage: round(s / sum(last.seconds.values()), 4) for stage, s in last.seconds.items()
        },
    }


def main() -> None:
    """Run, print, store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    sources = sorted(p for p in given.folder.rglob("*") if p.suffix.lower() in SUFFIXES)
    if not sources:
        print(f"{given.folder}: no JPEG there; skipped")
        return
    with tempfile.TemporaryDirectory(dir=os.environ.get("SCALE_TMP")) as name:
        multiply(sources, Path(name), given.pictures)
        results = {
            "conditions": {
                "cores": os.cpu_count(),
                "machine": platform.machine(),
                "python": platform.python_version(),
                "onnxruntime": onnxruntime.__version__,
                "load_at_start": os.getloadavg()[0],
            },
            given.folder.name: measure(Path(name), given.rounds),
        }
    text = json.dumps(results, indent=1)
    print(text)
    RESULTS.write_text(text + "\n")


if __name__ == "__main__":
    main()
