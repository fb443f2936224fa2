"""What do class maps cost here and elsewhere, and are they the same maps?

    make bench-peers        (python benchmarks/peers.py in .venv-zoo)

EfficientNet-Lite0 with its ImageNet weights and ResNet-50 with random ones (batch norms have taken
statistics on the pictures), batches of 1 and 16, one class a picture and its five best. Every
contender lives in a process of its own; in each round all of them run in turn, so the others are
idle, and a ratio is the median over the rounds of theirs over ours. See `peers_contenders.py`.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import gapcam
from gapcam.exporting import export
from gapcam.images import load_picture, resize_picture
from peers_contenders import (
    CLASSES,
    CONTENDERS,
    PICTURES,
    RESNET_CLASSES,
    SIDE,
    THREADS,
    Floats,
    Material,
    normalized,
    open_contender,
    peak_megabytes,
    result,
    seconds,
    torch_network,
)

if TYPE_CHECKING:
    import torch

RESULTS = Path(__file__).parent / "results" / "peers.json"
NETWORKS = ("efficientnet-lite0", "resnet50")
OURS = "gapcam"
MODEL = "model.onnx"
BATCH, TOP = 16, 5
WORK = ((1, 1), (1, TOP), (BATCH, 1), (BATCH, TOP))
LIBRARIES = ("onnxruntime", "torch", "torchcam", "captum", "grad-cam", "numpy")


def prepare(name: str, folder: Path) -> Material:
    """Write what the contenders share: pictures, weights, the model file, the best classes."""
    import torch

    sized = [
        resize_picture(load_picture(path).pixels, (SIDE, SIDE)) for path in gapcam.sample_pictures()
    ]
    pixels = np.stack([sized[i % len(sized)] for i in range(BATCH)])
    network, _, wanted = torch_network(name)
    if name == "resnet50":
        take_statistics(network, normalized(pixels[: len(sized)], wanted))
        labels = [f"class {i}" for i in range(RESNET_CLASSES)]
        export(network.eval(), folder / MODEL, labels=labels, preprocessing=wanted)
    else:
        export(None, folder / MODEL)
    localizer = gapcam.load(folder / MODEL, threads=THREADS)
    torch.save(network.state_dict(), folder / "weights.pt")
    np.save(folder / PICTURES, pixels)
    np.save(folder / CLASSES, localizer.engine.run_maps(pixels, TOP).classes)
    return Material(name, folder)


def take_statistics(network: torch.nn.Module, pictures: torch.Tensor) -> None:
    """Let batch norms see pictures, so that random weights give sane activations."""
    import torch

    for part in network.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.momentum = 1.0
    with torch.no_grad():
        network.train()(pictures)


@contextmanager
def processes(material: Material) -> Iterator[dict[str, ProcessPoolExecutor]]:
    """A process for each contender."""
    spawn = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(
                ProcessPoolExecutor(1, spawn, open_contender, (name, material))
            )
            for name in CONTENDERS
        }


def measure(name: str, rounds: int) -> dict[str, object]:
    """Memory, times and agreement for one network."""
    with tempfile.TemporaryDirectory() as folder, processes(prepare(name, Path(folder))) as pools:
        return {
            "memory_mb": memory(pools),
            "time": {f"batch {b}, {n} class": timings(pools, b, n, rounds) for b, n in WORK},
            "agreement": agreement(pools),
        }


def memory(pools: dict[str, ProcessPoolExecutor]) -> dict[str, dict[str, float]]:
    """The first runs of every process: batch 16, one class."""
    found: dict[str, dict[str, float]] = {}
    for name, pool in pools.items():
        peak, increase = pool.submit(peak_megabytes, BATCH, 1).result()
        found[name] = {"process": float(round(peak)), "increase": float(round(increase))}
    return found


def timings(
    pools: dict[str, ProcessPoolExecutor], batch: int, count: int, rounds: int
) -> dict[str, dict[str, float]]:
    """Median milliseconds a picture, and the median ratio to ours; one more round warms up."""
    times = np.array(
        [
            [pool.submit(seconds, batch, count).result() for pool in pools.values()]
            for _ in range(rounds + 1)
        ]
    )[1:]
    ours = times[:, [list(pools).index(OURS)]]
    return {
        name: {"ms_a_picture": 1e3 * float(t) / batch, "over_ours": float(ratio)}
        for name, t, ratio in zip(
            pools, np.median(times, 0), np.median(times / ours, 0), strict=True
        )
    }


def agreement(pools: dict[str, ProcessPoolExecutor]) -> dict[str, dict[str, float]]:
    """Our maps of the five best classes beside the peers', four pictures, at 224 x 224."""
    count = len(gapcam.sample_pictures())

    def maps(name: str) -> Floats:
        found: Floats = pools[name].submit(result, count, TOP).result()
        return found

    ours, captum = maps(OURS), maps("captum LayerGradCam")
    # LayerGradCam weighs with the mean gradient: M / (h w).
    factor = float((ours * captum).sum() / (captum * captum).sum())
    positive = scaled(np.maximum(ours, 0))  # theirs are cut at 0 before they are enlarged
    return {
        "torchcam CAM": difference(ours, maps("torchcam CAM")),
        "captum LayerGradCam": {"factor": factor, **difference(ours, captum * factor)},
        "pytorch-grad-cam GradCAM, both scaled to 0..1": difference(
            positive, scaled(maps("pytorch-grad-cam GradCAM"))
        ),
    }


def scaled(maps: Floats) -> Floats:
    """Each map over its maximum."""
    peak = np.maximum(maps.max((-2, -1), keepdims=True), np.float32(1e-12))
    heat: Floats = maps / peak
    return heat


def difference(a: Floats, b: Floats) -> dict[str, float]:
    """Largest difference over the range of a, and the correlation."""
    return {
        "max_difference_over_range": float(np.abs(a - b).max() / np.ptp(a)),
        "correlation": float(np.corrcoef(a.ravel(), b.ravel())[0, 1]),
    }


def conditions(rounds: int) -> dict[str, object]:
    """What the numbers were taken with."""
    return {
        "cores": os.cpu_count(),
        "threads": THREADS,
        "machine": platform.machine(),
        "python": platform.python_version(),
        "rounds": rounds,
        **{name: version(name) for name in LIBRARIES},
    }


def show(name: str, found: dict[str, object]) -> None:
    """Print one network's results as tables."""
    work, kept = found["time"], found["memory_mb"]
    assert isinstance(work, dict)
    assert isinstance(kept, dict)
    print(f"\n{name}: time over gapcam's (ms a picture); MB above the loaded model at batch 16")
    print(" " * 26 + "".join(f"{title:>20}" for title in work) + f"{'MB':>8}")
    for contender in CONTENDERS:
        cells = [work[title][contender] for title in work]
        shown = [f"{c['over_ours']:.2f} ({c['ms_a_picture']:.1f})" for c in cells]
        line = "".join(f"{cell:>20}" for cell in shown)
        print(f"{contender:<26}{line}{kept[contender]['increase']:>8.0f}")
    print("agreement:", json.dumps(found["agreement"], indent=1))


def main() -> None:
    """Run, print, store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--network", choices=NETWORKS, help="only this one; nothing is stored")
    asked = parser.parse_args()
    results: dict[str, object] = {"conditions": conditions(asked.rounds)}
    for name in [asked.network] if asked.network else NETWORKS:
        found = measure(name, asked.rounds)
        show(name, found)
        results[name] = found
    if not asked.network:
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
