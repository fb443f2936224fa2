"""`gapcam evaluate`: how good the boxes are, on pictures where they are known."""

from __future__ import annotations

import json
import os
import shlex
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gapcam.cli.app import (
    DONE,
    INTERRUPTED,
    SOME_FAILED,
    LayerOption,
    ModelOption,
    ModelSettings,
    RecipeOption,
    app,
    model_settings,
    reporting_errors,
)
from gapcam.cli.score_table import print_scores
from gapcam.terminal import complain, staged_progress, tell
from gapcam.types import ArgumentError, DataError, OutputError

if TYPE_CHECKING:
    from gapcam.data import Dataset
    from gapcam.evaluate import Evaluation, Progress
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
SelectSplitOption = Annotated[
    Split | None,
    typer.Option(
        "--select-split",
        show_default="as for --split",
        help="Which part of the set of --select-on, where it has parts (cub, ilsvrc, wsol).",
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
    settings: ModelSettings = None,
    layer: LayerOption = None,
    recipe: RecipeOption = None,
    protocol: ProtocolOption = ProtocolName.original,
    select_on: SelectOption = None,
    select_split: SelectSplitOption = None,
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
    with reporting_errors("interrupted; nothing was scored"):
        _check_options(boxes, masks, json_path, report)
        from gapcam.data import read_dataset
        from gapcam.evaluate import evaluate as run
        from gapcam.evaluate.blacklist import without
        from gapcam.loading import load

        kind = None if layout is None else layout.value
        part = None if split is None else split.value
        dataset = read_dataset(images, boxes, masks, layout=kind, split=part)
        if blacklist is not None:
            dataset = without(dataset, blacklist)
        selection = None
        if select_on is not None:
            part = None if select_split is None else select_split.value
            selection = _selection(select_on, masks, dataset.layout, part)
        localizer = load(
            model, recipe=recipe, threads=1, tell=tell, **model_settings(settings, layer)
        )
        with staged_progress() as show, _naming_bad_rows(), _stopping_between_pictures() as check:

            def on_progress(progress: Progress) -> None:
                show(progress.phase, progress.done, progress.total)
                check()

            done = run(
                localizer,
                dataset,
                protocol=protocol.value,
                select_on=selection,
                skip_bad=skip_bad,
                on_progress=on_progress,
            )
        _add_facts(done.result, context, images, boxes, masks, select_on, blacklist)
        _write(localizer, done, json_path, report)
        print_scores(done.result)
        raise typer.Exit(_exit_code(done.result))


def _check_options(
    boxes: Path | None, masks: Path | None, json_path: Path | None, report: Path | None
) -> None:
    """Refuse before a long run what could not be written after it."""
    if boxes is None and masks is None:
        raise ArgumentError("give the truth: --boxes PATH, or --masks DIR")
    if json_path is not None and json_path == report:
        raise ArgumentError(f"--json and --report both name {report}: give two files")
    if report is not None and report.suffix.lower() not in (".html", ".htm"):
        raise ArgumentError(f"--report {report}: expected a name that ends with .html")
    for option, path in (("--json", json_path), ("--report", report)):
        if path is None:
            continue
        folder = next(parent for parent in path.absolute().parents if os.path.exists(parent))
        if os.path.isdir(path) or not os.path.isdir(folder) or not os.access(folder, os.W_OK):
            raise ArgumentError(f"{option} {path}: cannot be written there; give another file")


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


@contextmanager
def _stopping_between_pictures() -> Iterator[Callable[[], None]]:
    """Ctrl-C waits until it is asked for, so that no picture is half scored; twice ends at once."""
    asked: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    def check() -> None:
        if asked:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, note)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, before)


def _selection(text: str, masks: Path | None, layout: str, split: str | None) -> Dataset:
    """The set that thresholds are chosen on: of the layout of the scored one, if it can be."""
    from gapcam.data import read_dataset

    images, truth = _two_paths(text)
    if layout == "masks":
        return read_dataset(images, None, truth, layout=layout)
    try:
        return read_dataset(images, truth, layout=None, split=split)
    except DataError:
        root = masks if layout == "wsol" else None
        return read_dataset(images, truth, root, layout=layout, split=split)


def _two_paths(text: str) -> tuple[Path, Path]:
    """DIR:PATH, split at the colon that leaves two paths that exist (names may hold colons)."""
    splits = [(text[:i], text[i + 1 :]) for i, letter in enumerate(text) if letter == ":"]
    for images, truth in splits:
        if images and truth and os.path.exists(images) and os.path.exists(truth):
            return Path(images), Path(truth)
    raise ArgumentError(
        f"--select-on {text}: expected DIR:PATH, a folder of pictures and their boxes or masks, "
        "both there; check the two paths"
    )


def _add_facts(
    result: dict[str, Any],
    context: typer.Context,
    images: Path,
    boxes: Path | None,
    masks: Path | None,
    select_on: str | None,
    blacklist: Path | None,
) -> None:
    """What only the command line knows, so that the run can be repeated."""
    result["data"] |= {"images": str(images), "boxes": _text(boxes), "masks": _text(masks)}
    result["protocol"]["blacklist"] = "off" if blacklist is None else f"on: {blacklist.name}"
    if result["selection"] is not None:
        result["selection"]["given_as"] = select_on
    words: list[str] | None = context.find_root().obj
    if words is not None:  # None: called by a program
        result["command"] = shlex.join(["gapcam", *words])


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _write(
    localizer: Localizer, done: Evaluation, json_path: Path | None, report: Path | None
) -> None:
    """The files, each even where another cannot be written."""
    from gapcam.outputs import replacing

    errors = []
    if json_path is not None:
        try:
            with replacing(json_path) as out:
                out.write(json.dumps(done.result, indent=1, allow_nan=False) + "\n")
            tell(f"Written: {json_path}")
        except OutputError as error:
            errors.append(error)
    if report is not None:
        from gapcam.evaluate.gallery import gallery
        from gapcam.report import write_report

        try:
            write_report(report, done.result, tuple(gallery(localizer, done)))
            tell(f"Written: {report}")
        except OutputError as error:
            errors.append(error)
    if errors:
        print_scores(done.result)
        raise errors[0]


def _exit_code(result: dict[str, Any]) -> int:
    """Name what was left out; say how it ended."""
    selection = result["selection"] or {"left_out": []}
    for kind, rows in (("", result["data"]["left_out"]), ("selection: ", selection["left_out"])):
        for row in rows:
            complain(f"{kind}left out: {row['where']}: {row['what']}")
    if result["partial"]:
        tell("gapcam: interrupted; the scores are of the pictures done until then, the first ones")
        return INTERRUPTED
    return SOME_FAILED if result["data"]["left_out"] or selection["left_out"] else DONE
