"""Around every answer: who may ask, the headers that keep a browser safe, and the last resort."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gapcam.serve.errors import RequestError
from gapcam.serve.metrics import Metrics
from gapcam.serve.options import ServeOptions

log = logging.getLogger("gapcam.serve")

GONE = 499
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob: data:; connect-src 'self'; media-src blob:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Guard:
    """Checks the host, adds headers, counts answers, and turns a fault into a 500.

    Args:
        app: What answers.
        options: Whom to let in.
        metrics: Where answers are counted.
    """

    def __init__(self, app: ASGIApp, options: ServeOptions, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics
        self._hosts = {host.lower() for host in options.hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        inner = dict(scope)
        answer = _Answer(send, bodiless=scope["method"] == "HEAD")
        if answer.bodiless:
            inner["method"] = "GET"  # which has the same headers
        with self._metrics.open.track_inprogress():
            await self._answered(inner, receive, answer)
        if answer.status:
            route = getattr(inner.get("route"), "path", "other")
            self._metrics.requests.labels(route, str(answer.status)).inc()

    async def _answered(self, scope: Scope, receive: Receive, answer: _Answer) -> None:
        try:
            try:
                self._check(Headers(scope=scope))
                await self._app(scope, receive, answer)
            except RequestError as error:
                await error.response()(scope, receive, answer)
        except ClientDisconnect:
            answer.status = answer.status or GONE  # for the count; nobody is there to be told
        except Exception:
            log.exception("%s %s", scope["method"], scope["path"])
            if answer.status:
                raise
            fault = RequestError(500, "something unforeseen happened; the server's log says what")
            await fault.response()(scope, receive, answer)

    def _check(self, headers: Headers) -> None:
        if self._hosts and host_of(headers.get("host", "")) not in self._hosts:
            raise RequestError(
                421,
                f"Host {headers.get('host', '')!r:.100}: this server answers for "
                f"{', '.join(sorted(self._hosts))} only; start it with --allow-host NAME to have "
                "it answer for another name",
            )


def host_of(header: str) -> str:
    """The name in a Host header, without the port, lower case: `[::1]:8000` to `::1`."""
    if header.startswith("["):
        return header[1:].partition("]")[0].lower()
    return header.partition(":")[0].lower()


class _Answer:
    """Sends on, with the headers; remembers the status; leaves the body of HEAD out."""

    def __init__(self, send: Callable[[Message], Awaitable[None]], *, bodiless: bool) -> None:
        self._send, self.bodiless = send, bodiless
        self.status = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(raw=list(message["headers"]))
            for name, value in HEADERS.items():
                headers[name] = value
            message = {**message, "headers": headers.raw}
        elif message["type"] == "http.response.body" and self.bodiless:
            message = {**message, "body": b""}
        await self._send(message)


class Cors(CORSMiddleware):
    """Lets the named web pages ask; others are refused in the server's own words."""

    def __init__(self, app: ASGIApp, options: ServeOptions) -> None:
        super().__init__(
            app,
            allow_origins=options.origins,
            allow_methods=("GET", "POST"),
            allow_headers=("Authorization", "Content-Type"),
            expose_headers=("Retry-After",),
        )

    def preflight_response(self, request_headers: Headers) -> Response:
        """The answer to a browser that asks whether it may."""
        answer = super().preflight_response(request_headers)
        if answer.status_code == 200:
            return answer
        came = request_headers.get("origin", "")
        error = RequestError(
            400,
            f"Origin {came!r:.100}: {bytes(answer.body).decode()}; start the server with --cors "
            "ORIGIN for the pages that may ask",
            kind="origin",
        )
        return error.response()
