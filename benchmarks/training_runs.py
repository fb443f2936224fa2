"""What the studies of training share: runs that are stored one by one, and how they are scored.

A run is one trained net. Its row holds how it was trained, its scores on the test pictures under
the recipes as shipped, and its hits picture by picture, so that nets can be compared in pairs.
"""

from __future__ import annotations

import csv
import dataclasses
import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import gapcam
from gapcam.data import Dataset
from gapcam.engines.onnx import OnnxEngine
from gapcam.evaluate import Evaluation, evaluate
from gapcam.foreign import SourceOptions
from gapcam.localizer import Localizer
from gapcam.metrics.bootstrap import bootstrap_ci95
from gapcam.models.file.build import model_bytes
from gapcam.outputs import replacing
from gapcam.trainer import train
from gapcam.trainer.files import card_for, network_of
from gapcam.trainer.nets import open_backbone
from gapcam.training.features import pooled_features
from gapcam.training.inspect import Inspection
from gapcam.training.labelled import LabelledSet
from gapcam.training.linear_head import fit_head
from gapcam.training.plan import TrainOptions
from gapcam.training.split import make_split
from gapcam.types import ByteArray

RECIPES = ("paper", "default")
PLAIN = "paper"
LEAST_REFINED = 16
BY_CLASS = ("top1", "pointing", "gt_known")
SEED_KEY = " / seed "

Row = dict[str, Any]
Numbers = npt.NDArray[np.float64]


class Store:
    """Runs by name in a JSON file; each is written when it is done, so that a study resumes.

    Several processes may add to one file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> Row:
        """Everything that is stored."""
        table: Row = json.loads(self.path.read_text()) if self.path.exists() else {}
        return table

    @property
    def runs(self) -> dict[str, Row]:
        """Every run, by its name."""
        runs: dict[str, Row] = self.read().get("runs", {})
        return runs

    def keep(self, part: str, rows: Mapping[str, Any], *, anew: bool = False) -> None:
        """Add rows to a part of the file, or put them in its place."""
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            table = self.read()
            table[part] = {**({} if anew else table.get(part, {})), **rows}
            with replacing(self.path) as out:
                out.write(json.dumps(table, indent=1) + "\n")
        finally:
            os.close(folder)  # and with it the lock


# --- how a net is scored ------------------------------------------------------------------------


def score_model(model: Path, dataset: Dataset) -> Row:
    """Scores on boxes or masks under every recipe that the model can follow.

    At stride 8 plain maps only: refinement on features of stride 4 compares every two of 3,136
    positions, which takes seconds and hundreds of megabytes a picture.
    """
    card = gapcam.load(model, threads=1).card
    refinable = card.fine_features and card.map_stride >= LEAST_REFINED
    recipes = [name for name in RECIPES if name == PLAIN or refinable]
    return {name: score(gapcam.load(model, recipe=name, threads=1), dataset) for name in recipes}


def score(localizer: Localizer, dataset: Dataset) -> Row:
    """One recipe's scores, percent, and hits a picture as text of 0 and 1."""
    done = evaluate(localizer, dataset, skip_bad=True)
    result, table = done.result, done.table
    hits = {"top1": table.ranks == 0, "pointing": table.pointing[:, 0]}
    row: Row = {"threshold": result["threshold"], "n": result["n"]}
    if table.boxed.any():
        hits |= {"gt_known": table.ious[:, 0] >= 0.5, "max_box_acc": _oracle(done)}
        hits["top1_loc"] = hits["gt_known"] & hits["top1"]
        row["max_box_acc_v2"] = percent(result["max_box_acc_v2"])
        row["mean_iou"] = percent(result["mean_iou"])
        best = next(cut for cut in result["thresholds"] if cut["source"] == "oracle")
        row["max_box_acc_threshold"] = best["threshold"]
    if table.has_pixels:
        hits["pointing_15px"] = table.pointing[:, 1]
        row["pxap"], row["pxap_ci95"] = percent(result["pxap"]), percent(result["ci95"]["pxap"])
        cuts = {cut["source"]: cut["mask"]["iou"] for cut in result["thresholds"]}
        row |= {f"pixel_iou_{source}": percent(iou) for source, iou in cuts.items()}
    row["energy"] = percent(result["energy"])
    row["by_class"] = {
        r["class"]: {"n": r["n"]} | {k: percent(r[k]) for k in BY_CLASS if r[k] is not None}
        for r in result["by_class"]
    }
    row |= {name: percent(of.mean()) for name, of in hits.items()}
    row["hits"] = {name: "".join(map(str, of.astype(int))) for name, of in hits.items()}
    return row


def _oracle(done: Evaluation) -> npt.NDArray[np.bool_]:
    """Hits at IoU .5 with the one threshold that is best on these very pictures."""
    single = done.table.single
    best = int(single.accuracy()[1].argmax())
    return np.asarray(single.column(0.5, best))


def baselines(localizer: Localizer, dataset: Dataset) -> Row:
    """What answers that look at no picture reach, percent."""
    found: Row = evaluate(localizer, dataset, skip_bad=True).result["baselines"]
    keys = ("gt_known", "gt_known_ci95", "mean_iou", "pointing", "pxap")
    return {
        name: {key: percent(of[key]) for key in keys if of.get(key) is not None}
        | {"words": of["words"]}
        for name, of in found.items()
    }


def percent(value: Any) -> Any:
    """Percent to a tenth; None stays."""
    if value is None:
        return None
    return np.round(100 * np.asarray(value, np.float64), 1).tolist()


# --- several seeds together ---------------------------------------------------------------------


