"""Fine-tuning against a plain loop in PyTorch, and what it promises of its surroundings."""

from __future__ import annotations

import logging
import math
import multiprocessing
import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from finetune_runs import (
    PREPROCESSING,
    TRAINED,
    Net,
    options,
    outcome,
    same_weights,
    split,
    train,
    write_set,
)
from gapcam.images import load_picture, resize_picture
from gapcam.training import scores
from gapcam.training.batches import Batches, EpochPlan, Reader, Request, Source, epoch_order
from gapcam.training.lightning_net import out_of_patience
from gapcam.training.plan import EpochRecord, best_epoch
from gapcam.training.schedule import parameter_groups, rate_share
from gapcam.types import ArgumentError, DataError, ModelError, Preprocessing


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# The whole of training, once more: one parameter, one picture at a time


def inputs(data: Any, rows: list[int]) -> torch.Tensor:
    pixels = np.stack([np.asarray(Image.open(data.paths[row]), np.float32) for row in rows])
    numbers = (pixels - PREPROCESSING.mean) / PREPROCESSING.scale
    return torch.tensor(numbers.transpose(0, 3, 1, 2), dtype=torch.float32)


def loss_of(logits: torch.Tensor, wanted: torch.Tensor, single: bool, smooth: float):
    """One picture's, from the formula."""
    classes = len(wanted)
    if single:
        soft = wanted * (1 - smooth) + smooth / classes
        return -(soft * functional.log_softmax(logits, 0)).sum()
    soft = wanted * (1 - smooth) + smooth / 2
    p = torch.sigmoid(logits)
    return -(soft * p.log() + (1 - soft) * (1 - p).log()).mean()


def plain_training(net: Net, data: Any, chosen: Any) -> tuple[list[dict], list[float]]:
    """Weights after every epoch (averaged ones, where asked for), and the epochs' mean losses."""
    targets = torch.tensor(data.targets, dtype=torch.float32)
    plan = EpochPlan(TRAINED, chosen.batch_size, 1, chosen.accumulate)
    updates, warmup = chosen.epochs * plan.updates, round(chosen.warmup * plan.updates)
    memory: dict[str, Any] = {}
    averaged: dict[str, torch.Tensor] = {}
    states, losses, done = [], [], 0
    for epoch in range(1, chosen.epochs + 1):
        order = epoch_order(np.arange(TRAINED), chosen.seed, epoch).tolist()
        steps = [list(part) for part in np.array_split(order, plan.steps)]
        total = 0.0
        for first in range(0, plan.steps, chosen.accumulate):
            rows = [int(r) for part in steps[first : first + chosen.accumulate] for r in part]
            logits = net(inputs(data, rows))
            each = [
                loss_of(one, targets[row], data.single, chosen.label_smoothing)
                for one, row in zip(logits, rows, strict=True)
            ]
            gradients = torch.autograd.grad(torch.stack(each).mean(), list(net.parameters()))
            total += float(torch.stack(each).detach().sum())
            if done < warmup:
                share = (done + 1) / (warmup + 1)
            else:
                share = 0.5 + 0.5 * math.cos(math.pi * (done - warmup) / (updates - warmup))
            done += 1
            with torch.no_grad():
                for (name, value), gradient in zip(net.named_parameters(), gradients, strict=True):
                    change(name, value, gradient, share, done, chosen, memory)
                for name, value in net.state_dict().items():
                    d = min(chosen.ema or 0, done / (done + 9))
                    old = averaged.get(name, value)
                    averaged[name] = d * old + (1 - d) * value
        losses.append(total / TRAINED)
        source = averaged if chosen.ema else net.state_dict()
        states.append({name: value.clone() for name, value in source.items()})
    return states, losses


