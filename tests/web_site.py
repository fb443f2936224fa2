"""A static file server and a headless Chromium that can reach nothing else."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from browser import Browser
from gapcam.exporting_web import with_policy
from gapcam.web_runtime import BINARY, SCRIPT

WEB = Path(__file__).parent / "web"
RUNTIME = WEB / "node_modules" / "onnxruntime-web"
PROGRAM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
needs_runtime = pytest.mark.skipif(
    not RUNTIME.is_dir(), reason="needs onnxruntime-web: npm ci --ignore-scripts in tests/web"
)
needs_browser = pytest.mark.skipif(
    PROGRAM is None, reason="needs Chromium on PATH: apt install chromium"
)
BLOCKED = "--host-resolver-rules='MAP * ~NOTFOUND, EXCLUDE 127.0.0.1'"
BARE = '<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,"><title>bare</title>'


WASM = b"\0asm\1\0\0\0"
"""The smallest WebAssembly."""


def small_package(folder: Path, version: str = "9.9.9") -> Path:
    """A folder laid out as npm's onnxruntime-web; only the size of its files is not real."""
    (folder / "dist").mkdir(parents=True)
    (folder / "dist" / SCRIPT).write_text("export {};")
    (folder / "dist" / BINARY).write_bytes(WASM)
    described = {"name": "onnxruntime-web", "version": version}
    (folder / "package.json").write_text(json.dumps(described))
    return folder


class Site:
    """A served folder; `asked` is every path that was asked for."""

    def __init__(self, root: Path, headers: Mapping[str, str]) -> None:
        self.root, self.asked = root, []
        # What a test writes again is read again.
        headers = {"Cache-Control": "no-store", **headers}
        handler = partial(_Handler, asked=self.asked, headers=headers, directory=str(root))
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}/"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def path_of(self, path: Path) -> str:
        """The path that a file of the folder is asked for by."""
        return f"/{path.relative_to(self.root).as_posix()}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(SimpleHTTPRequestHandler):
    """Python's own; it keeps what was asked for."""

    def __init__(self, *arguments, asked, headers, **options):
        self._asked, self._headers = asked, headers
        super().__init__(*arguments, **options)

    def send_head(self):
        self._asked.append(self.path)
        return super().send_head()

    def end_headers(self):
        for header in self._headers.items():
            self.send_header(*header)
        super().end_headers()

    def log_message(self, *arguments):
        pass


@contextmanager
def served(root: Path, **headers: str) -> Iterator[Site]:
    """The folder on a server, with `bare.html` in it: a page with the exported page's policy."""
    (root / "bare.html").write_text(with_policy(BARE), "utf-8")
    site = Site(root, {name.replace("_", "-"): value for name, value in headers.items()})
    yield site
    site.close()


@contextmanager
def offline_browser(folder: Path) -> Iterator[Browser]:
    """A browser that finds no host but this machine."""
    program = folder / "offline-browser"
    program.write_text(f'#!/bin/sh\nexec {PROGRAM} {BLOCKED} "$@"\n')
    program.chmod(0o755)
    driven = Browser(str(program), folder / "profile")
    yield driven
    driven.close()


def in_page(browser: Browser, body: str, **given: object) -> object:
    """What an async function's body returns; it has the given values by their names."""
    names = "".join(f"const {name} = {json.dumps(value)};" for name, value in given.items())
    return browser.run(f"(async () => {{ {names} {body} }})()")