def hits_of(runs: Sequence[Row], recipe: str, column: str) -> Numbers:
    """The mean over runs of each picture's hit, `[n]`."""
    rows = [[int(bit) for bit in run["test"][recipe]["hits"][column]] for run in runs]
    return np.asarray(np.mean(rows, axis=0), np.float64)


def grouped(runs: Mapping[str, Row]) -> dict[str, list[Row]]:
    """Runs that differ in their seed alone."""
    groups: dict[str, list[Row]] = {}
    for name in sorted(runs):
        groups.setdefault(name.split(SEED_KEY)[0], []).append(runs[name])
    return groups


def summary(runs: Sequence[Row]) -> Row:
    """Mean over seeds with the 95 % interval over pictures, and the spread over seeds."""
    accuracy = [run["validation_accuracy"] for run in runs]
    row: Row = {"seeds": len(runs), "validation_accuracy": round(float(np.mean(accuracy)), 1)}
    row["seconds"] = round(float(np.mean([run["seconds"] for run in runs])), 1)
    for recipe in runs[0]["test"]:
        cells: Row = {}
        for column in runs[0]["test"][recipe]["hits"]:
            hits = hits_of(runs, recipe, column)
            cells[column] = percent(hits.mean())
            cells[f"{column}_ci95"] = percent(bootstrap_ci95(hits))
            cells[f"{column}_seeds"] = [run["test"][recipe][column] for run in runs]
        for column in ("pxap", "energy", "mean_iou", "max_box_acc_v2"):
            values = [run["test"][recipe].get(column) for run in runs]
            if values[0] is not None:
                cells[column] = round(float(np.mean(values)), 1)
                cells[f"{column}_seeds"] = values
        row[recipe] = cells
    return row


def difference(ones: Sequence[Row], others: Sequence[Row]) -> Row:
    """By how many points the first are better, paired by picture, with 95 % intervals."""
    row: Row = {}
    for recipe in set(ones[0]["test"]) & set(others[0]["test"]):
        row[recipe] = {}
        for column in ones[0]["test"][recipe]["hits"]:
            gap = hits_of(ones, recipe, column) - hits_of(others, recipe, column)
            row[recipe][column] = [percent(gap.mean()), *percent(bootstrap_ci95(gap))]
    return row


# --- how a net is trained -----------------------------------------------------------------------


def heads(
    data: LabelledSet,
    seen: Inspection,
    options: TrainOptions,
    seeds: Sequence[int],
    folder: Path,
    side: int | None = None,
) -> Iterator[tuple[int, Path, Row]]:
    """A head for each seed's split, on features that are computed once: seed, model file, facts.

    As `gapcam train --head-only` does it; the features do not depend on the split. `side` is the
    input's, pixels; None: the trunk's own.
    """
    started = time.perf_counter()
    source = SourceOptions(size_hw=None if side is None else (side, side))
    backbone = open_backbone(None, len(data.classes), options, source, None)
    network = network_of(backbone, backbone.net, lambda *_: None)
    card = card_for(
        backbone,
        network,
        name=f"{backbone.name} on {data.root.name}",
        classes=data.classes,
        sources={"weights": "the embedded network's; a head fitted to class labels"},
        single=data.single,
        normal=options.normal,
    )
    engine = OnnxEngine(model_bytes(network, card), 1, card.name)
    localizer = Localizer(engine, card)
    pool = options.pool
    assert pool != "fc"

    def read(path: Path) -> ByteArray:
        return localizer.read(path).pixels

    every = np.arange(len(data.names))
    size_hw = card.recipe.input_size_hw
    features = pooled_features(engine, data, every, read, size_hw, folder, pool)
    shared = time.perf_counter() - started
    for seed in seeds:
        started = time.perf_counter()
        split = make_split(data, seen, options.validation_share, seed)
        fitted = fit_head(
            features.values, data.targets, split.train, split.validation, single=data.single
        )
        kept = dataclasses.replace(
            network, logits=None, weights=fitted.weights, bias=fitted.bias, stored_weights=None
        )
        path = folder / f"seed-{seed}.onnx"
        with replacing(path, binary=True) as out:
            out.write(model_bytes(kept, card))
        facts: Row = {"seconds_features": round(shared, 1), "decay": fitted.decay}
        facts["seconds"] = round(time.perf_counter() - started, 1)
        facts["validation_accuracy"] = percent(fitted.chosen.validation_accuracy)
        yield seed, path, facts | {"train_pictures": len(split.train), "input": size_hw[0]}


def finetuned(data: Path, images: Path | None, out: Path, choices: Row) -> tuple[Path, Row]:
    """A run of `gapcam train --finetune`, taken up where it was left: model file, facts."""
    started = time.perf_counter()
    report = train(
        data, out, images=images, resume=out.exists(), method="finetune", tell=say, **choices
    )
    assert report is not None
    with (out / "metrics.csv").open() as file:
        epochs = list(csv.DictReader(file))
    keys = ("train_loss", "validation_loss", "validation_accuracy", "seconds")
    facts: Row = {
        "validation_accuracy": percent(report.accuracy),
        "seconds": round(time.perf_counter() - started, 1),
        "chosen": report.chosen,
        "epochs": [[round(float(row[k]), 3) if row[k] else None for k in keys] for row in epochs],
        "epochs_columns": keys,
    }
    return report.model, facts


def say(words: str) -> None:
    """Progress."""
    print(words, flush=True)


def write_subset(train_folder: Path, pictures: int, path: Path) -> Path:
    """A table of the first `pictures` of every class folder; the same in every run."""
    with replacing(path) as out:
        out.write("image,label\n")
        for folder in sorted(p for p in train_folder.iterdir() if p.is_dir()):
            for file in sorted(folder.iterdir())[:pictures]:
                out.write(f"{folder.name}/{file.name},{folder.name}\n")
    return path
