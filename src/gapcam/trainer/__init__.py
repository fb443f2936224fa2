"""Trains a localizer from class labels: joins data, net, training, model file and run folder."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gapcam.foreign import SourceOptions
from gapcam.trainer.command import command_line
from gapcam.trainer.files import weights_hash
from gapcam.trainer.ranks import wait_for
from gapcam.trainer.report import TrainReport
from gapcam.training.labelled import LabelledSet, read_labelled
from gapcam.training.machine import check_machine
from gapcam.training.plan import FINETUNE_ONLY, Progress, TrainOptions
from gapcam.training.ranks import is_added, is_first
from gapcam.training.run_config import run_config
from gapcam.training.run_folder import SPLIT, RunFolder
from gapcam.training.split_file import read_split
from gapcam.types import ArgumentError, GapcamError, ModelError

if TYPE_CHECKING:
    from torch import nn

    from gapcam.trainer.nets import Backbone

__all__ = ["TrainReport", "is_added", "train"]

OF_SOURCE = ("preprocessing", "checkpoint", "size_hw", "layer")
"""What of `gapcam.foreign.SourceOptions` a backbone takes."""

TRAINERS = {"head-only": (), "finetune": ("lightning",)}

Tell = Callable[[str], None]


def train(
    data: str | Path,
    out: str | Path,
    *,
    model: str | Path | nn.Module | None = None,
    images: str | Path | None = None,
    resume: bool = False,
    tell: Tell | None = None,
    progress: Progress | None = None,
    **choices: Any,
) -> TrainReport | None:
    """Train a localizer on class labels only.

    Args:
        data: A folder of class folders, or of `train/` and `val/` with them; or a CSV file with the
            columns `image` and `label`, or `image` and one column a class.
        out: The run folder: model file, report, metrics, sample maps, checkpoints.
        model: What gets a new head: None or `"efficientnet-lite0"`, one of the paper's nets
            (`gapcam.models.gap_nets.NAMES`), `"timm:NAME"`, `"torchvision:NAME"`,
            `"hf:NAME_OR_FOLDER"` or a PyTorch module, which is not changed.
        images: The folder of the CSV file's pictures, where it is not its own.
        resume: Go on with the run that `out` holds, to the same result.
        tell: Called with a word of progress.
        progress: Called with what is done, how much of it, and of how much.
        **choices: Fields of `gapcam.training.plan.TrainOptions` (method, pool, epochs, seed, ...),
            and `preprocessing`, `checkpoint`, `size_hw` and `layer` as `gapcam.load` takes them.

    Returns:
        What came out; None in the further processes of a run with several, which write nothing.

    Raises:
        ArgumentError: A choice that cannot be meant, or a run folder that holds something else.
        DataError: The data is no labelled set that can be trained on.
        ModelError: The model cannot be loaded or given a new head, or its loss is no number.
        PictureError: A picture can no longer be read.
        OutputError: The run folder cannot be written; what is done stays and can be resumed.
    """
    options, source = _chosen(choices)
    versions = _versions(options)  # what is not installed is told before any work
    say, show = tell or _say_nothing, progress or _show_nothing
    _check_place(Path(data), Path(out))
    check_machine(options)
    found = read_labelled(
        Path(data), images=None if images is None else Path(images), multi_label=options.multi_label
    )
    if not is_first():
        if options.method == "head-only":
            return None  # the first process does it alone
        _train_along(found, Path(out), model, options, source, resume=resume)
        return None
    for note in found.notes:
        say(note)
    backbone = _backbone(model, found, options, source, say)
    where = None if images is None else Path(images)
    command = command_line(Path(data), Path(out), model, where, choices)
    config = _config(found, Path(data), where, backbone, options, versions, command)
    folder = (RunFolder.open_for_resume if resume else RunFolder.create)(Path(out), config)
    try:
        with folder:
            return _go(folder, found, backbone, options, say, show)
    except BaseException:
        _report_end(folder)
        raise


def _go(
    folder: RunFolder,
    found: LabelledSet,
    backbone: Backbone,
    options: TrainOptions,
    say: Tell,
    show: Progress,
) -> TrainReport:
    for note in folder.notes:
        say(note)
    if folder.finished:
        from gapcam.training.report import write_training_report

        say(f"{folder.path}: this run is finished already")
        write_training_report(folder.path)  # a kill may have come between the end and the report
        return TrainReport.of(folder)
    from gapcam.trainer.run import Run

    return Run(folder, found, backbone, options, say, show).go()


def _report_end(folder: RunFolder) -> None:
    """Let the report of a run that ended early say so, where there is one."""
    if folder.report.exists():
        from gapcam.training.report import write_training_report

        with suppress(GapcamError):  # the first error is the one to tell
            write_training_report(folder.path)


def _train_along(
    found: LabelledSet,
    out: Path,
    model: str | Path | nn.Module | None,
    options: TrainOptions,
    source: SourceOptions,
    *,
    resume: bool,
) -> None:
    """Take part in a run as one of its further processes."""
    from gapcam.training.finetune import finetune

    wait_for(out / SPLIT)
    split = read_split(out / SPLIT, found)
    backbone = _backbone(model, found, options, source, _say_nothing)
    finetune(
        backbone.net,
        found,
        split,
        options,
        backbone.preprocessing,
        out,
        resume=resume,
        on_epoch=lambda *_: None,
        progress=_show_nothing,
    )


def _backbone(
    model: str | Path | nn.Module | None,
    found: LabelledSet,
    options: TrainOptions,
    source: SourceOptions,
    say: Tell,
) -> Backbone:
    import torch

    from gapcam.trainer.files import placeless
    from gapcam.trainer.nets import open_backbone

    placeless(found.classes, options.normal)  # an unknown class is refused before any work
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        return open_backbone(model, len(found.classes), options, source, say)


def _chosen(choices: dict[str, Any]) -> tuple[TrainOptions, SourceOptions]:
    known = {field.name for field in dataclasses.fields(TrainOptions)}
    unknown = sorted(set(choices) - known - set(OF_SOURCE))
    if unknown:
        raise ArgumentError(
            f"train: unknown option {unknown[0]!r}: expected one of "
            f"{', '.join((*sorted(known), *OF_SOURCE))}"
        )
    options = TrainOptions(**{name: value for name, value in choices.items() if name in known})
    idle = sorted(set(choices) & FINETUNE_ONLY)
    if options.method == "head-only" and idle:
        raise ArgumentError(
            f"{', '.join(idle)}: only fine-tuning has it, and the head alone is fitted. Add "
            "--finetune (method='finetune'), or leave it out"
        )
    given = {name: choices[name] for name in OF_SOURCE if name in choices}
    return options, SourceOptions(**given)


def _config(
    found: LabelledSet,
    data: Path,
    images: Path | None,
    backbone: Backbone,
    options: TrainOptions,
    versions: dict[str, str],
    command: str | None,
) -> dict[str, Any]:
    return run_config(
        options,
        data=data,
        model=backbone.name,
        classes=found.classes,
        single=found.single,
        preprocessing=backbone.preprocessing,
        trunk=backbone.words,
        versions=versions,
        images=None if images is None else os.path.abspath(images),  # noqa: PTH100 (links stay)
        first_weights=weights_hash(backbone.net),
        command=command,
    )


def _check_place(data: Path, out: Path) -> None:
    """Refuse a run folder among the class folders: its sample sheets would become a class."""
    inside = data.is_dir() and out.resolve().is_relative_to(data.resolve())
    if inside:
        raise ArgumentError(
            f"{out}: lies in {data}, so what is written there would be taken for pictures of a "
            "class. Choose another --out"
        )


def _versions(options: TrainOptions) -> dict[str, str]:
    libraries = ("gapcam", "torch", "numpy", *TRAINERS[options.method])
    return {name: _version(name) for name in libraries}


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError as error:
        raise ModelError(
            f"{name} is not installed, and training needs it. Run: pip install 'gapcam[train]'"
        ) from error


def _say_nothing(_: str) -> None:
    """Words that nobody asked for."""


def _show_nothing(*_: object) -> None:
    """Progress that nobody asked for."""
