"""From a run to the rows of its report: where it errs, what it was trained on, what was asked."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from gapcam.report.words import NONE, bare_percent, count, counted, percent
from gapcam.training.run_contents import RunContents
from gapcam.training.run_folder import MODEL
from gapcam.types import IntArray

MOST_CLASSES = 50
"""With more classes the confusion matrix is left to its file, and only pairs are shown."""
MOST_ROOMY = 20
"""With more classes the matrix is set small."""
MOST_PAIRS, MOST_PAIRS_ALONE = 10, 30
MOST_MISTAKES = 20
MOST_GROUPS = 20

_SHARED = ("method", "pool", "map_stride", "seed", "validation_share", "multi_label", "normal")
_PALEST, _DEEPEST = 8, 50  # percent of colour in a cell: ink stays readable on the deepest


class Cell(NamedTuple):
    """A cell of the confusion matrix: its count, percent of colour, whether right, a title."""

    text: str
    colour: int
    right: bool
    title: str


class Pair(NamedTuple):
    """Two classes that are taken for each other: how often, of how many of the true class."""

    truth: str
    predicted: str
    times: int
    of: int
    share: str


class Fact(NamedTuple):
    """A name and what is said of it, a line each."""

    name: str
    lines: tuple[str, ...]


def confusion_rows(classes: Sequence[str], counts: IntArray) -> list[tuple[str, list[Cell]]]:
    """The matrix for the page, a row for every true class; colour is the share of the row."""
    rows = []
    for label, row in zip(classes, counts.tolist(), strict=True):
        total = sum(row)
        cells = [
            Cell(
                count(n) if n else "",
                round(_PALEST + (_DEEPEST - _PALEST) * math.sqrt(n / total)) if n else 0,
                label == other,
                f"{label}, predicted {other}: {count(n)} of {count(total)}",
            )
            for other, n in zip(classes, row, strict=True)
        ]
        rows.append((label, cells))
    return rows


def confused_pairs(classes: Sequence[str], counts: IntArray) -> list[Pair]:
    """The pairs of true and predicted class that occur most, the most frequent first.

    Fewer where the page has the whole matrix too.
    """
    most = MOST_PAIRS if len(classes) <= MOST_CLASSES else MOST_PAIRS_ALONE
    sums = counts.sum(1)
    wrong = [(int(n), i, j) for (i, j), n in _each(counts) if i != j and n]
    wrong.sort(key=lambda pair: (-pair[0], pair[1:]))
    return [
        Pair(classes[i], classes[j], n, int(sums[i]), percent(n / int(sums[i])))
        for n, i, j in wrong[:most]
    ]


def _each(counts: IntArray) -> Iterable[tuple[tuple[int, int], int]]:
    rows, columns = counts.nonzero()
    return (((int(i), int(j)), int(counts[i, j])) for i, j in zip(rows, columns, strict=True))


def class_columns(run: RunContents) -> list[tuple[str, str]]:
    """Titles and kinds of the columns of classes."""
    last = [] if run.config.get("single", True) else [("average precision, %", "number")]
    numbers = ("training pictures", "validation pictures", "precision, %", "recall, %", "F1, %")
    return [("class", "text"), *((name, "number") for name in numbers), *last]


def class_rows(run: RunContents) -> list[list[str]]:
    """A row for every class: its pictures in both parts and its scores."""
    data = run.data or {}
    parts = zip(data.get("train", ()), data.get("validation", ()), strict=True)
    pictures = dict(zip(data.get("classes", ()), parts, strict=True))
    scores = {row.label: row for row in run.classes}
    rows = []
    for label in run.config.get("classes", ()):
        score = scores.get(label)
        figures: list[float | None]
        figures = [score.precision, score.recall, score.f1] if score else [None] * 3
        if not run.config.get("single", True):
            figures.append(score.average_precision if score else None)
        shown = [count(n) for n in pictures[label]] if label in pictures else [NONE, NONE]
        rows.append([label, *shown, *map(bare_percent, figures)])
    return rows


def data_facts(run: RunContents) -> list[Fact]:
    """How many pictures there are, how they were divided, and what was noticed."""
    data = run.data
    if data is None:
        return []
    facts = [
        Fact("pictures", (counted(data["pictures"], "picture"),)),
        Fact("trained on", (counted(data["train_pictures"], "picture"),)),
        Fact("validation", (counted(data["validation_pictures"], "picture"),)),
        Fact("split", (data["split"],)),
        Fact("classes", (count(len(data["classes"])), *_extremes(data))),
        Fact("unreadable", (counted(len(run.unreadable), "picture"),)),
        Fact("near-duplicates", (_duplicates(data["duplicates"]),)),
    ]
    if data["notes"]:
        facts.append(Fact("notes", tuple(data["notes"])))
    return facts


def _extremes(data: Mapping[str, Any]) -> tuple[str, ...]:
    totals = dict(zip(data["classes"], data["train"], strict=True))
    few, many = min(totals, key=totals.__getitem__), max(totals, key=totals.__getitem__)
    if totals[few] == totals[many]:
        return (f"{counted(totals[few], 'training picture')} each",)
    return (
        f"fewest: {few}, {counted(totals[few], 'training picture')}",
        f"most: {many}, {counted(totals[many], 'training picture')}",
    )


def _duplicates(groups: Sequence[Sequence[str]]) -> str:
    if not groups:
        return "none noticed"
    inside = counted(sum(map(len, groups)), "picture")
    return f"{counted(len(groups), 'group')} of {inside} in all"


def asked_facts(run: RunContents) -> list[tuple[str, list[Fact]]]:
    """Everything that decided the result, by what it is about."""
    config = run.config
    options = config.get("options", {})
    shown = _SHARED if options.get("method") == "head-only" else tuple(options)
    network = ("model", "trunk", "preprocessing")
    rest = [n for n in config if n not in (*network, "data", "classes", "options", "versions")]
    groups = [
        ("Run", [*_times(run), *_facts(config, ("data", *rest))]),
        ("Network", _facts(config, network)),
        ("Training", _facts(options, shown)),
        ("Result", _facts(run.state.get("result", {}), None)),
        ("Versions", _facts(config.get("versions", {}), None)),
    ]
    return [group for group in groups if group[1]]


def _times(run: RunContents) -> list[Fact]:
    times = [("folder", str(run.path)), ("state", run.state["state"])]
    times += [(n, run.state[n]) for n in ("started", "ended", "reason") if n in run.state]
    facts = [Fact(name, (text,)) for name, text in times]
    if "started" in run.state and "ended" in run.state:
        took = _moment(run.state["ended"]) - _moment(run.state["started"])
        facts.append(Fact("time", (str(took),)))
    if "resumed" in run.state:
        facts.append(Fact("resumed", tuple(run.state["resumed"])))
    return facts


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _facts(values: Mapping[str, Any], names: Iterable[str] | None) -> list[Fact]:
    wanted = values if names is None else [name for name in names if name in values]
    return [Fact(name.replace("_", " "), _lines(values[name])) for name in wanted]


def _lines(value: Any) -> tuple[str, ...]:
    if isinstance(value, Mapping):
        return tuple(f"{name}: {', '.join(_lines(part))}" for name, part in value.items())
    if isinstance(value, list | tuple):
        return (", ".join(_lines(part)[0] for part in value) or NONE,)
    if isinstance(value, bool):
        return ("yes" if value else "no",)
    if value is None:
        return (NONE,)
    return (f"{value:.4g}" if isinstance(value, float) else str(value),)


def commands(run: RunContents) -> list[tuple[str, str]]:
    """What to run next, each with what it is for."""
    if not run.finished:
        again = run.config.get("command") or (
            f"gapcam train {_quoted(run.config.get('data', 'DATA'))} --out {_quoted(run.path)} ..."
        )
        resumed = again if " --resume" in again else f"{again} --resume"
        return [("Go on with this run: the same command, with --resume.", resumed)]
    model = _quoted(run.path / MODEL)
    return [
        ("Find the classes in pictures.", f"gapcam localize PICTURES --model {model} --out found"),
        (
            "Score the boxes, where true boxes of other pictures are known.",
            f"gapcam evaluate --images DIR --boxes FILE --model {model} --report scores.html",
        ),
        ("Write the model for other programs.", f"gapcam export {model} OUT.onnx"),
    ]


def _quoted(path: str | Path) -> str:
    return shlex.quote(str(path))
