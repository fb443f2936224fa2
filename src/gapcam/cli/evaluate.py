"""`gapcam evaluate`: how good the boxes are, on pictures where they are known."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gapcam.cli.app import (
    DONE,
    INTERRUPTED,
    SOME_FAILED,
    ModelOption,
    RecipeOption,
    app,
    reporting_errors,
)
from gapcam.cli.score_table import print_scores
from gapcam.terminal import complain, staged_progress, tell
from gapcam.types import ArgumentError, DataError

if TYPE_CHECKING:
    from gapcam.data import Dataset
    from gapcam.evaluate import Evaluation
    from gapcam.localizer import Localizer


class ProtocolName(str, Enum):
    """The protocols."""

    original = "original"
    wsol = "wsol"
    ilsvrc = "ilsvrc"


class Layout(str, Enum):
    """How a data set lies on disk."""

    csv = "csv"
    coco = "coco"
    voc = "voc"
    ilsvrc = "ilsvrc"
    cub = "cub"
    wsol = "wsol"
    masks = "masks"
    yolo = "yolo"


class Split(str, Enum):
    """A part of a data set that has parts."""

    train = "train"
    val = "val"
    trainval = "trainval"
    test = "test"
    all = "all"


ImagesOption = Annotated[
    Path, typer.Option("--images", metavar="DIR", show_default=False, help="The pictures.")
]
BoxesOption = Annotated[
    Path | None,
    typer.Option(
        "--boxes",
        metavar="PATH",
        show_default=False,
        help="The true boxes: boxes.csv, a COCO .json, a folder of Pascal VOC or ILSVRC .xml, a "
        "CUB-200-2011 folder, a wsolevaluation metadata folder, or YOLO's data.yaml.",
    ),
]
MasksOption = Annotated[
    Path | None,
    typer.Option(
        "--masks",
        metavar="DIR",
        show_default=False,
        help="True masks, <class>/<picture>.png as the pictures lie in --images; or the root of "
        "the mask files that --boxes names.",
    ),
]
LayoutOption = Annotated[
    Layout | None,
    typer.Option("--layout", show_default="recognized", help="How the data set lies on disk."),
]
SplitOption = Annotated[
    Split | None,
    typer.Option(
        "--split",
        show_default="test for cub and wsol, val for ilsvrc, else all",
        help="Which part, where the data set has parts.",
    ),
]
ProtocolOption = Annotated[
    ProtocolName,
    typer.Option("--protocol", "-p", help="How maps are cut and boxes compared."),
]
SelectOption = Annotated[
    str | None,
    typer.Option(
        "--select-on",
        metavar="DIR:PATH",
        show_default=False,
        help="Choose threshold and centred box on these other pictures (DIR) and their boxes or "
        "masks (PATH), and report that threshold.",
    ),
]
BlacklistOption = Annotated[
    Path | None,
    typer.Option(
        "--blacklist",
        metavar="FILE",
        show_default=False,
        help="Leave these pictures out: a name or an ILSVRC validation number a line.",
    ),
]
SkipOption = Annotated[
    bool,
    typer.Option(
        "--skip-bad", help="Go on without pictures whose rows are bad; each is named anyway."
    ),
]
JsonOption = Annotated[
    Path | None,
    typer.Option("--json", metavar="FILE", show_default=False, help="Write all scores here."),
]
ReportOption = Annotated[
    Path | None,
    typer.Option(
        "--report",
        metavar="FILE.html",
        show_default=False,
        help="Write a page with scores, curves and pictures here: one file, no network.",
    ),
]


@app.command(no_args_is_help=True)
def evaluate(
    context: typer.Context,
    images: ImagesOption,
    boxes: BoxesOption = None,
    masks: MasksOption = None,
    model: ModelOption = None,
    recipe: RecipeOption = None,
    protocol: ProtocolOption = ProtocolName.original,
    select_on: SelectOption = None,
    json_path: JsonOption = None,
    report: ReportOption = None,
    layout: LayoutOption = None,
    split: SplitOption = None,
    blacklist: BlacklistOption = None,
    skip_bad: SkipOption = False,
) -> None:
    """Score the boxes (or masks) on pictures where they are known.

    Thresholds stand side by side with where they come from: fixed by the recipe, chosen on other
    pictures (--select-on), label-free, or the best on the scored pictures, which is an upper bound.
    Exit code: 0 all scored, 1 some left out or the data is bad, 2 wrong usage, 130 interrupted.
    """
    with reporting_errors():
        if boxes is None and masks is None:
            raise ArgumentError("give the truth: --boxes PATH, or --masks DIR")
        if json_path is not None and json_path == report:
            raise ArgumentError(f"--json and --report both name {report}: give two files")
        from gapcam.data import read_dataset
        from gapcam.evaluate import evaluate as run
        from gapcam.evaluate.blacklist import without
        from gapcam.loading import load

        kind = None if layout is None else layout.value
        part = None if split is None else split.value
        dataset = read_dataset(images, boxes, masks, layout=kind, split=part)
        if blacklist is not None:
            dataset = without(dataset, blacklist)
        selection = None if select_on is None else _selection(select_on, boxes, kind)
        localizer = load(model, recipe=recipe, threads=1, tell=tell)
        with staged_progress() as show, _naming_bad_rows():
            done = run(
                localizer,
                dataset,
                protocol=protocol.value,
                select_on=selection,
                skip_bad=skip_bad,
                on_progress=lambda p: show(p.phase, p.done, p.total),
            )
        done.result["data"] |= {"images": str(images), "boxes": _text(boxes), "masks": _text(masks)}
        words: list[str] | None = context.find_root().obj
        if words is not None:  # None: called by a program
            done.result["command"] = shlex.join(["gapcam", *words])
        if done.result["selection"] is not None:
            done.result["selection"]["given_as"] = select_on
        _report(localizer, done, json_path, report)
        raise typer.Exit(_exit_code(done.result))


@contextmanager
def _naming_bad_rows() -> Iterator[None]:
    """A line a bad row, before the error that counts them."""
    from gapcam.evaluate import BadRowsError

    try:
        yield
    except BadRowsError as error:
        for problem in error.problems:
            complain(str(problem))
        raise DataError(error.summary) from error


def _selection(text: str, boxes: Path | None, layout: str | None) -> Dataset:
    """The set that thresholds are chosen on; PATH is of the same kind as the scored set's truth."""
    from gapcam.data import read_dataset

    images, truth = _two_paths(text)
    if boxes is None:
        return read_dataset(images, None, truth, layout=layout)
    return read_dataset(images, truth, layout=layout if truth.suffix == boxes.suffix else None)


