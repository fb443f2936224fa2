"""onnxruntime-web: found in a folder or a package, or fetched from a registry and checked."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import socket
import tarfile
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from gapcam import web_runtime as runtimes
from gapcam.types import ArgumentError, ModelError
from gapcam.web_runtime import BINARY, INTEGRITY, SCRIPT, VERSION, FetchLimits, web_runtime
from web_site import RUNTIME, WASM, WEB, needs_runtime, small_package


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    return small_package(tmp_path_factory.mktemp("npm") / "onnxruntime-web")


def tarball(*members, kind=tarfile.REGTYPE):
    """The bytes of an npm package with these (name, content) files."""
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w:gz") as tar:
        for name, content in members:
            entry = tarfile.TarInfo(f"package/{name}")
            entry.type, entry.size = kind, len(content)
            entry.linkname = "/etc/passwd" if kind == tarfile.SYMTYPE else ""
            tar.addfile(entry, io.BytesIO(content))
    return written.getvalue()


def described(version, name="onnxruntime-web"):
    return ("package.json", json.dumps({"name": name, "version": version}).encode())


WHOLE = (("dist/" + SCRIPT, b"export {};"), ("dist/" + BINARY, WASM), described("1.2.3"))


def test_the_pinned_hash_is_that_of_the_lock_file():
    lock = json.loads((WEB / "package-lock.json").read_text("utf-8"))
    locked = lock["packages"]["node_modules/onnxruntime-web"]
    assert (locked["version"], locked["integrity"]) == (VERSION, INTEGRITY)


def test_a_folder_a_dist_folder_and_a_tarball_give_the_same(package, tmp_path):
    (tmp_path / "it.tgz").write_bytes(tarball(*WHOLE))
    (tmp_path / "node_modules").mkdir()
    (tmp_path / "node_modules" / "onnxruntime-web").symlink_to(package)
    (tmp_path / "bare").mkdir()
    for name in (SCRIPT, BINARY):
        (tmp_path / "bare" / name).write_bytes((package / "dist" / name).read_bytes())
    sources = {
        package: "9.9.9",
        package / "dist": "9.9.9",
        tmp_path: "9.9.9",
        tmp_path / "bare": "",
        str(tmp_path / "it.tgz"): "1.2.3",
    }
    for source, version in sources.items():
        found = web_runtime(source)
        assert (found.script, found.binary, found.version) == (b"export {};", WASM, version)
    assert str(web_runtime(tmp_path / "bare")).startswith("onnxruntime-web of an unknown version (")


@needs_runtime
def test_the_tested_version_says_so():
    found = web_runtime(RUNTIME)
    assert str(found) == f"onnxruntime-web {VERSION}"
    assert b"ONNX Runtime Web" in found.script[:100]
    assert len(found.binary) > 10**7


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (b"words", ModelError, "expected the tarball of onnxruntime-web, and it cannot be unpack"),
        (tarball(*WHOLE)[:150], ModelError, "it cannot be unpacked"),
        (gzip.compress(b"words" * 500), ModelError, "it cannot be unpacked"),
        (tarball(), ModelError, f"has no {BINARY}"),
        (tarball(WHOLE[1], WHOLE[2]), ModelError, f"has no {SCRIPT}"),
        (tarball(*WHOLE, kind=tarfile.SYMTYPE), ModelError, "it has no "),
        (tarball(*WHOLE[:2], described("1", "left-pad")), ArgumentError, "got the package 'left-p"),
        (tarball(*WHOLE[:2], ("package.json", b"[]")), ModelError, "its package.json is damaged"),
        (tarball(WHOLE[0], ("dist/" + BINARY, b"<html>"), WHOLE[2]), ModelError, "no WebAssembly"),
        (
            tarball(*WHOLE[:2], described(VERSION)),
            ModelError,
            "damaged or changed. Get it again: n",
        ),
    ],
    ids=range(10),  # the bytes hold the time of day
)
def test_what_is_no_runtime_is_refused(tmp_path, data, error, message):
    (tmp_path / "it.tgz").write_bytes(data)
    with pytest.raises(error, match=re.escape(message)) as caught:
        web_runtime(tmp_path / "it.tgz")
    assert str(caught.value).startswith(str(tmp_path / "it.tgz"))


def test_missing_and_wrong_places_are_refused(tmp_path):
    with pytest.raises(ArgumentError, match=r"no.tgz: cannot be read \(No such file"):
        web_runtime(tmp_path / "no.tgz")
    with pytest.raises(
        ArgumentError, match=r"expected the folder of onnxruntime-web, with ort\.wa"
    ):
        web_runtime(tmp_path)
    (tmp_path / "it.tgz").write_bytes(tarball(*WHOLE))
    with pytest.raises(ArgumentError, match="larger than any onnxruntime-web package"):
        web_runtime(tmp_path / "it.tgz", limits=FetchLimits(max_bytes=10))
    with pytest.raises(ModelError, match="unpacks to more than any"):
        web_runtime(tmp_path / "it.tgz", limits=FetchLimits(max_unpacked=10))


# --- the registry -----------------------------------------------------------------------------


class Registry(BaseHTTPRequestHandler):
    """A registry that answers as the server's `answer` says."""

    def do_GET(self):
        self.server.asked.append(self.path)
        self.server.answer(self)

    def log_message(self, *arguments):
        pass


def sends(data, length=None):
    def answer(request):
        request.send_response(200)
        request.send_header("Content-Length", str(length or len(data)))
        request.end_headers()
        request.wfile.write(data)

    return answer


