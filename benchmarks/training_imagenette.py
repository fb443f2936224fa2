"""The paper's claims about training, on ten ImageNet classes: pools, grids, fine-tuning, scratch.

    python benchmarks/training_imagenette.py [--data DIR] [--work DIR] [--only PREFIX] [--seeds N]
        [--pictures N] [--epochs N] [--size N]

`--data` holds `train/<class>/`, `test/images/` and `test/boxes.csv`. Nets see class labels only;
boxes only score. Thresholds: the recipes `paper` (plain maps, .2 of the peak) and `default` as
shipped, and MaxBoxAcc, the best threshold of each net on the test pictures, an upper bound. Each
run is stored when it is done; a study that was ended goes on. `--only` takes the runs whose names
begin so; the summary is made anew each time. A seed draws the split and, in fine-tuning, the first
weights, the order and the augmentation.

- head: a linear head on the frozen trunk, all pictures;
- fine: the whole pretrained net, on `--pictures` of each class, at `--size`;
- scratch: the paper's AlexNet with random weights, all pictures, at 96 pixels.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path

import gapcam
from gapcam.data import Dataset, read_dataset
from gapcam.training.inspect import inspect_pictures
from gapcam.training.labelled import read_labelled
from gapcam.training.plan import TrainOptions
from network_outputs import SHARED
from training_runs import (
    SEED_KEY,
    Row,
    Store,
    baselines,
    difference,
    finetuned,
    grouped,
    heads,
    say,
    score_model,
    summary,
    write_subset,
)

RESULTS = Path(__file__).parent / "results" / "training_imagenette.json"
WORK = Path(__file__).parents[1] / "build" / "training-imagenette"


@dataclass(frozen=True)
class Head:
    """A head on frozen features: how many seeds, options, pictures of each class, input size."""

    seeds: int
    options: TrainOptions = field(default_factory=TrainOptions)
    pictures: int | None = None
    size: int | None = None


HEADS = {
    "head gap": Head(3),
    "head gmp": Head(3, TrainOptions(pool="gmp")),
    "head tap": Head(3, TrainOptions(pool="tap")),
    "head gap stride 16": Head(3, TrainOptions(map_stride=16)),
    "head of 40 gap": Head(1, pictures=40),
    "head of 40 gap stride 8": Head(1, TrainOptions(map_stride=8), 40),
    "head of 40 gap at 160": Head(2, pictures=40, size=160),
}
"""Features at stride 8 take many times as long as at 32, so that step is made on fewer pictures; at
160 the head sees what the fine-tuned nets see."""


@dataclass(frozen=True)
class Fine:
    """A fine-tuned net: how many seeds, and what is asked of it."""

    seeds: int
    choices: Row = field(default_factory=dict)
    scratch: bool = False


RATES = {"gap": 0.1, "gmp": 0.01, "lse": 0.03, "tap": 0.03, "fc": 0.1}
"""Learning rates. At .1 `gmp` diverges: the maximum of a channel is many times its mean. At .01
`gap` learns little in so few steps. Seen on the validation part of seed 0, by labels alone."""

FINE = {
    **{f"fine {p}": Fine(2, {"pool": p, "learning_rate": rate}) for p, rate in RATES.items()},
    "fine gap slow": Fine(2, {"pool": "gap", "learning_rate": RATES["gmp"]}),
    **{
        f"scratch alexnet {pool}": Fine(1, {"model": "alexnet", "pool": pool}, scratch=True)
        for pool in ("gap", "gmp", "fc")
    },
}
PRETRAINED: Row = {"warmup": 0.5, "batch_size": 32}
SCRATCH: Row = {"optimizer": "adamw", "learning_rate": 5e-4, "trunk_rate": 1.0, "batch_size": 64}
SCRATCH_SIZE, SCRATCH_EPOCHS = 96, 7

PAIRS = (
    ("head gap", "head gmp"),
    ("head gap", "head tap"),
    ("head gap stride 16", "head gap"),
    ("head of 40 gap stride 8", "head of 40 gap"),
    ("fine gap", "fine gmp"),
    ("fine gap", "fine fc"),
    ("fine gap", "fine lse"),
    ("fine gap", "fine tap"),
    ("fine gap slow", "fine gmp"),
    ("fine gap", "head of 40 gap at 160"),
    ("fine gap slow", "head of 40 gap at 160"),
    ("head gap", "scratch alexnet gap"),
    ("scratch alexnet gap", "scratch alexnet gmp"),
    ("scratch alexnet gap", "scratch alexnet fc"),
)


def study_heads(given: argparse.Namespace, store: Store, dataset: Dataset) -> None:
    """Heads on frozen features."""
    train = given.data / "train"
    for group, head in HEADS.items():
        names = {s: f"{group}{SEED_KEY}{s}" for s in range(min(head.seeds, given.seeds))}
        todo = [s for s, name in names.items() if wanted(given, store, name)]
        if not todo:
            continue
        data = read_labelled(train)
        if head.pictures is not None:
            labels = given.work / f"labels-{head.pictures}.csv"
            table = write_subset(train, head.pictures, labels)
            data = read_labelled(table, images=train)
        seen = inspect_pictures(data, lambda *_: None)
        folder = given.work / group
        for seed, model, facts in heads(data, seen, head.options, todo, folder, head.size):
            row = facts | {"kind": "head-only", "test": score_model(model, dataset)}
            store.keep("runs", {names[seed]: row})
            tell(names[seed], row)


def study_fine(given: argparse.Namespace, store: Store, dataset: Dataset) -> None:
    """Whole nets."""
    train = given.data / "train"
    for group, plan in FINE.items():
        for seed in range(min(plan.seeds, given.seeds)):
            name = f"{group}{SEED_KEY}{seed}"
            if not wanted(given, store, name):
                continue
            if plan.scratch:
                size, epochs, pictures = SCRATCH_SIZE, given.scratch_epochs, given.scratch_pictures
            else:
                size, epochs, pictures = given.size, given.epochs, given.pictures
            table = write_subset(train, pictures, given.work / f"labels-{pictures}.csv")
            base = SCRATCH if plan.scratch else PRETRAINED
            asked: Row = {**base, **plan.choices, "epochs": epochs, "size_hw": (size, size)}
            if given.rate is not None:
                asked["learning_rate"] = given.rate
            model, facts = finetuned(table, train, given.work / name, asked | {"seed": seed})
            row = {"kind": "finetune", "input": size, "pictures_a_class": pictures, **facts}
            row |= {"asked": {k: v for k, v in asked.items() if k != "size_hw"}}
            row["test"] = score_model(model, dataset)
            store.keep("runs", {name: row})
            tell(name, row)


def wanted(given: argparse.Namespace, store: Store, name: str) -> bool:
    """Whether a run is asked for and not done."""
    return name.startswith(given.only) and name not in store.runs


def tell(name: str, row: Row) -> None:
    """A line a run."""
    plain = row["test"]["paper"]
    cells = ("top1", "gt_known", "max_box_acc", "pointing")
    words = ", ".join(f"{k} {plain[k]}" for k in cells)
    say(f"{name}: validation {row['validation_accuracy']}, {words}, {row['seconds']} s")


def summarize(store: Store) -> None:
    """Means over seeds, and paired differences."""
    groups = grouped(store.runs)
    rows = {name: summary(runs) for name, runs in groups.items()}
    store.keep("summary", rows, anew=True)
    pairs = [(a, b) for a, b in PAIRS if a in groups and b in groups]
    gaps = {f"{a} minus {b}": difference(groups[a], groups[b]) for a, b in pairs}
    store.keep("differences", gaps, anew=True)


def main() -> None:
    """Run what is not stored, and store it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=SHARED / "imagenette-small")
    parser.add_argument("--work", type=Path, default=WORK, help="run folders and features")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--only", default="", help="runs whose names begin so")
    parser.add_argument("--seeds", type=int, default=5, help="at most so many of each")
    parser.add_argument("--pictures", type=int, default=40, help="fine-tuning: of each class")
    parser.add_argument("--epochs", type=int, default=3, help="fine-tuning")
    parser.add_argument("--size", type=int, default=160, help="fine-tuning: input, pixels")
    parser.add_argument("--rate", type=float, help="another learning rate")
    parser.add_argument("--scratch-epochs", type=int, default=SCRATCH_EPOCHS)
    parser.add_argument("--scratch-pictures", type=int, default=300, help="of each class")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    store = Store(given.results)
    test = given.data / "test"
    dataset = read_dataset(test / "images", test / "boxes.csv", None, layout=None, split=None)
    if "baselines" not in store.read():
        store.keep("baselines", baselines(gapcam.load(threads=1), dataset))
    study_heads(given, store, dataset)
    study_fine(given, store, dataset)
    summarize(store)


if __name__ == "__main__":
    main()
