"""A real HTTP server on this machine: files, listings, redirects, and all kinds of trouble."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder; the first part of a path may ask for trouble.

    `/fails/N/…` answers 503 N times, `/slow/S/…` waits S seconds, `/cut/N/…` breaks off in the
    middle N times, `/status/CODE`, `/redirect/…`, `/loop`, `/endless`, `/private/…` (needs the
    password), `/trickle` (a byte now and then).
    """

    protocol_version = "HTTP/1.1"
    seen: Counter[str]

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.seen[self.path] += 1
        kind, _, rest = self.path[1:].partition("/")
        trouble = getattr(self, f"do_{kind}", None)
        if trouble is None or kind in ("GET", "HEAD"):
            self.serve(self.path)
        else:
            trouble(rest)

    def serve(self, path: str) -> None:
        self.path = path
        super().do_GET()

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_status(self, rest: str) -> None:
        self.answer(int(rest.partition("?")[0].partition("/")[0]), b"no")

    def do_redirect(self, rest: str) -> None:
        self.answer(302, Location=f"/{rest}")

    def do_loop(self, rest: str) -> None:
        self.answer(302, Location="/loop")

    def do_fails(self, rest: str) -> None:
        times, _, path = rest.partition("/")
        if self.seen[self.path] <= int(times):
            self.answer(503, b"busy")
        else:
            self.serve(f"/{path}")

    def do_slow(self, rest: str) -> None:
        seconds, _, path = rest.partition("/")
        time.sleep(float(seconds))
        self.serve(f"/{path}")

    def do_private(self, rest: str) -> None:
        if self.headers.get("Authorization") == "Basic bWU6cHc=":  # me:pw
            self.serve(f"/{rest}")
        else:
            self.answer(401, b"who are you?")

    def do_cut(self, rest: str) -> None:
        """Promises all of a file and breaks off half-way through what is left of it, N times."""
        times, _, path = rest.partition("/")
        data = Path(self.directory, path).read_bytes()
        start = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-")
        part = data[int(start) :]
        self.send_response(206 if int(start) else 200)
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        breaks = self.seen[self.path] <= int(times)
        self.wfile.write(part[: len(part) // 2] if breaks else part)
        self.close_connection = breaks

    def do_rangeless(self, rest: str) -> None:
        """As `cut/1`, from a server that does not know ranges."""
        data = Path(self.directory, rest).read_bytes()
        breaks = self.seen[self.path] <= 1
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if breaks else data)
        self.close_connection = breaks

    def do_endless(self, rest: str) -> None:
        self.send_response(200)
        self.end_headers()
        try:
            while True:
                self.wfile.write(bytes(1 << 16))
        except OSError:
            self.close_connection = True

    def do_trickle(self, rest: str) -> None:
        self.send_response(200)
        self.end_headers()
        try:
            for _ in range(100):
                self.wfile.write(b"x")
                self.wfile.flush()
                time.sleep(0.05)
        except OSError:
            pass
        self.close_connection = True


class Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, *_: Any) -> None:
        pass  # clients that hang up are part of the tests


@contextmanager
def serving(folder: Path) -> Iterator[tuple[str, Counter[str]]]:
    """The address of a server of this folder, and how often each path was asked for."""
    seen: Counter[str] = Counter()
    handler = type("Here", (Handler,), {"seen": seen})
    with Server(("127.0.0.1", 0), partial(handler, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", seen
        finally:
            server.shutdown()
            thread.join()
