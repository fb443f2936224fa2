"""Tar archives: WebDataset layout, plain ones, hostile and broken ones."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import os
import pickle
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gapcam.images import Limits, load_picture
from gapcam.inputs import Inputs, Item, open_inputs, shards
from gapcam.inputs.archives import inside
from gapcam.inputs.items import Held, Member
from gapcam.types import Failure, PictureError
from picture_files import as_plain_user, encode, open_folder, smooth_pixels

PICTURES = [encode(Image.fromarray(smooth_pixels(20, 30, seed)), "JPEG") for seed in range(4)]
FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
PACK = {"tar": bytes, "tar.gz": gzip.compress, "tar.bz2": bz2.compress, "tar.xz": lzma.compress}


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)


def tar_of(members: Mapping[str, bytes] | list[tuple[str, bytes]], **options: object) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", **options) as tar:
        for name, data in members.items() if isinstance(members, Mapping) else members:
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    return buffer.getvalue()


def pictures(inputs: Inputs) -> dict[str, bytes]:
    return {item.name: inputs.reader.read(item) for item in inputs if isinstance(item, Item)}


def failures(inputs: Inputs) -> list[Failure]:
    return [each for each in inputs if isinstance(each, Failure)]


# --- what is taken -------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", PACK)
@pytest.mark.parametrize("kind", FORMATS)
def test_a_webdataset_shard_gives_the_picture_of_each_sample(suffix: str, kind: int):
    long = "x" * 90 + "/" + "y" * 95
    members = {
        "train/0001.cls": b"7",
        "train/0001.png": b"the mask",
        "train/0001.jpg": PICTURES[0],
        "train/0001.json": b"{}",
        "train/0002.seg.png": b"the other mask",
        "train/0002.JPEG": PICTURES[1],
        "train/0002.txt": b"words",
        "train/0003.json": b"no picture",
        f"{long}.webp": PICTURES[2],
        "last.jpg": PICTURES[3],
    }
    name = f"shard.{suffix}"
    Path(name).write_bytes(PACK[suffix](tar_of(members, format=kind)))
    found = open_inputs([f"./{name}"])
    expected = ["train/0001.jpg", "train/0002.JPEG", f"{long}.webp", "last.jpg"]
    for _ in range(2):
        assert pictures(found) == {
            f"./{name}/{member}": data for member, data in zip(expected, PICTURES, strict=True)
        }
        assert failures(found) == []
        assert found.ignored == 6
    assert found.count() == (4 if suffix == "tar" else None)
    kinds = {type(item.source) for item in found}
    assert kinds == {Member if suffix == "tar" else Held}
    item = next(iter(found))
    assert found.reader.relative(item.name) == Path(name, "train/0001.jpg")
    assert found.reader.identity(item) == str(Path.cwd() / name / "train/0001.jpg")
    (pixels,) = {load_picture(found.reader.read(item)).pixels.tobytes()}
    assert pixels == load_picture(PICTURES[0]).pixels.tobytes()


def test_a_plain_archive_gives_every_picture():
    names = ["./a.1.jpg", "./a.2.jpg", "b/img.jpg", "b/other.png", "b/img.jpg.txt"]
    Path("x.tar").write_bytes(tar_of(dict.fromkeys(names, PICTURES[0])))
    found = open_inputs(["x.tar"])
    assert list(pictures(found)) == [
        f"x.tar/{n}" for n in ("a.1.jpg", "a.2.jpg", "b/img.jpg", "b/other.png")
    ]
    assert found.ignored == 1


def test_numbered_pictures_without_end_are_not_one_sample():
    names = [f"a.{i}.jpg" for i in range(50)]
    for suffix, pack in PACK.items():
        Path(f"x.{suffix}").write_bytes(pack(tar_of(dict.fromkeys(names, PICTURES[0]))))
        assert list(pictures(open_inputs([f"x.{suffix}"]))) == [f"x.{suffix}/{n}" for n in names]


def test_what_is_no_picture_of_its_own():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:

        def add(name: str, data: bytes = b"", **fields: object) -> None:
            header = tarfile.TarInfo(name)
            header.size = len(data)
            for field, value in fields.items():
                setattr(header, field, value)
            tar.addfile(header, io.BytesIO(data))

        add("d", type=tarfile.DIRTYPE)
        add("d.jpg", type=tarfile.DIRTYPE)
        add("a.jpg", PICTURES[0])
        add("hard.jpg", type=tarfile.LNKTYPE, linkname="a.jpg")
        add("soft.jpg", type=tarfile.SYMTYPE, linkname="/etc/passwd")
        add("pipe.jpg", type=tarfile.FIFOTYPE)
        add("device.jpg", type=tarfile.CHRTYPE)
        add(".hidden.jpg", PICTURES[1])
        add("d/.cache/x.jpg", PICTURES[1])
        add("._a.jpg", PICTURES[1])
        add("./a.jpg", PICTURES[2])  # the same name again
        add("b.jpg", PICTURES[3])
    for suffix, pack in PACK.items():
        Path(f"x.{suffix}").write_bytes(pack(buffer.getvalue()))
        found = open_inputs([f"x.{suffix}"])
        assert pictures(found) == {
            f"x.{suffix}/a.jpg": PICTURES[0],
            f"x.{suffix}/b.jpg": PICTURES[3],
        }
        assert found.ignored == 8


def test_brace_ranges_patterns_and_the_same_archive_twice():
    for i in range(3):
        Path(f"s-00{i}.tar").write_bytes(tar_of({f"{i}.jpg": PICTURES[i]}))
    names = [f"s-00{i}.tar/{i}.jpg" for i in range(3)]
    assert list(pictures(open_inputs(["s-{000..002}.tar"]))) == names
    assert list(pictures(open_inputs(["s-*.tar", "./s-001.tar"]))) == names
    found = open_inputs(["s-{002..004}.tar", "a.jpg", "s-000.tar"])
    assert [each.name for each in found] == [names[2], "s-003.tar", "s-004.tar", "a.jpg", names[0]]
    assert [str(each.error) for each in failures(found)] == [
        f"s-00{i}.tar: expected a tar archive, there is no such file; check the path, and get the "
        "file again"
        for i in (3, 4)
    ]


# --- hostile and broken --------------------------------------------------------------------------


@given(st.text(st.sampled_from("./a\\\0 b"), max_size=12))
def test_members_stay_inside(name: str):
    member = inside(name)
    assert not {"", ".", ".."} & set(member.split("/")) or not member
    assert "\0" not in member
    if not {"", ".", ".."} & set(name.split("/")) and "\0" not in name:
        assert member == name


def test_hostile_names_never_touch_the_disk(tmp_path: Path):
    names = [
        "/etc/a.jpg",
        "../../b.jpg",
        "x/../../../c.jpg",
        "d\\..\\e.jpg",
        "new\nline.jpg",
        "n/" * 60 + "f.jpg",
    ]
    Path("in").mkdir()
    Path("in/x.tar").write_bytes(tar_of([(name, PICTURES[0]) for name in names]))
    found = open_inputs(["in/x.tar"])
    assert [name.removeprefix("in/x.tar/") for name in pictures(found)] == [
        "etc/a.jpg",
        "%2E%2E/%2E%2E/b.jpg",
        "x/%2E%2E/%2E%2E/%2E%2E/c.jpg",
        "d\\..\\e.jpg",
        "new\nline.jpg",
        "n/" * 60 + "f.jpg",
    ]
    assert set(pictures(found).values()) == {PICTURES[0]}
    for name in pictures(found):
        relative = found.reader.relative(name)
        assert not relative.is_absolute()
        assert ".." not in relative.parts
    assert [p.name for p in tmp_path.rglob("*")] == ["in", "x.tar"]


def test_a_long_member_name_is_cut_for_the_disk():
    name = "y" * 400 + "/" + "z" * 400 + ".jpg"
    Path("x.tar").write_bytes(tar_of({name: PICTURES[0]}))
    found = open_inputs(["x.tar"])
    (item,) = found
    assert item.name == f"x.tar/{name}"
    relative = found.reader.relative(item.name)
    assert all(len(part) <= 255 for part in relative.parts)
    assert relative.suffix == ".jpg"


def whole_before(data: bytes, length: int) -> list[str]:
    """The members whose bytes are all there, by the slow and obvious way."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return [m.name for m in tar.getmembers() if m.offset_data + m.size <= length]


