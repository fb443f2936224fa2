"""Pictures, lists, tables, archives and folders at URLs: a real HTTP server, and memory."""

from __future__ import annotations

import gzip
import io
import pickle
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pyarrow as pa
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image
from pyarrow import parquet

from gapcam.images import load_picture
from gapcam.inputs import Inputs, Item, open_inputs
from gapcam.inputs.network import Patience, Stream, fetch
from gapcam.types import ArgumentError, Failure, PictureError
from http_pictures import serving
from picture_files import encode, smooth_pixels

QUICK = Patience(attempts=3, wait_s=0.01, connect_s=2, stall_s=0.3, total_s=2)
PICTURES = {
    name: encode(Image.fromarray(smooth_pixels(20, 30, seed)), "PNG")
    for seed, name in enumerate(("a.png", "b c.png", "sub/d.png", "sub/e.png"))
}


def archive(pictures: dict[str, bytes] = PICTURES) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in pictures.items():
            for member, content in ((f"{name}.json", b"{}"), (name, data)):
                header = tarfile.TarInfo(member)
                header.size = len(content)
                tar.addfile(header, io.BytesIO(content))
    return buffer.getvalue()


def files() -> dict[str, bytes]:
    table = io.BytesIO()
    parquet.write_table(pa.table({"path": ["a.png", "sub/d.png"]}), table)
    return {
        **PICTURES,
        "sub/.hidden/x.png": b"",
        "sub/notes.md": b"words",
        "list.txt": b"a.png\n# no\nsub/d.png\n",
        "sub/up.csv": b"id,image\n1,../a.png\n2,d.png\n",
        "table.parquet": table.getvalue(),
        "x.tar": archive(),
        "x.tar.gz": gzip.compress(archive()),
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    for name, data in files().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[tuple[str, Counter[str]]]:
    with serving(folder) as both:
        yield both


@pytest.fixture
def web(server: tuple[str, Counter[str]]) -> str:
    return server[0]


@pytest.fixture
def memory() -> Iterator[str]:
    fs = fsspec.filesystem("memory")
    for name, data in files().items():
        fs.pipe(f"/box/{name}", data)
    yield "memory://box"
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


def opened(*paths: str, **options: object) -> Inputs:
    return open_inputs(paths, patience=QUICK, **options)


def pixels(inputs: Inputs) -> dict[str, bytes]:
    """Each name's pixels, so that what is read is a picture."""
    return {
        item.name: load_picture(inputs.reader.read(item)).pixels.tobytes()
        for item in inputs
        if isinstance(item, Item)
    }


def error_of(url: str) -> str:
    found = opened(url)
    (item,) = found
    with pytest.raises(PictureError) as caught:
        found.reader.read(item)
    return str(caught.value)


# --- the same pictures as from files -------------------------------------------------------------


@pytest.mark.parametrize("place", ["web", "memory"])
@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("a.png", ["a.png"]),
        ("list.txt", ["a.png", "sub/d.png"]),
        ("sub/up.csv", ["a.png", "sub/d.png"]),
        ("table.parquet", ["a.png", "sub/d.png"]),
        ("x.tar", [f"x.tar/{name}" for name in PICTURES]),
        ("x.tar.gz", [f"x.tar.gz/{name}" for name in PICTURES]),
        ("", ["a.png", "b c.png", "sub/d.png", "sub/e.png"]),
        ("sub/", ["sub/d.png", "sub/e.png"]),
        ("sub/*.png", ["sub/d.png", "sub/e.png"]),
        ("**/*.png", ["a.png", "b c.png", "sub/d.png", "sub/e.png"]),
        ("*.tar", [f"x.tar/{name}" for name in PICTURES]),
        ("sub/{d,e}.png", ["sub/d.png", "sub/e.png"]),
    ],
)
def test_every_kind_of_url_gives_the_pixels_of_the_files(
    place: str, path: str, names: list[str], folder: Path, request: pytest.FixtureRequest
):
    base = request.getfixturevalue(place)
    found = opened(f"{base}/{path}")
    expected = {
        f"{base}/{n.replace(' ', '%20') if place == 'web' and 'tar' not in n else n}": load_picture(
            PICTURES[n.removeprefix("x.tar/").removeprefix("x.tar.gz/")]
        ).pixels.tobytes()
        for n in names
    }
    got = pixels(found)
    assert got == expected
    assert list(got) == list(expected)
    assert found.reader.slow
    assert found.root == Path.cwd()
    assert found.count() == (None if "tar" in path else len(names))
    relative = [found.reader.relative(name) for name in got]
    assert len(set(relative)) == len(names)
    assert not any(path.is_absolute() or ".." in path.parts for path in relative)


def test_folders_are_counted_like_local_ones(web: str, memory: str, folder: Path):
    local = open_inputs([str(folder)])
    for base in (web, memory):
        found = opened(f"{base}/")
        assert found.count() == local.count() == 4
        assert found.ignored == local.ignored == 7  # notes, three lists, two archives, one hidden
    assert opened(memory).count() == 4  # no slash at the end is needed where folders are known


