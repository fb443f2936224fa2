"""What every page is made with: templates that escape, its own files, and what it may do."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

_HERE = Path(__file__).parent


def environment(*folders: Path) -> jinja2.Environment:
    """Templates of these folders and of this package; whatever they are given is shown as text."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader([*folders, _HERE]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def style_and_script(*styles: Path) -> dict[str, Any]:
    """The pages' style sheet, with more behind it, and script, and the policy that allows them.

    Args:
        styles: Style sheets of one kind of page.

    Returns:
        `style`, `script` and `policy`, for a template.
    """
    script = _text(_HERE / "report.js")
    style = "".join(map(_text, (_HERE / "report.css", *styles)))
    return {
        "style": Markup(style),  # noqa: S704 (our own files)
        "script": Markup(script),  # noqa: S704 (our own file)
        "policy": _policy(script),
    }


def whole(html: str) -> str:
    """The page as UTF-8 can hold it: bytes of odd file names are shown as escapes."""
    return html.encode("utf-8", "backslashreplace").decode("utf-8")


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _policy(script: str) -> str:
    """What the browser may do: run this very script, use inline styles, show embedded pictures."""
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
