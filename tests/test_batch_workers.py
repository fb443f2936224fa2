"""The work on a shard where others do it: pickled, from bytes, from readers that wait."""

from __future__ import annotations

import pickle
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import pytest

import gapcam
from batch_runs import copies, files, records, run, spoil
from gapcam.batch import ERRORS, RunOptions, RunSpec, localize_into, prepare, run_shard
from gapcam.batch.plan import FileInputs, FileItem, Inputs, shards
from gapcam.batch.work import READ_AHEAD
from gapcam.inputs import open_inputs
from gapcam.paths import expand_paths
from gapcam.types import Failure, PictureError


@dataclass(frozen=True)
class WaitingReader:
    """Gives bytes, and says that reading waits."""

    root: Path
    slow: bool = True

    def read(self, item: FileItem) -> bytes:
        path = Path(item.name)
        if path.name == "0011.jpg":
            raise PictureError(f"{item.name}: the server said 404")
        return path.read_bytes()

    def relative(self, name: str) -> Path:
        return Path(name).relative_to(self.root)


@dataclass(frozen=True)
class WaitingInputs:
    folder: Path
    names: tuple[str, ...]
    failures: tuple[Failure, ...] = ()
    ignored: int = 0

    @property
    def reader(self) -> WaitingReader:
        return WaitingReader(self.folder)

    @property
    def root(self) -> Path:
        return self.folder

    def __iter__(self) -> Iterator[FileItem | Failure]:
        for i, name in enumerate(self.names):
            if i == 5:
                yield Failure("archive.tar", PictureError("archive.tar: cut short"))
            yield FileItem(name)

    def count(self) -> None:
        return None


def test_a_shard_and_its_run_can_be_sent_to_another_process(
    small: gapcam.Localizer, tmp_path: Path
):
    folder = copies(tmp_path / "in", 9)
    spoil(folder / "0001.jpg")
    options = {"shards": "jsonl", "shard_size": 4}
    run(small, folder, tmp_path / "whole", **options)
    inputs: Inputs = FileInputs(expand_paths([str(folder)]))
    plan = prepare(small, inputs, RunOptions(tmp_path / "out", overlays=False, **options))
    spec: RunSpec = pickle.loads(pickle.dumps(plan.spec))
    assert len(pickle.dumps(spec)) < 2000
    for task in reversed([*shards(inputs, plan.size)]):
        done = run_shard(small, spec, pickle.loads(pickle.dumps(task)))
        assert pickle.loads(pickle.dumps(done)) == done
    whole = files(tmp_path / "whole" / "shards")
    assert files(tmp_path / "out" / "unfinished") == whole


def test_readers_that_wait_give_the_same_as_files(small: gapcam.Localizer, tmp_path: Path):
    folder = copies(tmp_path / "in", 3 * READ_AHEAD)
    spoil(folder / "0002.jpg")
    names = tuple(str(path) for path in sorted(folder.iterdir()))
    inputs = WaitingInputs(folder, names)
    summary = localize_into(small, inputs, RunOptions(tmp_path / "slow", overlays=False))
    assert (summary.localized, summary.failed) == (len(names) - 2, 3)
    run(small, folder, tmp_path / "files")
    slow, quickly = records(tmp_path / "slow"), records(tmp_path / "files")
    assert slow[5] == {
        "path": "archive.tar",
        "error": {"kind": "picture", "message": "archive.tar: cut short"},
    }
    del slow[5]
    assert slow[11]["error"]["message"] == f"{names[11]}: the server said 404"
    del slow[11], quickly[11]
    assert slow == quickly  # names and messages too, though these came as bytes


def test_what_cannot_be_listed_is_tried_again_and_keeps_its_place(
    small: gapcam.Localizer, tmp_path: Path
):
    folder = copies(tmp_path / "in", 12)
    names = tuple(str(path) for path in sorted(folder.iterdir()))
    inputs, out = WaitingInputs(folder, names), tmp_path / "out"
    localize_into(small, inputs, RunOptions(out, overlays=False))
    before = files(out)
    again = localize_into(small, inputs, RunOptions(out, overlays=False, resume=True))
    assert (again.localized, again.failed, again.earlier) == (0, 2, 11)
    assert files(out) == before


@pytest.mark.parametrize("ending", ["tar", "tar.gz"])
def test_members_of_an_archive_are_named_and_taken_up_like_files(
    small: gapcam.Localizer, tmp_path: Path, ending: str
):
    folder = copies(tmp_path / "in", 10)
    path = tmp_path / f"some.{ending}"
    with tarfile.open(path, "w:gz" if ending.endswith("gz") else "w") as archive:
        contents = {picture.name: picture.read_bytes() for picture in sorted(folder.iterdir())}
        for name, data in {**contents, "broken.jpg": b"nothing"}.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, BytesIO(data))
    out = tmp_path / "out"
    for resume, expected in ((False, (10, 1, 0)), (True, (0, 1, 10))):
        options = RunOptions(out, overlays=False, resume=resume)
        done = localize_into(small, open_inputs([str(path)]), options)
        assert (done.localized, done.failed, done.earlier) == expected
    found = records(out)
    assert [Path(record["path"]).name for record in found] == [
        *(f"{i:04}.jpg" for i in range(10)),
        "broken.jpg",
    ]
    assert found[-1]["error"]["message"].startswith(found[-1]["path"] + ": expected a picture")
    assert (out / ERRORS).exists()
