"""A run over many pictures, from inputs to a folder of results; what joins the other parts."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np

from gapcam import __version__
from gapcam.batch.finish import extras, publish
from gapcam.batch.local import run_locally
from gapcam.batch.manifest import FOLDER, RunFolder
from gapcam.batch.options import (
    STAGES,
    Result,
    RunOptions,
    RunSpec,
    ShardDone,
    Summary,
    Tally,
    Wanted,
    Watch,
)
from gapcam.batch.plan import (
    Entry,
    FileItem,
    FileReader,
    Inputs,
    Reader,
    ShardTask,
    as_inputs,
    shard_size,
)
from gapcam.batch.takeup import left_to_do, only_failures, split_results
from gapcam.batch.work import localize_entries
from gapcam.known_labels import KnownLabels, read_labels
from gapcam.localizer import Localizer
from gapcam.parallel import CHUNK, cores, in_chunks
from gapcam.paths import Expansion
from gapcam.types import ArgumentError, IntArray

WORDS_OF_RECIPE = frozenset({"source", "chosen_on", "chosen_score", "cost"})
"""What a recipe says of itself and does not change its results."""

Work = Callable[[Iterator[ShardTask], Callable[[Result], None]], Iterable[ShardDone]]
"""Does shards, wherever: gives what came of each as it ends."""


def localize_many(
    localizer: Localizer,
    inputs: Iterable[str] | Inputs,
    wanted: IntArray | int,
    workers: int | None = None,
) -> Generator[Result, None, None]:
    """Localize many pictures, in order; memory does not grow.

    Each worker reads a chunk of pictures, runs it and cuts its boxes. That keeps every core busy
    with work of its own when the localizer was loaded with `threads=1`: with more, the workers'
    forward passes and reads take the cores from one another.

    Args:
        localizer: What localizes.
        inputs: Paths of picture files, or inputs; read lazily.
        wanted: As `Localizer.wanted` gives it.
        workers: Threads; one a core when None.

    Yields:
        One result a picture; one that cannot be read is a `Failure` in its place.
    """
    reader: Reader = FileReader(Path.cwd())
    entries: Iterator[Entry] = map(FileItem, cast("Iterable[str]", inputs))
    count = len(inputs) if isinstance(inputs, Sequence) else None
    if hasattr(inputs, "reader"):
        known = cast("Inputs", inputs)
        reader, entries, count = known.reader, iter(known), known.count()
    batch = min(CHUNK, shard_size(count))
    work = partial(_chunk, localizer, reader, wanted, batch)
    yield from in_chunks(work, entries, workers, batch)


def localize_into(
    localizer: Localizer,
    inputs: Inputs | Expansion,
    options: RunOptions,
    on_result: Callable[[Result], None] = lambda _: None,
    workers: int | None = None,
    watch: Watch | None = None,
) -> Summary:
    """Localize pictures into a folder: records, failures, annotations, overlays, contact sheet.

    Args:
        localizer: What localizes; with `threads=1` where there are several workers.
        inputs: The pictures.
        options: What to write and where.
        on_result: Called with each result, by one thread at a time.
        workers: Threads; one a core when None.
        watch: Told more of what happens; `on_result` is then left out.

    Raises:
        ArgumentError: An unknown class, `top` or the size of a shard out of range, or a run there
            that does not fit.
        OutputError: Something cannot be written; what was written stays and can be resumed.
    """
    plan = prepare(localizer, as_inputs(inputs), options)
    count = workers or cores()

    def work(tasks: Iterator[ShardTask], told: Callable[[Result], None]) -> Iterable[ShardDone]:
        return run_locally(localizer, plan.spec, tasks, count, told)

    return plan.carry_out(localizer, work, watch or Watch(on_result), count)


@dataclass(frozen=True, slots=True)
class Plan:
    """A run that is ready to start: its folder is there, its settings are written.

    Attributes:
        run: Its folder.
        spec: What workers need.
        inputs: The pictures.
        options: What was asked.
        size: Pictures a shard.
        started_in: The working folder of the run that is taken up, or this one.
    """

    run: RunFolder
    spec: RunSpec
    inputs: Inputs
    options: RunOptions
    size: int
    started_in: str

    def tasks(self, on_earlier: Callable[[int], None]) -> Iterator[ShardTask]:
        """What is left to do, shard by shard; see `gapcam.batch.takeup`."""
        if self.options.retry_errors:
            return only_failures(self.spec, self.inputs, self.size, self.started_in, on_earlier)
        return left_to_do(self.spec, self.inputs, self.size, self.started_in, on_earlier)

    def carry_out(self, localizer: Localizer, work: Work, watch: Watch, workers: int) -> Summary:
        """Do what is left, wherever `work` does it, and write the results.

        Args:
            localizer: Draws the contact sheet.
            work: Does shards.
            watch: Who is told.
            workers: How many do shards at once, for the summary.

        Raises:
            ArgumentError: See `localize_into`.
            OutputError: See `localize_into`.
        """
        tally = Tally()

        def earlier(count: int) -> None:
            tally.earlier += count
            watch.on_earlier(count)

        start = time.perf_counter()
        for done in work(self.tasks(earlier), watch.on_result):
            tally.add(done)
        seconds = time.perf_counter() - start
        written = publish(self.run)
        total = tally.localized + tally.failed + tally.earlier
        more, notes = extras(localizer, self.run, self.spec, self.inputs, self.options, total)
        known = self.spec.wanted
        return Summary(
            localized=tally.localized,
            failed=tally.failed,
            earlier=tally.earlier,
            written=(*written, *more),
            wall_seconds=seconds,
            seconds={s: tally.seconds[s] for s in STAGES if s in tally.seconds},
            classes=dict(tally.classes.most_common()),
            workers=workers,
            notes=(*(known.notes if isinstance(known, KnownLabels) else ()), *notes),
        )


def prepare(localizer: Localizer, inputs: Inputs, options: RunOptions) -> Plan:
    """Check a run against what is in its folder, and make the folder ready.

    Raises:
        ArgumentError: See `localize_into`.
        OutputError: The folder cannot be written.
    """
    wanted: Wanted = localizer.wanted(options.classes, options.top)
    if options.labels is not None:
        wanted = read_labels(options.labels, inputs, localizer.card)
    if options.shards == "parquet":
        import gapcam.batch.parquet  # noqa: F401  # says at once when what it needs is missing
    run = RunFolder(options.out_dir, options.shards or "jsonl", options.shards is not None)
    settings = _settings(localizer, wanted, options)
    taken_up = options.resume or options.retry_errors
    earlier = run.earlier_settings() if taken_up else None
    if options.retry_errors and (earlier is None or run.is_unfinished()):
        raise ArgumentError(
            f"{options.out_dir}: --retry-errors needs a finished run, there is "
            + ("none" if earlier is None else "an unfinished one: --resume also tries errors again")
        )
    if earlier is not None:
        run.check_settings(earlier, settings)
    size = _size(run, inputs, options, earlier)
    started_in = str((earlier or {}).get(FOLDER, Path.cwd()))
    spec = _spec(localizer, inputs, options, run, wanted, size)
    if earlier is not None and not run.is_unfinished() and run.results.exists():
        if run.keep_shards:
            run.take_back_shards()
        else:
            split_results(run, spec, size, started_in)
    run.begin({**settings, "shard_size": size}, resume=taken_up)
    return Plan(run, spec, inputs, options, size, started_in)


def _size(
    run: RunFolder, inputs: Inputs, options: RunOptions, earlier: Mapping[str, Any] | None
) -> int:
    """Pictures a shard; a run that is taken up keeps its own."""
    if earlier is None:
        return shard_size(inputs.count(), options.shard_size)
    size = earlier.get("shard_size")
    if not isinstance(size, int) or size < 1:
        raise ArgumentError(
            f"{run.settings}: expected the size of its shards, got {size!r}; start anew in another "
            "folder"
        )
    if options.shard_size is not None:
        run.check_settings(earlier, {"shard_size": options.shard_size})
    return size


def _chunk(
    localizer: Localizer,
    reader: Reader,
    wanted: IntArray | int,
    batch: int,
    entries: Sequence[Entry],
) -> list[Result]:
    return localize_entries(localizer, reader, entries, wanted, batch)


def _settings(localizer: Localizer, wanted: Wanted, options: RunOptions) -> dict[str, Any]:
    more: dict[str, Any] = {}
    if isinstance(wanted, KnownLabels):
        more["labels"] = wanted.fingerprint
    if options.format == "coco":
        more["masks"] = True
    return {
        "model": localizer.card.name,
        "model_sha256": localizer.engine.fingerprint,
        "recipe": {k: v for k, v in asdict(localizer.recipe).items() if k not in WORDS_OF_RECIPE},
        "classes": wanted.tolist() if isinstance(wanted, np.ndarray) else None,
        "top": wanted if isinstance(wanted, int) else None,
        "overlays": options.overlays,
        "shards": options.shards,
        FOLDER: str(Path.cwd()),
        **more,
    }


def _spec(
    localizer: Localizer,
    inputs: Inputs,
    options: RunOptions,
    run: RunFolder,
    wanted: Wanted,
    size: int,
) -> RunSpec:
    settings = _settings(localizer, wanted, options)
    said = ("model", "model_sha256", "recipe", "classes", "top", "labels")
    about = {k: settings[k] for k in said if k in settings}
    return RunSpec(
        folder=run.work,
        out_dir=options.out_dir,
        reader=inputs.reader,
        wanted=wanted,
        batch=min(CHUNK, size),
        kind=run.kind,
        overlays=options.overlays,
        about={"gapcam": __version__, **about},
        base=str(Path.cwd()),
        masks="masks" in settings,
    )
