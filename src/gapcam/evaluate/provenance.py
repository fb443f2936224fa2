"""Where thresholds and centred boxes come from, and whether they saw the pictures they score."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import cache
from importlib import resources
from pathlib import Path, PurePosixPath

from gapcam.data import Dataset
from gapcam.evaluate.cuts import Centred, Cut
from gapcam.evaluate.measure import Task
from gapcam.evaluate.protocols import PIXEL_SELECTION_RULE, SELECTION_RULE, Protocol
from gapcam.evaluate.scores import best_centre, best_threshold
from gapcam.evaluate.table import Table
from gapcam.recipes import DEFAULT
from gapcam.types import DataError, Recipe

UPPER_BOUND = "an upper bound"


def recipe_cut(recipe: Recipe, tasks: Sequence[Task]) -> Cut:
    """The recipe's threshold: an upper bound where it was chosen on pictures that are scored."""
    seen = 0
    if recipe.chosen_on == DEFAULT.chosen_on:
        names = _chosen_on()
        seen = sum(PurePosixPath(task.example.name).stem in names for task in tasks)
    mark = f"; {seen} of those are scored here: {UPPER_BOUND}" if seen else ""
    chosen_on = recipe.chosen_on.split(" (")[0]  # without the command that chose it
    words = f"fixed by the recipe {recipe.name!r} (chosen on {chosen_on}{mark})"
    return Cut("recipe", words, recipe.threshold, upper_bound=seen > 0)


@cache
def _chosen_on() -> frozenset[str]:
    """The names of the ILSVRC validation pictures on which our recipes were chosen."""
    text = resources.files("gapcam.evaluate").joinpath("chosen_on.txt").read_text("utf-8")
    return frozenset(line for line in text.splitlines() if not line.startswith("#"))


def selection_cut(table: Table, rules: Protocol, dataset: Dataset, shared: int) -> Cut:
    """The threshold that is best on another set."""
    rule = SELECTION_RULE if table.boxed.any() else PIXEL_SELECTION_RULE
    words = f"{_origin(dataset, len(table.tasks), shared)}: {rule}"
    return Cut("selection", words, best_threshold(table, rules), upper_bound=shared > 0)


def selection_centre(
    table: Table, rules: Protocol, dataset: Dataset, shared: int
) -> Centred | None:
    """The centred box that is best on another set; None without boxes."""
    return _centre(table, rules, _origin(dataset, len(table.tasks), shared), upper_bound=shared > 0)


def oracle_centre(table: Table, rules: Protocol) -> Centred | None:
    """The centred box that is best on the scored pictures; None without boxes."""
    origin = f"best on the scored pictures: {UPPER_BOUND}"
    return _centre(table, rules, origin, upper_bound=True)


def _centre(table: Table, rules: Protocol, origin: str, *, upper_bound: bool) -> Centred | None:
    share = best_centre(table, rules)
    if share is None:
        return None
    sides = f"{100 * share[0]:.0f} % of the width and {100 * share[1]:.0f} % of the height"
    return Centred(share, f"the centred box, {sides}, {origin}", upper_bound)


def _origin(dataset: Dataset, pictures: int, shared: int) -> str:
    mark = f", {shared} of them scored as well: {UPPER_BOUND}" if shared else ""
    count = f"{pictures} picture" if pictures == 1 else f"{pictures} pictures"
    return f"chosen on {dataset.name} ({count}{mark})"


def shared_pictures(tasks: Iterable[Task], others: Iterable[Task]) -> int:
    """How many pictures of one set are in another: the same file, or a copy of it.

    Raises:
        DataError: A picture cannot be read.
    """
    own = [task.example.path.resolve() for task in tasks]
    theirs = [task.example.path.resolve() for task in others]
    same = set(own) & set(theirs)
    sizes = {_size(path) for path in theirs}
    suspects = [path for path in own if path not in same and _size(path) in sizes]
    wanted = {_size(path) for path in suspects}
    digests = {_digest(path) for path in theirs if _size(path) in wanted}
    return len(same) + sum(_digest(path) in digests for path in suspects)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the picture") from error


def _digest(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return hashlib.sha256(file.read()).digest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the picture") from error
