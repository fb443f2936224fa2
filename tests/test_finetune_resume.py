"""A run that is killed, or that fails, goes on to exactly what it would have been."""

from __future__ import annotations

import json
import os
import pickle
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import finetune_runs
from finetune_runs import KILLS, Net, options, outcome, same_weights, train, write_set
from gapcam.types import ArgumentError, ModelError, OutputError, PictureError

LAST = Path("checkpoints") / "last.ckpt"


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory):
    """A run that nothing happened to."""
    return train(tmp_path_factory.mktemp("whole") / "run", options())


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("killed")
    done = subprocess.run(
        [sys.executable, finetune_runs.__file__, "killed", str(folder)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return folder


@pytest.mark.parametrize("number", range(len(KILLS)), ids=list(KILLS))
def test_a_killed_run_goes_on_to_the_same_end(killed: Path, number: int):
    whole, resumed = killed / "whole", killed / f"run-{number}"
    weights = [torch.load(run / "net.pt", weights_only=True) for run in (whole, resumed)]
    assert same_weights(*weights)
    results = [json.loads((run / "outcome.json").read_text()) for run in (whole, resumed)]
    assert results[0] == results[1]
    names = {path.name for path in (resumed / "checkpoints").iterdir()}
    assert names == {"last.ckpt", f"best-{results[0][1]:05d}.ckpt"}
    ends = json.loads((killed / "ends.json").read_text())[number]
    assert ends[0] == signal.SIGKILL or KILLS[number] == "delay"  # which may come too late
    assert set(ends) <= {0, signal.SIGKILL}


def same_as(whole, run: Path, **chosen) -> None:
    resumed = train(run, options(**chosen), resume=True)
    assert outcome(resumed) == outcome(whole)
    assert same_weights(resumed.net.state_dict(), whole.net.state_dict())


def test_a_full_disk_leaves_the_state_before(whole, tmp_path: Path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(record, net):
        if record.epoch == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))

    try:
        with pytest.raises(OutputError, match=r"\.ckpt: cannot be written .*free some space"):
            train(tmp_path / "run", options(), on_epoch=fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list((tmp_path / "run").rglob("*.tmp"))
    same_as(whole, tmp_path / "run")


def test_a_picture_that_goes_bad_is_named_and_the_state_is_kept(whole, tmp_path: Path):
    data = write_set(tmp_path / "pictures")
    good = data.paths[5].read_bytes()

    def spoil(record, net):
        if record.epoch == 2:
            data.paths[5].write_bytes(good[: len(good) // 2])

    with pytest.raises(PictureError, match=r"05\.png: expected a whole picture"):
        train(tmp_path / "run", options(), data=data, on_epoch=spoil)
    data.paths[5].write_bytes(good)
    same_as(whole, tmp_path / "run")


def test_ctrl_c_passes_through(whole, tmp_path: Path):
    def interrupt(words, done, of):
        if words == "epoch 2 of 3":
            signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", options(), progress=interrupt)
    assert signal.getsignal(signal.SIGINT) is before
    same_as(whole, tmp_path / "run")


def test_a_loss_that_is_no_number_stops_at_once(whole, tmp_path: Path):
    net = Net()

    def spoil(words, done, of):
        if (words, done) == ("epoch 2 of 3", 2):
            net.head.bias.data[0] = float("nan")

    said = r"not finite in epoch 2, step 3, at learning rate 0\.0[0-9]+; begin .*lower learning"
    with pytest.raises(ModelError, match=said):
        train(tmp_path / "run", options(), net=net, progress=spoil)
    same_as(whole, tmp_path / "run")


def test_too_high_a_rate_is_named(tmp_path: Path):
    wild = options(learning_rate=1000.0, warmup=0, trunk_rate=1, epochs=30)
    with pytest.raises(ModelError, match="not finite in epoch"):
        train(tmp_path / "run", wild, net=Net(plain=True))


def test_a_finished_run_is_not_trained_again(whole, tmp_path: Path):
    train(tmp_path / "run", options())
    told = []
    again = train(
        tmp_path / "run", options(), resume=True, on_epoch=lambda record, net: told.append(record)
    )
    assert not told
    assert outcome(again) == outcome(whole)
    assert same_weights(again.net.state_dict(), whole.net.state_dict())


def test_a_new_run_does_not_overwrite_another(tmp_path: Path):
    train(tmp_path / "run", options(epochs=1))
    before = (tmp_path / "run" / LAST).read_bytes()
    with pytest.raises(OutputError, match=r"last\.ckpt: another run's state is here; resume it"):
        train(tmp_path / "run", options(epochs=1))
    assert (tmp_path / "run" / LAST).read_bytes() == before


def test_other_choices_or_data_are_refused(tmp_path: Path):
    train(tmp_path / "run", options(epochs=1))
    with pytest.raises(ArgumentError, match=r"begun with learning_rate 0\.1, not 0\.2; resume"):
        train(tmp_path / "run", options(epochs=1, learning_rate=0.2), resume=True)
    data = write_set(tmp_path / "pictures")
    data.targets[0] = ~data.targets[0]
    with pytest.raises(ArgumentError, match="begun with pictures and labels"):
        train(tmp_path / "run", options(epochs=1), data=data, resume=True)


class Trap:
    def __reduce__(self):
        return Path.touch, (Path("trapped"),)


def test_what_is_no_state_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    train(tmp_path / "run", options(epochs=2))
    path = tmp_path / "run" / LAST
    whole = path.read_bytes()
    torch.save({"state_dict": Net().state_dict()}, foreign := tmp_path / "foreign.ckpt")
    cases = {
        "cannot be read": [whole[: len(whole) // 2], b"", pickle.dumps({"format": Trap()})],
        "it holds None": [foreign.read_bytes()],
    }
    for said, contents in cases.items():
        for content in contents:
            path.write_bytes(content)
            with pytest.raises(ModelError, match=f"last.ckpt: expected a state .*{said}.*restore"):
                train(tmp_path / "run", options(epochs=2), resume=True)
    assert not (tmp_path / "trapped").exists()
    path.write_bytes(whole)
    (tmp_path / "run" / "checkpoints" / "best-00002.ckpt").unlink(missing_ok=True)
    (tmp_path / "run" / "checkpoints" / "best-00001.ckpt").unlink(missing_ok=True)
    with pytest.raises(ModelError, match=r"best-0000.\.ckpt: .*cannot be read"):
        train(tmp_path / "run", options(epochs=2), resume=True)


def test_another_net_is_refused(tmp_path: Path):
    def stop(record, net):
        if record.epoch == 2:
            raise OutputError("enough")

    with pytest.raises(OutputError, match="enough"):
        train(tmp_path / "run", options(), on_epoch=stop)
    with pytest.raises(ModelError, match=r"last\.ckpt: its weights are of another net; resume"):
        train(tmp_path / "run", options(), net=Net(plain=True), resume=True)
