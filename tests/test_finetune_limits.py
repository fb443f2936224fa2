"""What cannot be meant, what this machine has not, and too little memory: each is told in words."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from finetune_runs import Net, Odd, options, outcome, train, write_set
from gapcam.training import machine
from gapcam.training.machine import check_machine
from gapcam.training.memory import is_out_of_memory
from gapcam.training.plan import EpochRecord, TrainOptions, best_epoch
from gapcam.types import ArgumentError, ModelError

# Options

WHOLE = ("seed", "epochs", "batch_size", "accumulate", "devices", "nodes", "workers", "patience")
NUMBERS = ("learning_rate", "trunk_rate", "weight_decay", "warmup", "label_smoothing", "ema")


@pytest.mark.parametrize("name", [*WHOLE, *NUMBERS, "validation_share", "map_stride"])
@pytest.mark.parametrize("value", ["3", True, [1], 1j, float("nan"), "none"])
def test_other_types_are_refused_by_name(name: str, value: object):
    with pytest.raises(ArgumentError, match=rf"^{name}: expected .*, got "):
        TrainOptions(method="finetune", **{name: value})


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ({"seed": 1.5}, r"seed: expected a whole number, got 1\.5"),
        ({"epochs": None}, "epochs: expected a whole number, got None"),
        ({"validation_share": "0.2"}, r"validation_share: expected a number, got '0\.2'"),
        ({"multi_label": 1}, "multi_label: expected True, False or None, got 1"),
        ({"normal": 3}, "normal: expected a class name or None, got 3"),
        ({"augment": "crop"}, "augment: expected a tuple of crop, flip.*got 'crop'"),
        ({"augment": ("crop", 3)}, "augment: expected a tuple of crop"),
        ({"augment": ("blur",)}, "augment: expected some of crop"),
        ({"augment": None}, "augment: expected a tuple of"),
        ({"pool": ["gap"]}, "pool: expected gap or gmp"),
        ({"warmup": 4, "epochs": 3}, "warmup: expected at most the run's 3 epochs, got 4; train"),
    ],
)
def test_what_cannot_be_meant_is_refused(choice: dict, said: str):
    with pytest.raises(ArgumentError, match=said):
        TrainOptions(method="finetune", **choice)


def test_numbers_of_other_libraries_become_plain_ones():
    chosen = TrainOptions(
        method="finetune",
        seed=np.int64(3),
        epochs=np.uint8(4),
        warmup=np.float32(0.5),
        learning_rate=1,
        trunk_rate=Fraction(1, 2),
        augment=["flip"],
    )
    plain = TrainOptions(
        method="finetune",
        seed=3,
        epochs=4,
        warmup=0.5,
        learning_rate=1.0,
        trunk_rate=0.5,
        augment=("flip",),
    )
    assert json.dumps(chosen.as_json()) == json.dumps(plain.as_json())
    assert TrainOptions(epochs=1, warmup=5).warmup == 5  # a head alone has no warm-up


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=8))
def test_the_best_epoch_by_trying_all(scores: list[tuple[int, int]]):
    records = [
        EpochRecord(epoch, 1.0, None, loss / 4, accuracy / 4, 0.1, 1.0)
        for epoch, (accuracy, loss) in enumerate(scores)
    ]
    best = 0
    for epoch in range(1, len(records)):
        if best == 0 or (scores[epoch][0], -scores[epoch][1]) > (scores[best][0], -scores[best][1]):
            best = epoch
    assert best_epoch(records) == best


# The machine


def test_what_the_machine_has_not_is_refused_before(monkeypatch: pytest.MonkeyPatch):
    check_machine(TrainOptions())
    check_machine(options(logger="tensorboard", devices=2))
    check_machine(TrainOptions(logger="tensorboard", precision="16-mixed"))  # a head needs neither
    if not torch.cuda.is_available():
        with pytest.raises(ArgumentError, match="precision 16-mixed needs a GPU, there is none"):
            check_machine(options(precision="16-mixed"))
    monkeypatch.setattr(machine, "_TENSORBOARDS", ("no_such_library",))
    with pytest.raises(ArgumentError, match="logger: tensorboard is not installed; run: pip"):
        check_machine(options(logger="tensorboard"))


def test_a_launcher_of_another_number_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    check_machine(options(devices=2, nodes=2))
    with pytest.raises(ArgumentError, match=r"is one of 4 processes .* asked for 2"):
        check_machine(options(devices=2))


# Memory


class Greedy(Net):
    """Asks for a pebibyte for each picture of a batch after the first."""

    def __init__(self, *, training: bool) -> None:
        super().__init__()
        self.when = training

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training == self.when:
            torch.empty((len(x) - 1) << 50, dtype=torch.uint8)
        return super().forward(x)


@pytest.mark.parametrize("training", [True, False])
def test_too_little_memory_is_told_with_what_to_do(training: bool, tmp_path: Path):
    said = (
        r"ran out of memory with 8 pictures of 24x24 a step; .*--batch-size.*--accumulate.*"
        "last finished epoch is kept"
    )
    with pytest.raises(ModelError, match=said) as caught:
        train(tmp_path / "run", options(epochs=1), net=Greedy(training=training))
    assert "can't allocate memory" in str(caught.value.__cause__)


def test_a_run_goes_on_when_there_is_memory_again(tmp_path: Path):
    whole = train(tmp_path / "whole", options())
    net, wanted = Net(), []

    def ask(*_: object) -> None:
        torch.empty(sum(wanted) << 50, dtype=torch.uint8)

    net.register_forward_hook(ask)
    with pytest.raises(ModelError, match="ran out of memory"):
        train(
            tmp_path / "run",
            options(),
            net=net,
            on_epoch=lambda record, net: wanted.append(record.epoch // 2),
        )
    assert wanted == [0, 0, 1]
    assert outcome(train(tmp_path / "run", options(), resume=True)) == outcome(whole)


def test_only_memory_is_taken_for_memory():
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))
    assert is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("out of memory"))


# What is trained


def test_what_is_frozen_stays_so_and_comes_back_as_it_was(tmp_path: Path):
    net = Odd()
    net.trunk[0].bias.requires_grad_(False)
    before = {name: (value.requires_grad, value.clone()) for name, value in net.named_parameters()}
    found = train(tmp_path / "run", options(epochs=1, ema=0.9), net=net).net
    for name, value in found.named_parameters():
        learns, weights = before[name]
        assert value.requires_grad == learns
        assert torch.equal(value, weights) != learns
    headless = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(24 * 24 * 3, 2))
    with pytest.raises(ModelError, match="no part called trunk"):
        train(tmp_path / "other", options(trunk_rate=0), net=headless)
    assert all(value.requires_grad for value in headless.parameters())


def test_a_frozen_trunk_can_learn_later(tmp_path: Path):
    net = Odd()
    learns = [value.requires_grad for value in net.parameters()]
    train(tmp_path / "run", options(epochs=1, trunk_rate=0), net=net)
    assert [value.requires_grad for value in net.parameters()] == learns


def test_several_classes_a_picture_have_no_training_score(tmp_path: Path):
    data = write_set(tmp_path / "pictures", single=False)
    found = train(tmp_path / "run", options(epochs=1), net=Net(3), data=data)
    assert [record.train_accuracy for record in found.records] == [None, None]
