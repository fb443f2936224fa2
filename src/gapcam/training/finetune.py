"""Train a whole net on class labels, with Lightning.

A run that is killed at any moment goes on from its last finished epoch and ends with the same
weights, bit for bit, on the same machine with the same number of threads.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn
from typing_extensions import override

from gapcam.training.batches import Reader
from gapcam.training.checkpoints import Checkpoints, State
from gapcam.training.lightning_net import LightningNet, Task, out_of_patience
from gapcam.training.machine import check_machine
from gapcam.training.memory import is_out_of_memory, memory_error
from gapcam.training.plan import EpochRecord, Progress, TrainOptions, best_epoch
from gapcam.training.processes import ending_together, marked, run_mark, started_for
from gapcam.training.quiet import as_found, quiet, repeatable
from gapcam.training.tensorboard import also_to_tensorboard
from gapcam.training.together import is_first_process
from gapcam.types import DataError, GapcamError, ModelError, Preprocessing

if TYPE_CHECKING:
    from gapcam.training.labelled import LabelledSet
    from gapcam.training.split import Split

FOLDER = "checkpoints"
_MAY_DIFFER = frozenset(("workers", "logger", "method", "validation_share", "normal"))
"""Options that may change when a run is resumed: the weights do not depend on them here."""


@dataclass(frozen=True, slots=True, eq=False)
class FinetuneResult:
    """A trained net.

    Attributes:
        best_epoch: The epoch whose weights were kept: best validation accuracy, of equal ones the
            lower loss, then the earlier. It is chosen by class labels only.
        records: Epoch 0, before training, and every epoch after it.
        stopped: Why training ended, in words.
        net: With those weights (averaged ones, where asked for), in evaluation mode, on the CPU;
            what was frozen in it is frozen.
    """

    best_epoch: int
    records: tuple[EpochRecord, ...]
    stopped: str
    net: nn.Module


def finetune(
    net: nn.Module,
    data: LabelledSet,
    split: Split,
    options: TrainOptions,
    preprocessing: Preprocessing,
    folder: Path,
    *,
    resume: bool,
    on_epoch: Callable[[EpochRecord, nn.Module], None],
    progress: Progress,
) -> FinetuneResult:
    """Train a net; call it in every process of a run, with the same arguments.

    With several processes (`options.devices`, `options.nodes`) Lightning starts this program again
    for each; a step then holds `batch_size` pictures of each, and the learning rate stays as given.
    Each process has its own batch norm statistics, of which the first's are kept. Only the first
    process writes and calls back. A process that was started so ends with the run that it was
    started for; other calls that it comes to before give what that run left in its folder.

    Args:
        net: Gives logits `[B, C]` for normalized `[B, 3, h, w]`. What lies under `net.trunk` learns
            at `trunk_rate`, all else at the full rate; a parameter that requires no gradient stays
            as it is. It is changed: make it for this.
        data: The pictures, their files and labels.
        split: Which train and which choose the epoch.
        options: How.
        preprocessing: The size and numbers that the net takes.
        folder: The run's; `checkpoints/` in it is written.
        resume: Go on from the last finished epoch found there, if there is one.
        on_epoch: Called after every epoch, and before the first (epoch 0), with the net that would
            be kept, in evaluation mode, not to be changed. After a kill it may be called a second
            time for the epoch that was under way.
        progress: Called after every step, and while validating.

    Raises:
        PictureError: A picture cannot be read.
        ModelError: The loss is no longer a number, memory does not suffice, or a further process
            ended early; or a checkpoint is torn or does not fit.
        OutputError: A checkpoint cannot be written (the one before is kept), or a new run finds
            another's.
        ArgumentError: Options that contradict, or not those the run was begun with.
        DataError: Nothing to train on or to choose by.
        SystemExit: In a process that Lightning started for this run, when it is over.
    """
    words = run_words(data, split, options, preprocessing)
    checkpoints, mark = Checkpoints(folder / FOLDER, words), run_mark(folder, words, resume=resume)
    if started_for() not in (None, mark):
        return _left(net, options, checkpoints)
    check_machine(options)
    _check(net, data, split, options, preprocessing)
    if is_first_process():
        checkpoints.begin(resume=resume)
        if options.logger == "tensorboard":
            on_epoch = also_to_tensorboard(on_epoch, folder)
    state = checkpoints.last() if resume else None
    task = _task(data, split, options, preprocessing)
    with prepared(net, options):
        module = LightningNet(net, task, checkpoints, state, on_epoch, progress)
        if not _is_over(module.records, options):
            with marked(mark):
                _fit(module, task, folder)
    return _result(net, module.records, options, checkpoints)


@contextmanager
def prepared(net: nn.Module, options: TrainOptions) -> Iterator[None]:
    """The net with its trunk frozen where it is not to learn, then as it was.

    Parameters that are frozen stay so: nothing uses them, or they are no floating point numbers.
    Its convolutions' memory order meanwhile is the one that they run fastest in.

    Raises:
        ModelError: A trunk is to be frozen, and there is none.
    """
    before = [(parameter, parameter.requires_grad) for parameter in net.parameters()]
    if options.trunk_rate == 0:
        trunk = getattr(net, "trunk", None)
        if not isinstance(trunk, nn.Module):
            raise ModelError("trunk_rate 0: the net has no part called trunk; give it another rate")
        trunk.requires_grad_(False)
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    try:
        yield
    finally:
        net.cpu().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        for parameter, learns in before:
            parameter.requires_grad_(learns)


def run_words(
    data: LabelledSet, split: Split, options: TrainOptions, preprocessing: Preprocessing
) -> dict[str, str]:
    """What a run's weights depend on; a checkpoint holds it, and is refused by another run."""
    chosen = {k: v for k, v in options.as_json().items() if k not in _MAY_DIFFER}
    digest = hashlib.sha256(json.dumps([data.names, data.classes]).encode())
    for part in (data.targets, split.train, split.validation):
        digest.update(part.tobytes())
    return {
        **{name: json.dumps(value) for name, value in chosen.items()},
        "pictures and labels": digest.hexdigest()[:16],
        "preprocessing": str(preprocessing),
    }


