"""Score a localizer on a data set, under a protocol, with thresholds whose origin is known."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from typing import Any

from gapcam.data import Dataset, Problem
from gapcam.evaluate.cuts import Centred, Cut
from gapcam.evaluate.measure import Task, measure
from gapcam.evaluate.protocols import (
    PIXEL_SELECTION_RULE,
    SELECTION_RULE,
    Protocol,
    protocol_named,
)
from gapcam.evaluate.scores import best_centre, best_threshold, score
from gapcam.evaluate.table import Table
from gapcam.labels import class_id
from gapcam.localizer import Localizer
from gapcam.parallel import in_chunks
from gapcam.types import ArgumentError, DataError, Failure, ModelCard, Recipe

MOST_NAMED = 20
"""How many bad rows an error names; the rest are counted."""


class BadRowsError(DataError):
    """A data set in which something is wrong, row by row.

    Attributes:
        problems: Everything that is wrong.
        summary: How much, in one line, and what to do.
    """

    def __init__(self, dataset: Dataset, problems: Sequence[Problem]) -> None:
        count = f"{len(problems)} {'problem' if len(problems) == 1 else 'problems'}"
        self.problems = tuple(problems)
        self.summary = (
            f"{dataset.name}: {count}; mend them, or go on without those pictures "
            "(skip_bad, --skip-bad)"
        )
        rows = [f"  {problem}" for problem in problems[:MOST_NAMED]]
        rest = len(problems) - MOST_NAMED
        super().__init__("\n".join([self.summary, *rows, *([f"  and {rest} more"] * (rest > 0))]))


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an evaluation is: what is being scored, how many pictures are done, of how many."""

    phase: str
    done: int
    total: int


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """What came of an evaluation.

    Attributes:
        result: Everything, JSON-ready: `docs/evaluation.md` says what each key means.
        table: What was kept of every pair.
        protocol: How it was scored.
        headline: The threshold that the result is reported at.
    """

    result: dict[str, Any]
    table: Table
    protocol: Protocol
    headline: Cut


@dataclass(frozen=True, slots=True)
class _Scored:
    """A table, the problems met on the way, whether it was cut short, and the time it took."""

    table: Table
    left_out: tuple[Problem, ...]
    partial: bool
    seconds: float