def change(
    name: str,
    value: torch.Tensor,
    gradient: torch.Tensor,
    share: float,
    update: int,
    chosen: Any,
    memory: dict[str, Any],
) -> None:
    rate = share * chosen.learning_rate * (chosen.trunk_rate if name.startswith("trunk") else 1)
    decay = 0 if name.endswith("bias") else chosen.weight_decay
    if chosen.optimizer == "sgd":
        gradient = gradient + decay * value
        memory[name] = 0.9 * memory[name] + gradient if name in memory else gradient
        value -= rate * (gradient + 0.9 * memory[name])
        return
    first, second = memory.get(name, (0, 0))
    first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
    memory[name] = (first, second)
    value *= 1 - rate * decay
    value -= rate * (first / (1 - 0.9**update)) / ((second / (1 - 0.999**update)).sqrt() + 1e-8)


@pytest.mark.parametrize(
    ("single", "chosen"),
    [
        (True, {}),
        (True, {"accumulate": 3, "ema": 0.7, "warmup": 0.5, "weight_decay": 0.05}),
        (True, {"optimizer": "adamw", "learning_rate": 0.01, "weight_decay": 0.5}),
        (False, {"trunk_rate": 2.0, "label_smoothing": 0.2, "batch_size": 5}),
    ],
)
def test_training_is_what_a_plain_loop_does(single: bool, chosen: dict, tmp_path: Path):
    wanted = options(augment=(), **chosen)
    data = write_set(tmp_path / "pictures", single=single)
    classes = len(data.classes)
    found = train(tmp_path / "run", wanted, net=Net(classes, plain=True), data=data)
    net = Net(classes, plain=True)
    states, losses = plain_training(net, data, wanted)

    assert [r.train_loss for r in found.records[1:]] == pytest.approx(losses, abs=1e-5)
    for record, state in zip(found.records[1:], states, strict=True):
        net.load_state_dict(state)
        rows = list(range(TRAINED, len(data.paths)))
        with torch.no_grad():
            logits = net(inputs(data, rows)).numpy()
        labels = data.targets[rows]
        expected = scores.loss(logits, labels, single), scores.accuracy(logits, labels, single)
        assert (record.validation_loss, record.validation_accuracy) == pytest.approx(
            expected, abs=1e-4
        )
    for name, value in found.net.state_dict().items():
        torch.testing.assert_close(value, states[found.best_epoch - 1][name], atol=1e-5, rtol=1e-4)


def test_it_learns(tmp_path: Path):
    found = train(tmp_path / "run", options(epochs=10, trunk_rate=1))
    assert found.records[-1].validation_accuracy >= 0.9
    assert found.records[-1].train_accuracy >= 0.8
    assert found.records[0].epoch == 0
    assert found.records[0].train_loss is None
    assert not found.net.training
    assert found.stopped == "all 10 epochs are done"
    assert best_epoch(list(found.records)) == found.best_epoch


@pytest.mark.parametrize("augment", [("cutmix",), ("crop", "hide-and-seek", "flip", "colour")])
def test_runs_repeat_by_their_seed(augment: tuple, tmp_path: Path):
    one, same, other = (
        train(tmp_path / str(i), options(seed=seed, augment=augment, epochs=2))
        for i, seed in enumerate((1, 1, 2))
    )
    assert outcome(one) == outcome(same)
    assert same_weights(one.net.state_dict(), same.net.state_dict())
    assert not same_weights(one.net.state_dict(), other.net.state_dict())
    assert (one.records[1].train_accuracy is None) == ("cutmix" in augment)


def test_processes_that_read_change_nothing_and_end(tmp_path: Path):
    by_threads = train(tmp_path / "0", options(epochs=2))
    by_processes = train(tmp_path / "1", options(epochs=2, workers=1))
    assert outcome(by_threads) == outcome(by_processes)
    assert same_weights(by_threads.net.state_dict(), by_processes.net.state_dict())
    assert not multiprocessing.active_children()


def test_mixed_precision_is_near_the_full_one(tmp_path: Path):
    full, mixed = (
        train(tmp_path / name, options(precision=name, augment=())) for name in ("32", "bf16-mixed")
    )
    for one, other in zip(full.records, mixed.records, strict=True):
        assert one.validation_loss == pytest.approx(other.validation_loss, abs=0.02)
    assert full.records[-1].validation_loss != mixed.records[-1].validation_loss


