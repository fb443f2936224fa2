"""`gapcam localize`: what is in each picture, and where."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from gapcam.cli.app import (
    DONE,
    INTERRUPTED,
    SOME_FAILED,
    WRONG_USAGE,
    LayerOption,
    ModelOption,
    ModelSettings,
    RecipeOption,
    app,
    model_settings,
    reporting_errors,
)
from gapcam.cli.cluster import (
    AddressOption,
    ConcurrencyOption,
    Engine,
    EngineOption,
    GpusOption,
    chosen_cluster,
    write_on_ray,
)
from gapcam.cli.localize_options import (
    RECORDS,
    ClassOption,
    ColumnOption,
    Format,
    FormatOption,
    JsonLogOption,
    OutOption,
    OverlaysOption,
    PathsArgument,
    QuietOption,
    ResumeOption,
    RetryOption,
    ShardSizeOption,
    ShardsOption,
    TopOption,
    WorkersOption,
    class_name,
)
from gapcam.cli.training_sets import (
    LabelsOption,
    MinScoreOption,
    RejectOption,
    ReviewOption,
    check_set,
)
from gapcam.cli.watch import Progress, event, watching
from gapcam.terminal import complain, print_table, printing, say_ignored, tell
from gapcam.types import ArgumentError, Failure, GapcamError, Localization

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gapcam.batch import Inputs, Result, RunOptions, ShardKind
    from gapcam.localizer import Localizer

TOP_IN_ANNOTATIONS = 1
TAKING_UP = ("--resume", "--retry-errors")
INTERRUPTED_WORDS = "interrupted; with --out, add --resume to take the run up again"


@dataclass(frozen=True, slots=True)
class Ways:
    """How a run is done and shown, which its results do not depend on."""

    workers: int | None
    quiet: bool
    json_log: bool

    @property
    def tell(self) -> Callable[[str], None]:
        """Says what takes long before the first picture."""
        if self.json_log:
            return lambda text: event("note", message=text)
        return (lambda _: None) if self.quiet else tell


@app.command(no_args_is_help=True)
def localize(
    paths: PathsArgument,
    model: ModelOption = None,
    settings: ModelSettings = None,
    layer: LayerOption = None,
    recipe: RecipeOption = None,
    top: TopOption = None,
    classes: ClassOption = None,
    out: OutOption = None,
    format: FormatOption = None,  # noqa: A002
    overlays: OverlaysOption = True,
    resume: ResumeOption = False,
    retry_errors: RetryOption = False,
    labels: LabelsOption = None,
    min_score: MinScoreOption = 0.0,
    review: ReviewOption = None,
    reject: RejectOption = None,
    column: ColumnOption = None,
    shards: ShardsOption = False,
    shard_size: ShardSizeOption = None,
    workers: WorkersOption = None,
    engine: EngineOption = Engine.local,
    address: AddressOption = None,
    concurrency: ConcurrencyOption = None,
    gpus_per_worker: GpusOption = None,
    quiet: QuietOption = False,
    json_log: JsonLogOption = False,
) -> None:
    """Say what is in each picture and where.

    Exit code: 0 all pictures done, 1 some failed (each is named, the rest are done), 2 wrong
    usage. Boxes are x0, y0, x1, y1 in pixels of the picture as it is shown (after EXIF rotation).
    """
    ways = Ways(workers, quiet, json_log)
    with reporting_errors(INTERRUPTED_WORDS), _errors_as_events(json_log):
        _check_options(top, classes, out, format)
        of_annotations = {"--min-score": min_score, "--reject": reject}
        check_set(labels, top, classes, of_annotations, annotates=format not in RECORDS)
        needs_out = {
            "--resume": resume,
            "--retry-errors": retry_errors,
            "--labels": labels,
            "--review": review,
            "--shards": shards,
            "--shard-size": shard_size,
            "--json-log": json_log,
            "--engine ray": engine is Engine.ray,
        }
        _check_needs_out(out, needs_out)
        cluster = chosen_cluster(engine, address, concurrency, gpus_per_worker, workers)
        from gapcam.inputs import open_inputs
        from gapcam.loading import load

        inputs = open_inputs(paths, sys.stdin, column=column)
        # Many pictures: a thread each on every core; one picture: every core on it.
        threads = 0 if inputs.count() == 1 else 1
        how = {"recipe": recipe, **model_settings(settings, layer)}
        here = {**how, "device": "cpu"} if gpus_per_worker else how  # the GPUs are the workers'
        localizer = load(model, threads=threads, tell=ways.tell, **here)
        names = tuple(class_name(name) for name in classes) if classes else None
        if top is None and names is None and labels is None and format not in RECORDS:
            top = TOP_IN_ANNOTATIONS
        if out is None:
            failed = _print_results(localizer, inputs, names, top, format, ways)
        else:
            from gapcam.batch import RunOptions, WithoutResults

            converter = None if format in RECORDS else format.value
            options = RunOptions(
                *(out, names, top, converter, overlays, resume),
                shards=_kept_shards(format, shards),
                shard_size=shard_size,
                retry_errors=retry_errors,
                labels=labels,
                min_score=min_score,
                review=review,
                reject=tuple(reject or ()),
            )
            pictures = WithoutResults(inputs, out)
            if cluster is None:
                failed = _write_results(localizer, pictures, options, ways)
            else:
                reopen = partial(load, model, threads=1, **how)
                failed = write_on_ray(localizer, pictures, options, cluster, reopen, ways)
        raise typer.Exit(SOME_FAILED if failed else DONE)


@contextmanager
def _errors_as_events(wanted: bool) -> Iterator[None]:
    """With --json-log, the error that ends a run is an event too."""
    try:
        yield
    except GapcamError as error:
        if not wanted:
            raise
        event("error", kind=error.kind, message=str(error))
        raise typer.Exit(
            WRONG_USAGE if isinstance(error, ArgumentError) else SOME_FAILED
        ) from error
    except KeyboardInterrupt as error:
        if not wanted:
            raise
        event("interrupted", message=INTERRUPTED_WORDS)
        raise typer.Exit(INTERRUPTED) from error


def _check_needs_out(out: Path | None, given: Mapping[str, object]) -> None:
    missing = [option for option, value in given.items() if value] if out is None else []
    if missing:
        what = "which run to take up" if missing[0] in TAKING_UP else "where to write"
        raise ArgumentError(f"{missing[0]} needs --out: say {what}")
    if given["--resume"] and given["--retry-errors"]:
        raise ArgumentError(
            "--resume and --retry-errors exclude each other: --resume also retries what failed"
        )


def _kept_shards(format: Format | None, shards: bool) -> ShardKind | None:  # noqa: A002
    if format is Format.parquet:
        return "parquet"
    return "jsonl" if shards else None


def _check_options(
    top: int | None,
    classes: list[str] | None,
    out: Path | None,
    format: Format | None,  # noqa: A002
) -> None:
    if top is not None and classes:
        raise ArgumentError("--top and --class exclude each other: give one of them")
    if out is None and format not in (None, Format.jsonl):
        raise ArgumentError(f"--format {format.value} needs --out: say where to write")


def _print_results(
    localizer: Localizer,
    inputs: Inputs,
    classes: tuple[str | int, ...] | None,
    top: int | None,
    format: Format | None,  # noqa: A002
    ways: Ways,
) -> int:
    """Results to standard output, a picture at a time; returns how many failed."""
    from gapcam.batch import localize_many, record_of
    from gapcam.formats import record_line

    wanted = localizer.wanted(classes, top)
    failed = 0
    with closing(localize_many(localizer, inputs, wanted, ways.workers)) as results:
        for result in chain(inputs.failures, results):
            if isinstance(result, Failure):
                failed += 1
                complain(result.error)
            if format is not None:
                with printing(encoding="utf-8"):
                    sys.stdout.write(record_line(record_of(result)))
            elif isinstance(result, Localization):
                print_table(result)
    if not ways.quiet:
        say_ignored(inputs)
    return failed


def _write_results(localizer: Localizer, inputs: Inputs, options: RunOptions, ways: Ways) -> int:
    """Results to a folder, with progress; returns how many failed."""
    from gapcam.batch import Watch, localize_into
    from gapcam.parallel import cores

    single: list[Localization] = []
    count = inputs.count()
    total = None if count is None else count + len(inputs.failures)
    # As `localize` loads the network: one picture gets every core, many get a core each.
    workers, threads = (1, cores()) if count == 1 else (ways.workers or cores(), 1)
    with watching(total, quiet=ways.quiet, json_log=ways.json_log) as watcher:
        progress = Progress(total)
        watcher.started(localizer.card.name, localizer.recipe.name, (workers, threads), total)

        def on_result(result: Result) -> None:
            progress.done += 1
            progress.failed += isinstance(result, Failure)
            watcher.on_result(result, progress)
            if count == 1 and isinstance(result, Localization):
                single.append(result)

        def on_earlier(pictures: int) -> None:
            progress.earlier += pictures
            watcher.on_earlier(progress)

        watch = Watch(on_result, on_earlier)
        done = localize_into(localizer, inputs, options, workers=workers, watch=watch)
    taken_up = options.resume or options.retry_errors
    watcher.finished(done, resumed=taken_up, several=count != 1, ignored=inputs.ignored)
    for result in single:
        print_table(result)
    return done.failed
