"""A program that runs on a Ray cluster as a user's would, for `test_batch_ray`: cases to JSON.

python ray_driver.py hold FOLDER                    start a cluster, print its address, wait
python ray_driver.py cases ADDRESS PICTURES OUT     do all cases there
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import ray

import gapcam
from gapcam.batch import RunOptions, ShardDone
from gapcam.batch.on_ray import Cluster, localize_on_ray
from gapcam.engines.onnx import OnnxEngine
from gapcam.inputs import open_inputs
from gapcam.types import Failure

os.environ["RAY_AUTH_MODE"] = "disabled"  # a cluster that listens to this machine alone
CRASHES = "0021.jpg"
QUIET = {"log_to_driver": False, "logging_level": "ERROR"}


def hold(folder: Path) -> None:
    """A cluster of two cores, until standard input ends."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(
        "local",
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=2**27,
        _node_ip_address="127.0.0.1",
        _temp_dir=str(folder),
        **QUIET,
    )
    sys.stdout.write(f"{ray.get_runtime_context().gcs_address}\n")
    sys.stdout.flush()
    sys.stdin.read()


class Crashing(gapcam.Localizer):
    """Ends its process at one picture, as a decoder that crashes would."""

    def read(self, source: Any, *more: Any) -> Any:
        if str(source).endswith(CRASHES):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(source, *more)


def crashing() -> gapcam.Localizer:
    whole = gapcam.load(threads=1)
    return Crashing(whole.engine, whole.card)


class Cases:
    """Each public method is a case; what it returns is compared by the tests."""

    def __init__(self, pictures: Path, out: Path) -> None:
        self.pictures, self.out = pictures, out
        self.localizer = gapcam.load(threads=1)
        data = self.localizer.engine.path.read_bytes()
        self.in_memory = gapcam.Localizer(OnnxEngine(data, 1), self.localizer.card)

    def run(self, name: str, *, localizer: Any = None, more: Any = None, **options: Any) -> Any:
        inputs = open_inputs([str(self.pictures)])
        asked = RunOptions(self.out / name, **({"overlays": False} | options))
        cluster = Cluster(concurrency=2)
        return localize_on_ray(localizer or self.localizer, inputs, asked, cluster, **(more or {}))

    def joined_lines(self) -> dict[str, Any]:
        shards: list[ShardDone] = []
        failed: list[str] = []

        def on_shard(done: ShardDone, failures: Sequence[Failure]) -> None:
            shards.append(done)
            assert len(failures) == done.failed
            failed.extend(failure.name for failure in failures)

        summary = self.run("joined_lines", more={"on_shard": on_shard})
        return {
            "done": sum(shard.localized for shard in shards),
            "failed": sorted(failed),
            "summary": [summary.localized, summary.failed, summary.workers],
            "stages": sorted(summary.seconds),
        }

    def parquet_and_overlays_of_a_model_that_workers_open(self) -> int:
        reopen = partial(gapcam.load, threads=1)
        kind = {"shards": "parquet", "overlays": True}
        more = {"reopen": reopen}
        return self.run("parquet", localizer=self.in_memory, more=more, **kind).localized

    def killed_worker(self) -> dict[str, Any]:
        seen: set[int] = set()
        killed: list[int] = []

        def on_shard(done: ShardDone, _: Sequence[Failure]) -> None:
            alive = set(workers())
            seen.update(alive)
            if not killed:
                killed.append(max(alive))
                os.kill(killed[0], signal.SIGKILL)

        summary = self.run("killed_worker", more={"on_shard": on_shard})
        return {"killed": killed, "seen": sorted(seen), "localized": summary.localized}

    def blocked_overlays(self) -> None:
        (self.out / "blocked").mkdir(parents=True)
        (self.out / "blocked" / "overlays").write_text("in the way")
        self.run("blocked", overlays=True)

    def a_bug(self) -> None:
        self.run("bug", localizer=self.in_memory, more={"reopen": partial(divmod, 1, 0)})

    def a_picture_that_ends_its_worker(self) -> None:
        self.run("killer", localizer=self.in_memory, more={"reopen": crashing})

    def a_model_without_a_file(self) -> None:
        self.run("no_file", localizer=self.in_memory)

    def no_gpus(self) -> None:
        localize_on_ray(
            self.localizer, open_inputs([str(self.pictures)]), RunOptions(self.out / "gpus"),
            Cluster(gpus_per_worker=1),
        )  # fmt: skip


def workers() -> Iterator[int]:
    """The processes of workers, by their title."""
    for folder in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            number = int(folder.name)
            if (folder / "cmdline").read_bytes().startswith(b"ray::MapWorker"):
                yield number


def cases(address: str, pictures: Path, out: Path) -> None:
    """All cases, to `said.json`."""
    ray.init(address, **QUIET)
    all_cases = Cases(pictures, out)
    said: dict[str, Any] = {}
    for name in (name for name in vars(Cases) if name not in ("run", "__init__")):
        if name.startswith("__"):
            continue
        try:
            said[name] = getattr(all_cases, name)()
        except Exception as error:
            cause = error.__cause__
            said[name] = [type(error).__name__, str(error), f"{type(cause).__name__}: {cause}"]
    said["still"] = ray.is_initialized()
    (out / "said.json").write_text(json.dumps(said))  # Ray itself writes to standard output


if __name__ == "__main__":
    if sys.argv[1] == "hold":
        hold(Path(sys.argv[2]))
    else:
        cases(sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
