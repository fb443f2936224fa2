"""Shards on many machines: Ray Data gives each to a worker, which does what a local thread does.

The machine that starts the run cuts the inputs into shards, knows what is left, counts, and makes
results of the shards at the end. Workers read pictures and write shards themselves; only tasks and
counts go through Ray. Why it is built so: `docs/decisions/0012-ray.md`.

Imports ray: imported only when a cluster is asked for.
"""

from __future__ import annotations

import logging
import os
import pickle
import socket
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

from gapcam.batch.manifest import SETTINGS
from gapcam.batch.options import Result, RunOptions, ShardDone, Summary, Watch
from gapcam.batch.plan import Inputs, ShardTask, as_inputs
from gapcam.batch.run import Plan, prepare
from gapcam.batch.shards import read_shard, shard_path
from gapcam.localizer import Localizer
from gapcam.parallel import cores
from gapcam.paths import Expansion
from gapcam.types import ArgumentError, Failure, GapcamError, OutputError, PictureError

try:
    import ray
    import ray.data
except ModuleNotFoundError as missing:
    raise ArgumentError(
        f"{missing.name} is not installed, and clusters need it. Run: pip install 'gapcam[ray]'"
    ) from missing

from gapcam.batch.ray_worker import (
    ClusterError,
    HeldModel,
    Job,
    Outcome,
    Worker,
    row_of,
    sha256_of,
    versions,
)

SHARDS_A_WORKER = 64
"""How many shards a worker gets at a time (in windows): about ten minutes of work."""

WINDOW_BYTES = 2**28
"""The most bytes of tasks that are held at a time, and as many again that are read ahead."""

STORE_BYTES = 2**30
"""Memory for Ray's object store where we start Ray: the model and two windows."""

CONNECT_SECONDS = 10
ADDRESS_SET = "RAY_ADDRESS"

_ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}
"""No usage reports, and no errors that Ray mends itself: only taken from the environment."""

_ERRORS = {kind.kind: kind for kind in (ArgumentError, OutputError, PictureError)}

OnShard = Callable[[ShardDone, Sequence[Failure]], None]


def _check_address(address: str) -> None:
    if address.startswith("ray://"):
        raise ArgumentError(
            f"{address}: Ray Data does not run through Ray Client; run gapcam on a machine of the "
            "cluster with --address auto, or by 'ray job submit'"
        )


