"""`gapcam localize --engine ray`: its options, and a run that other machines do."""

from __future__ import annotations

import os
from contextlib import redirect_stdout
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gapcam.cli.watch import Progress, watching
from gapcam.types import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gapcam.batch import Inputs, RunOptions, ShardDone
    from gapcam.batch.on_ray import Cluster
    from gapcam.cli.localize import Ways
    from gapcam.localizer import Localizer
    from gapcam.types import Failure


class Engine(str, Enum):
    """What does the work."""

    local = "local"
    ray = "ray"


EngineOption = Annotated[
    Engine,
    typer.Option(help="With --out: the cores of this machine, or workers on a Ray cluster."),
]
AddressOption = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="ADDRESS",
        show_default="RAY_ADDRESS, or this machine alone",
        help="With --engine ray: the cluster; auto for the one that this machine is part of, or "
        "HOST:PORT.",
    ),
]
ConcurrencyOption = Annotated[
    int | None,
    typer.Option(
        "--concurrency",
        min=1,
        metavar="N",
        show_default="one a core of the cluster",
        help="With --engine ray: how many workers, a core each.",
    ),
]
GpusOption = Annotated[
    float | None,
    typer.Option(
        "--gpus-per-worker",
        metavar="G",
        show_default="0",
        help="With --engine ray: GPUs for each worker, for a model with --set engine=torch --set "
        "device=cuda.",
    ),
]


def chosen_cluster(
    engine: Engine,
    address: str | None,
    concurrency: int | None,
    gpus: float | None,
    workers: int | None,
) -> Cluster | None:
    """The cluster that the options mean; None: this machine's own threads.

    Raises:
        ArgumentError: Options that do not go together, or Ray is not installed.
    """
    given = {"--address": address, "--concurrency": concurrency, "--gpus-per-worker": gpus}
    if engine is not Engine.ray:
        lost = [option for option, value in given.items() if value is not None]
        if lost:
            raise ArgumentError(f"{lost[0]} is for clusters: add --engine ray")
        return None
    if workers is not None:
        raise ArgumentError("--workers is for this machine: with --engine ray use --concurrency")
    from gapcam.batch.on_ray import Cluster

    return Cluster(address, concurrency, gpus or 0)


def write_on_ray(
    localizer: Localizer,
    inputs: Inputs,
    options: RunOptions,
    cluster: Cluster,
    reopen: Callable[[], Localizer],
    ways: Ways,
) -> int:
    """Results to a folder, made on a cluster, with progress; returns how many failed."""
    from gapcam.batch.on_ray import joined, localize_on_ray

    count = inputs.count()
    total = None if count is None else count + len(inputs.failures)
    ways.tell("joining the Ray cluster")
    # Ray prints to standard output when a worker dies; it starts another, and its logs say why.
    with (
        Path(os.devnull).open("w") as nowhere,
        redirect_stdout(nowhere),
        joined(cluster) as workers,
        watching(total, quiet=ways.quiet, json_log=ways.json_log) as watcher,
    ):
        progress = Progress(total)
        watcher.started(localizer.card.name, localizer.recipe.name, (workers, 1), total)

        def on_shard(shard: ShardDone, failures: Sequence[Failure]) -> None:
            progress.done += shard.localized + shard.failed
            progress.failed += shard.failed
            for failure in failures:
                watcher.on_result(failure, progress)
            watcher.on_earlier(progress)

        def on_earlier(pictures: int) -> None:
            progress.earlier += pictures
            watcher.on_earlier(progress)

        done = localize_on_ray(
            *(localizer, inputs, options, cluster),
            reopen=reopen,
            on_shard=on_shard,
            on_earlier=on_earlier,
        )
    taken_up = options.resume or options.retry_errors
    watcher.finished(done, resumed=taken_up, several=count != 1, ignored=inputs.ignored)
    return done.failed
