"""Does the default recipe hold for fine features of another kind, those after a ReLU?

    python benchmarks/recipes_elsewhere.py [--data DIR]

The recipes were chosen on the embedded network, whose fine features are a linear bottleneck:
signed. Those of most networks (ResNet, VGG, DenseNet) come after a ReLU. The same network has such
a tensor at the same stride: the ReLU6 after the expansion of its last stride-2 block. It stands in
for the networks whose weights cannot be had offline. Scored at each centring's best threshold on
all pictures: an upper bound for each, alike for all, so it ranks the centrings and no more.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from gapcam.localizer import to_heat
from gapcam.models import embedded
from gapcam.models.efficientnet_lite import EfficientNetLite0, MBConv
from gapcam.recipes import DEFAULT
from gapcam.refine import affinity
from gapcam.types import ByteArray, FloatArray
from network_outputs import BATCH, SHARED, THRESHOLDS, ScoredSet, mean_accuracy

RESULTS = Path(__file__).parent / "results" / "recipes_elsewhere.json"
CENTRINGS = (0.0, 0.25, 0.5, 0.75, 1.0)


def after_relu(network: EfficientNetLite0, pixels: ByteArray) -> FloatArray:
    """The expanded, rectified tensor of the last stride-2 block, `[B, 672, H/16, W/16]`."""
    wants = embedded.PREPROCESSING
    with torch.inference_mode():
        x = torch.from_numpy(
            (pixels - np.array(wants.mean, np.float32)) / np.array(wants.scale, np.float32)
        )
        block = network._blocks[network.fine_block]
        assert isinstance(block, MBConv)
        fine = network.spatial(x.permute(0, 3, 1, 2)).fine_features
        rectified: FloatArray = functional.relu6(block._bn0(block._expand_conv(fine))).numpy()
    return rectified


def main() -> None:
    """Run, print, store."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=SHARED / "ilsvrc-val-dev")
    folder = parser.parse_args().data
    if not folder.is_dir():
        sys.exit(f"skipped: no pictures in {folder}")
    scored, network = ScoredSet(folder), embedded.load_network()
    side = DEFAULT.input_size_hw[0]
    parts = []
    for start in range(0, len(scored.examples), BATCH):
        batch = scored.examples[start : start + BATCH]
        pixels = np.stack([scored.localizer.read(e.path).pixels for e in batch])
        parts.append(after_relu(network, pixels))
    kinds = {
        "signed (112 channels)": scored.at(side).fine_features,
        "after ReLU6 (672)": np.concatenate(parts),
    }
    rows = []
    for kind, fine in kinds.items():
        for centring in CENTRINGS:
            maps = scored.at(side).maps
            evidence = np.concatenate(
                [
                    affinity(maps[i : i + BATCH], fine[i : i + BATCH], centring)
                    for i in range(0, len(maps), BATCH)
                ]
            )
            table = scored.sweep(to_heat(evidence, maps, DEFAULT)[:, 0])
            means = mean_accuracy(table)
            best = int(means.argmax())
            rows.append(
                {
                    "fine_features": kind,
                    "centring": centring,
                    "best_threshold": THRESHOLDS[best],
                    "gt_known": float((table[best] >= 0.5).mean()),
                    "mean_of_3_ious": float(means[best]),
                    "mean_at_the_recipes_threshold": float(
                        means[THRESHOLDS.index(DEFAULT.threshold)]
                    ),
                }
            )
            print(json.dumps(rows[-1]))
    RESULTS.write_text(
        json.dumps({"pictures": len(scored.examples), "rows": rows}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
