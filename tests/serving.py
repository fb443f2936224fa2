"""Starts a real `gapcam serve` on a free port, asks applications in this process, and forms."""

from __future__ import annotations

import asyncio
import base64
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import SimpleNamespace

import httpx
import numpy as np

from gapcam.serve import ServeOptions, create_app
from gapcam.serve.running import listen, make_server

PATIENCE = 60


class Served:
    """A server process; `address` ends without a slash, `said` is what it wrote."""

    def __init__(self, *options: str, **env: str) -> None:
        command = [sys.executable, "-m", "gapcam", "serve", "--port", "0", *options]
        self.process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, env={**os.environ, **env}
        )
        self.said: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            self.address = self._wait_until_ready()
        except AssertionError:
            self.stop()
            raise
        self.port = int(self.address.rpartition(":")[2])

    def _read(self) -> None:
        for line in iter(self.process.stderr.readline, ""):
            self.said.append(line.rstrip("\n"))

    def _wait_until_ready(self) -> str:
        ends = time.monotonic() + PATIENCE
        while time.monotonic() < ends:
            for line in self.said:
                if found := re.search(r"Serving .* at (http://\S+)/ ", line):
                    return found[1]
            assert self.process.poll() is None, self.said
            time.sleep(0.02)
        raise AssertionError(self.said)

    def stop(self, how: int = signal.SIGTERM) -> int:
        """Ask it to stop; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        code = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        self.process.stderr.close()
        return code

    def resident_mb(self) -> float:
        """Memory that the process has now."""
        with open(f"/proc/{self.process.pid}/status", encoding="ascii") as file:  # noqa: PTH123
            line = next(line for line in file if line.startswith("VmRSS"))
        return int(line.split()[1]) / 1024


@contextmanager
def serving(*options: str, **env: str) -> Iterator[Served]:
    """A server for as long as the block runs."""
    served = Served(*options, **env)
    try:
        yield served
    finally:
        served.stop()


@contextmanager
def threaded(app, options, port: int = 0) -> Iterator[int]:
    """The port of the same server, run in a thread of this process; stopped at the end."""
    ready = threading.Event()
    server = make_server(app, options, ready.set)
    listener = listen("127.0.0.1", port)
    port = listener.getsockname()[1]
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        assert ready.wait(PATIENCE)
        yield port
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
        assert not thread.is_alive()


@contextmanager
def serving_here(localizer, port: int = 0, **options) -> Iterator[SimpleNamespace]:
    """`serving` in a thread of this process, which starts in a fraction of the time."""
    chosen = ServeOptions(**options)
    with threaded(create_app(localizer, chosen), chosen, port) as port:
        yield SimpleNamespace(address=f"http://127.0.0.1:{port}", port=port)


def raw(port: int, *parts: bytes, pause: float = 0, patience: float = 20) -> bytes:
    """What comes back for these bytes, until the server closes or says no more."""
    answer = []

    def read() -> None:
        with suppress(ConnectionError, TimeoutError):
            while part := line.recv(1 << 16):
                answer.append(part)

    with socket.create_connection(("127.0.0.1", port), timeout=patience) as line:
        reader = threading.Thread(target=read)
        reader.start()
        with suppress(ConnectionError, TimeoutError):
            for part in parts:
                line.sendall(part)
                time.sleep(pause)
        reader.join()
    return b"".join(answer)


def ask(app, method: str, path: str, *, host: str = "localhost", **options) -> httpx.Response:
    """One request to an application in this process."""

    async def asked() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url=f"http://{host}") as client:
            return await client.request(method, path, **options)

    return asyncio.run(asked())


def post_picture(app, data: bytes, query: str = "", **options) -> httpx.Response:
    headers = {"Content-Type": "image/jpeg", **options.pop("headers", {})}
    return ask(app, "POST", f"/v1/localize{query}", content=data, headers=headers, **options)


def form(*files: tuple[str, bytes]) -> list:
    return [("pictures", (name, data, "application/octet-stream")) for name, data in files]


def array(text: str, kind: str, shape: tuple[int, ...]) -> np.ndarray:
    """An array out of an answer."""
    return np.frombuffer(base64.b64decode(text), kind).reshape(shape)


def refused(answer: httpx.Response, status: int, kind: str) -> str:
    """The message of a refusal, which must have this status and kind, and nothing more."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    error = answer.json()
    assert set(error) == {"error"}
    assert set(error["error"]) == {"kind", "message"}
    assert error["error"]["kind"] == kind
    return error["error"]["message"]
