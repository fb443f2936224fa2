"""Whether this machine can train as asked: told before anything is written."""

from __future__ import annotations

import os
from importlib.util import find_spec

from gapcam.training.plan import TrainOptions
from gapcam.types import ArgumentError

_TENSORBOARDS = ("tensorboard", "tensorboardX")
"""Either of them is enough for Lightning."""


def check_machine(options: TrainOptions) -> None:
    """Refuse devices, precision or logger that are not here; a head alone asks for none.

    Raises:
        ArgumentError: Something that was asked for is not on this machine.
    """
    if options.method == "head-only":
        return
    _check_gpus(options)
    _check_group(options.devices * options.nodes)
    if options.logger == "tensorboard" and not any(map(find_spec, _TENSORBOARDS)):
        raise ArgumentError(
            "logger: tensorboard is not installed; run: pip install tensorboard, or use logger csv"
        )


def _check_gpus(options: TrainOptions) -> None:
    import torch

    if not torch.cuda.is_available():
        if options.precision == "16-mixed":
            raise ArgumentError(
                "precision 16-mixed needs a GPU, there is none; use 32 or bf16-mixed"
            )
        return
    count = torch.cuda.device_count()
    if options.devices > count:
        raise ArgumentError(f"devices: this machine has {count}, asked for {options.devices}")


def _check_group(processes: int) -> None:
    """Processes that already belong together train together, or losses would be of other runs."""
    from torch import distributed

    found = int(os.environ["WORLD_SIZE"]) if "TORCHELASTIC_RUN_ID" in os.environ else None
    if distributed.is_available() and distributed.is_initialized():
        found = distributed.get_world_size()
    if found not in (None, processes):
        raise ArgumentError(
            f"devices x nodes: this program is one of {found} processes that were started "
            f"together, asked for {processes}; give their number, or start it alone"
        )
