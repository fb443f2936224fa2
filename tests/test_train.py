"""Training from class labels through the library: what comes out, and what is left as it was."""

from __future__ import annotations

import csv
import json
import os
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import gapcam
from exporter import list_operators_once
from gapcam.trainer import TrainReport, train
from gapcam.training.scores import average_precision
from gapcam.types import ArgumentError, ModelError
from train_sets import COLOURS, PREPROCESSING, SIZE, small, write_classes, write_labels

list_operators_once()

POOLS = {
    "gap": "gap-linear",
    "gmp": "gmp-linear",
    "lse": "lse-linear",
    "tap": "tap-linear",
}
FC = "flatten-hidden"
TUNE = {"method": "finetune", "optimizer": "adamw", "batch_size": 6, "trunk_rate": 1.0}
TUNE |= {"learning_rate": 0.03}
SEEDED = {**TUNE, "epochs": 1, "seed": 4, "pool": "tap"}
PLAIN = {**TUNE, "augment": (), "warmup": 1.0, "label_smoothing": 0.0}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("classes") / "shapes"
    write_classes(root)
    return root


def trained(data: Path, out: Path, **choices) -> TrainReport:
    model = choices.pop("model", None) or small()
    report = train(data, out, model=model, preprocessing=PREPROCESSING, **choices)
    assert report is not None
    return report


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def validation_of(run: Path) -> list[dict[str, str]]:
    return [row for row in rows(run / "split.csv") if row["part"] == "validation"]


