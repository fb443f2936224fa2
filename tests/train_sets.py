"""Small pictures with a coloured square whose colour is the class; as a program, runs to kill."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from gapcam.types import Preprocessing

COLOURS = {"blue": (30, 30, 230), "green": (30, 200, 30), "red": (230, 30, 30)}
SIZE = 32
PREPROCESSING = Preprocessing((SIZE, SIZE), (127.0, 127.0, 127.0), (64.0, 64.0, 64.0))


def square_picture(
    colours: Sequence[str], side: int, chance: np.random.Generator
) -> tuple[np.ndarray, list[tuple[int, int, int, int]]]:
    """Grey noise with a square of each colour, and where the squares are, `x0 y0 x1 y1`."""
    pixels = chance.integers(100, 156, (side, side, 3)).astype(np.uint8)
    boxes = []
    width = round(side * (0.4 if len(colours) == 1 else 0.3))
    for colour in colours:
        x, y = chance.integers(0, side - width + 1, 2)
        pixels[y : y + width, x : x + width] = COLOURS[colour]
        boxes.append((int(x), int(y), int(x) + width, int(y) + width))
    return pixels, boxes


def write_classes(root: Path, each: int = 8, side: int = SIZE, seed: int = 0) -> dict[str, tuple]:
    """Class folders of PNG and JPEG files; the square's box by the name of the picture."""
    chance = np.random.default_rng(seed)
    boxes = {}
    for colour in COLOURS:
        folder = root / colour
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(each):
            pixels, found = square_picture([colour], side, chance)
            name = f"{number}.{'jpg' if number % 2 else 'png'}"
            Image.fromarray(pixels).save(folder / name, quality=95)
            boxes[f"{colour}/{name}"] = found[0]
    return boxes


def write_labels(root: Path, count: int = 24, side: int = SIZE) -> Path:
    """A CSV file of several labels a picture, some without any."""
    chance = np.random.default_rng(1)
    root.mkdir(parents=True, exist_ok=True)
    with (root / "labels.csv").open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["image", *COLOURS])
        for number in range(count):
            there = [bool(number >> c & 1) for c in range(3)]
            shown = [colour for colour, is_there in zip(COLOURS, there, strict=True) if is_there]
            pixels, _ = square_picture(shown, side, chance)
            Image.fromarray(pixels).save(root / f"{number}.png")
            writer.writerow([f"{number}.png", *map(int, there)])
    return root / "labels.csv"


class Small(nn.Module):
    """Three convolutions, stride 4, no batch norm; a head of its own for five classes."""

    def __init__(self, channels: int = 12) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(8, 12, 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(12, channels, 3, 1, 1),
            nn.ReLU(),
        )
        self.fc = nn.Linear(channels, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.features(x).mean((2, 3)))


def small(seed: int = 0) -> nn.Module:
    """The net with weights of this seed, in evaluation mode; PyTorch's chance is left as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Small().eval()


def write_hf(folder: Path) -> str:
    """A tiny ResNet in a folder that `--model hf:FOLDER` takes."""
    from transformers import ResNetConfig, ResNetForImageClassification

    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic", num_labels=5
        )
        ResNetForImageClassification(config).save_pretrained(folder)
    processor = {
        "image_processor_type": "ConvNextImageProcessor",
        "crop_pct": 1.0,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "rescale_factor": 1 / 255,
        "size": {"shortest_edge": SIZE},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return f"hf:{folder}"
