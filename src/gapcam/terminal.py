"""What a person at the terminal sees: tables, words, progress. Used by the command line only."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gapcam.types import Localization, OutputError, Recipe

if TYPE_CHECKING:
    from rich.progress import TaskID


def recipe_lines(recipes: Iterable[Recipe]) -> Iterator[str]:
    """The recipes, a line each below a line of headings."""
    row = "{:8}  {:9}  {:8}  {:9}  {:9}  {:5}  {}".format
    yield row("recipe", "input", "refine", "normalize", "threshold", "cost", "source")
    for r in recipes:
        sides = "+".join(str(hw[0]) for hw in (r.input_size_hw, r.evidence_size_hw) if hw)
        cost = f"{r.cost:g} x" if r.cost else "?"
        yield row(r.name, sides, r.refine, r.normalize, f"{r.threshold:.2g}", cost, r.source)


def print_table(found: Localization) -> None:
    """One picture's detections, on standard output."""
    height, width = found.size_hw
    notes = "".join(f"  ({note})" for note in found.notes)
    table = Table(box=None, padding=(0, 1), show_header=False)
    table.add_column(justify="right", style="cyan")
    table.add_column()
    table.add_column()
    for d in found.detections:
        box = "no positive evidence"
        if d.box_xyxy is not None:
            box = "box " + " ".join(f"{v:.1f}" for v in d.box_xyxy)
        table.add_row(f"{d.score:.1%}", escape(d.label), box)
    with printing() as console:
        console.print(f"[bold]{escape(found.name)}[/]  {width} x {height}{notes}", soft_wrap=True)
        console.print(table)


class Ignoring(Protocol):
    """Inputs that say how many files they passed over."""

    @property
    def ignored(self) -> int:
        """How many."""


def say_ignored(inputs: Ignoring) -> None:
    """How many files were passed over, if any."""
    if inputs.ignored:
        tell(f"{counted(inputs.ignored, 'other file')} ignored.")


def counted(count: int, noun: str) -> str:
    """`1 picture`, `2 pictures`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def _console(*, stderr: bool = False) -> Console:
    return _Console(stderr=stderr, highlight=False, emoji=False)


@contextmanager
def printing(encoding: str | None = None) -> Iterator[Console]:
    """Results to standard output at once, whatever is in a file name.

    Raises:
        OutputError: It cannot be written.
        typer.Exit: The reader (head, less) has gone: there is nothing to say.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding=encoding, errors="backslashreplace")
    try:
        yield _console()
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        if isinstance(error, BrokenPipeError):
            raise typer.Exit(0) from error
        raise OutputError(
            f"standard output: cannot be written ({error.strerror}); "
            "send it elsewhere, or use --out"
        ) from error


def tell(text: str) -> None:
    """A word to the person, on standard error: standard output is for results."""
    sys.stderr.write(f"{text}\n")  # which a progress bar takes over, to print it above itself


def complain(error: BaseException | str) -> None:
    """An error, in one line."""
    tell(f"gapcam: {' '.join(str(error).splitlines())}")


@contextmanager
def progress(total: int) -> Iterator[Callable[[], None]]:
    """A progress bar on a terminal, nothing in a pipe."""
    console = _console(stderr=True)
    if not console.is_terminal or total < 2:
        yield lambda: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=total)
        yield lambda: progress.advance(task)


@contextmanager
def run_progress(total: int | None, *, shown: bool = True) -> Iterator[Callable[[int, int], None]]:
    """A bar with rate and time left on a terminal, nothing in a pipe; called with done and failed.

    Args:
        total: How many pictures; None when unknown.
        shown: Whether to show anything.
    """
    console = _console(stderr=True)
    if not shown or not console.is_terminal or (total is not None and total < 2):
        yield lambda *_: None
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    rate, failed = TextColumn("{task.fields[rate]}"), TextColumn("[red]{task.fields[failed]}")
    times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    with Progress(BarColumn(), MofNCompleteColumn(), rate, *times, failed, console=console) as bars:
        task = bars.add_task("", total=total, rate="", failed="")

        def step(done: int, bad: int) -> None:
            speed = bars.tasks[0].speed
            words = "" if speed is None else f"{speed:.1f}/s"
            bars.update(task, completed=done, rate=words, failed=f"{bad} failed" if bad else "")

        yield step


@contextmanager
def staged_progress(*, one_at_a_time: bool = False) -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar on a terminal, nothing in a pipe; called with words, done and total.

    Args:
        one_at_a_time: Each stage's bar takes the place of the one before: for many stages.
    """
    console = _console(stderr=True)
    if not console.is_terminal:
        yield lambda *_: None
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    words = TextColumn("{task.description}", markup=False)
    columns = (words, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bars:
        tasks: dict[str, TaskID] = {}

        def show(text: str, done: int, total: int) -> None:
            if text not in tasks:
                while one_at_a_time and tasks:
                    bars.remove_task(tasks.popitem()[1])
                tasks[text] = bars.add_task(text, total=total)
            bars.update(tasks[text], completed=done)

        yield show
