"""What a person, or a machine, sees of a run over many pictures while it goes on and at its end."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gapcam.terminal import complain, counted, run_progress, tell
from gapcam.types import Failure

if TYPE_CHECKING:
    from collections.abc import Callable

    from gapcam.batch import Result, Summary

PROGRESS_SECONDS = 5.0
CLASSES_NAMED = 3


@dataclass(slots=True)
class Progress:
    """Counts a run as it goes.

    Attributes:
        total: How many pictures there are; None when unknown.
        done: How many are done now, failures included.
        failed: How many of them failed.
        earlier: How many an earlier run did.
        started: When, by the monotonic clock.
    """

    total: int | None
    done: int = 0
    failed: int = 0
    earlier: int = 0
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self.started

    @property
    def per_second(self) -> float:
        """Pictures done a second."""
        return self.done / self.seconds if self.seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """At this rate; None when that cannot be told."""
        if self.total is None or not self.done:
            return None
        return max(0, self.total - self.done - self.earlier) / self.per_second


class PersonWatching:
    """Failures as they come, a progress bar on a terminal, words at the end.

    Args:
        quiet: No bar and no words but failures.
        step: Moves the bar.
    """

    def __init__(self, *, quiet: bool, step: Callable[[Progress], None]) -> None:
        self._quiet, self._step = quiet, step

    def on_result(self, result: Result, progress: Progress) -> None:
        """A picture is done."""
        if isinstance(result, Failure):
            complain(result.error)
        self._step(progress)

    def on_earlier(self, progress: Progress) -> None:
        """Pictures are known to be done already."""
        self._step(progress)

    def started(self, model: str, recipe: str, chosen: tuple[int, int], total: int | None) -> None:
        """The first picture is next; the bar says it."""

    def finished(self, done: Summary, *, resumed: bool, several: bool, ignored: int) -> None:
        """What came of it."""
        if self._quiet:
            return
        earlier = f", {done.earlier} done before" if resumed else ""
        failed = f", {done.failed} failed" if done.failed else ""
        tell(f"{counted(done.localized, 'picture')} localized{earlier}{failed}. Written:")
        for path in done.written:
            tell(f"  {path}")
        for note in done.notes:
            tell(f"{note}.")
        if several and done.bottleneck is not None:
            tell(found_words(done))
            tell(time_words(done))
        if ignored:
            tell(f"{counted(ignored, 'other file')} ignored.")


class MachineWatching:
    """One JSON line an event on standard error."""

    def __init__(self) -> None:
        self._next = time.monotonic() + PROGRESS_SECONDS

    def on_result(self, result: Result, progress: Progress) -> None:
        """A picture is done: said when it failed, and every few seconds."""
        if isinstance(result, Failure):
            error = result.error
            event("failure", path=result.name, kind=error.kind, message=str(error))
        self._tick(progress)

    def on_earlier(self, progress: Progress) -> None:
        """Pictures are known to be done already."""
        self._tick(progress)

    def started(self, model: str, recipe: str, chosen: tuple[int, int], total: int | None) -> None:
        """The first picture is next."""
        workers, threads = chosen
        counts = {"pictures": total, "workers": workers, "threads_each": threads}
        event("started", model=model, recipe=recipe, **counts)

    def finished(self, done: Summary, *, resumed: bool, several: bool, ignored: int) -> None:
        """What came of it."""
        del resumed, several  # said by the counts
        event(
            "finished",
            pictures=done.localized + done.failed + done.earlier,
            localized=done.localized,
            failed=done.failed,
            earlier=done.earlier,
            seconds=round(done.wall_seconds, 3),
            stage_seconds={stage: round(s, 3) for stage, s in done.seconds.items()},
            bottleneck=done.bottleneck,
            classes=len(done.classes),
            workers=done.workers,
            ignored=ignored,
            written=[str(path) for path in done.written],
        )

    def _tick(self, progress: Progress) -> None:
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + PROGRESS_SECONDS
        left = progress.seconds_left
        event(
            "progress",
            done=progress.done,
            failed=progress.failed,
            earlier=progress.earlier,
            pictures=progress.total,
            seconds=round(progress.seconds, 3),
            per_second=round(progress.per_second, 3),
            seconds_left=None if left is None else round(left, 1),
        )


Watching = PersonWatching | MachineWatching


@contextmanager
def watching(total: int | None, *, quiet: bool, json_log: bool) -> Iterator[Watching]:
    """Who watches a run of `total` pictures."""
    if json_log:
        yield MachineWatching()
        return
    with run_progress(None if quiet else total, shown=not quiet) as step:
        yield PersonWatching(quiet=quiet, step=lambda p: step(p.done + p.earlier, p.failed))


def event(happened: str, /, **facts: Any) -> None:
    """One JSON line on standard error; `time` is seconds since 1970."""
    line = json.dumps({"event": happened, "time": round(time.time(), 3), **facts})
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def found_words(done: Summary) -> str:
    """The classes that were found."""
    few = list(done.classes.items())[:CLASSES_NAMED]
    named = ", ".join(f"{label} {count}" for label, count in few)
    more = ", ..." if len(done.classes) > CLASSES_NAMED else ""
    if not few:
        return "No class found."
    noun = "1 class" if len(done.classes) == 1 else f"{len(done.classes)} classes"
    return f"{noun} found (best of a picture): {named}{more}."


def time_words(done: Summary) -> str:
    """Where the time went."""
    pictures = done.localized + done.failed
    rate = pictures / done.wall_seconds if done.wall_seconds > 0 else 0.0
    stages = ", ".join(f"{stage} {s:.1f} s" for stage, s in done.seconds.items())
    return (
        f"{rate:.1f} pictures/s, {counted(done.workers, 'worker')}, 1 thread each. Seconds of all "
        f"workers: {stages}; most time: {done.bottleneck}."
    )
