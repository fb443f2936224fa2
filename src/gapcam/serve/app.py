"""The application: its addresses, what guards them, and how it says no."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.responses import Response

from gapcam import __version__
from gapcam.localizer import Localizer
from gapcam.serve.api import api_routes
from gapcam.serve.errors import STATUSES, RequestError
from gapcam.serve.guard import Cors, Guard
from gapcam.serve.options import ServeOptions
from gapcam.serve.pages import page_routes
from gapcam.serve.service import Service

SHOWN = 100
"""Characters of what came that a message repeats."""


def create_app(localizer: Localizer, options: ServeOptions | None = None) -> FastAPI:
    """The server as an ASGI application, for a process and a socket of your own.

    Its worker threads begin with the first picture. They end with the application's lifespan; an
    application that mounts this one (whose lifespan is then not run) calls
    `app.state.service.close()` when it stops.

    Args:
        localizer: What localizes; load it with `threads=1`, since each worker has a core.
        options: Bounds, token, CORS; the defaults when None.

    Raises:
        PictureError: A sample photograph, on which maps are proved, cannot be read.
    """
    options = options or ServeOptions()
    service = Service(localizer, options)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.open()
        yield
        await service.aclose()

    app = FastAPI(
        title="gapcam",
        version=__version__,
        description="What is in a picture, and where.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
        middleware=[
            Middleware(Guard, options=options, metrics=service.metrics),
            *([Middleware(Cors, options=options)] if options.origins else []),
        ],
        exception_handlers={
            HTTPException: _http_error,
            RequestValidationError: _validation_error,
            RequestError: _request_error,
        },
    )
    app.state.service = service
    app.include_router(api_routes(service))
    app.include_router(page_routes())
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


def _openapi(app: FastAPI) -> dict[str, Any]:
    """FastAPI's description, where a parameter that may be left out is not one that may be null."""
    if app.openapi_schema is None:
        for item in FastAPI.openapi(app)["paths"].values():
            for operation in item.values():
                for parameter in operation.get("parameters", ()):
                    kinds = parameter["schema"].pop("anyOf", [{}])
                    parameter["schema"].update(kinds[0])
    return FastAPI.openapi(app)  # which it keeps


async def _request_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)  # noqa: S101  (registered for it alone)
    return error.response()


async def _http_error(request: Request, error: Exception) -> Response:
    """Starlette's own 404 and 405, in the server's shape."""
    assert isinstance(error, HTTPException)  # noqa: S101  (likewise)
    path = request.url.path[:SHOWN]
    if error.status_code == 404:
        return RequestError(404, f"there is no {path} here").response()
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        message = f"{path} does not answer {request.method}: expected {allowed}"
        return RequestError(405, message, headers=error.headers).response()
    status = error.status_code if error.status_code in STATUSES else 400
    return RequestError(status, str(error.detail), headers=error.headers).response()


async def _validation_error(request: Request, error: Exception) -> Response:
    """FastAPI's findings about parameters, in plain words."""
    assert isinstance(error, RequestValidationError)  # noqa: S101  (likewise)
    options: ServeOptions = request.app.state.service.options
    expected = {
        "top": f"a whole number of 1 to {request.app.state.service.max_top}",
        "class": f"1 to {options.max_classes} names or ids",
        "maps": "none, found or all",
    }
    first = error.errors()[0]
    name = str(first["loc"][1])
    came = first["input"]
    shown = f"{len(came)} of them" if isinstance(came, list) else f"{came!r:.{SHOWN}}"
    return RequestError(422, f"{name}: expected {expected[name]}, got {shown}").response()
