"""The addresses under `/v1/`, `/healthz` and `/metrics`."""

from __future__ import annotations

import hmac
import json
from typing import Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import PlainTextResponse, Response

from gapcam.serve import schema
from gapcam.serve.errors import RequestError
from gapcam.serve.service import JSON, Service
from gapcam.serve.work import MapChoice

LOCALIZE_REFUSALS = (400, 401, 408, 411, 413, 415, 421, 422, 429, 500, 503)
PARAMETERS = ("top", "class", "maps")


def api_routes(service: Service) -> APIRouter:
    """Everything that answers in JSON, and `/metrics`."""
    router = APIRouter()
    router.include_router(_v1_routes(service))

    @router.get(
        "/healthz",
        response_model=None,
        responses={200: {"model": schema.HealthOut}, **schema.refusals(421, 500, 503)},
    )
    async def healthz() -> Response:
        """Whether the server takes pictures."""
        service.refuse_when_stopping()
        return Response(json.dumps({"status": "ok"}), media_type=JSON)

    @router.get(
        "/metrics",
        response_class=PlainTextResponse,
        response_model=None,
        responses=schema.refusals(421, 500),
    )
    async def metrics() -> Response:
        """Counts and times in Prometheus' text format."""
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    return router


def _v1_routes(service: Service) -> APIRouter:
    token = service.options.token
    router = APIRouter(prefix="/v1", dependencies=[] if token is None else [_bearer(token)])
    asked = _parameters(service)

    @router.post(
        "/localize",
        response_model=None,
        responses={
            200: {"model": schema.LocalizeOut, "description": "A result a picture."},
            **schema.refusals(*LOCALIZE_REFUSALS),
        },
        openapi_extra={"requestBody": schema.REQUEST_BODY},
    )
    async def localize(
        request: Request,
        top: int | None = asked["top"],
        classes: list[str] | None = asked["class"],
        maps: MapChoice = asked["maps"],
    ) -> Response:
        """Say what is in each picture, and where."""
        _check_names(request)
        return await service.localize(request, top, classes, maps)

    @router.get(
        "/model",
        response_model=None,
        responses={200: {"model": schema.ModelOut}, **schema.refusals(401, 421, 500)},
    )
    async def model(request: Request) -> Response:
        """The model: its classes, recipe, proof and bias; the server's limits."""
        headers = {"Cache-Control": "no-cache", "Vary": "Accept-Encoding"}
        if "gzip" in request.headers.get("accept-encoding", ""):
            headers["Content-Encoding"] = "gzip"
            return Response(service.about_gzipped, headers=headers, media_type=JSON)
        return Response(service.about, headers=headers, media_type=JSON)

    return router


def _parameters(service: Service) -> dict[str, Any]:
    return {
        "top": Query(
            None,
            ge=1,
            le=service.max_top,
            description="Localize so many of the best classes; the recipe's number when not given. "
            "Not together with `class`.",
            examples=[5],
        ),
        "class": Query(
            None,
            alias="class",
            min_length=1,
            max_length=service.options.max_classes,
            description="Localize these classes, whatever their rank: names, synonyms or ids.",
            examples=[["tabby"]],
        ),
        "maps": Query(
            "none",
            description="Send raw maps: of no class, of those found, or of all (see /v1/model).",
        ),
    }


def _check_names(request: Request) -> None:
    """Refuse parameters that would be passed over."""
    for name in request.query_params:
        if name not in PARAMETERS:
            raise RequestError(
                422, f"parameter {name!r:.100} is unknown: expected {', '.join(PARAMETERS)}"
            )
        if name != "class" and len(request.query_params.getlist(name)) > 1:
            raise RequestError(422, f"parameter {name!r} is given twice: give it once")


def _bearer(token: str) -> Any:
    """What refuses requests without the token."""
    scheme = HTTPBearer(auto_error=False, description="The token that the server was started with.")
    expected = token.encode()

    async def check(given: HTTPAuthorizationCredentials | None = Depends(scheme)) -> None:  # noqa: B008
        came = b"" if given is None else given.credentials.encode()
        if not hmac.compare_digest(came, expected):
            what = "a wrong token" if came else "none"
            raise RequestError(
                401,
                f"expected the header Authorization: Bearer TOKEN, got {what}",
                headers={"WWW-Authenticate": "Bearer"},
            )

    return Depends(check)
