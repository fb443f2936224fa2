"""A process that serves: the socket, connections, and a stop that finishes what was taken."""

from __future__ import annotations

import asyncio
import errno
import json
import math
import signal
import socket
from collections.abc import Callable
from types import FrameType

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from gapcam.serve.options import ServeOptions
from gapcam.types import ArgumentError

BACKLOG = 512
GRACE_S = 5.0


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there; port 0 is a free one.

    Raises:
        ArgumentError: It cannot.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError, OverflowError) as error:
        raise ArgumentError(f"--host {host}: not an address of this machine ({error})") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        advice = {
            errno.EADDRINUSE: "is in use; choose another --port, or 0 for a free one",
            errno.EACCES: "may not be used by you; choose a --port above 1023",
        }
        words = advice.get(error.errno or 0, f"cannot be listened on ({error.strerror})")
        raise ArgumentError(f"{host} port {port} {words}") from error
    return listener


def serve(
    app: FastAPI, options: ServeOptions, listener: socket.socket, on_ready: Callable[[], None]
) -> None:
    """Serve until SIGTERM or SIGINT; what was taken is finished first.

    Args:
        app: From `create_app`.
        options: The same.
        listener: From `listen`; closed at the end.
        on_ready: Called once connections are answered.
    """
    make_server(app, options, on_ready).run([listener])


def make_server(
    app: FastAPI, options: ServeOptions, on_ready: Callable[[], None] = lambda: None
) -> uvicorn.Server:
    """The uvicorn server that `serve` runs, for those who run it themselves."""
    bounds = {"receive_s": options.receive_s, "most": options.max_connections}
    config = uvicorn.Config(
        app,
        http=type("Connection", (_Connection,), bounds),
        loop="asyncio",
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=round(options.receive_s + options.deadline_s + GRACE_S),
    )
    return _Server(config, on_ready)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Stop; uvicorn's own also raises the signal again, though having stopped is no failure."""
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        self.should_exit = True


class _Connection(H11Protocol):
    """A connection that cannot be held open for nothing."""

    receive_s: float
    most: int
    _watch: asyncio.TimerHandle | None = None
    _unsent = 0.0
    """Bytes of answers that were not read yet at the last look."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.most:
            self._turn_away(503, "busy", "too many connections; try again in 1 s")
        else:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._watch is not None:
            self._watch.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._wait()

    def send_400_response(self, msg: str) -> None:
        self._turn_away(400, "request", msg)

    def _wait(self) -> None:
        """The head of a request must be there within the time that a request may take."""
        if self._watch is not None:
            self._watch.cancel()
        self._watch = self.loop.call_later(self.receive_s, self._waited)
        self._unsent = self.transport.get_write_buffer_size()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._unsent = math.inf  # somebody reads

    def _waited(self) -> None:
        """End it where nothing is asked, or where nobody has read since the last look."""
        unsent = self.transport.get_write_buffer_size()
        # None before the first request, whatever its type says.
        asked = self.cycle is not None and not self.cycle.response_complete  # type: ignore[redundant-expr]
        unread = 0 < self._unsent <= unsent
        if unread or not (asked or unsent):
            self.transport.abort()
        else:
            self._wait()  # receiving and running have times of their own

    def _turn_away(self, status: int, kind: str, message: str) -> None:
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.abort()  # in the middle of an answer
            return
        body = json.dumps({"error": {"kind": kind, "message": message}}).encode()
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        headers += [("Connection", "close"), *([("Retry-After", "1")] if status == 503 else [])]
        response = h11.Response(
            status_code=status, headers=[(key.encode(), value.encode()) for key, value in headers]
        )
        for event in (response, h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
