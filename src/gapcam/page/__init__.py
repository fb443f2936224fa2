"""The static page that shows what is where: plain HTML, CSS and JavaScript modules, no build step.

`gapcam serve` serves it, `gapcam export --web` writes it out. `page.json` beside it, which both
make, says where its answers come from: a server (`server_source.js`), or a model file that runs in
the browser (`browser_source.js`).
"""

from __future__ import annotations

from pathlib import Path

PAGE_SUFFIXES = frozenset({".html", ".css", ".js", ".svg"})


def page_files() -> list[Path]:
    """The files of the page, `index.html` among them; they refer to each other relatively."""
    folder = Path(__file__).parent
    return sorted(path for path in folder.iterdir() if path.suffix in PAGE_SUFFIXES)
