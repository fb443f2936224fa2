"""The report of a training run: one HTML file that needs nothing else and asks for nothing."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup

from gapcam.outputs import replacing
from gapcam.report.charts import thinned
from gapcam.report.frame import environment, style_and_script, whole
from gapcam.report.words import NBSP, count, counted, percent, span
from gapcam.training.report_curves import epoch_charts, head_chart
from gapcam.training.report_tables import (
    MOST_CLASSES,
    MOST_GROUPS,
    MOST_MISTAKES,
    MOST_ROOMY,
    asked_facts,
    class_columns,
    class_rows,
    commands,
    confused_pairs,
    confusion_rows,
    data_facts,
)
from gapcam.training.run_contents import RunContents, Sheet, read_run, read_sheet
from gapcam.training.run_folder import FAILED, REPORT, RUNNING, SAMPLES
from gapcam.types import DataError

MOST_SHEETS = 9
"""Embedded sheets of epochs: the first, the last, the kept one's, some between, evenly apart."""
_KEPT = "kept model"

_COMMON = ("train", "training", "images", "data")
_HERE = Path(__file__).parent


class Sheets(NamedTuple):
    """The sheets of localized pictures that a report embeds.

    Attributes:
        shown: A key, a name, a caption, the picture as a data address, its width and height.
        first: Index of the one that is seen first.
        words: Which of all are embedded.
        unreadable: Those that could not be read, and why.
    """

    shown: list[tuple[str, str, str, str, int, int]]
    first: int
    words: str
    unreadable: list[str]


def write_training_report(folder: Path) -> Path:
    """Write `training.html` into a run folder, at any time of the run; returns its path.

    Args:
        folder: The run folder.

    Raises:
        DataError: No run is here, or a file of it cannot be read.
        OutputError: The file cannot be written.
    """
    html = render_training(read_run(folder))
    with replacing(folder / REPORT) as out:
        out.write(html)
    return folder / REPORT


def render_training(run: RunContents) -> str:
    """The report as HTML that is the same for equal input; labels and names are shown as text."""
    templates = environment(_HERE)
    templates.filters.update(counted=counted, percent=percent)
    template = templates.get_template("training.html.j2")
    return whole(template.render(**style_and_script(_HERE / "training.css"), **_content(run)))


def _content(run: RunContents) -> dict[str, Any]:
    labels = [row.label for row in run.classes]
    few = run.confusion is not None and len(labels) <= MOST_CLASSES
    charts = epoch_charts(run.records, run.best_epoch, measure(run), run.finished)
    path = head_chart(run.head, measure(run))
    groups = (run.data or {}).get("duplicates", [])
    return {
        "run": run,
        "title": _title(Path(run.config.get("data", run.path))),
        "sentences": sentences(run),
        "banner": banner(run),
        "charts": charts if path is None else [path, *charts],
        "sheets": chosen_sheets(run),
        "labels": labels,
        "confusion": confusion_rows(labels, run.confusion)
        if few and run.confusion is not None
        else [],
        "dense": len(labels) > MOST_ROOMY,
        "pairs": [] if run.confusion is None else confused_pairs(labels, run.confusion),
        "mistakes": run.mistakes[:MOST_MISTAKES],
        "columns": class_columns(run),
        "classes": class_rows(run),
        "data": data_facts(run),
        "duplicates": groups[:MOST_GROUPS],
        "duplicates_left": max(0, len(groups) - MOST_GROUPS),
        "commands": commands(run),
        "asked": asked_facts(run),
    }


def _title(data: Path) -> str:
    """The data's name, with its folder's where it says little itself."""
    says_little = data.suffix == ".csv" or data.name.lower() in _COMMON
    return "/".join(data.parts[-2:]) if says_little else data.name or str(data)


def measure(run: RunContents) -> str:
    """What the run's validation score is called."""
    return "accuracy" if run.config.get("single", True) else "mean average precision"


def banner(run: RunContents) -> tuple[str, str] | None:
    """A word and a sentence about a run that has not finished; None: it has."""
    done = counted(run.records[-1].epoch, "epoch") if run.records else "no epoch"
    if run.state["state"] == RUNNING:
        return "Running", f"{done} so far: what is here will change."
    if run.state["state"] == FAILED:
        reason = run.state.get("reason", "no reason is known").removesuffix(".")
        return "Stopped", f"{reason}. Done: {done}."
    return None


