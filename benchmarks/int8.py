"""What does the int8 variant cost in classes and boxes, and what does it gain in time and size?

    python benchmarks/int8.py [--data DIR] [--calibrate DIR] [--tune]

`--calibrate` holds training pictures: 64 of them calibrate; with `--tune`, other ones compare
every choice that static quantization leaves open with the float network. Those that gapcam uses
(`gapcam.models.onnx_graphs.quantize.CHOSEN`) were chosen there. `--data` (see `localization.py`) is
scored with them once. Times of the float and the int8 model are taken in turn within one run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime

import gapcam
from gapcam.engines.onnx import OnnxEngine
from gapcam.int8 import calibration_batches, compare, speed_ratio
from gapcam.localizer import Localizer
from gapcam.models.onnx_graphs.quantize import CHOSEN, QuantizeChoices, quantize_static_file
from gapcam.types import ModelError
from localization import SHARED, localize, read_examples, score

RESULTS = Path(__file__).parent / "results" / "int8.json"
CALIBRATING = 64
TUNING = 160
KEPT_SCORES = ("top1", "top5", "top1_loc", "gt_known", "gt_known_ci95", "mean_iou357")

CHOICES: dict[str, QuantizeChoices] = {
    "chosen": CHOSEN,
    "weights in 7 bits": replace(CHOSEN, weights="seven-bits"),
    "weights in 8 bits, sums saturate": replace(CHOSEN, weights="eight-bits"),
    "one scale a weight": replace(CHOSEN, weights="seven-bits", per_channel=False),
    "signed activations": replace(CHOSEN, signed_activations=True),
    "signed and symmetric": replace(CHOSEN, signed_activations=True, symmetric=True),
    "percentile 99.999": replace(CHOSEN, method="percentile"),
    "percentile 99.99": replace(CHOSEN, method="percentile", percentile=99.99),
    "entropy": replace(CHOSEN, method="entropy"),
    "first layer in float": replace(CHOSEN, float_first=1),
    "last layer in float": replace(CHOSEN, float_last=1),
    "depthwise in float": replace(CHOSEN, float_depthwise=True),
}
Row = dict[str, object]


def source(localizer: Localizer) -> Path:
    """The model file of a localizer."""
    assert isinstance(localizer.engine, OnnxEngine)
    return localizer.engine.path


def training_pictures(folder: Path) -> tuple[list[Path], list[Path]]:
    """Pictures to calibrate on and other ones to tune on, drawn at random."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    order = np.random.default_rng(0).permutation(len(paths))
    chosen = [paths[i] for i in order[: CALIBRATING + TUNING]]
    return chosen[:CALIBRATING], chosen[CALIBRATING:]


def quantized(
    full: Localizer, pictures: Sequence[Path], out: Path, choices: QuantizeChoices = CHOSEN
) -> Localizer:
    """The int8 variant, on one core."""
    read = [full.read(path) for path in pictures]
    quantize_static_file(source(full), out, calibration_batches(read), choices)
    return Localizer(OnnxEngine(out, 1), full.card, full.recipe)


def logit_error(full: Localizer, small: Localizer, paths: Sequence[Path]) -> float:
    """Root mean square change of the logits over their standard deviation."""
    before, after = (
        np.concatenate([m.engine.run(full.read(path).pixels[np.newaxis]).logits for path in paths])
        for m in (full, small)
    )
    return float(np.sqrt(((after - before) ** 2).mean()) / before.std())


def against_float(full: Localizer, small: Localizer, paths: Sequence[Path]) -> Row:
    """How much of the float model is left, and what is gained."""
    report = compare(full, small, paths)
    return {
        "top1_agreement": report.top1_agreement,
        "logit_error": logit_error(full, small, paths),
        "mean_box_iou": report.mean_box_iou,
        "worst_box_iou": report.worst_box_iou,
        "mean_score_change": report.mean_score_change,
        "exact": small.check().exact,
        "size_ratio": report.size_ratio,
        **{f"speed_ratio_batch_{batch}": ratio for batch, ratio in report.speed_ratios},
    }


def tune(full: Localizer, calibrating: Sequence[Path], tuning: Sequence[Path]) -> dict[str, Row]:
    """Every choice against the float model."""
    table: dict[str, Row] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, choices in CHOICES.items():
            small = quantized(full, calibrating, Path(folder) / "int8.onnx", choices)
            table[name] = against_float(full, small, tuning)
            show(name, table[name])
        for count in (8, 16, 32):
            name = f"calibrated on {count}"
            small = quantized(full, calibrating[:count], Path(folder) / "int8.onnx")
            table[name] = against_float(full, small, tuning)
            show(name, table[name])
    return table


def final(full: Localizer, small: Localizer, data: Path) -> dict[str, Row]:
    """Scores before and after, and the two against each other."""
    examples = read_examples(data, full)
    table: dict[str, Row] = {}
    for name, model in (("float", full), ("int8", small)):
        scores = score(examples, *localize(model, examples))
        table[name] = {key: scores[key] for key in KEPT_SCORES}
        show(name, table[name])
    table["int8 against float"] = against_float(full, small, [e.path for e in examples])
    show("int8 against float", table["int8 against float"])
    return table


def speed_all_cores(full: Localizer, small: Localizer, paths: Sequence[Path]) -> Row:
    """Float time over int8 time with a thread a core."""
    engines = [OnnxEngine(source(model), 0) for model in (full, small)]
    pixels = np.stack([full.read(path).pixels for path in paths[:16]])
    return {f"batch_{b}": speed_ratio(engines[0], engines[1], pixels[:b]) for b in (1, 16)}


def conditions() -> Row:
    """What the times depend on."""
    flags = Path("/proc/cpuinfo")
    words = set(flags.read_text().split()) if flags.is_file() else set()
    return {
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "avx2": "avx2" in words,
        "vnni": bool(words & {"avx512_vnni", "avx_vnni"}),
        "onnxruntime": onnxruntime.__version__,
        "calibrated_on": CALIBRATING,
    }


def show(name: str, row: Row) -> None:
    """Print one row."""
    cells = (f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items())
    print(f"{name}: " + ", ".join(cells), flush=True)


def main() -> None:
    """Run, print, store."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=SHARED / "ilsvrc-val-dev")
    parser.add_argument("--calibrate", type=Path, default=SHARED / "imagenette-small" / "train")
    parser.add_argument("--tune", action="store_true", help="compare the choices too")
    arguments = parser.parse_args()
    for needed in (arguments.data / "boxes.csv", arguments.calibrate):
        if not needed.exists():
            print(f"skipped: {needed} is not here", file=sys.stderr)
            return
    results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    results["conditions"] = conditions()
    full = gapcam.load(threads=1)
    calibrating, tuning = training_pictures(arguments.calibrate)
    if arguments.tune:
        results["choices, on other training pictures"] = tune(full, calibrating, tuning)
    with tempfile.TemporaryDirectory() as folder:
        small = quantized(full, calibrating, Path(folder) / "int8.onnx")
        if not small.check().exact:
            raise ModelError("int8: the maps do not add up to the scores")
        results[arguments.data.name] = final(full, small, arguments.data)
        results["speed_ratio, all cores"] = speed_all_cores(full, small, tuning)
        show("all cores", results["speed_ratio, all cores"])
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
