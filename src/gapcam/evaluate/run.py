"""Score a localizer on a data set, under a protocol, with thresholds whose origin is known."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from typing import Any

from gapcam.data import Dataset, Problem
from gapcam.evaluate.cuts import Cut
from gapcam.evaluate.measure import Task, measure
from gapcam.evaluate.preparing import BadRowsError, tasks_of
from gapcam.evaluate.protocols import Protocol, protocol_named
from gapcam.evaluate.provenance import (
    oracle_centre,
    recipe_cut,
    selection_centre,
    selection_cut,
    shared_pictures,
)
from gapcam.evaluate.scores import score
from gapcam.evaluate.table import Table
from gapcam.localizer import Localizer
from gapcam.parallel import in_chunks
from gapcam.types import DataError, Failure, Recipe


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
class _Job:
    """One set to score, and what is wrong with it."""

    dataset: Dataset
    rules: Protocol
    tasks: list[Task]
    problems: list[Problem]


@dataclass(frozen=True, slots=True)
class _Scored:
    """A table, everything left out of it, whether it was cut short, and the time it took."""

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

    A picture that cannot be decoded is left out and named in the result. A KeyboardInterrupt that
    `on_progress` raises while the data set is scored gives the result of what was done until then,
    marked `partial`.

    Args:
        localizer: Loaded with `threads=1` it is quickest: pictures go in parallel.
        dataset: What to score on.
        protocol: `original`, `wsol` or `ilsvrc`: see `gapcam.evaluate.protocols`.
        select_on: Another set, on which threshold and centred box are chosen. Without it the
            recipe's threshold is reported.
        skip_bad: Go on without the rows that have problems, and name them in the result; by
            default they are an error, as scores over fewer pictures do not compare.
        workers: Threads; one a core when None.
        on_progress: Called for every picture.

    Raises:
        ArgumentError: An unknown protocol.
        BadRowsError: The data has problems and `skip_bad` is false.
        DataError: Nothing is left to score, or the two sets do not have the same kind of truth.
    """
    prepare = partial(_prepare, localizer, protocol, skip_bad)
    score_all = partial(_score_all, localizer, workers, on_progress)
    job, other = prepare(dataset), None if select_on is None else prepare(select_on)
    cuts, centred, selection = [recipe_cut(localizer.recipe, job.tasks)], None, None
    if other is not None:
        _check_same_kind(job, other)
        shared = shared_pictures(job.tasks, other.tasks)
        chosen = score_all(other, [], "choosing on")
        if chosen.partial:
            raise KeyboardInterrupt
        cuts.append(selection_cut(chosen.table, other.rules, other.dataset, shared))
        centred = selection_centre(chosen.table, other.rules, other.dataset, shared)
        selection = {**_about(other, chosen), "n": len(chosen.table.tasks), "shared": shared}
    kept = [job.rules.index_of(cut.threshold) for cut in cuts if cut.threshold is not None]
    scored = score_all(job, kept, "scoring")
    centred = centred or oracle_centre(scored.table, job.rules)
    result = {
        **_heading(localizer, job, scored, selection),
        **score(scored.table, job.rules, cuts, centred),
        "speed": _speed(scored),
    }
    result["by_class"] = [
        {"class": localizer.card.labels[row["class_id"]], **row} for row in result["by_class"]
    ]
    return Evaluation(result, scored.table, job.rules, cuts[-1])


def _prepare(localizer: Localizer, protocol: str, skip_bad: bool, dataset: Dataset) -> _Job:
    rules = protocol_named(protocol, localizer.recipe, inclusive_ends=dataset.inclusive_ends)
    tasks, unknown = tasks_of(dataset, localizer.card)
    problems = [*dataset.problems, *unknown]
    if problems and not skip_bad:
        raise BadRowsError(dataset, problems)
    if not tasks:
        raise DataError(f"{dataset.name}: no picture is left to score")
    return _Job(dataset, rules, tasks, problems)


def _check_same_kind(job: _Job, other: _Job) -> None:
    """Thresholds for boxes are chosen on boxes, those for masks on masks."""
    kinds = [
        "boxes"
        if any(target.boxes for task in one.tasks for target in task.example.targets)
        else "masks"
        for one in (job, other)
    ]
    if kinds[0] != kinds[1]:
        raise DataError(
            f"{other.dataset.name}: expected {kinds[0]} to choose a threshold for "
            f"{job.dataset.name} on, got {kinds[1]}; give a set of the same kind"
        )


def _score_all(
    localizer: Localizer,
    workers: int | None,
    on_progress: Callable[[Progress], None],
    job: _Job,
    kept: Sequence[int],
    phase: str,
) -> _Scored:
    """Score every picture of a set, in parallel and in order."""
    table, left_out = Table(len(job.rules.thresholds), kept), list(job.problems)
    words, total = f"{phase} {job.dataset.name}", len(job.tasks)
    started, stopped = time.perf_counter(), False
    try:
        on_progress(Progress(words, 0, total))
        work = partial(measure, localizer, job.rules)
        with closing(in_chunks(work, job.tasks, workers)) as results:
            for done, (task, measured) in enumerate(zip(job.tasks, results, strict=True), start=1):
                if isinstance(measured, Failure):
                    example = task.example
                    left_out.append(Problem(example.where, str(measured.error), example.name))
                else:
                    table.add(task, measured)
                on_progress(Progress(words, done, total))
    except KeyboardInterrupt:
        stopped = True
    if not table.tasks:
        if stopped:
            raise KeyboardInterrupt
        raise BadRowsError(job.dataset, left_out)
    return _Scored(table, tuple(left_out), stopped, time.perf_counter() - started)


def _about(job: _Job, scored: _Scored) -> dict[str, Any]:
    dataset = job.dataset
    return {
        "name": dataset.name,
        "layout": dataset.layout,
        "left_out": [{"where": problem.where, "what": problem.what} for problem in scored.left_out],
        "notes": [*dataset.notes, *job.rules.notes()],
    }


def _heading(
    localizer: Localizer, job: _Job, scored: _Scored, selection: dict[str, Any] | None
) -> dict[str, Any]:
    """What was scored with what, and how: enough to do it again."""
    card, recipe, rules = localizer.card, localizer.recipe, job.rules
    return {
        "gapcam": version("gapcam"),
        "partial": scored.partial,
        "n_total": max(job.dataset.pictures, len(job.dataset.examples)),
        "data": _about(job, scored),
        "selection": selection,
        "model": {
            "name": card.name,
            "classes": len(card.labels),
            "fingerprint": localizer.engine.fingerprint,
            "sources": dict(card.sources),
        },
        "recipe": _recipe_facts(recipe),
        "protocol": {"name": rules.name, "source": rules.source, **rules.statements()},
    }


def _recipe_facts(recipe: Recipe) -> dict[str, Any]:
    """Every field, sizes as JSON has them."""
    facts = asdict(recipe)
    return {k: list(v) if isinstance(v, tuple) else v for k, v in facts.items()}


def _speed(scored: _Scored) -> dict[str, float]:
    seconds = max(scored.seconds, 1e-9)
    return {
        "pictures_per_second": round(len(scored.table.tasks) / seconds, 1),
        "seconds": round(seconds, 2),
    }