def sentences(run: RunContents) -> list[Markup]:
    """The result in words, the score first."""
    said = _score_words(run)
    if run.finished:
        said.append(Markup("{}").format(_choice_words(run)))
    return said or [Markup("No validation score yet.")]


def _score_words(run: RunContents) -> list[Markup]:
    scored = run.validation
    if scored is None:
        return _epoch_words(run)
    said = Markup("<strong>{}</strong>").format(percent(scored["accuracy"]))
    pictures = counted(scored["pictures"], "validation picture")
    if not scored["single"]:
        occurring = sum(row.pictures > 0 for row in run.classes)
        words = Markup("{} mean average precision over the {} that occur in {}.")
        return [
            words.format(said, counted(occurring, "class").replace("classs", "classes"), pictures)
        ]
    words = Markup("{} of {} are named right ({} of them; 95{}% interval {}{}%).")
    between = span(scored["interval"])
    lines = [words.format(said, pictures, count(scored["right"]), NBSP, between, NBSP)]
    commonest = max(run.classes, key=lambda row: row.pictures)
    share = percent(commonest.pictures / scored["pictures"])
    guess = Markup("Always naming the commonest class (<bdi>{}</bdi>) would be right for {}.")
    return [*lines, guess.format(commonest.label, share)]


def _epoch_words(run: RunContents) -> list[Markup]:
    best = next((r for r in run.records if r.epoch == run.best_epoch), None)
    if best is None:
        return []
    words = Markup(
        "<strong>{}</strong> {} on the validation pictures after epoch {}, the best so far."
    )
    return [words.format(percent(best.validation_accuracy), measure(run), best.epoch)]


def _choice_words(run: RunContents) -> str:
    score = "loss" if run.head else measure(run)
    chosen_by = run.state.get("result", {}).get("chosen_by", f"validation {score}")
    how = f"chosen by {chosen_by}: class labels only, no boxes were used"
    point = next((p for p in run.head if p.chosen), None)
    what = ""
    if point is not None:
        what = f"Weight decay {point.decay:.3g} of {count(len(run.head))} tried is kept"
    elif run.best_epoch is not None and run.records:
        what = f"Epoch {run.best_epoch} of {run.records[-1].epoch} is kept"
    if not what:
        return f"The net was {how}."
    return (
        f"{what}, {how}. The choice was made on these very pictures, so new pictures may do a "
        "little worse."
    )


def chosen_sheets(run: RunContents) -> Sheets:
    """Read the sheets to embed: the kept model's is the last, and seen first."""
    epochs = list(run.sheets)
    kept = {epochs[i] for i in thinned(len(epochs), MOST_SHEETS - 1)}
    kept |= {epoch for epoch in epochs if epoch == run.best_epoch}
    tried = [_read(epoch, run.sheets[epoch]) for epoch in sorted(kept)]
    if run.final_sheet is not None:
        tried.append(_read(None, run.final_sheet))
    sheets = [sheet for sheet in tried if isinstance(sheet, Sheet)]
    words = f"{len(kept)} of {count(len(epochs))} sheets are embedded; all are in {SAMPLES}/."
    at = [sheet.epoch for sheet in sheets]
    best = run.best_epoch is not None and run.best_epoch in at and None not in at
    return Sheets(
        [_embedded(sheet, run) for sheet in sheets],
        at.index(run.best_epoch) if best else len(at) - 1,
        words if len(kept) < len(epochs) else "",
        [reason for reason in tried if isinstance(reason, str)],
    )


def _read(epoch: int | None, path: Path) -> Sheet | str:
    try:
        return read_sheet(epoch, path)
    except DataError as error:
        return str(error)


def _embedded(sheet: Sheet, run: RunContents) -> tuple[str, str, str, str, int, int]:
    address = "data:image/jpeg;base64," + base64.b64encode(sheet.jpeg).decode("ascii")
    if sheet.epoch is None:
        return "final", _KEPT, f"the {_KEPT}, with its own recipe", address, *sheet.size_wh
    trained = "with the fitted head" if run.head else f"after epoch {sheet.epoch}"
    words = "before training" if sheet.epoch == 0 else trained
    if sheet.epoch == run.best_epoch:
        words += ", kept" if run.finished else ", the best so far"
    return str(sheet.epoch), str(sheet.epoch), words, address, *sheet.size_wh
