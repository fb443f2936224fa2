"""What a request can be refused with: a status, a kind for programs, words for people."""

from __future__ import annotations

import json
from collections.abc import Mapping

from starlette.responses import Response

STATUSES: Mapping[int, tuple[str, str]] = {
    400: ("request", "The request cannot be understood: an empty body, or a broken form."),
    401: ("token", "The server asks for a bearer token, and the request has none or another."),
    404: ("address", "There is nothing at this address."),
    405: ("method", "This address does not answer this method; `Allow` says which it does."),
    408: ("slow", "The request took too long to arrive."),
    411: ("length", "The request does not say how long its body is."),
    413: ("size", "More bytes or more pictures than the server takes."),
    415: ("type", "The body is neither a picture nor a form of pictures."),
    421: ("host", "The request names a host that this server does not answer for."),
    422: ("argument", "A parameter is wrong, or the picture cannot be read (kind `picture`)."),
    429: (
        "busy",
        "The server has all the work it takes on; `Retry-After` says when to return.",
    ),
    500: ("server", "Something unforeseen happened; the server's log says what."),
    503: ("late", "No answer in time, or the server is stopping; `Retry-After` says when."),
}
"""Every status that is not 2xx: its usual kind, and what it means."""


class RequestError(Exception):
    """A request that is refused.

    Args:
        status: One of `STATUSES`.
        message: What was expected, what came, what to do.
        kind: The status's own kind when None.
        headers: Sent with the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        kind: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.kind = status, kind or STATUSES[status][0]
        self.headers = dict(headers or {})

    def response(self) -> Response:
        """The answer that says it."""
        return error_response(self.status, self.kind, str(self), self.headers)


def error_response(
    status: int, kind: str, message: str, headers: Mapping[str, str] | None = None
) -> Response:
    """`{"error": {"kind", "message"}}`."""
    body = json.dumps({"error": {"kind": kind, "message": message}})
    return Response(body, status, {**(headers or {})}, "application/json")