DATA = tar_of({f"{i}.jpg": PICTURES[i % 4] for i in range(6)})


@settings(max_examples=60, deadline=None)
@given(length=st.integers(0, len(DATA) - 1), packed=st.booleans())
def test_a_cut_archive_gives_its_whole_pictures_and_a_failure(
    length: int, packed: bool, tmp_path_factory
):
    path = tmp_path_factory.mktemp("cut") / ("x.tar.gz" if packed else "x.tar")
    path.write_bytes(gzip.compress(DATA[:length], 1) if packed else DATA[:length])
    found = open_inputs([str(path)])
    every = list(found)
    taken = [each.name.rpartition("/")[2] for each in every if isinstance(each, Item)]
    assert taken == whole_before(DATA, length)
    assert found.count() in (None, len(taken))
    end = whole_end(DATA)
    if length >= end + 512:  # the end mark is there
        assert len(every) == len(taken)
        return
    assert isinstance(every[-1], Failure)
    assert every[-1].name == str(path)
    assert isinstance(every[-1].error, PictureError)
    text = str(every[-1].error)
    assert f"before is used ({len(taken)} picture" in text or "expected a tar archive, " in text
    assert "get the file again" in text
    for item in every[:-1]:
        assert found.reader.read(item) in PICTURES


def whole_end(data: bytes) -> int:
    """Where the end mark starts."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        last = tar.getmembers()[-1]
    return last.offset_data + -(-last.size // 512) * 512


@settings(max_examples=40, deadline=None)
@given(
    position=st.integers(0, whole_end(DATA) - 1), value=st.integers(0, 255), packed=st.booleans()
)
def test_a_changed_byte_ends_in_pictures_and_failures(position, value, packed, tmp_path_factory):
    data = bytearray(DATA)
    data[position] = value
    path = tmp_path_factory.mktemp("bits") / ("x.tar.gz" if packed else "x.tar")
    path.write_bytes(gzip.compress(data, 1) if packed else data)
    found = open_inputs([str(path)])
    every = list(found)
    if len(every) < 6:
        assert isinstance(every[-1], Failure) or found.ignored


def test_a_broken_gzip_stream():
    data = gzip.compress(tar_of({f"{i}.jpg": os.urandom(50_000) for i in range(4)}))
    for cut in (5, 20, len(data) // 2, len(data) - 20_000):
        Path("x.tgz").write_bytes(data[:cut])
        every = list(open_inputs(["x.tgz"]))
        assert isinstance(every[-1], Failure), cut
        assert int(cut / len(data) * 4) - len(every) + 1 in (0, 1)  # the last may wait in a buffer
    bad = bytearray(data)
    bad[len(data) // 2] ^= 255
    bad[len(data) // 2 + 1] ^= 255
    Path("x.tgz").write_bytes(bad)
    assert len(list(open_inputs(["x.tgz"]))) >= 2


@pytest.mark.parametrize("name", ["x.tar", "x.tar.gz"])
def test_what_is_no_archive(name: str):
    for data in (b"", b"hello", PICTURES[0], b"\x1f\x8bnonsense" * 300, b"y" * 10_000):
        Path(name).write_bytes(data)
        (failure,) = open_inputs([name])
        assert isinstance(failure, Failure)
        assert str(failure.error).startswith(f"{name}: expected a tar archive, ")
        assert str(failure.error).endswith("check the path, and get the file again")


def test_an_archive_without_pictures():
    for name, data in (("x.tar", tar_of({"a.txt": b"1"})), ("y.tar", tar_of({}))):
        Path(name).write_bytes(data)
        found = open_inputs([name])
        (failure,) = found
        assert "expected pictures in this archive, found none" in str(failure.error)
        assert found.count() == 0


def test_a_name_as_long_as_the_archive_is_refused():
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 300 << 20
    start = header.tobuf(tarfile.GNU_FORMAT)
    Path("x.tar.gz").write_bytes(
        gzip.compress(DATA[: whole_end(DATA)] + start + bytes(300 << 20), 1)
    )
    *items, failure = open_inputs(["x.tar.gz"])
    assert len(items) == 6
    assert "a member's name has 314,572,800 bytes" in str(failure.error)


def test_a_sparse_member_is_refused_by_name():
    subprocess.run(["truncate", "-s", "1M", "holes.jpg"], check=True)
    subprocess.run(["tar", "--sparse", "-cf", "x.tar", "holes.jpg"], check=True)
    Path("x.tar.gz").write_bytes(gzip.compress(Path("x.tar").read_bytes()))
    for name in ("x.tar", "x.tar.gz"):
        failure = next(iter(open_inputs([name])))
        assert isinstance(failure, Failure)
        assert failure.name == f"{name}/holes.jpg"
        assert "this is a sparse one; pack the archive again" in str(failure.error)


def test_members_that_are_too_large(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shards, "LIMIT", Limits(max_bytes=1000).max_bytes)
    monkeypatch.setattr("gapcam.inputs.reader.LIMIT", 1000)
    members = {"a.jpg": b"x" * 1000, "b.jpg": b"x" * 1001}
    Path("x.tar").write_bytes(tar_of(members))
    Path("x.tar.gz").write_bytes(gzip.compress(tar_of(members)))
    found = open_inputs(["x.tar"])
    first, second = found
    assert found.reader.read(first) == b"x" * 1000
    with pytest.raises(
        PictureError, match=r"x\.tar/b\.jpg: expected at most 1,000 bytes, it has 1,0"
    ):
        found.reader.read(second)
    first, second = open_inputs(["x.tar.gz"])
    assert found.reader.read(first) == b"x" * 1000
    assert isinstance(second, Failure)
    assert "x.tar.gz/b.jpg: expected at most 1,000 bytes, it has 1,001" in str(second.error)


def test_an_archive_that_changes_after_it_was_looked_up():
    Path("x.tar").write_bytes(DATA)
    found = open_inputs(["x.tar"])
    items = list(found)
    Path("x.tar").write_bytes(DATA[:1000])
    with pytest.raises(PictureError, match=r"x\.tar/5\.jpg: .*its archive has become shorter; put"):
        found.reader.read(items[5])
    Path("x.tar").unlink()
    with pytest.raises(PictureError, match=r"its archive cannot be read any more \(No such file"):
        found.reader.read(items[0])


def test_an_archive_without_permission():
    with open_folder() as folder:
        (folder / "x.tar").write_bytes(DATA)
        (folder / "x.tar").chmod(0)
        with as_plain_user():
            (failure,) = open_inputs([str(folder / "x.tar")])
        assert "expected a tar archive, there is no permission to read it" in str(failure.error)


def test_a_folder_named_like_an_archive_is_a_folder():
    Path("x.tar").mkdir()
    Path("x.tar/a.jpg").touch()
    assert [item.name for item in open_inputs(["x.tar"])] == ["x.tar/a.jpg"]


# --- elsewhere -----------------------------------------------------------------------------------


def test_members_are_read_in_a_spawned_process():
    Path("x.tar").write_bytes(DATA)
    Path("x.tgz").write_bytes(gzip.compress(DATA))
    inputs = open_inputs(["x.tar", "x.tgz"])
    Path("job").write_bytes(pickle.dumps((inputs.reader, list(inputs))))
    code = (
        "import pickle, hashlib; reader, items = pickle.load(open('job', 'rb'));"
        "print(hashlib.sha256(b''.join(reader.read(i) for i in items)).hexdigest())"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    expected = b"".join(PICTURES[i % 4] for i in range(6)) * 2
    assert shown.stdout.strip() == hashlib.sha256(expected).hexdigest()


def test_an_index_takes_little_memory():
    count = 5_000
    Path("x.tar").write_bytes(tar_of([(f"train/{i:06d}.jpg", b"x") for i in range(count)]))
    inputs = open_inputs(["x.tar"])
    assert inputs.count() == count
    assert len(pickle.dumps(inputs._parts)) < 12 * count
    offsets = np.array([item.source.offset for item in inputs])
    assert (np.diff(offsets) == 1024).all()