def stalls(request):
    sends(b"x", length=1000)(request)
    request.wfile.flush()
    time.sleep(1)


def drips(request):
    sends(b"x", length=1000)(request)
    for _ in range(20):
        time.sleep(0.05)
        request.wfile.write(b"x")


@contextmanager
def registry(answer):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Registry)
    server.answer, server.asked = answer, []
    server.handle_error = lambda *_: None  # those who hang up early, which is meant here
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server, f"http://127.0.0.1:{server.server_port}/npm"
    server.shutdown()
    server.server_close()


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """Nobody's settings and an empty cache."""
    for name in list(os.environ):
        if name.lower().startswith("npm_config_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("GAPCAM_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_the_registry_is_npms(fresh, monkeypatch):
    assert runtimes.registry() == "https://registry.npmjs.org"
    home = fresh / "home"
    home.mkdir()
    lines = ["; of mine", "@mine:registry=https://other.example", "registry = 'https://a.example/'"]
    (home / ".npmrc").write_text("\n".join(lines))
    assert runtimes.registry() == "https://a.example"
    (home / ".npmrc").write_text("registry=${MIRROR}/npm/")
    monkeypatch.setenv("MIRROR", "http://b.example")
    assert runtimes.registry() == "http://b.example/npm"
    (fresh / "rc").write_text("registry=https://c.example")
    monkeypatch.setenv("NPM_CONFIG_USERCONFIG", str(fresh / "rc"))
    assert runtimes.registry() == "https://c.example"
    monkeypatch.setenv("npm_config_registry", "https://d.example/x/")
    assert runtimes.registry() == "https://d.example/x"


@pytest.mark.parametrize("named", ["file:///etc", "registry.example", "https://me:word@a.example"])
def test_a_registry_that_is_no_web_address_is_refused(fresh, monkeypatch, named):
    monkeypatch.setenv("npm_config_registry", named)
    with pytest.raises(ModelError, match="expected a http or https address without a pass") as no:
        web_runtime()
    assert "word" not in str(no.value).replace("password", "")


def test_the_package_is_fetched_once_and_kept_while_it_is_whole(fresh, monkeypatch):
    data = tarball(*WHOLE[:2], described(VERSION))
    monkeypatch.setattr(runtimes, "INTEGRITY", runtimes.integrity(data))
    told = []
    with registry(sends(data)) as (server, address):
        monkeypatch.setenv("npm_config_registry", address)
        first = web_runtime(tell=told.append)
        assert web_runtime(tell=told.append) == first
        assert server.asked == [f"/npm/onnxruntime-web/-/onnxruntime-web-{VERSION}.tgz"]
        assert first.version == VERSION
        assert len(told) == 1
        assert told[0].startswith(f"Fetching onnxruntime-web {VERSION} once (33 MB) from {address}")
        (kept,) = (fresh / "cache").iterdir()
        assert kept.read_bytes() == data
        kept.write_bytes(data[:-1])  # damaged since
        assert web_runtime() == first
        assert len(server.asked) == 2
        assert kept.read_bytes() == data


def test_a_cache_that_cannot_be_written_is_said(fresh, monkeypatch):
    data = tarball(*WHOLE[:2], described(VERSION))
    monkeypatch.setattr(runtimes, "INTEGRITY", runtimes.integrity(data))
    (fresh / "cache").write_text("a file")
    told = []
    with registry(sends(data)) as (_, address):
        monkeypatch.setenv("npm_config_registry", address)
        assert web_runtime(tell=told.append).version == VERSION
    assert "cannot be written" in told[1]
    assert told[1].endswith("onnxruntime-web will be fetched again next time.")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (sends(tarball(*WHOLE)), "damaged, cut short or changed: "),
        (sends(tarball(*WHOLE)[:99], length=1000), "damaged, cut short or changed: 99 bytes whose"),
        (lambda r: r.send_error(404), "the registry answered 404 Not Found. Or get it elsewhere"),
        (lambda r: r.send_error(503), "the registry answered 503 Service Unavailable"),
        (lambda r: r.connection.close(), "cannot be fetched ("),
        (lambda r: r.wfile.write(b"words\r\n\r\n"), "cannot be fetched ("),
        (stalls, "cannot be fetched (timed out). Check the network"),
        (drips, "cannot be fetched (not whole after 0.4 s)"),
        (sends(b"x" * 5000), "larger than any onnxruntime-web package"),
    ],
    ids=["hash", "short", "404", "503", "closed", "no http", "stalls", "drips", "large"],
)
def test_a_registry_that_fails_is_said_and_nothing_kept(fresh, monkeypatch, answer, message):
    limits = FetchLimits(silence_s=0.3, total_s=0.4, max_bytes=4000)
    with registry(answer) as (_, address):
        monkeypatch.setenv("npm_config_registry", address)
        with pytest.raises(ModelError, match=re.escape(message)) as caught:
            web_runtime(limits=limits)
    assert str(caught.value).startswith(f"{address}/onnxruntime-web/-/")
    assert str(caught.value).endswith(
        f"Or get it elsewhere (npm pack onnxruntime-web@{VERSION}) and name the file: --runtime"
    )
    assert not (fresh / "cache").exists()


def test_no_network_is_said(fresh, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        monkeypatch.setenv("npm_config_registry", f"http://127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(ModelError, match=r"cannot be fetched .*Connection refused.*npm pack"):
            web_runtime()
