"""`gapcam serve`: the localizer as an HTTP API and a web page."""

from __future__ import annotations

import ipaddress
import logging
import os
import webbrowser
from typing import TYPE_CHECKING, Annotated

import typer

from gapcam.cli.app import (
    LayerOption,
    ModelOption,
    ModelSettings,
    RecipeOption,
    app,
    model_settings,
    reporting_errors,
)
from gapcam.terminal import tell

if TYPE_CHECKING:
    from gapcam.proof import Proof
    from gapcam.serve import ServeOptions

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
FORM_BYTES = 2**16
"""What a form may add to the picture in it."""

TOKEN_VARIABLE = "GAPCAM_TOKEN"  # noqa: S105  (where it is, not what)

HostOption = Annotated[
    str,
    typer.Option(
        metavar="ADDRESS",
        help="Listen on this address of this machine. The default is reached from this machine "
        "only; 0.0.0.0 from every network that it is on.",
    ),
]
PortOption = Annotated[
    int, typer.Option(min=0, max=65535, metavar="PORT", help="Listen on this port; 0: a free one.")
]
TokenOption = Annotated[
    str | None,
    typer.Option(
        metavar="TOKEN",
        show_default=f"the environment's {TOKEN_VARIABLE}, else none",
        help="Answer /v1/ only to requests that carry this bearer token. Other users of this "
        f"machine can read a command line: better put it into {TOKEN_VARIABLE}.",
    ),
]
CorsOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="ORIGIN",
        show_default="none",
        help="Let web pages of this origin ask too, like https://example.org; give it again for "
        "more.",
    ),
]
AllowHostOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        show_default="this machine's own, or any with an open --host",
        help="Answer requests for this host name too (a proxy passes its own on); give it again "
        "for more.",
    ),
]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        min=1, metavar="N", show_default="one a core", help="Localize in so many threads."
    ),
]
QueueOption = Annotated[
    int, typer.Option(min=1, metavar="N", help="Let so many pictures wait; answer 429 beyond.")
]
BatchOption = Annotated[
    int, typer.Option(min=1, metavar="N", help="Run at most so many pictures at once a worker.")
]
MaxBytesOption = Annotated[
    int, typer.Option(min=1, metavar="N", help="Refuse picture files of more bytes.")
]
MaxPixelsOption = Annotated[
    int, typer.Option(min=1, metavar="N", help="Refuse pictures of more pixels, undecoded.")
]
MaxPicturesOption = Annotated[
    int, typer.Option(min=1, metavar="N", help="Refuse requests with more pictures.")
]
DeadlineOption = Annotated[
    float,
    typer.Option(
        min=0.001,
        metavar="SECONDS",
        help="Answer 503 when a result takes longer, and 408 when a request takes longer to "
        "arrive.",
    ),
]
OpenOption = Annotated[bool, typer.Option("--open", help="Open the page in a browser.")]


@app.command()
def serve(
    model: ModelOption = None,
    settings: ModelSettings = None,
    layer: LayerOption = None,
    recipe: RecipeOption = None,
    host: HostOption = "127.0.0.1",
    port: PortOption = 8000,
    token: TokenOption = None,
    cors: CorsOption = None,
    allow_host: AllowHostOption = None,
    workers: WorkersOption = None,
    queue: QueueOption = 256,
    batch: BatchOption = 8,
    max_bytes: MaxBytesOption = 20 * 2**20,
    max_pixels: MaxPixelsOption = 50_000_000,
    max_pictures: MaxPicturesOption = 16,
    deadline: DeadlineOption = 30.0,
    open_page: OpenOption = False,
) -> None:
    """Serve a web page where you point at a class and see it, and the HTTP API that carries it.

    Stops on Ctrl-C or SIGTERM, after finishing what it took.
    """
    with reporting_errors("interrupted"):
        # It warns of every broken form, which the sender is told and metrics count.
        logging.getLogger("python_multipart").setLevel(logging.ERROR)
        from gapcam.loading import load
        from gapcam.serve import ServeOptions, create_app, listen
        from gapcam.serve import serve as serve_until_stopped

        usual = ServeOptions()
        request_bytes = max(usual.max_request_bytes, max_bytes + FORM_BYTES)
        options = ServeOptions(
            max_bytes=max_bytes,
            max_request_bytes=request_bytes,
            max_held_bytes=max(usual.max_held_bytes, 2 * request_bytes),
            max_pixels=max_pixels,
            max_pictures=max_pictures,
            queue=queue,
            batch=batch,
            deadline_s=deadline,
            receive_s=deadline,
            workers=workers or 0,
            token=token if token is not None else os.environ.get(TOKEN_VARIABLE) or None,
            origins=tuple(cors or ()),
            hosts=hosts_of(host, tuple(allow_host or ())),
        )
        listener = listen(host, port)
        localizer = load(
            model, recipe=recipe, threads=1, tell=tell, **model_settings(settings, layer)
        )
        asgi = create_app(localizer, options)
        address = address_of(host, listener.getsockname()[1])

        def ready() -> None:
            _announce(address, host, asgi.state.service.proof, localizer.recipe.name, options)
            if open_page:
                webbrowser.open(address)

        serve_until_stopped(asgi, options, listener, ready)
        tell("Stopped.")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def hosts_of(host: str, named: tuple[str, ...]) -> tuple[str, ...]:
    """The names to answer for; () is any."""
    if not _is_loopback(host) and not named:
        return ()
    return tuple(dict.fromkeys((*LOOPBACK_NAMES, host, *named)))


def address_of(host: str, port: int) -> str:
    """Where a browser on this machine finds it."""
    everywhere = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104
    name = everywhere.get(host, host)
    return f"http://[{name}]:{port}/" if ":" in name else f"http://{name}:{port}/"


def _announce(address: str, host: str, proof: Proof, recipe: str, options: ServeOptions) -> None:
    tell(f"Serving {proof.model}, recipe {recipe}, at {address} (Ctrl-C stops it)")
    tell(str(proof))
    if options.token is not None:
        tell("Requests to /v1/ need the token; the page asks for it.")
    if not _is_loopback(host):
        others = "with the token " if options.token is not None else ""
        tell(
            f"{host} is not this machine alone: anyone {others}who reaches this port can use the "
            "model. What is sent, the token included, is not encrypted: put a proxy that speaks "
            "TLS in front (docs/serve.md)."
        )
        if options.token is None:
            tell(f"There is no token: set {TOKEN_VARIABLE}, or leave --host out.")