@pytest.fixture(scope="module")
def tuned(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainReport:
    out = tmp_path_factory.mktemp("tuned") / "run"
    return trained(pictures, out, epochs=6, **PLAIN)


def touched() -> nn.Module:
    """A net with a part in training mode, a frozen weight, a gradient and a hook."""
    module = small(7)
    module.features[0].train()
    module.features[2].weight.requires_grad_(False)
    module.fc.weight.grad = torch.ones_like(module.fc.weight)
    module.fc.register_forward_hook(lambda *_: None)
    return module


@contextmanager
def all_printed(path: Path):
    """Keeps what is written to standard output and error, by Python or by any library."""
    kept = [os.dup(1), os.dup(2)]
    try:
        with path.open("w") as file, redirect_stdout(file), redirect_stderr(file):
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            yield
    finally:
        for number, was in enumerate(kept, 1):
            os.dup2(was, number)
            os.close(was)


class State:
    """What training must leave as it is."""

    def __init__(self, module: nn.Module) -> None:
        self.state = {name: value.clone() for name, value in module.state_dict().items()}
        self.modes = [part.training for part in module.modules()]
        self.wants = [weight.requires_grad for weight in module.parameters()]
        self.chance, self.threads = torch.get_rng_state(), torch.get_num_threads()


class Given:
    """A run that was given a module: what was there before and after, and all that it said."""

    def __init__(self, data: Path, out: Path, **choices) -> None:
        self.module, self.said, self.shown = touched(), [], {}
        self.before = State(self.module)
        with all_printed(out.with_suffix(".txt")):
            self.report = trained(
                data,
                out,
                model=self.module,
                tell=self.said.append,
                progress=lambda words, *done: self.shown.setdefault(words, []).append(done),
                **choices,
            )
        self.after = State(self.module)
        self.printed = out.with_suffix(".txt").read_text()


@pytest.fixture(scope="module")
def given(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Given]:
    """One run of each method."""
    folder = tmp_path_factory.mktemp("given")
    return {
        "head-only": Given(pictures, folder / "head-only", pool="gmp", seed=3),
        "finetune": Given(pictures, folder / "finetune", **SEEDED),
    }


def test_fine_tuning_keeps_the_epoch_of_the_best_validation(tuned: TrainReport):
    records = rows(tuned.path / "metrics.csv")
    assert [int(row["epoch"]) for row in records] == list(range(7))
    after = records[1:]
    best = max(float(row["validation_accuracy"]) for row in after)
    tied = [row for row in after if float(row["validation_accuracy"]) == best]
    expected = min(tied, key=lambda row: float(row["validation_loss"]))
    result = json.loads((tuned.path / "run.json").read_text())["result"]
    assert result["best_epoch"] == int(expected["epoch"])
    assert result["accuracy"] == pytest.approx(best) == tuned.accuracy
    assert best > 0.9, "six epochs tell three colours apart"


def test_the_model_file_has_the_weights_of_the_best_epoch(tuned: TrainReport, pictures: Path):
    best = json.loads((tuned.path / "run.json").read_text())["result"]["best_epoch"]
    (kept,) = (tuned.path / "checkpoints").glob("best-*.ckpt")
    state = torch.load(kept, weights_only=True)
    assert (kept.stem, state["epoch"]) == (f"best-{best:05d}", best)
    net = small()  # its trunk's layers, by hand; the head is pooled features times the weights
    trunk = {name.split("network.")[-1]: value for name, value in state["net"].items()}
    net.load_state_dict(
        {**net.state_dict(), **{k: v for k, v in trunk.items() if k.startswith("features.")}}
    )
    weight = state["net"]["head.linear.weight"].numpy()
    bias = state["net"]["head.linear.bias"].numpy()

    localizer = gapcam.load(tuned.path)
    right = 0
    for row in validation_of(tuned.path):
        pixels = localizer.read(pictures / row["image"]).pixels[None]
        scaled = (pixels.astype(np.float32) - 127) / 64
        with torch.no_grad():
            features = net.features(torch.from_numpy(scaled.transpose(0, 3, 1, 2))).numpy()
        logits = features.mean((2, 3)) @ weight.T + bias
        np.testing.assert_allclose(localizer.engine.run(pixels).logits, logits, atol=1e-4)
        right += localizer.card.labels[int(logits.argmax())] == row["labels"]
    assert tuned.accuracy == right / len(validation_of(tuned.path))


def test_a_sheet_an_epoch_and_one_of_the_kept_model(tuned: TrainReport):
    names = sorted(path.name for path in (tuned.path / "samples").iterdir())
    assert names == [*(f"epoch_{n:03d}.jpg" for n in range(7)), "final.jpg"]
    page = tuned.report.read_text()
    assert page.count("data:image/jpeg;base64,") == 8
    assert "The kept model, with its own recipe." in page


def test_the_run_folder_says_how_it_went(tuned: TrainReport):
    there = {path.name for path in tuned.path.iterdir()}
    assert there >= {"config.json", "data.json", "split.csv", "model.onnx", "training.html"}
    assert there >= {"validation.json", "per_class.csv", "confusion.csv", "mistakes.csv"}
    assert not list(tuned.path.rglob("*.tmp"))
    said = str(tuned)
    assert "Chosen by class labels only, no boxes" in said
    assert "class maps are exact" in said


def test_the_kept_model_finds_the_squares(tuned: TrainReport, pictures: Path):
    found = gapcam.load(tuned.path)(pictures / "red" / "0.png")
    assert found.detections[0].label == "red"
    assert found.detections[0].box_xyxy is not None


@pytest.mark.parametrize("pool", ["gmp", "lse", "tap", "fc"])
def test_every_pool_gives_a_model_file_of_its_kind(
    pool: str, given: dict[str, Given], pictures: Path, tmp_path: Path
):
    if pool == SEEDED["pool"]:
        report = given["finetune"].report
    else:
        report = trained(pictures, tmp_path / "run", epochs=1, pool=pool, **PLAIN)
    localizer = gapcam.load(report.path)
    assert localizer.card.head == POOLS.get(pool, FC)
    pixels = localizer.read(pictures / "red" / "0.png").pixels[None]
    if pool in POOLS:  # the maps are the weights times the features
        features = localizer.engine.run(pixels).features
        maps = np.einsum("ck,bkhw->bchw", localizer.engine.head.weights, features)
        found = localizer.engine.run_maps(pixels, np.arange(3)).maps
        np.testing.assert_allclose(found, maps, atol=1e-5)
    right = sum(
        localizer(pictures / row["image"]).detections[0].label == row["labels"]
        for row in validation_of(report.path)
    )
    assert report.accuracy == pytest.approx(right / report.pictures)


def test_the_head_alone_is_fitted_on_features_that_stay(given: dict[str, Given], pictures: Path):
    report = given["head-only"].report
    assert np.load(report.path / "features.npy").shape == (24, 12)
    localizer = gapcam.load(report.path)
    assert localizer.card.head == "gmp-linear"
    right = sum(
        localizer(pictures / row["image"]).detections[0].label == row["labels"]
        for row in validation_of(report.path)
    )
    assert report.accuracy == pytest.approx(right / report.pictures)
    assert [path.name for path in (report.path / "samples").iterdir()] == ["final.jpg"]
    page = report.report.read_text()
    assert page.count("data:image/jpeg;base64,") == 1
    assert "Localized pictures the kept model, with its own recipe" in page


# --- several labels a picture, a class without a place -------------------------------------------


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainReport, Path]:
    root = tmp_path_factory.mktemp("labelled")
    table = write_labels(root / "pictures")
    report = trained(table, root / "run", epochs=8, normal="blue", **PLAIN)
    return report, table.parent


