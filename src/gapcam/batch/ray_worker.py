"""A worker on a Ray cluster: one core, or a GPU, that does shard after shard.

What it cannot do it returns as an error, so that the run ends with our words and no traceback of
Ray's.

Imports ray: imported by `gapcam.batch.on_ray` and by Ray's own processes only.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import socket
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, TypeAlias

import ray

from gapcam.batch.manifest import SETTINGS
from gapcam.batch.options import RunSpec, ShardDone
from gapcam.batch.plan import Entry, ShardTask
from gapcam.batch.work import run_shard
from gapcam.engines.onnx import OnnxEngine
from gapcam.localizer import Localizer
from gapcam.types import Failure, GapcamError, ModelCard, Recipe

MOST_ATTEMPTS = 4
"""So often may a shard end the process that does it."""

WAITS = (0.0, 1.0, 2.0, 4.0)
"""Seconds before each look for the run's settings: a shared folder may show new files late."""

NEEDED_ALIKE = ("gapcam", "numpy", "onnxruntime", "opencv-python-headless", "pillow")
"""Packages that the bytes of the results depend on."""

Outcome: TypeAlias = ShardDone | Exception


class ClusterError(GapcamError):
    """A Ray cluster that cannot do the work."""

    kind = "cluster"


class WorkerTracebackError(Exception):
    """Where in a worker an error arose."""


@dataclass(frozen=True, slots=True)
class HeldModel:
    """A model file whose bytes lie in Ray's object store; call it to open it.

    Attributes:
        name: What to call it in messages.
        data: A reference to its bytes.
        card: What the model says of itself.
        recipe: How maps become boxes.
    """

    name: str
    data: Any
    card: ModelCard
    recipe: Recipe

    def __call__(self) -> Localizer:
        """A localizer on one thread."""
        return Localizer(OnnxEngine(ray.get(self.data), 1, self.name), self.card, self.recipe)


@dataclass(frozen=True, slots=True)
class Job:
    """What every worker of a run gets, once.

    Attributes:
        spec: The run.
        settings: The SHA-256 of the run's `run.json`.
        versions: Of the packages that must be alike, on the machine that started the run.
        open: Opens the model.
    """

    spec: RunSpec
    settings: str
    versions: Mapping[str, str]
    open: Callable[[], Localizer]


class Worker:
    """Opens the model once, then does a shard a call.

    Args:
        job: The run.
    """

    def __init__(self, job: Job) -> None:
        self._spec = job.spec
        self._localizer: Localizer | None = None
        self._refusal: Exception | None = None
        try:
            self._localizer = _prepared(job)
        except Exception as error:  # whatever it is, the run ends with it, elsewhere
            self._refusal = portable(error)

    def __call__(self, row: Mapping[str, Any]) -> dict[str, bytes]:
        """Do the shard of a row that `row_of` made."""
        return {"outcome": pickle.dumps(self._do(pickle.loads(row["task"]), row["visible"]))}  # noqa: S301  # our own

    def _do(self, task: ShardTask, visible: str) -> Outcome:
        if self._localizer is None:
            return self._refusal or ClusterError("the worker has no model")
        try:
            _check_visible(visible)
            with _counted_attempts(self._spec.folder, task):
                return run_shard(self._localizer, self._spec, task)
        except Exception as error:  # as above
            return portable(error)


def row_of(task: ShardTask) -> dict[str, Any]:
    """A shard as a row of a Ray data set."""
    return {"task": pickle.dumps(task), "visible": local_file(task.entries)}


def local_file(entries: Sequence[Entry]) -> str:
    """The file of the first picture of a shard, where it is there; empty where it is not."""
    source = None if isinstance(entries[0], Failure) else entries[0].source
    path = source if isinstance(source, str) else getattr(source, "archive", "")
    return path if path and os.path.lexists(path) else ""


def sha256_of(path: Path) -> str:
    """The SHA-256 of a small file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def versions() -> dict[str, str]:
    """What is installed here of `NEEDED_ALIKE`."""
    return {name: _version(name) for name in NEEDED_ALIKE}


def portable(error: Exception) -> Exception:
    """The error as it can be sent; one that no user can mend takes its traceback along."""
    if isinstance(error, GapcamError):
        return error
    lines = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    where = WorkerTracebackError(f"on {socket.gethostname()}\n{lines}")
    try:
        sent: Exception = pickle.loads(pickle.dumps(error))  # noqa: S301  # made here
    except Exception:  # it has parts that cannot be sent
        sent = RuntimeError(f"{type(error).__name__}: {error}")
    sent.args = (*sent.args, where)
    return sent


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not at all"


def _prepared(job: Job) -> Localizer:
    """Go where the run was started, check that all is as there, open the model."""
    node, spec = socket.gethostname(), job.spec
    try:
        os.chdir(spec.base)
    except OSError as error:
        raise ClusterError(
            f"Ray node {node} has no folder {spec.base} ({error.strerror}), where the run was "
            "started: start it in a folder that all nodes share under one path"
        ) from error
    for name, version in versions().items():
        if version != job.versions[name]:
            raise ClusterError(
                f"Ray node {node} has {name} {version}, the machine that started the run "
                f"{job.versions[name]}: install the same on all nodes"
            )
    _check_settings(spec.out_dir / SETTINGS, job.settings, node)
    localizer = job.open()
    if localizer.engine.fingerprint != spec.about["model_sha256"]:
        raise ClusterError(
            f"Ray node {node} opened another model than the run's ({spec.about['model']}): put one "
            "model file where all nodes read it"
        )
    return localizer


def _check_settings(path: Path, expected: str, node: str) -> None:
    problem = ""
    for wait in WAITS:
        time.sleep(wait)
        try:
            if sha256_of(path) == expected:
                return
            problem = "it is that of another run"
        except OSError as error:
            problem = error.strerror or str(error)
    raise ClusterError(
        f"Ray node {node} does not see {Path.cwd() / path} as the machine that started the run does"
        f" ({problem}): the output folder must be on a file system that all nodes share"
    )


def _check_visible(path: str) -> None:
    if path and not os.path.lexists(path):
        raise ClusterError(
            f"Ray node {socket.gethostname()} does not see the pictures: there is no "
            f"{Path.cwd() / path}. Put them where all nodes read them: on a file system that all "
            "share under one path, or at URLs (s3://, gs://, https://)"
        )


@contextmanager
def _counted_attempts(folder: Path, task: ShardTask) -> Iterator[None]:
    """Give up on a shard that ends its process again and again (a crash, memory).

    Ray repeats the shard of a process that ended for ever, so a worker that was started again notes
    what it is about to do in the run's folder.
    """
    if not _started_again():
        yield
        return
    notes = [folder / f".gapcam-try-{task.index}-{i}.tmp" for i in range(1, MOST_ATTEMPTS)]
    free = next((note for note in notes if not note.exists()), None)
    if free is None:
        last = task.first + len(task.entries) - 1
        raise ClusterError(
            f"shard {task.index} (pictures {task.first:,} to {last:,} of the inputs, the first is "
            f"{task.entries[0].name}) ended its worker {MOST_ATTEMPTS} times: see why in Ray's "
            "logs (memory?), take the pictures out, then go on with --resume"
        )
    free.touch()
    yield
    for note in notes:
        note.unlink(missing_ok=True)


def _started_again() -> bool:
    if not ray.is_initialized():
        return False
    return bool(ray.get_runtime_context().was_current_actor_reconstructed)
