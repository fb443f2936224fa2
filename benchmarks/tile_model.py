"""A model file whose head is fitted, on class labels alone, to the embedded network's features."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import torch

import gapcam
from gapcam.models import embedded
from gapcam.models.file.assemble import assemble
from gapcam.recipes import DEFAULT
from gapcam.types import ModelCard

DECAY = 1e-3
"""Weight decay of the head. Accuracy in 5-fold cross-validation on the training pictures is the
same, .84, from 1e-5 to 1e-3."""
BATCH = 16

Numbers = npt.NDArray[np.float32]


def fit_tile_model(train: Path, out: Path) -> Path:
    """Fit on `train/<class>/` and write the model file `out`."""
    classes = sorted(path.name for path in train.iterdir() if path.is_dir())
    features, labels = pooled_features(train, classes)
    weights, bias = fit(features, labels, len(classes))
    network = dataclasses.replace(
        embedded.embedded_network(),
        logits=None,
        weights=weights,
        bias=bias,
        stored_weights=None,
    )
    card = dataclasses.replace(
        embedded.model_card(DEFAULT),
        name="efficientnet-lite0, tiles",
        labels=tuple(classes),
        aliases=tuple((name,) for name in classes),
    )
    onnx.save(assemble(network, card_for(card)), out)
    return out


def card_for(card: ModelCard) -> ModelCard:
    """The card, without the ImageNet labels' source."""
    return dataclasses.replace(card, sources={**card.sources, "labels": "folder names"})


def pooled_features(train: Path, classes: list[str]) -> tuple[Numbers, npt.NDArray[np.int64]]:
    """Mean features `[n, K]` and class numbers `[n]` of every picture."""
    localizer = gapcam.load()
    paths = [
        (path, i) for i, name in enumerate(classes) for path in sorted((train / name).iterdir())
    ]
    rows = []
    for start in range(0, len(paths), BATCH):
        batch = [localizer.read(path).pixels for path, _ in paths[start : start + BATCH]]
        rows.append(localizer.engine.run(np.stack(batch)).features.mean((2, 3)))
    return np.concatenate(rows), np.array([i for _, i in paths])


def fit(features: Numbers, labels: npt.NDArray[np.int64], classes: int) -> tuple[Numbers, Numbers]:
    """Multinomial logistic regression, classes weighted alike, by L-BFGS."""
    x, y = torch.from_numpy(features), torch.from_numpy(labels)
    counts = torch.bincount(y, minlength=classes)
    share = len(y) / (classes * counts.clamp(min=1))
    weights = torch.zeros(classes, x.shape[1], requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights, bias], max_iter=300, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = torch.nn.functional.cross_entropy(x @ weights.T + bias, y, weight=share)
        value = value + DECAY * weights.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return weights.detach().numpy(), bias.detach().numpy()