def _check(
    net: nn.Module,
    data: LabelledSet,
    split: Split,
    options: TrainOptions,
    preprocessing: Preprocessing,
) -> None:
    processes = options.devices * options.nodes
    if len(split.train) < processes:
        raise DataError(
            f"{data.root}: expected a training picture for each of {processes} processes, got "
            f"{len(split.train)}; add pictures, or train with fewer devices"
        )
    if not len(split.validation):
        raise DataError(f"{data.root}: expected validation pictures to choose the epoch by, got 0")
    logits = _try(net, preprocessing)
    if logits.shape[1:] != (len(data.classes),):
        raise ModelError(
            f"the net: expected scores [1, {len(data.classes)}], one for each class, got "
            f"{list(logits.shape)}; give it a head for these classes"
        )


@torch.no_grad()
def _try(net: nn.Module, preprocessing: Preprocessing) -> torch.Tensor:
    logits: torch.Tensor = net.eval()(torch.zeros(1, 3, *preprocessing.size_hw))
    return logits


def _task(
    data: LabelledSet, split: Split, options: TrainOptions, preprocessing: Preprocessing
) -> Task:
    reader = Reader(data, options, preprocessing)
    train, validation = split.train, split.validation
    return Task(reader, data.targets, data.single, train, validation, options, preprocessing)


def _is_over(records: list[EpochRecord], options: TrainOptions) -> bool:
    finished = bool(records) and records[-1].epoch >= options.epochs
    return finished or out_of_patience(records, options.patience)


class _Interruption(Callback):
    """Remembers Ctrl-C, which Lightning turns into an exit of the program."""

    error: BaseException | None = None

    @override
    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self.error = exception


def _fit(module: LightningNet, task: Task, folder: Path) -> None:
    """Train; in a process that was started for this run, end with it.

    Errors of gapcam's are raised in all processes together, and the first one tells.
    """
    options = task.options
    try:
        _run_trainer(module, options, folder)
    except GapcamError as error:
        if started_for() is not None:
            raise SystemExit(0) from error
        raise
    except (RuntimeError, MemoryError) as error:
        if started_for() is None and is_out_of_memory(error):
            raise memory_error(options, task.preprocessing.size_hw) from error
        raise
    if started_for() is not None:
        raise SystemExit(0)


def _run_trainer(module: LightningNet, options: TrainOptions, folder: Path) -> None:
    on_gpu, several = torch.cuda.is_available(), options.devices * options.nodes > 1
    interruption = _Interruption()
    with ExitStack() as stack:
        for context in (quiet(), as_found(), repeatable(on_gpu)):
            stack.enter_context(context)
        trainer = Trainer(
            accelerator="gpu" if on_gpu else "cpu",
            devices=options.devices,
            num_nodes=options.nodes,
            strategy="ddp" if several else "auto",
            precision=_precision(options.precision, on_gpu),
            max_epochs=options.epochs - module.epoch + 1,
            accumulate_grad_batches=options.accumulate,
            callbacks=[interruption],
            default_root_dir=folder,
            use_distributed_sampler=False,
            limit_val_batches=0,
            **_OFF,
        )
        stack.callback(module.close)
        if several:
            stack.enter_context(ending_together(trainer))
        try:
            trainer.fit(module)
        except SystemExit:
            if isinstance(interruption.error, KeyboardInterrupt):
                raise interruption.error from None
            raise


_OFF: dict[str, Any] = dict.fromkeys(
    ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
)
"""Of Lightning's own; the run folder has them."""


def _precision(name: str, on_gpu: bool) -> Any:
    if name != "auto":
        return "32-true" if name == "32" else name
    if not on_gpu:
        return "32-true"
    return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"


def _left(net: nn.Module, options: TrainOptions, checkpoints: Checkpoints) -> FinetuneResult:
    """What an earlier run of this program left, for a process that was started for a later one."""
    state = checkpoints.last()
    records = [EpochRecord(**row) for row in state["records"]] if state else []
    if not _is_over(records, options):
        raise ModelError(f"{checkpoints.folder}: this run did not end; resume it")
    return _result(net, records, options, checkpoints)


def _result(
    net: nn.Module, records: list[EpochRecord], options: TrainOptions, checkpoints: Checkpoints
) -> FinetuneResult:
    best = best_epoch(records)
    weights: State = checkpoints.best(best)
    net.load_state_dict(weights)
    if records[-1].epoch >= options.epochs:
        stopped = f"all {options.epochs} epochs are done"
    else:
        epochs = "epoch" if options.patience == 1 else "epochs"
        stopped = f"no better validation score in {options.patience} {epochs}"
    return FinetuneResult(best, tuple(records), stopped, net.eval())