def test_a_frozen_trunk_stays_as_it_is(tmp_path: Path):
    found = train(tmp_path / "run", options(trunk_rate=0))
    given = Net()
    assert same_weights(found.net.trunk.state_dict(), given.trunk.state_dict())
    assert not torch.equal(found.net.head.weight, given.head.weight)


def test_patience_ends_a_run(tmp_path: Path):
    rough = options(learning_rate=1.0, epochs=40, patience=1, warmup=0)
    found = train(tmp_path / "run", rough)
    assert found.records[-1].epoch == found.best_epoch + 1 < 40
    assert found.stopped == "no better validation score in 1 epoch"
    again = train(tmp_path / "run", rough, resume=True)
    assert outcome(again) == outcome(found)


def record(epoch: int, accuracy: float, loss: float = 1.0) -> EpochRecord:
    return EpochRecord(epoch, 1.0, 0.5, loss, accuracy, 0.1, 1.0)


def test_the_best_epoch_is_chosen_by_accuracy_then_loss_then_time():
    assert best_epoch([record(0, 1.0), record(1, 0.5), record(2, 0.7), record(3, 0.7)]) == 2
    assert best_epoch([record(1, 0.7, 0.9), record(2, 0.7, 0.8), record(3, 0.6, 0.1)]) == 2
    assert best_epoch([record(0, 1.0)]) == 0
    assert out_of_patience([record(1, 0.7), record(2, 0.6), record(3, 0.6)], 2)
    assert not out_of_patience([record(1, 0.7), record(2, 0.6)], 2)
    assert not out_of_patience([record(1, 0.7), record(9, 0.6)], None)


def test_rates_rise_evenly_then_fall_along_a_cosine():
    shares = [rate_share(update, 100, 9) for update in range(100)]
    np.testing.assert_allclose(shares[:10], np.arange(1, 11) / 10)
    assert shares[9] == 1
    assert np.all(np.diff(shares[9:]) < 0)
    assert min(shares) > 0


def test_every_parameter_learns_in_its_group():
    head, head_bias, trunk, trunk_bias = parameter_groups(Net(), options(weight_decay=0.3))
    assert [g["weight_decay"] for g in (head, head_bias, trunk, trunk_bias)] == [0.3, 0, 0.3, 0]
    assert [g["rate"] for g in (head, trunk)] == pytest.approx([0.1, 0.01])
    assert [len(g["params"]) for g in (head, head_bias, trunk, trunk_bias)] == [1, 1, 2, 4]


# Reading


def test_readers_agree_and_pass_errors_on(tmp_path: Path):
    data = write_set(tmp_path / "pictures")
    data.paths[3].write_bytes(b"no picture")
    reader = Reader(data, options(augment=("crop", "colour", "cutmix")), PREPROCESSING)
    requests = [Request(1, 0, (0, 5, 9), 0.5), Request(1, 1, (3, 4)), Request(0, 2, (1, 2))]
    threads, processes = Source(reader, 0), Source(reader, 1)
    in_threads = Batches(threads, lambda: requests, 3)
    assert len(in_threads) == 3
    list(processes.read(requests[:1]))  # an epoch before
    for one, other in zip(in_threads, processes.read(requests), strict=True):
        assert torch.equal(one.pixels, other.pixels)
        assert torch.equal(one.targets, other.targets)
        assert torch.equal(one.rows, other.rows)
        assert (one.share, one.error) == (other.share, other.error)
    assert len(multiprocessing.active_children()) == 1
    processes.close()
    assert not multiprocessing.active_children()
    first, broken, plain = in_threads
    assert first.error == plain.error == ""
    assert "03.png: expected a picture" in broken.error
    squashed = resize_picture(load_picture(data.paths[1]).pixels, PREPROCESSING.size_hw)
    np.testing.assert_array_equal(plain.pixels[0].numpy(), squashed)


