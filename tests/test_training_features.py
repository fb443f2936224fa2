from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import gapcam
from gapcam.engines.onnx import OnnxEngine
from gapcam.images import load_picture, resize_picture
from gapcam.models.pooling import global_average, global_maximum, thresholded_average
from gapcam.training import features as features_module
from gapcam.training.features import STATE, VALUES, PooledFeatures, pool_features, pooled_features
from gapcam.training.labelled import LabelledSet, read_labelled
from gapcam.types import ArgumentError, ModelError, OutputError, PictureError

COUNT = 21
SIZE_HW = (64, 64)

KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from gapcam.engines.onnx import OnnxEngine
from gapcam.images import load_picture, resize_picture
from gapcam.training.features import pooled_features
from gapcam.training.labelled import read_labelled

model, root, out, where, moment = sys.argv[1:]
left = int(moment)

def die_at(name, function):
    def counted(*args, **options):
        global left
        if name == where:
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **options)
    return counted

os.fsync = die_at("after the rows", os.fsync)
Path.replace = die_at("before the count", Path.replace)
read = die_at("reading", lambda p: resize_picture(load_picture(p).pixels, (64, 64)))
data = read_labelled(Path(root))
pooled_features(
    OnnxEngine(Path(model), threads=1), data, np.arange(len(data.paths)), read, (64, 64),
    Path(out), workers=1,
)
"""


def read(path: Path) -> np.ndarray:
    return resize_picture(load_picture(path).pixels, SIZE_HW)


@pytest.fixture(scope="module")
def engine(localizer: gapcam.Localizer) -> OnnxEngine:
    return OnnxEngine(localizer.engine.path, threads=1)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two class folders of small pictures."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for i in range(COUNT):
        path = root / ("cat", "dog")[i % 2] / f"{i:02}.png"
        path.parent.mkdir(exist_ok=True)
        pixels = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((70, 60)).save(path)
    return root


@pytest.fixture
def data(made: Path, tmp_path: Path) -> LabelledSet:
    """A copy, free to change."""
    return read_labelled(Path(shutil.copytree(made, tmp_path / "pictures")))


@pytest.fixture(scope="module")
def expected(made: Path, engine: OnnxEngine) -> np.ndarray:
    """Pooled by hand, eight at a time."""
    paths = read_labelled(made).paths
    batches = [np.stack([read(p) for p in paths[i : i + 8]]) for i in range(0, COUNT, 8)]
    return np.concatenate([engine.run(batch).features.mean((2, 3)) for batch in batches])


def compute(engine: OnnxEngine, data: LabelledSet, out: Path, **options) -> PooledFeatures:
    options = {"indices": np.arange(len(data.paths)), "read": read, "size_hw": SIZE_HW} | options
    return pooled_features(engine, data, folder=out, **options)


def test_rows_are_the_pooled_features_of_the_pictures(
    engine: OnnxEngine, data: LabelledSet, expected: np.ndarray, tmp_path: Path
):
    told: list[tuple[str, int, int]] = []
    found = compute(engine, data, tmp_path / "run", progress=lambda *step: told.append(step))
    assert isinstance(found.values, np.memmap)
    assert found.values.dtype == np.float32
    np.testing.assert_array_equal(found.values, expected)
    assert found.notes == ()
    assert told == [("computing features", i, COUNT) for i in range(COUNT + 1)]


def test_rows_follow_the_indices(
    engine: OnnxEngine, data: LabelledSet, expected: np.ndarray, tmp_path: Path
):
    some = np.array([7, 2, 19, 11])
    found = compute(engine, data, tmp_path, indices=some)
    np.testing.assert_allclose(found.values, expected[some], atol=1e-5)
    assert found.rows(np.array([11, 7, 2])).tolist() == [3, 0, 1]
    for missing in (3, 20):
        with pytest.raises(ArgumentError, match=f"picture {missing} of the data set"):
            found.rows(np.array([7, missing]))


@pytest.mark.parametrize("pool", ["gap", "gmp", "tap"])
def test_pools_are_those_of_the_network(pool: str):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(3, 8, 5, 4)).astype(np.float32)
    features[:, :4] = np.maximum(features[:, :4], 0)
    features[0, 0], features[0, 5] = 0, -1 - np.abs(features[0, 5])
    tensor = torch.from_numpy(features)
    theirs = {"gap": global_average, "gmp": global_maximum, "tap": thresholded_average}[pool]
    np.testing.assert_allclose(pool_features(features, pool), theirs(tensor), rtol=1e-5, atol=1e-6)
    if pool == "tap":
        theirs_half = thresholded_average(tensor, 0.5)
        np.testing.assert_allclose(pool_features(features, pool, 0.5), theirs_half, rtol=1e-5)


def test_lse_is_refused_before_any_work(engine: OnnxEngine, data: LabelledSet, tmp_path: Path):
    with pytest.raises(ArgumentError, match="--finetune"):
        compute(engine, data, tmp_path / "run", pool="lse", read=None)
    assert not (tmp_path / "run").exists()


def test_a_finished_run_is_reused_without_reading(
    engine: OnnxEngine, data: LabelledSet, expected: np.ndarray, tmp_path: Path
):
    compute(engine, data, tmp_path)
    again = compute(engine, data, tmp_path, read=None)
    np.testing.assert_array_equal(again.values, expected)
    assert again.notes == ()


@pytest.mark.parametrize(
    ("where", "moment", "rows"),
    [
        ("reading", 3, 0),
        ("reading", 18, 8),
        ("after the rows", 0, 0),
        ("after the rows", 1, 8),
        ("before the count", 1, 8),
        ("before the count", 2, 16),
    ],
)
def test_a_kill_loses_one_chunk_at_most(
    where: str,
    moment: int,
    rows: int,
    engine: OnnxEngine,
    data: LabelledSet,
    expected: np.ndarray,
    tmp_path: Path,
):
    out = tmp_path / "run"
    arguments = [str(engine.path), str(data.root), str(out), where, str(moment)]
    ended = subprocess.run([sys.executable, "-c", KILLED, *arguments], check=False)
    assert ended.returncode == -signal.SIGKILL
    counted = json.loads((out / STATE).read_text())["rows"] if (out / STATE).exists() else 0
    assert rows <= counted <= rows + 8 if where == "reading" else counted == rows
    seen: list[Path] = []

    def watch(path: Path) -> np.ndarray:
        seen.append(path)
        return read(path)

    resumed = compute(engine, data, out, read=watch)
    np.testing.assert_array_equal(resumed.values, expected)
    assert sorted(seen) == sorted(data.paths[counted:])
    assert resumed.notes == ()


def change_picture(data: LabelledSet, out: Path) -> None:
    os.utime(data.paths[4], (1, 1))


def flip_a_bit(data: LabelledSet, out: Path) -> None:
    whole = bytearray((out / VALUES).read_bytes())
    whole[5000] ^= 1
    (out / VALUES).write_bytes(whole)


def cut(data: LabelledSet, out: Path) -> None:
    os.truncate(out / VALUES, 50_000)


def lose_rows(data: LabelledSet, out: Path) -> None:
    (out / VALUES).unlink()


def tear(data: LabelledSet, out: Path) -> None:
    (out / STATE).write_text((out / STATE).read_text()[:40])


def miscount(data: LabelledSet, out: Path) -> None:
    state = json.loads((out / STATE).read_text())
    (out / STATE).write_text(json.dumps({**state, "rows": 13}))


@pytest.mark.parametrize(
    ("harm", "note"),
    [
        (change_picture, "of other or changed pictures"),
        (flip_a_bit, "damaged"),
        (cut, "damaged"),
        (lose_rows, "damaged"),
        (tear, "damaged"),
        (miscount, "damaged"),
    ],
)
def test_what_cannot_be_trusted_is_computed_anew(
    harm, note: str, engine: OnnxEngine, data: LabelledSet, expected: np.ndarray, tmp_path: Path
):
    out = tmp_path / "run"
    compute(engine, data, out)
    harm(data, out)
    found = compute(engine, data, out)
    np.testing.assert_array_equal(found.values, expected)
    assert note in found.notes[0]
    assert "computed anew" in found.notes[0]
    assert compute(engine, data, out, read=None).notes == ()


def test_another_pool_or_input_size_is_computed_anew(
    engine: OnnxEngine, data: LabelledSet, expected: np.ndarray, tmp_path: Path
):
    compute(engine, data, tmp_path / "run")
    found = compute(engine, data, tmp_path / "run", pool="gmp")
    assert (found.values >= expected).all()
    assert "of another pool" in found.notes[0]
    small = compute(
        engine,
        data,
        tmp_path / "run",
        size_hw=(32, 32),
        read=lambda p: resize_picture(read(p), (32, 32)),
    )
    assert "of another input size and another pool" in small.notes[0]


def test_a_picture_that_vanished_is_named_and_the_rest_stays(
    engine: OnnxEngine, data: LabelledSet, expected: np.ndarray, tmp_path: Path
):
    out, gone = tmp_path / "run", data.paths[17]

    def vanishing(path: Path) -> np.ndarray:
        if path == gone:
            path.rename(tmp_path / "kept.png")
        return read(path)

    with pytest.raises(PictureError, match=f"{data.names[17]}: could be read when"):
        compute(engine, data, out, read=vanishing, workers=1)
    with pytest.raises(PictureError, match="cannot be read"):
        compute(engine, data, out)
    (tmp_path / "kept.png").rename(gone)
    seen: list[Path] = []
    found = compute(engine, data, out, read=lambda p: (seen.append(p), read(p))[1])
    np.testing.assert_array_equal(found.values, expected)
    assert sorted(seen) == sorted(data.paths[16:])


def test_a_full_disk_is_an_error_and_the_run_can_go_on(
    engine: OnnxEngine, data: LabelledSet, expected: np.ndarray, tmp_path: Path
):
    """The system's limit on the size of a file cuts a write short, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, hard))
    try:
        with pytest.raises(OutputError, match=r"features\.npy.*free some space"):
            compute(engine, data, tmp_path / "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "run" / VALUES).stat().st_size == 60_000
    assert json.loads((tmp_path / "run" / STATE).read_text())["rows"] == 8
    found = compute(engine, data, tmp_path / "run")
    np.testing.assert_array_equal(found.values, expected)
    assert found.notes == ()


def test_too_little_room_is_said_before_it_starts(
    engine: OnnxEngine, data: LabelledSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(features_module.shutil, "disk_usage", lambda _: usage(1, 1, 100_000))
    with pytest.raises(OutputError, match=r"take 0\.1 MB, the disk has 0\.1 MB left"):
        compute(engine, data, tmp_path)


def test_a_folder_that_cannot_be_made(engine: OnnxEngine, data: LabelledSet, tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="choose another"):
        compute(engine, data, tmp_path / "file" / "run")


def test_features_that_are_no_numbers_name_the_picture(
    engine: OnnxEngine, data: LabelledSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run = engine.run

    def broken(pixels: np.ndarray):
        out = run(pixels)
        out.features[min(2, len(pixels) - 1), 3, 1, 1] = np.inf
        return out

    monkeypatch.setattr(engine, "run", broken)
    with pytest.raises(ModelError, match=f"{data.names[2]}: its features are not all finite"):
        compute(engine, data, tmp_path / "run", workers=1)


def test_arguments_that_do_not_fit_are_refused(
    engine: OnnxEngine, data: LabelledSet, tmp_path: Path
):
    with pytest.raises(ArgumentError, match="at least one picture"):
        compute(engine, data, tmp_path, indices=np.array([], np.int64))
    with pytest.raises(ArgumentError, match=r"expected pixels \[32, 32, 3\], got \[64, 64, 3\]"):
        compute(engine, data, tmp_path, size_hw=(32, 32))
