"""Pictures out of a request's body, bounded in bytes and in time while it arrives."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

import anyio
from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from gapcam.serve.errors import RequestError
from gapcam.serve.holding import Share
from gapcam.serve.options import ServeOptions

FIELD = "pictures"
"""The field of a form that holds pictures."""

FORM = "multipart/form-data"
RAW = "application/octet-stream"
ACCEPTED = f"expected a picture (image/... or {RAW}) or {FORM} with files in the field {FIELD!r}"


@dataclass(frozen=True, slots=True)
class Upload:
    """One picture as it came.

    Attributes:
        name: The name that the form gives its file, or `picture`.
        data: Its bytes.
    """

    name: str
    data: bytes = field(repr=False)


async def read_uploads(request: Request, options: ServeOptions, share: Share) -> list[Upload]:
    """The pictures of a request, at least one.

    Raises:
        RequestError: 400, 408, 411, 413, 415 or 429; see `gapcam.serve.errors.STATUSES`.
        starlette.requests.ClientDisconnect: Nobody waits any more.
    """
    media = _media_type(request)
    bound = options.max_request_bytes if media == FORM else options.max_bytes
    _check_length(request, bound)
    stream = _bounded(request, bound, share)
    try:
        with anyio.fail_after(options.receive_s):
            if media == FORM:
                return await _from_form(request, stream, options)
            data = b"".join([chunk async for chunk in stream])
    except TimeoutError as error:
        raise RequestError(
            408,
            f"the request did not arrive within {options.receive_s:g} s; send it faster, or "
            "smaller pictures",
            headers={"Connection": "close"},
        ) from error
    if not data:
        raise RequestError(400, f"the body is empty; {ACCEPTED}")
    return [Upload("picture", data)]


def _media_type(request: Request) -> str:
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise RequestError(415, f"Content-Encoding {encoding!r}: send the body as it is")
    given = request.headers.get("content-type", "")
    media = parse_options_header(given)[0].decode("latin-1").lower()
    if media in (FORM, RAW) or (media.startswith("image/") and media != "image/"):
        return media
    came = f"got {given!r:.100}" if given else "got no Content-Type"
    raise RequestError(415, f"{ACCEPTED}, {came}")


def _check_length(request: Request, bound: int) -> None:
    length = request.headers.get("content-length")
    chunked = "transfer-encoding" in request.headers
    if length is None and not chunked and request.scope.get("http_version", "").startswith("1"):
        raise RequestError(411, "the request has no body, or does not say its Content-Length")
    if length is None:
        return
    if not (length.isascii() and length.isdecimal()):
        raise RequestError(400, f"Content-Length: expected a number of bytes, got {length!r:.50}")
    if len(length) > 15 or int(length) > bound:
        raise _too_large(bound)


def _too_large(bound: int) -> RequestError:
    return RequestError(
        413, f"the body is larger than {bound:,} bytes; send a smaller picture, or fewer at once"
    )


async def _bounded(request: Request, bound: int, share: Share) -> AsyncGenerator[bytes, None]:
    """The body as it comes; refuses before it holds more than the bound."""
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > bound:
            raise _too_large(bound)
        share.take(len(chunk))
        yield chunk


class _Form(MultiPartParser):
    """A form whose files stay in memory, which is bounded, and that must come to its end."""

    spool_max_size = 2**62
    ended = False
    parts = 0
    most = 0

    def on_part_begin(self) -> None:
        super().on_part_begin()
        self.parts += 1
        if self.parts > self.most:
            raise RequestError(
                413, f"the form has more than {self.most} pictures; send fewer at once"
            )

    def on_end(self) -> None:
        super().on_end()
        self.ended = True

    async def to_the_end(self, stream: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        """The stream; raises where it ends before the form does, so that its files are closed."""
        async for chunk in stream:
            yield chunk
        if not self.ended:
            raise RequestError(400, "the form is cut short: its closing boundary is missing")


async def _from_form(
    request: Request, stream: AsyncGenerator[bytes, None], options: ServeOptions
) -> list[Upload]:
    parser = _Form(request.headers, stream, max_files=options.max_pictures)
    parser.stream, parser.most = parser.to_the_end(stream), options.max_pictures
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise RequestError(400, f"the form is broken: {error.message}") from error
    try:
        uploads = [
            await _upload(field, value, number)
            for number, (field, value) in enumerate(form.multi_items(), 1)
        ]
    finally:
        await form.close()
    if not uploads:
        raise RequestError(400, f"the form has no files; {ACCEPTED}")
    if len(uploads) == 1 and len(uploads[0].data) > options.max_bytes:
        raise _too_large(options.max_bytes)
    return uploads


async def _upload(field_name: str, value: object, number: int) -> Upload:
    if field_name != FIELD or not isinstance(value, UploadFile):
        kind = "files" if field_name == FIELD else f"only the field {FIELD!r}"
        raise RequestError(400, f"form field {field_name!r:.100}: expected {kind}")
    return Upload(value.filename or f"picture {number}", await value.read())
