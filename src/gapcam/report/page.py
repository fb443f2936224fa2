"""The page: template, style sheet and script joined into one HTML file that loads nothing."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from gapcam.outputs import replacing
from gapcam.report.charts import axis_labels
from gapcam.report.curves import accuracy_chart, iou_chart, pixel_chart
from gapcam.report.facts import fact_groups, left_out
from gapcam.report.gallery import GalleryItem, gallery_groups
from gapcam.report.scores import (
    baseline_bound,
    cut_bound,
    has_boxes,
    headline_groups,
    headline_row,
)
from gapcam.report.summary import banner, sentences, warnings
from gapcam.report.tables import breakdowns, class_table, threshold_table
from gapcam.report.words import BADGE, counted, percent

_HERE = Path(__file__).parent


def write_report(path: Path, result: Mapping[str, Any], gallery: Sequence[GalleryItem]) -> None:
    """Write the report beside its final name and rename it when it is whole.

    Args:
        path: The HTML file.
        result: As `gapcam evaluate --json` writes it.
        gallery: Pictures to show.

    Raises:
        OutputError: The file cannot be written.
    """
    html = render_report(result, gallery)
    with replacing(path) as out:
        out.write(html)


def render_report(result: Mapping[str, Any], gallery: Sequence[GalleryItem]) -> str:
    """The report as HTML that is the same for equal input.

    Labels and file names are untrusted: whatever they hold is shown as text. What UTF-8 cannot
    hold (bytes of odd file names) is shown as escapes.
    """
    script = _asset("report.js")
    template = _environment().get_template("report.html.j2")
    html = template.render(
        style=Markup(_asset("report.css")),  # noqa: S704 (our own file)
        script=Markup(script),  # noqa: S704 (our own file)
        policy=_policy(script),
        groups=gallery_groups(gallery),
        **_content(result),
    )
    return html.encode("utf-8", "backslashreplace").decode("utf-8")


def _content(result: Mapping[str, Any]) -> dict[str, Any]:
    titles, rows = threshold_table(result)
    return {
        "result": result,
        "boxes": has_boxes(result),
        "threshold_bound": cut_bound(result, headline_row(result)),
        "centred_bound": has_boxes(result) and baseline_bound(result, "centred_box"),
        "banner": banner(result),
        "sentences": sentences(result),
        "warnings": warnings(result),
        "score_groups": headline_groups(result),
        "threshold_titles": titles,
        "threshold_rows": rows,
        "accuracy": accuracy_chart(result),
        "pixels": pixel_chart(result),
        "ious": iou_chart(result),
        "breakdowns": breakdowns(result),
        "classes": class_table(result),
        "facts": fact_groups(result),
        "left_out": left_out(result),
    }


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals.update(axis=axis_labels(), badge=BADGE)
    environment.filters.update(percent=percent, counted=counted)
    return environment


def _asset(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _policy(script: str) -> str:
    """What the browser may do: run this very script, use inline styles, show embedded pictures."""
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
