"""How much do maps and boxes cost, how fast is a folder, how long is the start?

    python benchmarks/speed.py

Everything that is compared is timed in turn within one run; ratios are medians of the rounds.
The pictures are the sample photographs: as they are (about 500 x 400), at 224 x 224, and enlarged
to 4000 x 3000. Reading and the forward pass share the cores, so where both are costly no pipeline
can be as fast as the slower of them alone; `pipeline_over_both_in_turn` compares with what
remains: reading all, then running all, on all cores.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

import gapcam
from gapcam.batch import RunOptions, localize_into
from gapcam.engines.onnx import OnnxEngine
from gapcam.paths import expand_paths

RESULTS = Path(__file__).parent / "results" / "speed.json"
RECIPE_ROUNDS = 15
BATCH = 16
FOLDER_ROUNDS = 5
START_ROUNDS = 7


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def in_turn(works: Sequence[Callable[[], object]], rounds: int) -> np.ndarray:
    """Seconds `[rounds, works]`, each round all works in turn; one more round warms up."""
    return np.array([[seconds(work) for work in works] for _ in range(rounds + 1)])[1:]


def recipe_costs(threads: int) -> dict[str, float]:
    """Every recipe, top-5 maps and boxes, over a plain forward pass at 224: one run, batch 16."""
    localizers = [gapcam.load(recipe=name, threads=threads) for name in gapcam.RECIPES]
    engine = localizers[0].engine
    assert isinstance(engine, OnnxEngine)
    paths = [*gapcam.sample_pictures()] * (BATCH // 4)
    read = [[localizer.read(path) for path in paths] for localizer in localizers]
    pixels = np.stack([picture.pixels for picture in read[0]])
    works: list[Callable[[], object]] = [lambda: engine.run_logits(pixels)]
    for localizer, pictures in zip(localizers, read, strict=True):
        works.append(partial(localizer.localize, pictures, paths, 5))
    times = in_turn(works, RECIPE_ROUNDS)
    ratios = np.median(times[:, 1:] / times[:, :1], axis=0).tolist()
    return {
        "plain_forward_ms_per_picture": 1e3 * float(np.median(times[:, 0])) / BATCH,
        **dict(zip(gapcam.RECIPES, ratios, strict=True)),
    }


def folder_throughput(folder: Path) -> dict[str, float]:
    """JPEG files in, JSONL out, against decoding alone and forward alone, each on all cores."""
    localizer = gapcam.load(threads=1)
    engine = gapcam.load().engine
    assert isinstance(engine, OnnxEngine)
    inputs = expand_paths([str(folder)])
    pixels = np.stack([localizer.read(path).pixels for path in inputs.paths[:BATCH]])
    batches = len(inputs.paths) / BATCH

    def decode() -> None:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for _ in pool.map(localizer.read, inputs.paths):
                pass

    def forward() -> None:
        for _ in range(round(batches)):
            engine.run_logits(pixels)

    def pipeline() -> None:
        with tempfile.TemporaryDirectory() as out:
            localize_into(localizer, inputs, RunOptions(Path(out), overlays=False))

    times = in_turn([decode, forward, pipeline], FOLDER_ROUNDS)
    slower = times[:, :2].max(1)
    one_after_the_other = times[:, :2].sum(1)
    return {
        "pictures": len(inputs.paths),
        "decode_alone_per_s": len(inputs.paths) / float(np.median(times[:, 0])),
        "forward_alone_per_s": len(inputs.paths) / float(np.median(times[:, 1])),
        "pipeline_per_s": len(inputs.paths) / float(np.median(times[:, 2])),
        "pipeline_over_slower": float(np.median(slower / times[:, 2])),
        "pipeline_over_both_in_turn": float(np.median(one_after_the_other / times[:, 2])),
    }


def make_folder(folder: Path, copies: int, size_wh: tuple[int, int] | None) -> None:
    """`copies` of every sample photograph, resized when a size is given."""
    for path in gapcam.sample_pictures():
        image = Image.open(path)
        data = path.read_bytes()
        if size_wh is not None:
            image.resize(size_wh, Image.Resampling.LANCZOS).save(folder / "large.jpg", quality=90)
            data = (folder / "large.jpg").read_bytes()
            (folder / "large.jpg").unlink()
        for i in range(copies):
            (folder / f"{path.stem}_{i:03}.jpg").write_bytes(data)


def start_up() -> dict[str, float]:
    """Import, and one picture from the command line with a built model."""
    cat = str(next(p for p in gapcam.sample_pictures() if p.stem == "cat"))
    commands = (
        [sys.executable, "-c", "pass"],
        [sys.executable, "-c", "import gapcam"],
        [sys.executable, "-m", "gapcam", "localize", cat],
    )
    runs = np.array([[wall_and_peak(c) for c in commands] for _ in range(START_ROUNDS)])
    return {
        "import_gapcam_s": float(np.median(runs[:, 1, 0] - runs[:, 0, 0])),
        "localize_one_picture_s": float(np.median(runs[:, 2, 0])),
        "localize_one_picture_peak_mb": float(np.median(runs[:, 2, 1])),
    }


def wall_and_peak(command: list[str]) -> tuple[float, float]:
    """Wall seconds and peak resident megabytes of a child process."""
    start = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0, command
    return time.perf_counter() - start, usage.ru_maxrss / 1024


def main() -> None:
    """Run, print, store."""
    results: dict[str, object] = {
        "conditions": {
            "cores": os.cpu_count(),
            "machine": platform.machine(),
            "python": platform.python_version(),
            "onnxruntime": onnxruntime.__version__,
        }
    }
    # First, while this process is small: a child's peak memory counts what it was forked from.
    results["start-up"] = start_up()
    for threads, where in ((1, "one core"), (0, "all cores")):
        results[f"localize top 5 over a plain forward at 224, {where}"] = recipe_costs(threads)
    sizes = {"224 x 224": (224, 224), "as shipped": None, "12 megapixels": (4000, 3000)}
    for name, size_wh in sizes.items():
        with tempfile.TemporaryDirectory() as folder:
            make_folder(Path(folder), 16 if name == "12 megapixels" else 80, size_wh)
            results[f"folder, {name}"] = folder_throughput(Path(folder))
    text = json.dumps(results, indent=1)
    print(text)
    RESULTS.write_text(text + "\n")


if __name__ == "__main__":
    main()
