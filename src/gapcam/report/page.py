"""The page: template, style sheet and script joined into one HTML file that loads nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from gapcam.outputs import replacing
from gapcam.report.charts import axis_labels
from gapcam.report.curves import accuracy_chart, iou_chart, pixel_chart
from gapcam.report.facts import fact_groups, left_out
from gapcam.report.frame import environment, style_and_script, whole
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
    template = _environment().get_template("report.html.j2")
    html = template.render(groups=gallery_groups(gallery), **style_and_script(), **_content(result))
    return whole(html)


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
    templates = environment()
    templates.globals.update(axis=axis_labels(), badge=BADGE)
    templates.filters.update(percent=percent, counted=counted)
    return templates
