"""One localizer that serves many requests: from an upload to the bytes of its answer."""

from __future__ import annotations

import asyncio
import gzip
import json
import math
import os
import time
from collections.abc import Sequence
from concurrent.futures import Future
from functools import lru_cache

import anyio.to_thread
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from gapcam.images import Limits
from gapcam.localizer import Localizer
from gapcam.serve.about import describe, max_top
from gapcam.serve.batcher import Batcher, ClosingError, QueueFullError
from gapcam.serve.body import Upload, read_uploads
from gapcam.serve.errors import RequestError
from gapcam.serve.holding import Held, Share
from gapcam.serve.metrics import Metrics
from gapcam.serve.options import ServeOptions
from gapcam.serve.work import MapChoice, Wants, Work
from gapcam.types import ArgumentError, GapcamError

LOOKED_UP, LONGEST_KEPT = 8192, 200
"""Class names whose ids are remembered, and their most characters, as memory is bounded: looking
one up walks through every label."""

JSON = "application/json"
Outcome = bytes | GapcamError


class Service:
    """Takes requests, queues their pictures, answers.

    Args:
        localizer: What localizes.
        options: The bounds it keeps.

    Attributes:
        about: The body of `GET /v1/model`.
        about_gzipped: The same, for those who take it.
        metrics: What it counts.
        max_top: The most classes that a request may ask for by rank.
    """

    def __init__(self, localizer: Localizer, options: ServeOptions) -> None:
        self.localizer, self.options = localizer, options
        self.proof = localizer.check()
        self.max_top = max_top(localizer, options)
        self.about = _json(describe(localizer, self.proof, options))
        self.about_gzipped = gzip.compress(self.about)
        self._held = Held(options.max_held_bytes)
        self.metrics = Metrics(lambda: self._batcher.depth, lambda: self._held.used)
        self._batcher = self._new_batcher()
        self._kept_id = lru_cache(LOOKED_UP)(localizer.class_id)
        model = {
            "model": localizer.card.name,
            "model_sha256": localizer.engine.fingerprint,
            "recipe": localizer.recipe.name,
        }
        self._head = _json(model)[:-1] + b',"results":['

    async def localize(
        self, request: Request, top: int | None, classes: Sequence[str] | None, maps: MapChoice
    ) -> Response:
        """Answer `POST /v1/localize`.

        Raises:
            RequestError: As `gapcam.serve.errors.STATUSES` says.
            ModelError: The network gives what cannot be sent.
            starlette.requests.ClientDisconnect: Nobody waits any more.
        """
        self.refuse_when_stopping()
        began = time.perf_counter()
        wants = await self._wants(top, classes, maps)
        share = Share(self._held)
        futures: Sequence[Future[Outcome]] = ()
        try:
            with self.metrics.stage("receive"):
                uploads = await read_uploads(request, self.options, share)
            names = [upload.name for upload in uploads]
            futures = self._submit(uploads, wants)
            del uploads
            outcomes = await self._outcomes(request, futures)
        finally:
            self._batcher.withdraw(futures)
            share.give_after(futures)
        self.metrics.stages.labels("answer").observe(time.perf_counter() - began)
        return self._response(names, outcomes)

    def _new_batcher(self) -> Batcher[Upload, Outcome]:
        options = self.options
        limits = Limits(options.max_pixels, options.max_bytes)
        return Batcher(
            Work(self.localizer, limits, self.metrics),
            workers=options.workers or os.cpu_count() or 1,
            batch=options.batch,
            room=options.queue,
            wait_s=options.wait_ms / 1e3,
            on_batch=self._count_waits,
        )

    def open(self) -> None:
        """Take requests again after `close`."""
        if self._batcher.closing:
            self._batcher = self._new_batcher()

    def refuse_when_stopping(self) -> None:
        """Take nothing more once the server stops.

        Raises:
            RequestError: 503.
        """
        if self._batcher.closing:
            raise _stopping()

    def close(self, timeout_s: float | None = None) -> bool:
        """Take nothing more and finish what was taken; whether that was done in time."""
        return self._batcher.close(timeout_s)

    async def aclose(self) -> None:
        """`close`, without holding up the event loop."""
        await anyio.to_thread.run_sync(self.close, self.options.deadline_s)

    async def _wants(
        self, top: int | None, classes: Sequence[str] | None, maps: MapChoice
    ) -> Wants:
        if maps == "all" and self.localizer.engine.head is None:
            raise RequestError(
                422,
                "maps=all: this model's head is not linear, so that every class costs a pass "
                "through it; ask for maps=found, with the classes or the top that you want",
            )
        try:
            if classes is None:
                wanted = self.localizer.wanted(None, top)
                return Wants(min(int(wanted), self.max_top), None, maps)
            ids = await anyio.to_thread.run_sync(self._ids, classes, top)
            return Wants(None, ids, maps)
        except ArgumentError as error:
            raise RequestError(422, str(error)) from error

    def _ids(self, classes: Sequence[str], top: int | None) -> tuple[int, ...]:
        wanted = self.localizer.wanted([self._class_id(name) for name in classes], top)
        return tuple(wanted.tolist())  # type: ignore[union-attr]

    def _class_id(self, name: str) -> int:
        if name.isdecimal() and len(name) < 10:
            return self.localizer.class_id(int(name))
        return (self._kept_id if len(name) <= LONGEST_KEPT else self.localizer.class_id)(name)

    def _submit(self, uploads: Sequence[Upload], wants: Wants) -> list[Future[Outcome]]:
        try:
            ends = time.monotonic() + self.options.deadline_s
            return self._batcher.submit(uploads, wants, ends)
        except QueueFullError as error:
            seconds = str(math.ceil(error.retry_s))
            raise RequestError(
                429,
                f"as many pictures wait as the server takes on; try again in {seconds} s",
                headers={"Retry-After": seconds},
            ) from error
        except ClosingError as error:
            raise _stopping() from error

    async def _outcomes(
        self, request: Request, futures: Sequence[Future[Outcome]]
    ) -> list[Outcome]:
        """What came of each picture, within the deadline, unless the client goes away."""
        wrapped = [asyncio.wrap_future(future) for future in futures]
        answer = asyncio.gather(*wrapped, return_exceptions=True)
        gone = asyncio.ensure_future(_gone(request))
        try:
            await asyncio.wait(
                (answer, gone),
                timeout=self.options.deadline_s,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if gone.done() and not answer.done():
                raise ClientDisconnect
            if not answer.done():
                raise _late(self.options.deadline_s)
            return [self._outcome(found) for found in answer.result()]
        finally:
            gone.cancel()
            answer.cancel()

    def _outcome(self, found: Outcome | BaseException) -> Outcome:
        if isinstance(found, asyncio.CancelledError):
            raise _late(self.options.deadline_s) from found
        if isinstance(found, bytes | GapcamError):
            return found
        raise found

    def _response(self, names: Sequence[str], outcomes: Sequence[Outcome]) -> Response:
        if len(outcomes) == 1 and isinstance(outcomes[0], GapcamError):
            error = outcomes[0]
            raise RequestError(500 if error.kind == "model" else 422, str(error), error.kind)
        parts = [
            outcome if isinstance(outcome, bytes) else _json(_failed(name, outcome))
            for name, outcome in zip(names, outcomes, strict=True)
        ]
        body = b"".join((self._head, b",".join(parts), b"]}"))
        return Response(body, media_type=JSON, headers={"Cache-Control": "no-store"})

    def _count_waits(self, seconds: Sequence[float]) -> None:
        for waited in seconds:
            self.metrics.stages.labels("wait").observe(waited)


async def _gone(request: Request) -> None:
    """Returns when the client has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _failed(name: str, error: GapcamError) -> dict[str, object]:
    return {"name": name, "error": {"kind": error.kind, "message": str(error)}}


def _late(seconds: float) -> RequestError:
    return RequestError(
        503, f"no answer within {seconds:g} s; try again later", headers={"Retry-After": "1"}
    )


def _stopping() -> RequestError:
    return RequestError(
        503,
        "the server is stopping; try another, or later",
        kind="stopping",
        headers={"Retry-After": "5", "Connection": "close"},
    )


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
