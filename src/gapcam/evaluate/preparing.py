"""A data set becomes tasks: its classes are looked up in the model, what cannot be is a problem."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from gapcam.data import ClassNames, Dataset, Example, Problem
from gapcam.evaluate.measure import Task
from gapcam.labels import class_id
from gapcam.types import ArgumentError, DataError, ModelCard

MOST_NAMED = 20
"""How many problems an error's text names; the rest are counted."""


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


def tasks_of(dataset: Dataset, card: ModelCard) -> tuple[list[Task], list[Problem]]:
    """The pictures with the model's ids of their classes, and what is wrong with the others.

    A class that the model does not know is one problem, however many pictures show it.
    """
    tasks: list[Task] = []
    problems: list[Problem] = []
    unknown: dict[str, list[Example]] = {}
    for example in dataset.examples:
        try:
            ids = tuple(_class_id(card, target.class_names) for target in example.targets)
        except ArgumentError as error:
            unknown.setdefault(str(error), []).append(example)
            continue
        if len(set(ids)) < len(ids):
            problems.append(_one_class_twice(example, card, ids))
        else:
            tasks.append(Task(example, ids))
    return tasks, [*(_unknown_class(e, where) for e, where in unknown.items()), *problems]


def _class_id(card: ModelCard, names: ClassNames) -> int:
    """The id of the first name that the model knows.

    Raises:
        ArgumentError: It knows none of them; what it says is about the main name.
    """
    for name in names:
        with suppress(ArgumentError):
            return class_id(card, name)
    return class_id(card, names[0])


def _unknown_class(error: str, examples: Sequence[Example]) -> Problem:
    first, count = examples[0], len(examples)
    pictures = first.name if count == 1 else f"{count} pictures, {first.name} the first"
    return Problem(first.where, f"{pictures}: {error}", first.name)


def _one_class_twice(example: Example, card: ModelCard, ids: tuple[int, ...]) -> Problem:
    twice = next(i for i in ids if ids.count(i) > 1)
    what = (
        f"{example.name}: two of its classes are both {card.labels[twice]!r} to {card.name}; give "
        "one name to each class"
    )
    return Problem(example.where, what, example.name)
