"""From class folders to boxes with the shipped commands: how long, how right, how good?

    python benchmarks/training_quick.py

`gapcam train` on the training folders of a ten-class set (3,000 pictures, defaults: the embedded
trunk, head only, seed 0), then `gapcam evaluate` on its 254 test pictures, whose boxes nothing has
seen. Seconds are wall clock of the whole commands on this machine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from localization import RESULTS, SHARED

OUT = RESULTS.parent / "training_quick.json"
GAPCAM = (sys.executable, "-m", "gapcam")


def timed(*words: str | Path) -> float:
    """Seconds that a gapcam command takes."""
    started = time.perf_counter()
    subprocess.run([*GAPCAM, *map(str, words)], check=True)
    return time.perf_counter() - started


def main() -> None:
    """Train, evaluate, print and store the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=SHARED / "imagenette-small")
    data: Path = parser.parse_args().data
    if not data.is_dir():
        print(f"{data}: no such set on this machine; skipped")
        return
    test = data / "test"
    with tempfile.TemporaryDirectory() as folder:
        run, scores = Path(folder) / "run", Path(folder) / "scores.json"
        seconds = timed("train", data, "--out", run)
        boxes = ("--images", test / "images", "--boxes", test / "boxes.csv")
        timed("evaluate", *boxes, "--model", run, "--json", scores)
        found = json.loads(scores.read_text("utf-8"))
        trained = json.loads((run / "run.json").read_text("utf-8"))["result"]
    centred = found["baselines"]["centred_box"]
    result = {
        "cores": os.cpu_count(),
        "seconds_train": round(seconds),
        "validation_accuracy": trained["accuracy"],
        "test_pictures": found["n"],
        "test_top1": found["top1"],
        "gt_known": found["gt_known"],
        "threshold": found["threshold"],
        "centred_box_gt_known": centred["gt_known"],
        "over_centred_box": centred["gain"],
        "over_centred_box_ci95": centred["gain_ci95"],
        "whole_image_gt_known": found["baselines"]["whole_image"]["gt_known"],
    }
    OUT.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
