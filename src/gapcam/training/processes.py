"""The further processes of a run on this machine: started for one run, and ended with it.

Lightning starts the user's own command again for each of them. Such a process comes to the run that
it was started for by way of whatever the program does before, which may be other runs; a mark in
its environment says which run is meant.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen, TimeoutExpired
from typing import Any

from lightning.pytorch import Trainer
from torch import distributed

from gapcam.training.ranks import is_added
from gapcam.types import GapcamError, ModelError

MARK = "GAPCAM_TRAINING_RUN"
GRACE_SECONDS = 30.0
_LIGHTNINGS = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE")
_CHANGED = (*_LIGHTNINGS, "OMP_NUM_THREADS", MARK)


def run_mark(folder: Path, run: Mapping[str, str], *, resume: bool) -> str:
    """What a call is known by in each process: the same call in the same program has the same."""
    where = os.path.abspath(folder)  # noqa: PTH100 (links stay)
    return hashlib.sha256(json.dumps([where, resume, dict(run)]).encode()).hexdigest()[:16]


def started_for() -> str | None:
    """The mark of the run that this process was started for; None: nobody's further process."""
    return os.environ.get(MARK) if is_added() else None


@contextmanager
def marked(mark: str) -> Iterator[None]:
    """Mark what is started meanwhile; then put back what Lightning wrote into the environment."""
    before = {name: os.environ.get(name) for name in _CHANGED}
    if not is_added():  # such a one starts no others
        os.environ[MARK] = mark
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def ending_together(trainer: Trainer) -> Iterator[None]:
    """Leave neither processes nor their group behind, that a later run would sum over.

    A group of processes that a launcher started (`torchrun`, Slurm) is left: all of them go on to
    the next run, and could not safely meet again at the same address.

    Raises:
        ModelError: A further process ended before the run did.
    """
    strategy: Any = trainer.strategy
    outer = strategy.cluster_environment.creates_processes_externally and started_for() is None
    patience = 0.0
    try:
        yield
        patience = GRACE_SECONDS
    except GapcamError:
        patience = GRACE_SECONDS  # it was raised in all of them, and they end by themselves
        raise
    except RuntimeError as error:
        _tell_of_ended(strategy.launcher.procs, error)
        raise
    finally:
        others = list(strategy.launcher.procs)
        strategy.launcher.procs.clear()  # else Lightning kills this program if one has failed
        if distributed.is_initialized() and not outer:
            distributed.destroy_process_group()
        _end(others, patience)


def _tell_of_ended(others: list[Popen[bytes]], error: RuntimeError) -> None:
    if not (isinstance(error, distributed.DistError) or "by peer" in str(error)):
        return
    for number, other in enumerate(others, 2):
        code = _wait(other, 5.0)
        if code:
            raise ModelError(
                f"training failed: process {number} of {len(others) + 1} ended with exit code "
                f"{code}; see what it said, or, if it said nothing, train with a smaller "
                "batch_size: memory may not suffice (the state of the last finished epoch is kept)"
            ) from error


def _end(others: list[Popen[bytes]], patience: float) -> None:
    for other in others:
        if _wait(other, patience) is None:
            other.kill()
            other.wait()


def _wait(process: Popen[bytes], seconds: float) -> int | None:
    try:
        return process.wait(seconds)
    except TimeoutExpired:
        return None
