"""The HTTP server: one localizer behind `POST /v1/localize`, and the page that shows it.

`gapcam serve` runs it. To run it on an ASGI server of your own, or inside an application of your
own, use `create_app`. Nothing else in gapcam imports this package.
"""

from __future__ import annotations

from gapcam.types import ArgumentError

try:
    from gapcam.serve.app import create_app
    from gapcam.serve.running import listen, serve
except ModuleNotFoundError as error:
    raise ArgumentError(
        f"{error.name} is not installed, and serving needs it. Run: pip install 'gapcam[serve]'"
    ) from error
from gapcam.serve.options import ServeOptions

__all__ = ["ServeOptions", "create_app", "listen", "serve"]