@dataclass(frozen=True, slots=True)
class Cluster:
    """Which cluster, and how much of it.

    Attributes:
        address: `auto` for the cluster that this machine is part of, or `HOST:PORT`; None:
            `RAY_ADDRESS` where that is set, else a cluster of this machine alone, for the time of
            the run. Not `ray://`: Ray Data does not run through Ray Client.
        concurrency: Workers at once; None: one a core, or as many as the GPUs are enough for.
        gpus_per_worker: GPUs that each worker gets; may be a fraction. Needs a model on the torch
            engine.
    """

    address: str | None = None
    concurrency: int | None = None
    gpus_per_worker: float = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            ArgumentError: A number out of range, or the address of a Ray Client server.
        """
        _check_address(self.address or "")
        if self.concurrency is not None and self.concurrency < 1:
            raise ArgumentError(f"concurrency: expected 1 or more, got {self.concurrency}")
        gpus = self.gpus_per_worker
        if not 0 <= gpus < float("inf") or (gpus > 1 and gpus != int(gpus)):
            raise ArgumentError(
                f"GPUs a worker: expected a fraction below 1 or a whole number, got {gpus:g}"
            )


def localize_on_ray(
    localizer: Localizer,
    inputs: Inputs | Expansion,
    options: RunOptions,
    cluster: Cluster = Cluster(),
    *,
    reopen: Callable[[], Localizer] | None = None,
    on_shard: OnShard = lambda _done, _failures: None,
    on_earlier: Callable[[int], None] = lambda _: None,
) -> Summary:
    """`localize_into` on a Ray cluster: the same folder with the same bytes.

    All nodes must see the output folder, the folder that the run is started in, and pictures that
    are files, under the same paths.

    Args:
        localizer: What localizes here, for the contact sheet; workers open the same model.
        inputs: The pictures.
        options: What to write and where.
        cluster: Where.
        reopen: Opens the model in a worker, and can be pickled; not needed for a model that was
            loaded from a model file, which is sent to them.
        on_shard: Called with each shard that is done and the pictures of it that failed.
        on_earlier: Called with the number of pictures of a shard that an earlier run has done.

    Raises:
        ArgumentError: As `localize_into`; or a model that workers cannot open, or a cluster without
            the GPUs asked for.
        OutputError: Something cannot be written; what was written stays and can be resumed.
        ClusterError: The cluster cannot be joined, or a node does not see what it must, or is lost.
    """
    _check_model(localizer, cluster, reopen)
    with joined(cluster) as workers:
        plan = prepare(localizer, as_inputs(inputs), options)

        def work(tasks: Iterator[ShardTask], _: Callable[[Result], None]) -> Iterable[ShardDone]:
            job = _job(localizer, plan, reopen)
            for done in _run(job, tasks, workers, cluster.gpus_per_worker):
                on_shard(done, _failures(plan, done))
                yield done

        return plan.carry_out(localizer, work, Watch(on_earlier=on_earlier), workers)


@contextmanager
def joined(cluster: Cluster) -> Iterator[int]:
    """Be part of a cluster; gives the number of workers. What this starts it ends.

    Raises:
        ArgumentError: The cluster has too few GPUs for one worker.
        ClusterError: It cannot be joined.
    """
    if ray.is_initialized():
        with _quiet():
            yield _workers(cluster)
        return
    environment = dict(os.environ)  # Ray sets some variables of its own, and leaves them
    try:
        with _quiet():
            _join(cluster)
            yield _workers(cluster)
    finally:
        ray.shutdown()
        for key in os.environ.keys() - environment.keys():
            del os.environ[key]
        os.environ.update(environment)


def _join(cluster: Cluster) -> None:
    address = cluster.address or (None if ADDRESS_SET in os.environ else "local")
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == "local":
        count = cluster.concurrency or cores()
        options |= {"num_cpus": count, "include_dashboard": False}
        options |= {"object_store_memory": STORE_BYTES, "_node_ip_address": "127.0.0.1"}
    _check_address(address or os.environ[ADDRESS_SET])
    os.environ.update(_ENVIRONMENT)
    try:
        _knock(address)
        with _deaf():
            ray.init(address, **options)
    except (OSError, RuntimeError, ValueError, AssertionError) as error:
        where = address or os.environ[ADDRESS_SET]
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        raise ClusterError(
            f"the Ray cluster at {where} cannot be joined ({reason}): start one with "
            "'ray start --head', or leave --address out to use this machine alone"
        ) from error


def _knock(address: str | None) -> None:
    """Ray itself asks an address that does not answer for many minutes."""
    host, _, port = (address or os.environ[ADDRESS_SET]).rpartition("://")[2].rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()


def _workers(cluster: Cluster) -> int:
    room = _room(cluster.gpus_per_worker)
    if cluster.gpus_per_worker and not room:
        raise ArgumentError(
            f"expected a cluster with {cluster.gpus_per_worker:g} GPUs for each worker, got one "
            "with fewer: add nodes with GPUs, or ask for fewer"
        )
    return cluster.concurrency or max(1, room)


def _room(gpus: float) -> int:
    """How many workers the cluster, as it is now, has room for."""
    there: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    workers = there.get("CPU", 0.0)
    return int(min(workers, there.get("GPU", 0.0) / gpus) if gpus else workers)


def _check_model(
    localizer: Localizer, cluster: Cluster, reopen: Callable[[], Localizer] | None
) -> None:
    engine = localizer.engine
    if cluster.gpus_per_worker and engine.name != "torch":
        raise ArgumentError(
            "GPUs a worker: this model runs on the CPU (ONNX Runtime); load it with the torch "
            "engine (--set engine=torch --set device=cuda), or ask for no GPUs"
        )
    if reopen is None and not _is_file(localizer):
        raise ArgumentError(
            f"{localizer.card.name}: this model is in memory, and workers need a file. Write one "
            "with: gapcam export MODEL model.onnx"
        )


def _is_file(localizer: Localizer) -> bool:
    try:
        return bool(getattr(localizer.engine, "path", None))
    except GapcamError:  # an ONNX engine whose model was given as bytes
        return False


def _job(localizer: Localizer, plan: Plan, reopen: Callable[[], Localizer] | None) -> Job:
    opening = reopen
    if _is_file(localizer):
        path = localizer.engine.path  # type: ignore[attr-defined]  # as `_is_file` says
        data = ray.put(path.read_bytes())
        opening = HeldModel(str(path), data, localizer.card, localizer.recipe)
    assert opening is not None  # noqa: S101  # `_check_model` has seen to it
    settings = sha256_of(plan.spec.out_dir / SETTINGS)
    return Job(plan.spec, settings, versions(), opening)


def _run(
    job: Job, tasks: Iterator[ShardTask], workers: int, gpus: float
) -> Generator[ShardDone, None, None]:
    """Do shards, a window after the other; the next window is read while one is worked on."""
    rows, most = map(row_of, tasks), workers * SHARDS_A_WORKER
    window = _Window(most)
    window.fill(rows, most)
    while window.rows:
        following = _Window(most)
        with closing(_outcomes(job, window.rows, workers, gpus)) as outcomes:
            for outcome in outcomes:
                if isinstance(outcome, Exception):
                    raise _raisable(outcome)
                yield outcome
                following.fill(rows, 1)
        following.fill(rows, most)
        window = following


class _Window:
    """Rows that are given to Ray at once: bounded in number and in bytes."""

    def __init__(self, most: int) -> None:
        self.rows: list[dict[str, Any]] = []
        self._most, self._bytes = most, 0

    def fill(self, rows: Iterator[dict[str, Any]], count: int) -> None:
        """Take at most `count` rows, as long as there is room."""
        for _ in range(count):
            if len(self.rows) >= self._most or self._bytes >= WINDOW_BYTES:
                return
            row = next(rows, None)
            if row is None:
                return
            self.rows.append(row)
            self._bytes += len(row["task"])


def _outcomes(
    job: Job, rows: list[dict[str, Any]], workers: int, gpus: float
) -> Generator[Outcome, None, None]:
    """What became of each row, in the order in which they end."""
    most = min(workers, len(rows))
    at_once = max(1, min(most, _room(gpus)))  # more would be waited for
    pool = ray.data.ActorPoolStrategy(
        min_size=at_once, max_size=most, max_tasks_in_flight_per_actor=1
    )
    done = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        Worker,  # type: ignore[arg-type]  # as Ray documents it: a class is made once a worker
        fn_constructor_args=(job,),
        compute=pool,
        num_cpus=1,
        num_gpus=gpus or None,
    )
    try:
        for row in done.iter_rows():
            yield pickle.loads(row["outcome"])  # noqa: S301  # our own workers made it
    except ray.exceptions.RayError as error:
        raise _in_our_words(error) from error


def _raisable(outcome: Exception) -> Exception:
    """An error of a worker; one that is no fault of the user's has its traceback as its cause."""
    if not isinstance(outcome, GapcamError):
        *arguments, where = outcome.args
        outcome.args = tuple(arguments)
        outcome.__cause__ = where
    return outcome