def test_local_lists_name_urls_and_doubles_are_taken_once(web: str, tmp_path: Path):
    (tmp_path / "x.csv").write_text(f"url\n{web}/a.png\n{web}/a.png#x\nb.png\n")
    found = opened(str(tmp_path / "x.csv"), f"{web}/a.png", f"{web}/x.tar.gz", f"{web}/x.tar.gz")
    names = [each.name for each in found]
    assert names[:2] == [f"{web}/a.png", f"{tmp_path}/b.png"]
    assert len(names) == 2 + len(PICTURES)


def test_a_url_without_suffix_is_a_picture(web: str, folder: Path):
    (folder / "plain").write_bytes(PICTURES["a.png"])
    assert list(pixels(opened(f"{web}/plain?size=2"))) == [f"{web}/plain?size=2"]
    (folder / "plain").unlink()


# --- trouble -------------------------------------------------------------------------------------


def test_redirects_are_followed_but_not_for_ever(web: str):
    assert fetch(f"{web}/redirect/redirect/a.png", 10_000, QUICK) == PICTURES["a.png"]
    assert "it is redirected again and again; check the address and" in error_of(f"{web}/loop")


def test_a_server_that_fails_in_passing(server: tuple[str, Counter[str]]):
    web, seen = server
    assert fetch(f"{web}/fails/2/a.png", 10_000, QUICK) == PICTURES["a.png"]
    assert seen["/fails/2/a.png"] == 3
    text = error_of(f"{web}/fails/3/a.png")
    assert text == (
        f"{web}/fails/3/a.png: expected a picture, the server answers 503 Service Unavailable, "
        "tried 3 times; try again later"
    )


@pytest.mark.parametrize(
    ("path", "words", "asked"),
    [
        ("missing.png", "there is nothing at this address; check its spelling, and that", 1),
        ("status/403", "the server answers 403 Forbidden; give credentials in the environment", 1),
        ("private/a.png", "the server answers 401 Unauthorized; give credentials", 1),
        ("status/410", "the server answers 410 Gone; check the address", 1),
        ("status/429", "answers 429 Too Many Requests, tried 3 times; try again later", 3),
        ("status/500", "answers 500 Internal Server Error, tried 3 times", 3),
        ("slow/0.6/a.png", "no answer in time, tried 3 times; check the network", 3),
        (
            "cut/9/a.png",
            "the connection breaks off, tried 3 times; check the address and the network",
            3,
        ),
    ],
)
def test_what_a_server_may_say(server: tuple[str, Counter[str]], path: str, words: str, asked: int):
    web, seen = server
    text = error_of(f"{web}/{path}")
    assert text.startswith(f"{web}/{path}: expected a picture, ")
    assert words in text
    assert seen[f"/{path}"] == asked


def test_a_slow_answer_in_time_is_fine(web: str):
    assert fetch(f"{web}/slow/0.1/a.png", 10_000, QUICK) == PICTURES["a.png"]


def test_one_picture_may_not_take_for_ever(web: str):
    start = time.monotonic()
    patience = Patience(attempts=1, stall_s=1, total_s=0.5)
    with pytest.raises(PictureError, match="no answer in time"):
        fetch(f"{web}/trickle", 10_000, patience)
    assert time.monotonic() - start < 3


def test_a_picture_is_bounded_whatever_the_server_sends(web: str):
    with pytest.raises(
        PictureError, match=r"/endless: expected at most 300,000 bytes, it has more"
    ):
        fetch(f"{web}/endless", 300_000, QUICK)
    size = len(PICTURES["a.png"])
    assert fetch(f"{web}/a.png", size, QUICK) == PICTURES["a.png"]
    with pytest.raises(PictureError, match="expected at most"):
        fetch(f"{web}/a.png", size - 1, QUICK)


def test_nobody_there():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    text = error_of(f"http://127.0.0.1:{port}/a.png")
    assert "cannot be read (ClientConnectorError: " in text
    assert text.endswith("tried 3 times; check the address and the network, or try again later")


def test_credentials_are_used_and_not_shown(web: str):
    url = web.replace("http://", "http://me:pw@") + "/private/a.png?X-Amz-Signature=abc"
    found = opened(url)
    assert list(pixels(found)) == [f"{web}/private/a.png"]
    wrong = opened(url.replace("me:pw", "me:secret"))
    (item,) = wrong
    with pytest.raises(PictureError) as caught:
        wrong.reader.read(item)
    for text in (str(caught.value), repr(item), repr(caught.value.__cause__)):
        assert "secret" not in text
        assert "abc" not in text
    listed = opened(web.replace("http://", "http://me:pw@") + "/sub/up.csv")
    assert list(pixels(listed)) == [f"{web}/a.png", f"{web}/sub/d.png"]


