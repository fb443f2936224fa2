"""Small data and nets for fine-tuning; as a program, runs that are killed or of two processes."""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from gapcam.training.finetune import FinetuneResult, finetune
from gapcam.training.labelled import LabelledSet
from gapcam.training.plan import EpochRecord, TrainOptions
from gapcam.training.processes import MARK
from gapcam.types import GapcamError, Preprocessing

SIZE = 24
PREPROCESSING = Preprocessing((SIZE, SIZE), (120.0, 110.0, 100.0), (60.0, 61.0, 62.0))
TRAINED, VALIDATED = 27, 13


class Net(nn.Module):
    """Trunk, head; `plain` has neither batch norm nor dropout."""

    def __init__(self, classes: int = 2, *, plain: bool = False) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.trunk = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1),
            nn.Identity() if plain else nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, 2, 1),
            nn.ReLU(),
        )
        self.dropout = nn.Identity() if plain else nn.Dropout(0.2)
        self.head = nn.Linear(16, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.dropout(self.trunk(x).mean((2, 3))))


def write_set(root: Path, *, single: bool = True) -> LabelledSet:
    """Noise in which class c brightens channel c; PNG, so that pixels are what was written."""
    root.mkdir(parents=True, exist_ok=True)
    chance = np.random.default_rng(0)
    count = TRAINED + VALIDATED
    targets = np.eye(2, dtype=bool)[np.arange(count) % 2]
    if not single:
        targets = chance.random((count, 3)) < 0.4
    paths = []
    for row in range(count):
        pixels = chance.integers(0, 160, (SIZE, SIZE, 3))
        pixels[..., np.flatnonzero(targets[row])] += 60
        paths.append(root / f"{row:02d}.png")
        if not paths[-1].exists():
            Image.fromarray(pixels.astype(np.uint8)).save(paths[-1])
    names = tuple(path.name for path in paths)
    classes = ("a", "b", "c")[: targets.shape[1]]
    return LabelledSet(root, names, tuple(paths), classes, targets, single, None)


def split() -> Any:
    rows = np.arange(TRAINED + VALIDATED)
    return SimpleNamespace(train=rows[:TRAINED], validation=rows[TRAINED:])


def options(**chosen: Any) -> TrainOptions:
    usual = {"method": "finetune", "epochs": 3, "batch_size": 8, "learning_rate": 0.1}
    return TrainOptions(**{**usual, **chosen})


def ignore(*_: object) -> None:
    pass


def train(
    folder: Path,
    chosen: TrainOptions,
    *,
    net: nn.Module | None = None,
    data: LabelledSet | None = None,
    resume: bool = False,
    on_epoch: Callable[[EpochRecord, nn.Module], None] = ignore,
    progress: Callable[[str, int, int], None] = ignore,
) -> FinetuneResult:
    """Fine-tune on the data beside the run's folder, which are written when not given."""
    return finetune(
        net or Net(),
        data or write_set(folder.parent / "pictures"),
        split(),
        chosen,
        PREPROCESSING,
        folder,
        resume=resume,
        on_epoch=on_epoch,
        progress=progress,
    )


def outcome(result: FinetuneResult) -> tuple[Any, ...]:
    """All that must be the same again: everything but times."""
    rows = [
        {name: getattr(record, name) for name in EpochRecord.__slots__ if name != "seconds"}
        for record in result.records
    ]
    return rows, result.best_epoch, result.stopped


