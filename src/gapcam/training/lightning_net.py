"""The net as Lightning trains it: its step, its epoch, and what is kept of it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer
from typing_extensions import override

from gapcam.training import scores
from gapcam.training.batches import (
    Batch,
    Batches,
    EpochPlan,
    Reader,
    Request,
    Source,
    epoch_order,
    evaluation_requests,
)
from gapcam.training.checkpoints import LAST, Checkpoints, State
from gapcam.training.ema import averaged_net
from gapcam.training.memory import is_out_of_memory, memory_error
from gapcam.training.plan import EpochRecord, Progress, TrainOptions, best_epoch
from gapcam.training.schedule import make_optimizer, peak_rate, rate_share, warmup_updates
from gapcam.training.together import gathered, raise_together, share_first, total
from gapcam.types import (
    BoolArray,
    FloatArray,
    GapcamError,
    IntArray,
    ModelError,
    PictureError,
    Preprocessing,
)

OnEpoch = Callable[[EpochRecord, nn.Module], None]
_NOT_FINITE = (
    "begin a new run with a lower learning rate, a longer warm-up or precision 32 (the state of "
    "the last finished epoch is kept)"
)


@dataclasses.dataclass(frozen=True)
class Task:
    """What is learned: pictures, their labels, which are for choosing, and how it is asked for."""

    reader: Reader
    targets: BoolArray
    single: bool
    train: IntArray
    validation: IntArray
    options: TrainOptions
    preprocessing: Preprocessing


def out_of_patience(records: list[EpochRecord], patience: int | None) -> bool:
    """Whether that many epochs have passed since the best."""
    return (
        patience is not None
        and bool(records)
        and (records[-1].epoch - best_epoch(records) >= patience)
    )


class LightningNet(LightningModule):
    """Trains `net`, from the epoch after the last record on.

    Attributes:
        net: The net; under DDP each process has its own, with equal weights.
        averaged: Its averaged weights; None: not asked for.
        records: Of finished epochs.
    """

    def __init__(
        self,
        net: nn.Module,
        task: Task,
        checkpoints: Checkpoints,
        state: State | None,
        on_epoch: OnEpoch,
        progress: Progress,
    ) -> None:
        super().__init__()
        self.net = net
        self.averaged = averaged_net(net, ema) if (ema := task.options.ema) is not None else None
        self.records = [EpochRecord(**row) for row in state["records"]] if state else []
        self._task = task
        self._checkpoints = checkpoints
        self._state = state
        self._source: Source | None = None
        self._on_epoch = on_epoch
        self._progress = progress
        wants = task.preprocessing
        shape = (1, 3, 1, 1)
        self.register_buffer("_mean", torch.tensor(wants.mean).reshape(shape), persistent=False)
        self.register_buffer("_scale", torch.tensor(wants.scale).reshape(shape), persistent=False)
        self._begin_epoch()

    def _begin_epoch(self) -> None:
        self._started = time.perf_counter()
        self._sums = torch.zeros(2, dtype=torch.float64, device=self.device)  # losses, hits

    @property
    def kept(self) -> nn.Module:
        """What is evaluated and kept: the averaged weights, else the net's own."""
        return self.averaged.module if self.averaged else self.net

    @property
    def epoch(self) -> int:
        """The one under way, from 1."""
        done = [record.epoch for record in self.records]
        return (max(done) if done else 0) + 1

    # What is read

    @override
    def train_dataloader(self) -> Batches:
        """The epoch's batches, in its order."""
        options = self._task.options
        self._plan = EpochPlan(
            len(self._task.train), options.batch_size, self.trainer.world_size, options.accumulate
        )
        self._warmup = warmup_updates(options, self._plan.updates)
        pinned = self.device.type == "cuda"
        self._source = Source(self._task.reader, options.workers, pinned=pinned)
        wanted = self._validation_requests()
        self._validation = Batches(self._source, self._validation_requests, len(wanted))
        return Batches(self._source, self._requests, self._plan.steps)

    def _requests(self) -> list[Request]:
        order = epoch_order(self._task.train, self._task.options.seed, self.epoch)
        return self._plan.requests(self.epoch, order, self.global_rank)

    def _validation_requests(self) -> list[Request]:
        size = self._task.options.batch_size
        rows = self._task.validation
        return evaluation_requests(rows, size, self.global_rank, self.trainer.world_size)

    def close(self) -> None:
        """End the processes that read."""
        if self._source is not None:
            self._source.close()

    # A step

    @override
    def configure_optimizers(self) -> Optimizer:
        """One optimizer; its rate is set at every update, from the update's number alone."""
        return make_optimizer(self.net, self._task.options)

    @override
    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Set the learning rate of the update that this step belongs to."""
        update = (self.epoch - 1) * self._plan.updates + batch_idx // self._plan.accumulate
        updates = self._task.options.epochs * self._plan.updates
        self._rate_share = rate_share(update, updates, self._warmup)
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = group["rate"] * self._rate_share

    @override
    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The batch's loss, weighted so that updates are means over their pictures.

        Raises:
            PictureError: A picture cannot be read, in any process.
            ModelError: The loss is not finite, or memory does not suffice, in any process.
        """
        with self._errors_together():
            _check_read(batch)
            logits = self.net(self._normalized(batch.pixels)).float()
            loss = self._loss(logits, batch.targets)
            self._check_finite(loss, f"step {batch_idx + 1}")
            self._sums[0] += loss.detach().double() * len(batch.rows)
            self._sums[1] += _hits(logits, batch.targets)
        return loss * batch.share

    @contextmanager
    def _errors_together(self) -> Iterator[None]:
        """What fails in one process fails in all: none waits for one that stopped."""
        error: GapcamError | None = None
        try:
            yield
        except GapcamError as raised:
            error = raised
        except (RuntimeError, MemoryError) as raised:
            if not is_out_of_memory(raised):
                raise
            error = memory_error(self._task.options, self._task.preprocessing.size_hw)
            error.__cause__ = raised
        raise_together(error, self.device)

    @override
    def on_train_batch_end(self, outputs: object, batch: Batch, batch_idx: int) -> None:
        """Average the weights where they changed, and tell."""
        plan = self._plan
        updated = (batch_idx + 1) % plan.accumulate == 0 or batch_idx + 1 == plan.steps
        if self.averaged is not None and updated:
            self.averaged.update_parameters(self.net)
        self._tell(self._words, batch_idx + 1, plan.steps)

    def _normalized(self, pixels: Tensor) -> Tensor:
        """`uint8 [B, h, w, 3]` to what the net takes, `[B, 3, h, w]`, channels last in memory."""
        planes = pixels.permute(0, 3, 1, 2)
        if self._task.preprocessing.channels == "bgr":
            planes = planes.flip(1)
        normalized: Tensor = (planes.float() - self._mean) / self._scale  # type: ignore[operator]
        return normalized.contiguous(memory_format=torch.channels_last)

    def _loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy of smoothed labels (Szegedy et al., CVPR 2016, section 7); mean.

        Several classes a picture: binary cross-entropy, each label smoothed between its two values.
        """
        smoothing = self._task.options.label_smoothing
        if self._task.single:
            return functional.cross_entropy(logits, targets, label_smoothing=smoothing)
        smoothed = targets * (1 - smoothing) + smoothing / 2
        return functional.binary_cross_entropy_with_logits(logits, smoothed)

    def _check_finite(self, values: Tensor, where: str) -> None:
        if not torch.isfinite(values).all():
            rate = peak_rate(self._task.options) * self._rate_share
            raise ModelError(
                f"training failed: the loss is not finite in epoch {self.epoch}, {where}, at "
                f"learning rate {rate:.3g}; {_NOT_FINITE}"
            )

    # An epoch

    @override
    def on_fit_start(self) -> None:
        """Take up where the last finished epoch ended."""
        if (state := self._state) is None:
            return
        self._state = None
        _load(self.net, state["net"], self._checkpoints)
        if self.averaged is not None:
            _load(self.averaged, state["averaged"], self._checkpoints)
        self.trainer.optimizers[0].load_state_dict(state["optimizer"])
        self.trainer.precision_plugin.load_state_dict(state["precision"])

    @override
    def on_train_start(self) -> None:
        """Measure the net as it was given."""
        self._begin_epoch()
        self._rate_share = 0.0
        if not self.records:
            loss, accuracy = self._evaluate()
            self._finish(EpochRecord(0, None, None, loss, accuracy, 0.0, self._seconds()))

    @override
    def on_train_epoch_start(self) -> None:
        """Chance from seed, epoch and process alone; modes as in training."""
        self._begin_epoch()
        words = [self._task.options.seed, self.epoch, self.global_rank]
        torch.manual_seed(int(np.random.SeedSequence(words).generate_state(1)[0]))
        self.net.train()
        if self._task.options.trunk_rate == 0 and isinstance(self.net.trunk, nn.Module):
            self.net.trunk.eval()

    @override
    def on_train_epoch_end(self) -> None:
        """Validate, tell, and keep the state.

        Raises:
            OutputError: The state cannot be written; the one before is kept.
        """
        train_loss, train_accuracy = self._training_scores()
        loss, accuracy = self._evaluate()
        rate = peak_rate(self._task.options) * self._rate_share
        record = EpochRecord(
            self.epoch, train_loss, train_accuracy, loss, accuracy, rate, self._seconds()
        )
        self._finish(record)
        if out_of_patience(self.records, self._task.options.patience):
            self.trainer.should_stop = True

    def _training_scores(self) -> tuple[float, float | None]:
        task = self._task
        loss, accuracy = (total(self._sums) / len(task.train)).tolist()
        scored = task.single and "cutmix" not in task.options.augment
        return loss, accuracy if scored else None

    def _evaluate(self) -> tuple[float, float]:
        """Loss and accuracy on the validation pictures, each counted once over all processes."""
        words = f"{self._words}, validating" if self.records else "validating the net as given"
        share_first(self.buffers())
        self.kept.eval()
        sums = torch.zeros(2, dtype=torch.float64, device=self.device)
        kept: list[tuple[Tensor, Tensor]] = []
        with (
            self._errors_together(),
            torch.no_grad(),
            self.trainer.precision_plugin.forward_context(),
        ):
            for done, batch in enumerate(self._validation, 1):
                sums += self._validated(batch, kept)
                self._tell(words, done, len(self._validation))
        rows = self._task.validation
        loss, accuracy = (total(sums) / len(rows)).tolist()
        if not self._task.single:
            values = self._gather(kept, rows)
            accuracy = scores.accuracy(values, self._task.targets[rows], single=False)
        return loss, accuracy

    def _validated(self, batch: Batch, kept: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Sums of a batch's losses and hits; its scores are kept only to rank pictures by them."""
        _check_read(batch)
        logits = self.kept(self._normalized(batch.pixels.to(self.device))).float()
        self._check_finite(logits, "on the validation pictures")
        targets, values = batch.targets.to(self.device), logits.double()
        if self._task.single:
            loss = functional.cross_entropy(values, targets.argmax(1), reduction="sum")
            return torch.stack([loss, _hits(logits, targets).double()])
        kept.append((batch.rows.cpu(), logits.cpu()))
        losses = functional.binary_cross_entropy_with_logits(
            values, targets.double(), reduction="none"
        )
        return torch.stack([losses.mean(1).sum(), losses.new_zeros(())])

    def _gather(self, found: list[tuple[Tensor, Tensor]], rows: IntArray) -> FloatArray:
        """Logits of all processes in the order of `rows`."""
        classes = self._task.targets.shape[1]
        mine = torch.cat([ids for ids, _ in found]) if found else torch.empty(0, dtype=torch.int64)
        values = torch.cat([v for _, v in found]) if found else torch.empty((0, classes))
        places = np.empty(len(self._task.targets), np.int64)
        places[rows] = np.arange(len(rows))
        at = torch.from_numpy(places[mine.numpy()])
        return cast("FloatArray", gathered(at, values, len(rows), self.device).numpy())

    def _finish(self, record: EpochRecord) -> None:
        """Tell of an epoch, then keep its state: told twice when killed between, never not told."""
        self.records.append(record)
        error: GapcamError | None = None
        if self.trainer.is_global_zero:
            try:
                self._on_epoch(record, self.kept)
                self.kept.eval()
                if record.epoch > 0:
                    self._keep(record.epoch)
            except GapcamError as raised:
                error = raised
        raise_together(error, self.device)

    def _keep(self, epoch: int) -> None:
        best = best_epoch(self.records)
        if best == epoch:
            self._checkpoints.keep_best(epoch, self.kept.state_dict())
        state = {
            "records": [dataclasses.asdict(record) for record in self.records],
            "net": self.net.state_dict(),
            "averaged": self.averaged.state_dict() if self.averaged else {},
            "optimizer": self.trainer.optimizers[0].state_dict(),
            "precision": self.trainer.precision_plugin.state_dict(),
        }
        self._checkpoints.keep_last(state, best)

    def _seconds(self) -> float:
        return time.perf_counter() - self._started

    @property
    def _words(self) -> str:
        return f"epoch {self.epoch} of {self._task.options.epochs}"

    def _tell(self, words: str, done: int, of: int) -> None:
        if self.trainer.is_global_zero:
            self._progress(words, done, of)


def _check_read(batch: Batch) -> None:
    if batch.error:
        raise PictureError(batch.error)


def _hits(logits: Tensor, targets: Tensor) -> Tensor:
    """How many pictures' best class is right; of equal scores the lower class id is best."""
    return (logits.argmax(1) == targets.argmax(1)).sum()


def _load(module: nn.Module, state: State, checkpoints: Checkpoints) -> None:
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise ModelError(
            f"{checkpoints.folder / LAST}: its weights are of another net; resume with the model "
            "that the run was begun with, or begin a new run in another folder"
        ) from error