def test_a_broken_connection_is_made_again_where_it_broke(server: tuple[str, Counter[str]]):
    web, seen = server
    for path in ("cut/2/x.tar", "cut/2/x.tar.gz", "rangeless/x.tar"):
        found = opened(f"{web}/{path}")
        assert [type(each) for each in found] == [Item] * 4
        assert found.ignored == 4
        assert seen[f"/{path}"] in (2, 3)


def test_a_stream_gives_the_bytes_of_the_file(web: str, memory: str):
    for url in (f"{web}/x.tar", f"{memory}/x.tar"):
        stream = Stream(url, "a file", QUICK)
        pieces = []
        while piece := stream.read(1000):
            pieces.append(piece)
        stream.close()
        assert b"".join(pieces) == archive()


def test_archives_that_are_missing_or_break_for_good(web: str, memory: str, folder: Path):
    cases = {
        f"{web}/no.tar": "no.tar: expected a tar archive, there is nothing at this address; check",
        f"{memory}/no.tar.gz": "there is nothing at this address; check its spelling",
        f"{web}/status/403/x.tar": "the server answers 403 Forbidden; give credentials",
    }
    for url, words in cases.items():
        (failure,) = opened(url)
        assert isinstance(failure, Failure)
        assert failure.name == url
        assert words in str(failure.error)
    (folder / "long.tar").write_bytes(archive({f"{i}.png": bytes(300_000) for i in range(8)}))
    try:
        *items, failure = opened(f"{web}/cut/99/long.tar")
    finally:
        (folder / "long.tar").unlink()
    assert 1 <= len(items) < 8
    assert all(found.source.data == bytes(300_000) for found in items)
    assert re.search(
        r"/long\.tar: expected a whole tar archive, .* after \d+ mem", str(failure.error)
    )
    assert "members (the connection breaks off, tried 3 times); what was" in str(failure.error)
    assert f"is used ({len(items)} picture" in str(failure.error)


def test_wrong_lists_and_folders(web: str, memory: str):
    fsspec.filesystem("memory").pipe("/box/words/notes.md", b"no picture")
    fsspec.filesystem("memory").pipe("/box/local.txt", b"a.png\nfile:///etc/a.png\n")
    cases = {
        f"{web}/no.txt": "expected a list of pictures, there is nothing at this address",
        f"{memory}/no.csv": "expected a table of picture paths, there is nothing",
        f"{web}/status/500/x.csv": "a table of picture paths, the server answers 500",
        f"{web}/no/": "/no: expected a folder, there is nothing at this address",
        f"{memory}/no/": "/no: expected a folder, there is nothing at this address",
        f"{web}/status/503/": "503: expected a folder, the server answers 503 Service .* 3 times",
        f"{memory}/words/": "can be listed, found none .1 other or hidden",
        f"{web}/a.png/": "can be listed, found none|there is nothing",
        f"{memory}/sub/*.jpg": "a pattern that matches files, nothing matches",
        f"{web}/sub/*.md": "expected pictures, matches 1 other files",
        f"{memory}/local.txt": "expected paths and URLs that are not of this machine, got file:///e",
        "abc://x/a/": "expected a URL that fsspec knows .*, got abc://",
    }
    for url, words in cases.items():
        with pytest.raises(ArgumentError, match=words):
            opened(url)
    assert "got abc:// (" in error_of("abc://x/a.png")


def test_subfolders_that_cannot_be_listed_are_failures(web: str, folder: Path):
    (folder / "odd").mkdir()
    (folder / "odd/index.html").write_text(
        '<a href="z.png">z</a> <a href="gone/">gone</a> <a href="shut/">shut</a>'
    )
    found = opened(f"{web}/odd/")
    assert [item.name for item in found] == [f"{web}/odd/z.png"]
    assert [failure.name for failure in found.failures] == [f"{web}/odd/gone", f"{web}/odd/shut"]
    assert "expected a folder, there is nothing at this address" in str(found.failures[0].error)
    shutil.rmtree(folder / "odd")


def test_folders_in_a_circle_come_to_an_end(web: str, folder: Path):
    (folder / "round/in").mkdir(parents=True)
    (folder / "round/in/a.png").write_bytes(PICTURES["a.png"])
    (folder / "round/in/again").symlink_to(".")
    try:
        found = opened(f"{web}/round/")
    finally:
        shutil.rmtree(folder / "round")
    assert found.count() > 30
    (failure,) = found.failures
    assert "at most 32 deep, this one is deeper, as in a circle of links" in str(failure.error)


# --- many threads, other processes ---------------------------------------------------------------


def test_reading_in_threads_and_in_a_spawned_process(web: str):
    found = opened(f"{web}/")
    items = list(found)
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(found.reader.read, items * 10))
    assert read == [PICTURES[name] for name in PICTURES] * 10
    code = (
        "import pickle, sys; reader, items = pickle.load(sys.stdin.buffer);"
        "sys.stdout.buffer.write(b''.join(reader.read(item) for item in items))"
    )
    job = pickle.dumps((found.reader, items))
    shown = subprocess.run([sys.executable, "-c", code], input=job, capture_output=True, check=True)
    assert shown.stdout == b"".join(PICTURES.values())
