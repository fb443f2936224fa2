"""The pages: doubtful boxes to skim, each page one HTML file that loads nothing."""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any

from markupsafe import Markup

from gapcam.formats.records import json_text
from gapcam.outputs import output_errors, replacing
from gapcam.report.frame import environment, style_and_script, whole
from gapcam.review.doubt import Doubtful
from gapcam.review.thumbs import OpenPicture, Thumb, thumbs

PAGE_SIZE = 500
"""Boxes a page: about 5 MB."""

_HERE = Path(__file__).parent


def write_pages(
    folder: Path, boxes: Sequence[Doubtful], total: int, open_picture: OpenPicture | None = None
) -> list[Path]:
    """Write `review.html`, and `review-2.html` and so on where there are more than `PAGE_SIZE`.

    Pages that an earlier run left beyond the last are removed.

    Args:
        folder: Where they go.
        boxes: Most doubtful first.
        total: How many boxes there are in all.
        open_picture: Gives what a picture is read from, by its name; None: names are paths.

    Raises:
        OutputError: A page cannot be written.
    """
    starts = range(0, max(1, len(boxes)), PAGE_SIZE)
    names = [page_name(number) for number in range(1, len(starts) + 1)]
    run = hashlib.sha256("".join(box.key for box in boxes).encode()).hexdigest()[:16]
    shared = {"names": names, "run": run, "total": total, "listed": len(boxes), **_assets()}
    template = environment(_HERE).get_template("review.html.j2")
    for name, start in zip(names, starts, strict=True):
        part = boxes[start : start + PAGE_SIZE]
        # A stream, so that no page is held twice: half of one is pictures.
        with closing(thumbs(part, open_picture)) as small, replacing(folder / name) as out:
            tiles = map(_tile, small, count(start + 1))
            content = {"name": name, "first": start + 1, "classes": _classes(part), "tiles": tiles}
            for text in template.generate(**shared, **content):
                out.write(whole(text))
    _remove_beyond(folder, len(names))
    return [folder / name for name in names]


def page_name(number: int) -> str:
    """What a page is called; the first is 1."""
    return "review.html" if number == 1 else f"review-{number}.html"


def _tile(thumb: Thumb, number: int) -> dict[str, Any]:
    box = thumb.box
    row = [box.path, box.label, box.class_id, box.score, *box.box]
    return {"thumb": thumb, "box": box, "number": number, "row": json_text(row)}


def _classes(boxes: Sequence[Doubtful]) -> list[tuple[str, int]]:
    """Classes by name, with how many boxes each has."""
    return sorted(Counter(box.label for box in boxes).items())


def _assets() -> dict[str, Any]:
    script = (_HERE / "review.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    style = style_and_script(_HERE / "review.css")["style"]
    return {"style": style, "script": Markup(script), "policy": policy}  # noqa: S704 (our own file)


def _remove_beyond(folder: Path, last: int) -> None:
    for path in _pages(folder):
        number = path.stem.removeprefix("review-")
        if number.isdecimal() and int(number) > last:
            with output_errors(path):
                path.unlink()


def _pages(folder: Path) -> Iterator[Path]:
    return iter(sorted(folder.glob("review-*.html")))
