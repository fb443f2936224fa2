"""Runs on a real Ray cluster of two worker processes: the same files as on one machine."""

from __future__ import annotations

import json
import pickle
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import gapcam
from batch_runs import GAPCAM, copies, files, gapcam_run, run, spoil, stop_after
from gapcam.batch import ERRORS, RESULTS, SETTINGS, UNFINISHED, RunOptions, prepare
from gapcam.cli import app
from gapcam.inputs import open_inputs

pytest.importorskip("ray")

DRIVER = [sys.executable, str(Path(__file__).with_name("ray_driver.py"))]
COUNT = 60
JPEG_START = b"\xff\xd8\xff\xe0"
BROKEN = {3: b"", 17: JPEG_START + b"\0" * 99, 30: b"%PDF-1.7\n", 59: b"no picture"}
RUN_ON = {"RAY_AUTH_MODE": "disabled"}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = copies(tmp_path_factory.mktemp("ray") / "in", COUNT)
    for i, data in BROKEN.items():
        spoil(folder / f"{i:04}.jpg", data)
    return folder


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    # Ray keeps sockets there, whose paths must be short.
    with (
        tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder,
        subprocess.Popen(
            [*DRIVER, "hold", folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as holder,
    ):
        assert holder.stdout is not None
        yield holder.stdout.readline().strip()
        holder.communicate(timeout=60)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ray-out")


@pytest.fixture(scope="module")
def cases(cluster: str, pictures: Path, out: Path) -> dict[str, Any]:
    command = [*DRIVER, "cases", cluster, str(pictures), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads((out / "said.json").read_text())


@pytest.fixture(scope="module")
def local(quick: gapcam.Localizer, pictures: Path, out: Path) -> dict[str, bytes]:
    run(quick, pictures, out / "local")
    return files(out / "local")


def test_a_run_on_two_workers_gives_the_files_of_a_local_one(
    cases: dict[str, Any], local: dict[str, bytes], pictures: Path, out: Path
):
    assert files(out / "joined_lines") == local
    assert local[RESULTS].count(b"\n") == COUNT
    assert cases["joined_lines"] == {
        "done": COUNT - len(BROKEN),
        "failed": [f"{pictures}/{i:04}.jpg" for i in BROKEN],
        "summary": [COUNT - len(BROKEN), len(BROKEN), 2],
        "stages": ["boxes", "forward", "read", "write"],
    }


def test_parquet_shards_and_overlays_are_those_of_a_local_run(
    cases: dict[str, Any], quick: gapcam.Localizer, pictures: Path, out: Path
):
    run(quick, pictures, out / "local_parquet", shards="parquet", overlays=True)
    assert cases["parquet_and_overlays_of_a_model_that_workers_open"] == COUNT - len(BROKEN)
    assert files(out / "parquet") == files(out / "local_parquet")


def test_a_worker_killed_in_the_middle_loses_and_doubles_nothing(
    cases: dict[str, Any], local: dict[str, bytes], out: Path
):
    case = cases["killed_worker"]
    assert len(case["killed"]) == 1
    assert max(case["seen"]) > case["killed"][0], "another worker took its place"
    assert case["localized"] == COUNT - len(BROKEN)
    assert files(out / "killed_worker") == local


def test_a_picture_that_ends_its_worker_again_and_again_ends_the_run_and_is_named(
    cases: dict[str, Any], out: Path
):
    kind, message, _ = cases["a_picture_that_ends_its_worker"]
    assert kind == "ClusterError"
    assert re.fullmatch(
        r"shard 5 \(pictures 20 to 23 of the inputs, the first is \S+/0020.jpg\) ended its worker "
        r"4 times: see why in Ray's logs \(memory\?\), take the pictures out, then go on with "
        r"--resume",
        message,
    )
    assert (out / "killer" / UNFINISHED).exists()


def test_an_error_in_a_worker_is_ours(cases: dict[str, Any], out: Path):
    kind, message, _ = cases["blocked_overlays"]
    assert kind == "OutputError"
    assert re.fullmatch(
        rf"{out}/blocked/overlays/\d+_cam.jpg: cannot be written \(.*\); choose another output "
        "folder",
        message,
    )


def test_a_bug_in_a_worker_is_raised_with_its_traceback(cases: dict[str, Any]):
    kind, message, cause = cases["a_bug"]
    assert (kind, message) == ("ZeroDivisionError", "integer division or modulo by zero")
    assert re.match(r"WorkerTracebackError: on \S+\nTraceback ", cause)
    assert "localizer = job.open()" in cause


def test_what_a_cluster_cannot_do_is_refused(cases: dict[str, Any]):
    assert cases["a_model_without_a_file"][:2] == [
        "ArgumentError",
        "efficientnet-lite0: this model is in memory, and workers need a file. Write one with: "
        "gapcam export MODEL model.onnx",
    ]
    assert cases["no_gpus"][:2] == [
        "ArgumentError",
        "GPUs a worker: this model runs on the CPU (ONNX Runtime); load it with the torch engine "
        "(--set engine=torch --set device=cuda), or ask for no GPUs",
    ]


def test_a_cluster_that_was_joined_before_is_not_left(cases: dict[str, Any]):
    assert cases["still"] is True


def results(out: Path) -> dict[str, bytes]:
    return {name: data for name, data in files(out).items() if name != SETTINGS}


def test_a_run_whose_driver_is_killed_is_taken_up_by_either_engine(
    cluster: str,
    pictures: Path,
    local: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    for name, value in RUN_ON.items():
        monkeypatch.setenv(name, value)
    begin = ("localize", pictures, "--out", tmp_path, "--no-overlays")
    ray = ("--engine", "ray", "--address", cluster)
    whole = {name: data for name, data in local.items() if name != SETTINGS}
    code, _ = stop_after(2, signal.SIGKILL, *begin, *ray)
    assert code == -signal.SIGKILL
    assert not (tmp_path / RESULTS).exists()
    code, _ = stop_after(5, signal.SIGKILL, *begin, "--resume")
    assert code == -signal.SIGKILL
    done = gapcam_run(*begin, "--resume", *ray, "--json-log")
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    events = [json.loads(line) for line in done.stderr.splitlines()]
    assert [event["event"] for event in events if event["event"] in ("started", "finished")] == [
        "started",
        "finished",
    ]
    assert events[-1]["workers"] == 2
    assert events[-1]["pictures"] == COUNT
    assert events[-1]["earlier"] >= 4
    assert results(tmp_path) == whole


def test_without_an_address_a_cluster_of_this_machine_serves_the_run(
    pictures: Path, local: dict[str, bytes], tmp_path: Path
):
    done = gapcam_run(
        *("localize", pictures, "--out", tmp_path, "--no-overlays"),
        *("--engine", "ray", "--concurrency", 2),
    )
    assert done.returncode == 1
    assert done.stdout == ""
    said = done.stderr.splitlines()
    assert said[0] == "joining the Ray cluster"
    assert {line.split(": ")[1] for line in said[1:5]} == {f"{pictures}/{i:04}.jpg" for i in BROKEN}
    assert said[5:8] == [
        f"{COUNT - len(BROKEN)} pictures localized, {len(BROKEN)} failed. Written:",
        f"  {tmp_path / RESULTS}",
        f"  {tmp_path / ERRORS}",
    ]
    assert ", 2 workers, 1 thread each." in said[9]
    assert len(said) == 10, "nothing of Ray's"
    assert results(tmp_path) == {name: data for name, data in local.items() if name != SETTINGS}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--concurrency", "2"], "--concurrency is for clusters: add --engine ray"),
        (["--address", "auto"], "--address is for clusters: add --engine ray"),
        (["--gpus-per-worker", "1"], "--gpus-per-worker is for clusters: add --engine ray"),
        (
            ["--engine", "ray", "--workers", "2"],
            "--workers is for this machine: with --engine ray use --concurrency",
        ),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    pictures: Path, tmp_path: Path, more: list[str], message: str
):
    arguments = ["localize", str(pictures), "--out", str(tmp_path / "out"), *more]
    refused = CliRunner().invoke(app, arguments)
    assert refused.exit_code == 2
    assert refused.stderr == f"gapcam: {message}\n"
    assert not (tmp_path / "out").exists()


def test_a_cluster_needs_a_folder_to_write_to(pictures: Path):
    refused = CliRunner().invoke(app, ["localize", str(pictures), "--engine", "ray"])
    assert refused.stderr == "gapcam: --engine ray needs --out: say where to write\n"


REFUSALS = """
import sys
from gapcam.batch.on_ray import Cluster, joined
from gapcam.types import GapcamError
for address in ("127.0.0.1:1", "ray://127.0.0.1:1", "nonsense"):
    try:
        with joined(Cluster(address)):
            pass
    except GapcamError as error:
        print(error.kind, error)
for numbers in ({"concurrency": 0}, {"gpus_per_worker": 1.5}, {"gpus_per_worker": -1}):
    try:
        Cluster(**numbers)
    except GapcamError as error:
        print(error.kind, error)
"""


def test_a_cluster_that_does_not_answer_and_numbers_out_of_range_are_refused_at_once():
    shown = subprocess.run(
        [sys.executable, "-c", REFUSALS], capture_output=True, text=True, check=True, timeout=60
    )
    advice = "start one with 'ray start --head', or leave --address out to use this machine alone"
    assert shown.stdout.splitlines() == [
        f"cluster the Ray cluster at 127.0.0.1:1 cannot be joined (Connection refused): {advice}",
        "argument ray://127.0.0.1:1: Ray Data does not run through Ray Client; run gapcam on a "
        "machine of the cluster with --address auto, or by 'ray job submit'",
        "cluster the Ray cluster at nonsense cannot be joined (Invalid address format: nonsense): "
        f"{advice}",
        "argument concurrency: expected 1 or more, got 0",
        "argument GPUs a worker: expected a fraction below 1 or a whole number, got 1.5",
        "argument GPUs a worker: expected a fraction below 1 or a whole number, got -1",
    ]
    assert shown.stderr == ""


def test_without_ray_it_says_what_to_install(pictures: Path, tmp_path: Path):
    code = (
        "import sys; sys.modules['ray'] = None; sys.argv = ['gapcam', *sys.argv[1:]]; "
        "from gapcam.cli import main; main()"
    )
    arguments = ["localize", str(pictures), "--out", str(tmp_path / "out"), "--engine", "ray"]
    refused = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    assert refused.returncode == 2
    assert refused.stderr == (
        "gapcam: ray is not installed, and clusters need it. Run: pip install 'gapcam[ray]'\n"
    )
    assert GAPCAM[0] == sys.executable


@pytest.mark.filterwarnings("ignore:::ray")
def test_a_node_that_is_not_like_the_first_says_what_to_do(
    quick: gapcam.Localizer, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from gapcam.batch import ray_worker
    from gapcam.batch.plan import shards

    monkeypatch.setattr(ray_worker, "WAITS", (0.0,))
    monkeypatch.chdir(tmp_path)
    inputs = open_inputs([str(pictures)])
    plan = prepare(quick, inputs, RunOptions(Path("out"), overlays=False))
    task = next(shards(inputs, 2))
    job = ray_worker.Job(
        plan.spec,
        ray_worker.sha256_of(tmp_path / "out" / SETTINGS),
        ray_worker.versions(),
        lambda: quick,
    )
    row = ray_worker.row_of(task)
    assert row["visible"] == f"{pictures}/0000.jpg"

    def said(row: dict[str, Any] = row, **changes: Any) -> str:
        worker = ray_worker.Worker(replace(job, **changes))
        outcome = pickle.loads(worker(row)["outcome"])
        assert isinstance(outcome, ray_worker.ClusterError)
        return re.sub(r"^Ray node \S+ ", "", str(outcome))

    assert said(spec=replace(plan.spec, base="/nowhere")) == (
        "has no folder /nowhere (No such file or directory), where the run was started: start it "
        "in a folder that all nodes share under one path"
    )
    assert said(versions={**job.versions, "numpy": "0.1"}) == (
        f"has numpy {job.versions['numpy']}, the machine that started the run 0.1: install the "
        "same on all nodes"
    )
    assert said(settings="another") == (
        f"does not see {tmp_path}/out/run.json as the machine that started the run does (it is "
        "that of another run): the output folder must be on a file system that all nodes share"
    )
    about = {**plan.spec.about, "model_sha256": "another"}
    assert said(spec=replace(plan.spec, about=about)) == (
        "opened another model than the run's (efficientnet-lite0): put one model file where all "
        "nodes read it"
    )
    assert said({**row, "visible": "gone/0000.jpg"}) == (
        f"does not see the pictures: there is no {tmp_path}/gone/0000.jpg. Put them where all "
        "nodes read them: on a file system that all share under one path, or at URLs (s3://, "
        "gs://, https://)"
    )
    (tmp_path / "out").rename(tmp_path / "moved")
    assert said() == (
        f"does not see {tmp_path}/out/run.json as the machine that started the run does (No such "
        "file or directory): the output folder must be on a file system that all nodes share"
    )