def test_a_picture_looks_the_same_in_any_batch(tmp_path: Path):
    data = write_set(tmp_path / "pictures")
    reader = Reader(data, options(augment=("crop", "colour", "flip")), PREPROCESSING)
    one, other = reader[Request(2, 0, (4, 7))], reader[Request(2, 5, (8, 9, 7))]
    assert torch.equal(one.pixels[1], other.pixels[2])
    assert not torch.equal(one.pixels[1], reader[Request(3, 0, (7,))].pixels[0])


def test_bgr_networks_see_bgr(tmp_path: Path):
    data = write_set(tmp_path / "pictures")
    seen = []

    class Watching(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x)
            return super().forward(x)

    from gapcam.training.finetune import finetune

    wants = Preprocessing(PREPROCESSING.size_hw, (3.0, 2.0, 1.0), (1.0, 2.0, 4.0), "bgr")
    with pytest.raises(InterruptedError):
        finetune(
            Watching(),
            data,
            split(),
            options(),
            wants,
            tmp_path / "run",
            resume=False,
            on_epoch=lambda record, net: (_ for _ in ()).throw(InterruptedError),
            progress=lambda *_: None,
        )
    pixels = load_picture(data.paths[TRAINED]).pixels[..., ::-1]
    expected = ((pixels - np.array([3.0, 2.0, 1.0])) / [1.0, 2.0, 4.0]).transpose(2, 0, 1)
    torch.testing.assert_close(seen[1][0], torch.tensor(expected, dtype=torch.float32))
    assert seen[1].is_contiguous(memory_format=torch.channels_last)


# Surroundings


def test_it_is_quiet_and_leaves_all_as_found(tmp_path: Path, capfd: pytest.CaptureFixture):
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    random.seed(5)
    level = logging.getLogger("lightning.pytorch").level
    expected = torch.rand(3), np.random.rand(3), random.random()  # noqa: NPY002
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    random.seed(5)
    net = Net()
    torch.manual_seed(5)
    told, steps = [], []
    train(
        tmp_path / "run",
        options(logger="tensorboard"),
        net=net,
        on_epoch=lambda record, kept: told.append((record.epoch, kept.training)),
        progress=lambda *step: steps.append(step),
    )
    assert torch.equal(torch.rand(3), expected[0])
    np.testing.assert_array_equal(np.random.rand(3), expected[1])  # noqa: NPY002
    assert random.random() == expected[2]
    assert torch.is_grad_enabled()
    assert logging.getLogger("lightning.pytorch").level == level
    assert capfd.readouterr() == ("", "")
    assert told == [(epoch, False) for epoch in range(4)]
    assert [step for step in steps if step[0] == "epoch 2 of 3"] == [
        ("epoch 2 of 3", step, 4) for step in (1, 2, 3, 4)
    ]
    assert ("validating the net as given", 2, 2) in steps
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {"checkpoints", "tensorboard"}


def test_tensorboard_shows_every_epoch(tmp_path: Path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorBoard's own imports
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    found = train(tmp_path / "run", options(logger="tensorboard"))
    log = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    log.Reload()
    shown = {event.step: event.value for event in log.Scalars("validation_loss")}
    assert shown == pytest.approx({r.epoch: r.validation_loss for r in found.records})
    assert [event.step for event in log.Scalars("train_accuracy")] == [1, 2, 3]


def test_what_cannot_be_trained_is_refused(tmp_path: Path):
    run = tmp_path / "run"
    with pytest.raises(ModelError, match=r"expected scores \[1, 2\].*got \[1, 5\]"):
        train(run, options(), net=Net(5))
    with pytest.raises(ArgumentError, match="warmup: expected at most the run's 3 epochs, got 4"):
        train(run, options(warmup=4))
    with pytest.raises(DataError, match="a training picture for each of 40 processes, got 27"):
        train(run, options(devices=40))
    if not torch.cuda.is_available():
        with pytest.raises(ArgumentError, match="precision 16-mixed needs a GPU"):
            train(run, options(precision="16-mixed"))
    headless = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(24 * 24 * 3, 2))
    with pytest.raises(ModelError, match="no part called trunk"):
        train(run, options(trunk_rate=0), net=headless)
    assert not list(tmp_path.rglob("*.ckpt"))
