"""What a server is asked to be, and the bounds that it keeps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from gapcam.types import ArgumentError

MIB = 2**20


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """Bounds of the server; what lies beyond is refused, nothing is clipped.

    Attributes:
        max_bytes: Of one picture file.
        max_request_bytes: Of a whole request.
        max_held_bytes: Of all pictures that arrive, wait or run at once; beyond it, 429.
        max_pixels: Of one picture, checked in its header before it is decoded.
        max_pictures: In one request.
        max_classes: Asked for in one request, by name or by rank.
        max_connections: Open at once; one more is answered 503 and closed.
        queue: Pictures that may wait for the engine; beyond it, 429.
        batch: The most pictures that a worker takes at once.
        wait_ms: How long a picture waits for company before an idle worker takes it. A batch is no
            faster a picture than one alone on one core, so 0 unless measured otherwise.
        deadline_s: From the last byte of a request to its answer; beyond it, 503.
        receive_s: How long a request may take to arrive; beyond it, 408.
        workers: Threads that read and localize pictures, each on one core; 0: one a core.
        token: Bearer token that requests for `/v1/` must carry; None: none.
        origins: Web pages of other hosts that may ask (CORS), like `https://example.org`.
        hosts: What requests may name as their host; empty: anything. A server on loopback names
            its own, so that no foreign web page reaches it by a name that leads here.
    """

    max_bytes: int = 20 * MIB
    max_request_bytes: int = 64 * MIB
    max_held_bytes: int = 256 * MIB
    max_pixels: int = 50_000_000
    max_pictures: int = 16
    max_classes: int = 100
    max_connections: int = 512
    queue: int = 256
    batch: int = 8
    wait_ms: float = 0.0
    deadline_s: float = 30.0
    receive_s: float = 30.0
    workers: int = 0
    token: str | None = field(default=None, repr=False)
    origins: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            ArgumentError: A bound below its least, an empty token, or an origin that is none.
        """
        for name in ("max_bytes", "max_request_bytes", "max_held_bytes", "max_pixels"):
            self._at_least(name, 1)
        for name in ("max_pictures", "max_classes", "max_connections", "queue", "batch"):
            self._at_least(name, 1)
        self._at_least("workers", 0)
        for name in ("wait_ms", "deadline_s", "receive_s"):
            self._at_least(name, 0, whole=False)
        if self.max_request_bytes < self.max_bytes:
            self._refuse("max_request_bytes", f"at least max_bytes ({self.max_bytes})")
        if self.max_held_bytes < self.max_request_bytes:
            self._refuse("max_held_bytes", f"at least max_request_bytes ({self.max_request_bytes})")
        if self.token is not None and not (self.token.isascii() and self.token.isprintable()):
            raise ArgumentError("token: expected printable ASCII characters")
        if self.token is not None and (not self.token or " " in self.token):
            raise ArgumentError("token: expected some characters and no space")
        for origin in self.origins:
            _check_origin(origin)

    def _at_least(self, name: str, least: int, *, whole: bool = True) -> None:
        value: Any = getattr(self, name)
        kinds = int if whole else (int, float)
        if not isinstance(value, kinds) or isinstance(value, bool) or not least <= value < 2**62:
            self._refuse(name, f"{'a whole' if whole else 'a'} number of {least} or more")

    def _refuse(self, name: str, expected: str) -> None:
        raise ArgumentError(f"{name}: expected {expected}, got {getattr(self, name)!r}")


def _check_origin(origin: str) -> None:
    parts = urlsplit(origin)
    if origin != f"{parts.scheme}://{parts.netloc}" or parts.scheme not in ("http", "https"):
        raise ArgumentError(
            f"origin {origin!r}: expected scheme and host of a web page and nothing more, like "
            "https://example.org or http://localhost:3000"
        )