def _in_our_words(error: Exception) -> ClusterError:
    text = str(error)
    if "No module named 'gapcam" in text or "ModuleNotFoundError" in text:
        return ClusterError(
            "a node of the Ray cluster cannot import gapcam as it is here: install the same "
            "version, with the same packages, on all nodes"
        )
    last = next((line for line in reversed(text.splitlines()) if line.strip()), "")
    return ClusterError(
        f"Ray could not go on ({type(error).__name__}: {last.strip()}): see its logs; shards that "
        "are done stay, take the run up again with --resume"
    )


def _failures(plan: Plan, done: ShardDone) -> list[Failure]:
    """The pictures of a shard that failed now, read from it: those of before were tried again."""
    if not done.failed:
        return []
    spec = plan.spec
    records = read_shard(shard_path(spec.folder, done.index, spec.kind), spec.kind)
    return [
        Failure(record["path"], _ERRORS.get(error["kind"], GapcamError)(error["message"]))
        for record in records
        if (error := record.get("error"))
    ]


@contextmanager
def _quiet() -> Iterator[None]:
    """No bars and notes of Ray Data's for the time of the run."""
    context = ray.data.DataContext.get_current()
    bars = context.enable_progress_bars
    handlers = [h for h in logging.getLogger("ray.data").handlers if h.get_name() == "console"]
    levels = [handler.level for handler in handlers]
    context.enable_progress_bars = False
    for handler in handlers:
        handler.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        context.enable_progress_bars = bars
        for handler, level in zip(handlers, levels, strict=True):
            handler.setLevel(level)


@contextmanager
def _deaf() -> Iterator[None]:
    """Ray's core writes a note to file descriptor 2, past Python, that its log level was set."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
