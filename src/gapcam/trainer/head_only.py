"""Fits a new linear head on features that are computed once: minutes on a CPU."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from gapcam.engines.onnx import OnnxEngine
from gapcam.localizer import Localizer
from gapcam.trainer.files import network_of
from gapcam.trainer.run import Trained
from gapcam.training.features import pooled_features
from gapcam.training.linear_head import check_shown, fit_head
from gapcam.training.plan import Progress, TrainOptions
from gapcam.training.run_tables import HeadPoint
from gapcam.types import ByteArray, ModelCard

if TYPE_CHECKING:
    from pathlib import Path

    from gapcam.models.file.network import Network
    from gapcam.trainer.nets import Backbone
    from gapcam.training.labelled import LabelledSet
    from gapcam.training.run_folder import RunFolder
    from gapcam.training.split import Split


def fit_head_only(
    backbone: Backbone,
    data: LabelledSet,
    split: Split,
    options: TrainOptions,
    folder: RunFolder,
    *,
    card: Callable[[Network], ModelCard],
    tell: Callable[[str], None],
    progress: Progress,
) -> Trained:
    """Compute the pooled features of every picture on ONNX Runtime, and fit a head to them.

    Raises:
        ModelError: The trunk cannot be exported, or gives features that are no numbers.
        PictureError: A picture can no longer be read.
        OutputError: The features cannot be written.
    """
    from gapcam.models.file.build import model_bytes

    check_shown(data.targets[split.train], data.single, data.classes)
    network = network_of(backbone, backbone.net, progress)
    first = card(network)
    engine = OnnxEngine(model_bytes(network, first), 1, first.name)
    localizer = Localizer(engine, first)

    def read(path: Path) -> ByteArray:
        return localizer.read(path).pixels

    pictures = np.sort(np.concatenate([split.train, split.validation]))
    pool = options.pool
    assert pool != "fc"  # noqa: S101 (TrainOptions refuses it)
    features = pooled_features(
        engine,
        data,
        pictures,
        read,
        first.recipe.input_size_hw,
        folder.path,
        pool,
        progress=progress,
    )
    for note in features.notes:
        tell(note)
    fitted = fit_head(
        features.values,
        data.targets[pictures],
        features.rows(split.train),
        features.rows(split.validation),
        single=data.single,
        classes=data.classes,
        progress=progress,
    )
    for note in fitted.notes:
        tell(note)
    folder.write_head_path(
        [
            HeadPoint(
                point.decay,
                point.train_loss,
                point.validation_loss,
                point.validation_accuracy,
                chosen=point.decay == fitted.decay,
            )
            for point in fitted.path
        ]
    )
    kept = dataclasses.replace(
        network, logits=None, weights=fitted.weights, bias=fitted.bias, stored_weights=None
    )
    logits = fitted.logits(features.values[features.rows(split.validation)])
    words = f"weight decay {fitted.decay:.0e} has the best validation loss"
    return Trained(kept, None, logits, words)