def same_weights(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


# As a program: `finetune_runs.py NAME FOLDER`, a name of `PROGRAMS`.

KILLS = ("step 1 2", "step 2 1", "step 3 4", "write 1", "write 2", "write 3", "write 4", "delay")
KILLED_OPTIONS = options(augment=("crop", "flip", "colour", "cutmix"), ema=0.8, accumulate=2)


def killed_runs(folder: Path) -> None:
    """For each of `KILLS`: a process that is killed, then one that goes on; and one left alone."""
    in_a_process(lambda: save_run(folder / "whole"))
    ends = []
    for number, kill in enumerate(KILLS):
        run = folder / f"run-{number}"
        # killed, and killed again when it has gone on, if that comes to the same moment
        ends.append([in_a_process(lambda r=run, k=kill: save_run(r, k)) for _ in range(2)])
        in_a_process(lambda r=run: save_run(r))
    (folder / "ends.json").write_text(json.dumps(ends))


def in_a_process(work: Callable[[], None]) -> int:
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    try:
        work()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def save_run(folder: Path, kill: str = "") -> None:
    """Train on from what is there; keep what came out. `kill`: SIGKILL at that moment."""
    kind, *numbers = kill.split() or [""]

    def progress(words: str, done: int, of: int) -> None:
        if kind == "step" and [words, done] == [f"epoch {numbers[0]} of 3", int(numbers[1])]:
            os.kill(os.getpid(), signal.SIGKILL)

    writes = [0]
    fsync = os.fsync

    def killed_in_fsync(file: int) -> None:
        writes[0] += 1
        if kind == "write" and writes[0] == int(numbers[0]):
            os.ftruncate(file, os.fstat(file).st_size // 2)  # as if half had been written
            os.kill(os.getpid(), signal.SIGKILL)
        fsync(file)

    os.fsync = killed_in_fsync
    if kind == "delay":
        signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        signal.setitimer(signal.ITIMER_REAL, float(np.random.default_rng().uniform(0.02, 0.3)))
    result = train(folder, KILLED_OPTIONS, resume=True, progress=progress)
    signal.setitimer(signal.ITIMER_REAL, 0)
    torch.save(result.net.state_dict(), folder / "net.pt")
    (folder / "outcome.json").write_text(json.dumps(outcome(result)))


TOGETHER_OPTIONS = options(batch_size=4, devices=2, augment=("crop", "flip"))


class Odd(Net):
    """Has parameters that nothing uses, one of them of whole numbers.

    Args:
        lost: The step in training, from 1, in which a process beside the first is killed; 0: none.
    """

    def __init__(self, *, lost: int = 0) -> None:
        super().__init__(plain=True)
        self.unused = nn.Parameter(torch.ones(2), requires_grad=False)
        self.whole = nn.Parameter(torch.tensor([3]), requires_grad=False)
        self.register_buffer("count", torch.tensor([4]))
        self.steps_left = lost

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.steps_left -= self.training
        if self.training and self.steps_left == 0 and os.environ.get("LOCAL_RANK") == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(x)


def runs_together(folder: Path) -> None:
    """One program: a run of two processes, of one, and of two of which one is lost in epoch 3."""
    net, told, before = Odd(), [], []
    first = train(
        folder / "run",
        TOGETHER_OPTIONS,
        net=net,
        on_epoch=lambda record, net: told.append(record.epoch),
    )
    torch.save(first.net.state_dict(), folder / "net.pt")
    said: dict[str, Any] = {"told": told, "outcome": outcome(first)}
    said["learns"] = {name: value.requires_grad for name, value in net.named_parameters()}
    said["left"] = what_is_left()
    alone = options(batch_size=8, augment=("crop", "flip"))
    said["alone"] = outcome(train(folder / "alone", alone, net=Net(plain=True)))
    said["lost"] = error_of(
        lambda: train(
            folder / "lost",
            TOGETHER_OPTIONS,
            net=Odd(lost=10),
            on_epoch=lambda record, net: before.append([record.train_loss, record.validation_loss]),
        )
    )
    said["before the loss"], said["left at the end"] = before, what_is_left()
    with (folder / "said.jsonl").open("a") as out:
        out.write(json.dumps(said) + "\n")


def error_of(work: Callable[[], object]) -> str:
    try:
        work()
    except GapcamError as error:
        return f"{type(error).__name__}: {error}"
    return ""


def what_is_left() -> list[str]:
    """Of several processes, where there should be none again."""
    names = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE", MARK)
    left = [name for name in names if name in os.environ]
    left += ["group"] * torch.distributed.is_initialized()
    try:
        os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return left
    return [*left, "process"]


def runs_launched(folder: Path) -> None:
    """One of two processes that somebody else started: a run, then one with an unreadable picture.

    The second process alone reads that picture.
    """
    rank, told = os.environ["LOCAL_RANK"], []
    result = train(
        folder / "run",
        TOGETHER_OPTIONS,
        net=Net(plain=True),
        on_epoch=lambda record, net: told.append(record.epoch),
    )
    torch.save(result.net.state_dict(), folder / f"net-{rank}.pt")
    said = {"told": told, "outcome": outcome(result)}
    data = write_set(folder / f"broken-{rank}")
    data.paths[TRAINED + 1].write_bytes(b"no picture")
    said["broken"] = error_of(
        lambda: train(folder / "failed", TOGETHER_OPTIONS, net=Net(plain=True), data=data)
    )
    said["alone"] = error_of(lambda: train(folder / "alone", options(), net=Net(plain=True)))
    (folder / f"said-{rank}.json").write_text(json.dumps(said))


PROGRAMS = {"killed": killed_runs, "together": runs_together, "launched": runs_launched}

if __name__ == "__main__":
    PROGRAMS[sys.argv[1]](Path(sys.argv[2]))