def evaluate(
    localizer: Localizer,
    dataset: Dataset,
    *,
    protocol: str = "original",
    select_on: Dataset | None = None,
    skip_bad: bool = False,
    workers: int | None = None,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> Evaluation:
    """Score a localizer on pictures whose boxes or masks are known.

    A KeyboardInterrupt while the data set is scored gives the result of what was done until then,
    marked `partial`.

    Args:
        localizer: Loaded with `threads=1` it is quickest: pictures go in parallel.
        dataset: What to score on.
        protocol: `original`, `wsol` or `ilsvrc`: see `gapcam.evaluate.protocols`.
        select_on: Another set, on which threshold and centred box are chosen. Without it the
            recipe's threshold is reported.
        skip_bad: Go on without the rows and pictures that have problems, and name them in the
            result; by default they are an error, as scores over fewer pictures do not compare.
        workers: Threads; one a core when None.
        on_progress: Called for every picture.

    Raises:
        ArgumentError: An unknown protocol.
        BadRowsError: The data has problems and `skip_bad` is false.
        DataError: Nothing is left to score.
    """
    rules = protocol_named(protocol, localizer.recipe)
    score_all = partial(_score_all, localizer, rules, skip_bad, workers, on_progress)
    cuts, chosen, selected_on = [_recipe_cut(localizer.recipe)], None, None
    if select_on is not None:
        selected = score_all(select_on, [], "choosing on")
        if selected.partial:
            raise KeyboardInterrupt
        shared = len(_paths(select_on) & _paths(dataset))
        selected_on = {**_about(select_on, selected.left_out), "shared": shared}
        selected_on["n"] = len(selected.table.tasks)
        cuts.append(_selected_cut(selected.table, rules, select_on, shared))
        chosen = _chosen_centre(selected.table, rules, select_on, shared)
    kept = [rules.index_of(cut.threshold) for cut in cuts if cut.threshold is not None]
    scored = score_all(dataset, kept, "scoring")
    if not scored.table.tasks:
        raise DataError(f"{dataset.name}: nothing was scored; see the problems above")
    centred = chosen or _oracle_centre(scored.table, rules)
    result = {
        **_heading(localizer, rules, dataset, scored, selected_on),
        **score(scored.table, rules, cuts, centred),
        "speed": _speed(scored),
    }
    result["by_class"] = [
        {"class": localizer.card.labels[row["class_id"]], **row} for row in result["by_class"]
    ]
    return Evaluation(result, scored.table, rules, cuts[-1])


def _score_all(
    localizer: Localizer,
    rules: Protocol,
    skip_bad: bool,
    workers: int | None,
    on_progress: Callable[[Progress], None],
    dataset: Dataset,
    kept: Sequence[int],
    phase: str,
) -> _Scored:
    """Score every picture of a set, in parallel and in order."""
    tasks, unknown = tasks_of(dataset, localizer.card)
    left_out = [*dataset.problems, *unknown]
    if left_out and not skip_bad:
        raise BadRowsError(dataset, left_out)
    if not tasks:
        raise DataError(f"{dataset.name}: no picture is left to score")
    table = Table(len(rules.thresholds), kept)
    started, partial_ = time.perf_counter(), False
    words = f"{phase} {dataset.name}"
    try:
        on_progress(Progress(words, 0, len(tasks)))
        work = partial(measure, localizer, rules)
        with closing(in_chunks(work, tasks, workers)) as results:
            for done, (task, measured) in enumerate(zip(tasks, results, strict=True), start=1):
                if isinstance(measured, Failure):
                    if not skip_bad:
                        raise measured.error
                    left_out.append(Problem(task.example.where, str(measured.error)))
                else:
                    table.add(task, measured)
                on_progress(Progress(words, done, len(tasks)))
    except KeyboardInterrupt:
        if not table.tasks:
            raise
        partial_ = True
    return _Scored(table, tuple(left_out), partial_, time.perf_counter() - started)


def tasks_of(dataset: Dataset, card: ModelCard) -> tuple[list[Task], list[Problem]]:
    """The pictures with the model's ids of their classes; a class unknown to it is a problem."""
    tasks, problems = [], []
    for example in dataset.examples:
        try:
            ids = tuple(_class_id(card, target.class_names) for target in example.targets)
        except ArgumentError as error:
            problems.append(Problem(example.where, f"{example.name}: {error}"))
            continue
        if len(set(ids)) < len(ids):
            problems.append(Problem(example.where, _one_class_twice(example.name, card, ids)))
        else:
            tasks.append(Task(example, ids))
    return tasks, problems


def _one_class_twice(name: str, card: ModelCard, ids: tuple[int, ...]) -> str:
    twice = next(i for i in ids if ids.count(i) > 1)
    return (
        f"{name}: two of its classes are both {card.labels[twice]!r} to {card.name}; give one name "
        "to each class"
    )


def _class_id(card: ModelCard, names: Sequence[str | int]) -> int:
    """The id of the first name that the model knows.

    Raises:
        ArgumentError: It knows none of them; what it says is about the main name.
    """
    for name in names[1:]:
        with suppress(ArgumentError):
            return class_id(card, names[0])
        with suppress(ArgumentError):
            return class_id(card, name)
    return class_id(card, names[0])


def _recipe_cut(recipe: Recipe) -> Cut:
    return Cut("recipe", f"fixed by the recipe {recipe.name!r}", recipe.threshold)


def _selected_cut(table: Table, rules: Protocol, dataset: Dataset, shared: int) -> Cut:
    rule = SELECTION_RULE if table.boxed.any() else PIXEL_SELECTION_RULE
    return Cut(
        "selection",
        f"chosen on {dataset.name}{_sharing(shared)}: {rule}",
        best_threshold(table, rules),
        upper_bound=shared > 0,
    )


def _chosen_centre(table: Table, rules: Protocol, dataset: Dataset, shared: int) -> Centred | None:
    share = best_centre(table, rules)
    if share is None:
        return None
    words = _centre_words(share, f"chosen on {dataset.name}{_sharing(shared)}")
    return Centred(share, words, upper_bound=shared > 0)


def _oracle_centre(table: Table, rules: Protocol) -> Centred | None:
    share = best_centre(table, rules)
    if share is None:
        return None
    words = _centre_words(share, "best on the scored pictures: an upper bound")
    return Centred(share, words, upper_bound=True)


def _centre_words(share_wh: tuple[float, float], origin: str) -> str:
    width, height = share_wh
    sides = f"{100 * width:.0f} % of the width and {100 * height:.0f} % of the height"
    return f"the centred box, {sides}, {origin}"


def _sharing(shared: int) -> str:
    return f" ({shared} pictures of it are scored as well: an upper bound)" if shared else ""


def _paths(dataset: Dataset) -> set[str]:
    return {str(example.path.resolve()) for example in dataset.examples}


def _about(dataset: Dataset, left_out: Sequence[Problem]) -> dict[str, Any]:
    return {
        "name": dataset.name,
        "layout": dataset.layout,
        "left_out": [{"where": problem.where, "what": problem.what} for problem in left_out],
        "notes": list(dataset.notes),
    }


def _heading(
    localizer: Localizer,
    rules: Protocol,
    dataset: Dataset,
    scored: _Scored,
    selected_on: dict[str, Any] | None,
) -> dict[str, Any]:
    """What was scored with what, and how: enough to do it again."""
    card = localizer.card
    return {
        "gapcam": version("gapcam"),
        "partial": scored.partial,
        "n_total": len(dataset.examples),
        "data": _about(dataset, scored.left_out),
        "selection": selected_on,
        "model": {
            "name": card.name,
            "classes": len(card.labels),
            "fingerprint": localizer.engine.fingerprint,
            "sources": dict(card.sources),
        },
        "recipe": {
            **asdict(localizer.recipe),
            "input_size_hw": list(localizer.recipe.input_size_hw),
        },
        "protocol": {"name": rules.name, "source": rules.source, **rules.statements()},
    }


def _speed(scored: _Scored) -> dict[str, float]:
    seconds = max(scored.seconds, 1e-9)
    return {
        "pictures_per_second": round(len(scored.table.tasks) / seconds, 1),
        "seconds": round(seconds, 2),
    }
