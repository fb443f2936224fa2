"""How fast are maps scored as the WSOL protocol asks, beside the protocol's own way?

    python benchmarks/evaluator_speed.py [--maps FILE.npz]

The protocol's way traces the contours of a map at each of 1,000 thresholds, once for the largest
contour and once for all, as the reference evaluator's flag has it; `reference` is a plain
re-implementation of that. `compiled` scores all 255 levels in one pass, largest contour and all
contours; `traced` is what replaces it where numba is missing. All take the same score maps, in
turn within one run, and their numbers are compared.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from gapcam.metrics import wsol

GOLDEN = Path(__file__).parents[1] / "tests" / "golden" / "wsol_boxes.npz"
RESULTS = Path(__file__).parent / "results" / "evaluator_speed.json"
ROUNDS = 5
REFERENCE_MAPS = 20
TRACED_MAPS = 60
NOISE_MAPS = 20
CHUNK = 32
MEMORY_MAPS = 10_000

Numbers = npt.NDArray[np.float64]
Truths = Sequence[npt.NDArray[np.int64]]


def reference(score_map: Numbers, truths: npt.NDArray[np.int64], *, multi: bool) -> Numbers:
    """Best IoU of the kept boxes at each of the 1,000 thresholds, one by one."""
    gray = (score_map * 255).astype(np.uint8)
    height, width = gray.shape
    boxes: list[tuple[int, int, int, int]] = []
    starts = []
    for threshold in wsol.THRESHOLDS:
        level = int(threshold * gray.max())
        _, mask = cv2.threshold(gray, level, 255, cv2.THRESH_BINARY)
        contours, _ = cv2.findContours(mask, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
        kept = contours if multi or not contours else [max(contours, key=cv2.contourArea)]
        starts.append(len(boxes))
        for contour in kept:
            x, y, w, h = cv2.boundingRect(contour)
            boxes.append((x, y, min(x + w, width - 1), min(y + h, height - 1)))
        if not contours:
            boxes.append((0, 0, 0, 0))
    best: Numbers = np.maximum.reduceat(wsol.inclusive_iou(boxes, truths).max(axis=1), starts)
    return best


def reference_both(score_map: Numbers, truths: npt.NDArray[np.int64]) -> tuple[Numbers, Numbers]:
    """Both kinds of score: a run each."""
    single = reference(score_map, truths, multi=False)
    return single, reference(score_map, truths, multi=True)


def compiled(scores: Numbers, truths: Truths, workers: int) -> wsol.LevelIous:
    """Gray maps and all their levels, a chunk of maps a thread as `gapcam evaluate` does it."""

    def part(start: int) -> wsol.LevelIous:
        chunk = slice(start, start + CHUNK)
        return wsol.level_ious(wsol.quantize(scores[chunk]), truths[chunk], workers=1)

    with ThreadPoolExecutor(workers) as pool:
        parts = list(pool.map(part, range(0, len(scores), CHUNK)))
    single, multi = zip(*parts, strict=True)
    return wsol.LevelIous(np.concatenate(single), np.concatenate(multi))


def traced(scores: Numbers, truths: Truths) -> object:
    """What runs where there is no numba."""
    return wsol._trace_maps(wsol.quantize(scores), truths)


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def maps_per_second(
    works: Sequence[tuple[int, Callable[[], object]]], rounds: int = ROUNDS
) -> list[float]:
    """Of each `(maps, work)`; median of rounds, each round all works in turn; one warms up."""
    times = np.array([[seconds(work) for _, work in works] for _ in range(rounds + 1)])[1:]
    counts = np.array([count for count, _ in works])
    rates: list[float] = np.median(counts / times, axis=0).tolist()
    return rates


def compare(scores: Numbers, truths: Truths) -> dict[str, float]:
    """Rates on these maps, and whether the numbers agree."""
    workers = os.cpu_count() or 1
    few, many = min(REFERENCE_MAPS, len(scores)), min(TRACED_MAPS, len(scores))
    expected = [reference_both(s, t) for s, t in zip(scores[:few], truths[:few], strict=True)]
    levels = wsol.level_of(wsol.THRESHOLDS)
    found = compiled(scores[:few], truths[:few], 1)
    np.testing.assert_array_equal(found.single[:, levels], [single for single, _ in expected])
    np.testing.assert_array_equal(found.multi[:, levels], [multi for _, multi in expected])
    slow, without, one, all_ = maps_per_second(
        [
            (
                few,
                lambda: [reference_both(s, t) for s, t in zip(scores[:few], truths, strict=False)],
            ),
            (many, lambda: traced(scores[:many], truths[:many])),
            (len(scores), lambda: compiled(scores, truths, 1)),
            (len(scores), lambda: compiled(scores, truths, workers)),
        ]
    )
    return {
        "reference_per_s": slow,
        "traced_per_s": without,
        "compiled_one_core_per_s": one,
        "compiled_all_cores_per_s": all_,
        "traced_over_reference": without / slow,
        "compiled_one_core_over_reference": one / slow,
        "compiled_all_cores_over_reference": all_ / slow,
    }


def compare_noise(truths: Truths) -> dict[str, float]:
    """The worst maps there are: every pixel at random. One map for the reference, one round."""
    scores = np.random.default_rng(0).random((NOISE_MAPS, wsol.SIDE, wsol.SIDE))
    scores[:, 0, 0] = 1
    some = truths[:NOISE_MAPS]
    expected = reference(scores[0], some[0], multi=False)
    found = compiled(scores[:1], some[:1], 1).single[0, wsol.level_of(wsol.THRESHOLDS)]
    np.testing.assert_array_equal(found, expected)
    slow = 1 / seconds(lambda: reference_both(scores[0], some[0]))
    workers = os.cpu_count() or 1
    one, all_ = maps_per_second(
        [
            (NOISE_MAPS, lambda: compiled(scores, some, 1)),
            (NOISE_MAPS, lambda: compiled(scores, some, workers)),
        ]
    )
    return {
        "reference_per_s": slow,
        "compiled_one_core_per_s": one,
        "compiled_all_cores_per_s": all_,
        "compiled_one_core_over_reference": one / slow,
    }


def stream(maps: npt.NDArray[np.float32], truths: Truths, count: int) -> None:
    """Score maps as they come, a chunk at a time: upsampled, scored, hits counted."""
    hits = np.zeros(wsol.LEVELS, np.int64)
    for start in range(0, count, CHUNK):
        own = [i % len(maps) for i in range(start, min(start + CHUNK, count))]
        ious = compiled(wsol.score_maps(maps[own]), [truths[i] for i in own], 1)
        hits += (ious.single >= 0.5).sum(axis=0)


def resident_kb() -> int:
    """What the process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() // 1024


