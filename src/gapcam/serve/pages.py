"""The page, its files and the sample photographs."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter
from starlette.responses import FileResponse, JSONResponse, Response

from gapcam.page import page_files
from gapcam.samples import sample_pictures
from gapcam.serve.errors import RequestError

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".jpg": "image/jpeg",
}


def page_routes() -> APIRouter:
    """`/`, its files beside it, `/page.json` and `/samples/...`."""
    router = APIRouter(include_in_schema=False)

    @router.get("/")
    async def page() -> Response:
        return _file(page_files(), "index.html")

    @router.get("/page.json")
    async def page_json() -> Response:
        samples = [{"name": path.name, "url": f"samples/{path.name}"} for path in sample_pictures()]
        return JSONResponse({"source": "server", "api": "v1", "samples": samples})

    @router.get("/samples/{name}")
    async def sample(name: str) -> Response:
        return _file(sample_pictures(), name, "/samples/")

    @router.get("/{name}")
    async def page_file(name: str) -> Response:
        return _file(page_files(), name)

    return router


def _file(files: list[Path], name: str, below: str = "/") -> Response:
    """One of these files by its name; nothing else can be reached."""
    found = [path for path in files if path.name == name]
    if not found:
        raise RequestError(404, f"there is no {below}{name[:100]} here")
    return FileResponse(
        found[0], media_type=TYPES[found[0].suffix], headers={"Cache-Control": "no-cache"}
    )
