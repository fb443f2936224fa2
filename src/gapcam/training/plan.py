"""What a training run is asked to do, and the small values that pass between its parts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal, TypeAlias

from gapcam.types import ArgumentError

Pool: TypeAlias = Literal["gap", "gmp", "lse", "tap", "fc"]
Method: TypeAlias = Literal["head-only", "finetune"]

POOLS = ("gap", "gmp", "lse", "tap", "fc")
METHODS = ("head-only", "finetune")
OPTIMIZERS = ("sgd", "adamw")
AUGMENTATIONS = ("crop", "flip", "colour", "cutmix", "hide-and-seek")
MAP_STRIDES = (8, 16, 32)
LOGGERS = ("csv", "tensorboard")
FINETUNE_ONLY = frozenset(
    {
        *("epochs", "batch_size", "accumulate", "optimizer", "learning_rate", "trunk_rate"),
        *("weight_decay", "warmup", "label_smoothing", "augment", "ema", "precision", "devices"),
        *("nodes", "workers", "patience", "logger"),
    }
)
"""Options that mean nothing when the head alone is fitted."""
PRECISIONS = ("auto", "32", "16-mixed", "bf16-mixed")

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called with what is done (`reading pictures`), how many of it are, and of how many."""


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """Every choice of a run; the run folder's `config.json` holds them.

    Attributes:
        method: `head-only` fits one linear layer on the trunk's pooled features; `finetune` trains
            the whole net.
        pool: How features become scores: `gap` (Zhou et al., CVPR 2016), `gmp` (Oquab et al., CVPR
            2015), `lse` (Pinheiro and Collobert, CVPR 2015), `tap` (Bae et al., ECCV 2020), `fc`:
            flattened and fully connected, the paper's contrast.
        map_stride: Input pixels between map cells; None leaves the trunk's.
        seed: Of the split, the initial weights, the order and the augmentation.
        validation_share: Of the pictures kept for choosing, where the data has no split; 0..1.
        multi_label: Whether a picture may show several classes; None: as the data says.
        normal: The class that means "nothing there", which has no place; None: there is none.
        epochs: Fine-tuning: passes over the training pictures.
        batch_size: Fine-tuning: pictures a step, of each process.
        accumulate: Fine-tuning: steps whose gradients are summed before weights change.
        optimizer: `sgd` (momentum .9, Nesterov) or `adamw`.
        learning_rate: Of the head, at its peak; None: .03 for SGD, 1e-3 for AdamW.
        trunk_rate: The trunk's learning rate as a share of the head's.
        weight_decay: Of weights, not of biases and norms.
        warmup: Epochs in which the rate rises from 0; then it falls along a cosine to 0. At most
            `epochs`.
        label_smoothing: The share of the target that is spread over all classes, 0..1.
        augment: Which of `AUGMENTATIONS`.
        ema: The decay a step of the averaged weights that are kept; None: the weights themselves.
        precision: Lightning's, `auto` for mixed on a GPU.
        devices: Processes on this machine: GPUs, or CPU processes where there is none.
        nodes: Machines.
        workers: Processes that read pictures, for each process that trains.
        patience: Epochs without a better validation score before training ends; None: never.
        logger: `csv`, or `tensorboard` beside it.
    """

    method: Method = "head-only"
    pool: Pool = "gap"
    map_stride: int | None = None
    seed: int = 0
    validation_share: float = 0.2
    multi_label: bool | None = None
    normal: str | None = None
    epochs: int = 10
    batch_size: int = 32
    accumulate: int = 1
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float | None = None
    trunk_rate: float = 0.1
    weight_decay: float = 1e-4
    warmup: float = 1.0
    label_smoothing: float = 0.1
    augment: tuple[str, ...] = ("crop", "flip", "colour")
    ema: float | None = None
    precision: str = "auto"
    devices: int = 1
    nodes: int = 1
    workers: int = 0
    patience: int | None = None
    logger: Literal["csv", "tensorboard"] = "csv"

    def __post_init__(self) -> None:
        """Refuse what cannot be meant; numbers become Python's own, `augment` a tuple.

        Raises:
            ArgumentError: A field is of another type, none of its choices or out of range.
        """
        self._check_types()
        self._check_values()
        if self.method == "finetune" and self.warmup > self.epochs:
            raise ArgumentError(
                f"warmup: expected at most the run's {self.epochs} epochs, got {self.warmup:g}; "
                "train longer, or warm up in fewer epochs"
            )
        if self.method == "head-only" and self.pool in ("fc", "lse"):
            raise ArgumentError(
                f"pool {self.pool}: a head alone is fitted on features that are pooled before it, "
                "with gap, gmp or tap. Add --finetune (method='finetune'), or use pool gap"
            )

    def _check_types(self) -> None:
        for name in (*_WHOLE, *_NUMBERS):
            value = getattr(self, name)
            if value is None and name in _MAY_BE_NONE:
                continue
            whole = name in _WHOLE
            if isinstance(value, bool) or not isinstance(value, Integral if whole else Real):
                self._refuse(name, "a whole number" if whole else "a number")
            object.__setattr__(self, name, int(value) if whole else float(value))
        given: dict[str, Any] = {name: getattr(self, name) for name in _OTHERS}
        if not isinstance(given["multi_label"], bool | None):
            self._refuse("multi_label", "True, False or None")
        if not isinstance(given["normal"], str | None):
            self._refuse("normal", "a class name or None")
        words = given["augment"]
        if not isinstance(words, tuple | list) or not all(isinstance(word, str) for word in words):
            self._refuse("augment", f"a tuple of {', '.join(AUGMENTATIONS)}")
        object.__setattr__(self, "augment", tuple(words))

    def _check_values(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                self._refuse(name, " or ".join(map(str, choices)))
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                self._refuse(name, f"{low} to {high}")
        if self.map_stride is not None and self.map_stride not in MAP_STRIDES:
            self._refuse("map_stride", " or ".join(map(str, MAP_STRIDES)))
        unknown = sorted(set(self.augment) - set(AUGMENTATIONS))
        if unknown:
            self._refuse("augment", f"some of {', '.join(AUGMENTATIONS)}")
        if not 0 < self.validation_share < 1:
            self._refuse("validation_share", "more than 0 and less than 1")

    def _refuse(self, name: str, expected: str) -> None:
        raise ArgumentError(f"{name}: expected {expected}, got {getattr(self, name)!r}")

    def as_json(self) -> dict[str, Any]:
        """All fields, as `config.json` holds them."""
        return dataclasses.asdict(self)


_CHOICES: Mapping[str, tuple[str, ...]] = {
    "method": METHODS,
    "pool": POOLS,
    "optimizer": OPTIMIZERS,
    "logger": LOGGERS,
    "precision": PRECISIONS,
}
_WHOLE = (
    *("map_stride", "seed", "epochs", "batch_size", "accumulate", "devices", "nodes", "workers"),
    "patience",
)
_NUMBERS = (
    *("validation_share", "learning_rate", "trunk_rate", "weight_decay", "warmup"),
    *("label_smoothing", "ema"),
)
_OTHERS = ("multi_label", "normal", "augment")
_MAY_BE_NONE = frozenset(("map_stride", "patience", "learning_rate", "ema"))
_RANGES: Mapping[str, tuple[float, float]] = {
    "seed": (0, 2**32 - 1),
    "epochs": (1, 100_000),
    "batch_size": (1, 65_536),
    "accumulate": (1, 65_536),
    "learning_rate": (1e-9, 1e3),
    "trunk_rate": (0, 1e3),
    "weight_decay": (0, 1e3),
    "warmup": (0, 100_000),
    "label_smoothing": (0, 0.999),
    "ema": (0, 0.999999),
    "devices": (1, 1024),
    "nodes": (1, 65_536),
    "workers": (0, 1024),
    "patience": (1, 100_000),
}


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """What one pass over the training pictures gave; a row of `metrics.csv`.

    Attributes:
        epoch: From 1; 0: before any training.
        train_loss: What is optimized: mean over the training pictures, while weights change, with
            the run's augmentation, mixed labels and label smoothing. Smoothing keeps it above 0, so
            it is not comparable with `validation_loss`. None at epoch 0.
        train_accuracy: Top-1 on the augmented training pictures, while weights change; None where
            labels are mixed or a picture may show several classes.
        validation_loss: Plain cross-entropy, without smoothing; mean over the validation pictures.
        validation_accuracy: Top-1; multi-label: mean average precision over the classes that occur.
        learning_rate: Of the head, at the epoch's end.
        seconds: Wall-clock time of the epoch.
    """

    epoch: int
    train_loss: float | None
    train_accuracy: float | None
    validation_loss: float
    validation_accuracy: float
    learning_rate: float
    seconds: float


def best_epoch(records: Sequence[EpochRecord]) -> int:
    """The epoch of the best validation accuracy; of equal ones the lower loss, then the earlier.

    Class labels only: no box is read. Epoch 0, before any training, is left out; 0: no other.
    """
    trained = [record for record in records if record.epoch > 0]
    if not trained:
        return 0
    return min(trained, key=lambda r: (-r.validation_accuracy, r.validation_loss, r.epoch)).epoch