def _two_paths(text: str) -> tuple[Path, Path]:
    """DIR:PATH, split at the colon that leaves two paths that exist (names may hold colons)."""
    splits = [(text[:i], text[i + 1 :]) for i, letter in enumerate(text) if letter == ":"]
    for images, truth in splits:
        if images and truth and Path(images).exists() and Path(truth).exists():
            return Path(images), Path(truth)
    raise ArgumentError(
        f"--select-on {text}: expected DIR:PATH, a folder of pictures and their boxes or masks, "
        "both there; check the two paths"
    )


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _report(
    localizer: Localizer, done: Evaluation, json_path: Path | None, report: Path | None
) -> None:
    """Tell what came of it, on screen and in files."""
    from gapcam.outputs import replacing

    print_scores(done.result)
    for row in done.result["data"]["left_out"]:
        complain(f"left out: {row['where']}: {row['what']}")
    if json_path is not None:
        with replacing(json_path) as out:
            out.write(json.dumps(done.result, indent=1, allow_nan=False) + "\n")
        tell(f"Written: {json_path}")
    if report is not None:
        from gapcam.evaluate.gallery import gallery
        from gapcam.report import write_report

        write_report(report, done.result, tuple(gallery(localizer, done)))
        tell(f"Written: {report}")


def _exit_code(result: dict[str, Any]) -> int:
    if result["partial"]:
        tell("gapcam: interrupted; the scores above are of the pictures done until then")
        return INTERRUPTED
    return SOME_FAILED if result["data"]["left_out"] else DONE
