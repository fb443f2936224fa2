"""Epochs as TensorBoard shows them, in the run folder's `tensorboard/`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn

from gapcam.outputs import output_errors
from gapcam.training.plan import EpochRecord
from gapcam.types import ArgumentError

FOLDER = "tensorboard"


def also_to_tensorboard(
    on_epoch: Callable[[EpochRecord, nn.Module], None], folder: Path
) -> Callable[[EpochRecord, nn.Module], None]:
    """The same callback, which also writes an epoch's numbers; a resumed run adds a file.

    Raises:
        ArgumentError: TensorBoard is not installed.
    """
    try:
        logger = TensorBoardLogger(folder, name=None, version=FOLDER)
    except ModuleNotFoundError as error:
        raise ArgumentError(
            "logger: tensorboard is not installed; run: pip install tensorboard, or use logger csv"
        ) from error

    def both(record: EpochRecord, net: nn.Module) -> None:
        on_epoch(record, net)
        numbers = dataclasses.asdict(record)
        epoch = numbers.pop("epoch")
        with output_errors(folder / FOLDER):
            shown = {name: value for name, value in numbers.items() if value is not None}
            logger.log_metrics(shown, epoch)
            logger.experiment.flush()

    return both