def test_several_labels_have_a_sigmoid_and_a_map_each(labelled: tuple[TrainReport, Path]):
    report, folder = labelled
    localizer = gapcam.load(report.path)
    assert localizer.card.scores == "sigmoid"
    held = validation_of(report.path)
    pixels = np.stack([localizer.read(folder / row["image"]).pixels for row in held])
    outputs = localizer.engine.run_maps(pixels, 3)
    assert outputs.maps.shape == (len(held), 3, SIZE // 4, SIZE // 4)
    picture = localizer(folder / held[0]["image"], top=3)
    best = 1 / (1 + np.exp(-np.sort(outputs.logits[0])[::-1]))
    np.testing.assert_allclose([d.score for d in picture.detections], best, atol=1e-5)

    truth = np.array([[name in row["labels"].split(";") for name in COLOURS] for row in held])
    precisions = [
        average_precision(outputs.logits[:, c], truth[:, c]) for c in range(3) if truth[:, c].any()
    ]
    assert report.accuracy == pytest.approx(np.mean(precisions))
    assert report.interval is None
    assert str(report).startswith("Mean average precision")
    assert not (report.path / "confusion.csv").exists()


def test_the_normal_class_has_a_score_and_no_box(labelled: tuple[TrainReport, Path]):
    report, folder = labelled
    localizer = gapcam.load(report.path)
    for row in validation_of(report.path):
        for found in localizer(folder / row["image"], top=3).detections:
            assert found.label != "blue" or found.box_xyxy is None
            assert found.score > 0


def test_an_unknown_normal_class_is_refused_before_anything_is_written(
    pictures: Path, tmp_path: Path
):
    with pytest.raises(ArgumentError, match=r"'good'.*no such class.*'blue', 'green', 'red'"):
        trained(pictures, tmp_path / "run", normal="good")
    assert not (tmp_path / "run").exists()


# --- how it fails --------------------------------------------------------------------------------


def test_a_loss_that_is_no_number_ends_the_run_and_its_reason_is_kept(
    pictures: Path, tmp_path: Path
):
    wild = {**PLAIN, "learning_rate": 1000.0, "weight_decay": 1000.0, "batch_size": 2}
    with pytest.raises(ModelError, match=r"loss is not finite in epoch 1, .*lower learning rate"):
        trained(pictures, tmp_path / "run", epochs=3, **wild)
    state = json.loads((tmp_path / "run" / "run.json").read_text())
    assert state["state"] == "failed"
    assert "lower learning rate" in state["reason"]
    assert "<b>Stopped</b>" in (tmp_path / "run" / "training.html").read_text()
    assert not (tmp_path / "run" / "model.onnx").exists()


def test_an_option_that_is_none_is_named(pictures: Path, tmp_path: Path):
    with pytest.raises(ArgumentError, match=r"unknown option 'epoch': expected one of .*epochs"):
        trained(pictures, tmp_path / "run", epoch=3)
    with pytest.raises(ArgumentError, match="ema, epochs: only fine-tuning has it"):
        trained(pictures, tmp_path / "run", epochs=3, ema=0.9)
    assert not (tmp_path / "run").exists()


# --- what is left as it was ----------------------------------------------------------------------


@pytest.mark.parametrize("method", ["head-only", "finetune"])
def test_the_given_module_is_not_changed_and_nothing_is_printed(
    method: str, given: dict[str, Given]
):
    one = given[method]
    assert list(one.after.state) == list(one.before.state)
    assert all(torch.equal(value, one.before.state[n]) for n, value in one.after.state.items())
    assert one.after.modes == one.before.modes
    assert one.after.wants == one.before.wants
    assert torch.equal(one.module.fc.weight.grad, torch.ones_like(one.module.fc.weight))
    assert len(one.module.fc._forward_hooks) == 1
    assert one.after.threads == one.before.threads
    assert torch.equal(one.after.chance, one.before.chance)
    assert one.printed == ""


def test_progress_and_words_come_through_the_callbacks(given: dict[str, Given]):
    said, shown = given["head-only"].said, given["head-only"].shown
    assert said[0] == (
        "24 pictures of 3 classes: 18 pictures train and 6 validate, chosen by class at random"
    )
    for stage in ("reading pictures", "exporting the network", "computing features"):
        assert shown[stage][-1][0] == shown[stage][-1][1]


def test_the_same_seed_gives_the_same_bytes(
    given: dict[str, Given], pictures: Path, tmp_path: Path
):
    same = trained(pictures, tmp_path / "run", model=touched(), **SEEDED)
    assert given["finetune"].report.model.read_bytes() == same.model.read_bytes()