def memory(maps: npt.NDArray[np.float32], truths: Truths) -> dict[str, float]:
    """Does scoring thousands of maps leave anything behind? And the whole way's rate."""
    stream(maps, truths, 1000)
    before = resident_kb()
    took = seconds(lambda: stream(maps, truths, MEMORY_MAPS))
    return {
        "maps": MEMORY_MAPS,
        "growth_kb": resident_kb() - before,
        "raw_maps_to_hits_one_core_per_s": MEMORY_MAPS / took,
    }


def read_truths(file: dict[str, npt.NDArray[np.int64]]) -> Truths:
    """Each map's true boxes in the protocol's square."""
    owners, boxes = file["box_image_index"], file["boxes_xyxy"]
    sizes = enumerate(file["image_size_wh"])
    return [wsol.truncated_boxes(boxes[owners == i], size_wh) for i, size_wh in sizes]


def main() -> None:
    """Run, print, store."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--maps", type=Path, default=GOLDEN, help="laid out like the default")
    with np.load(parser.parse_args().maps) as loaded:
        file = dict(loaded)
    maps, truths = file["maps"], read_truths(file)
    scores = wsol.score_maps(maps)
    first = seconds(lambda: compiled(scores[:1], truths[:1], 1))
    results: dict[str, object] = {
        "conditions": {
            "cores": os.cpu_count(),
            "machine": platform.machine(),
            "python": platform.python_version(),
            "opencv": cv2.__version__,
            "numba": version("numba"),
            "first_call_s": first,
        },
        f"real maps, {len(maps)} of {maps.shape[1]} x {maps.shape[2]}": compare(scores, truths),
        "noise": compare_noise(truths),
        "memory": memory(maps, truths),
    }
    text = json.dumps(results, indent=1)
    print(text)
    RESULTS.write_text(text + "\n")


if __name__ == "__main__":
    main()
