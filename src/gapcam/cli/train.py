"""`gapcam train`: class folders to a localizer, from class labels only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from gapcam.cli.app import DONE, SOME_FAILED, app, model_settings, reporting_errors
from gapcam.terminal import printing, staged_progress, tell
from gapcam.types import ArgumentError, GapcamError

NONE = "none"
OF_SOURCE = ("preprocessing", "checkpoint", "size_hw", "layer")


class Pool(str, Enum):
    """How features become scores."""

    gap = "gap"
    gmp = "gmp"
    lse = "lse"
    tap = "tap"
    fc = "fc"


class Optimizer(str, Enum):
    """What changes the weights."""

    sgd = "sgd"
    adamw = "adamw"


class Precision(str, Enum):
    """Of products in the net."""

    auto = "auto"
    full = "32"
    half = "16-mixed"
    brain = "bf16-mixed"


class Log(str, Enum):
    """What progress is written as."""

    csv = "csv"
    tensorboard = "tensorboard"


def _option(*names: str, help: str, default: str | bool = False, metavar: str | None = None) -> Any:  # noqa: A002
    return typer.Option(*names, help=help, show_default=default, metavar=metavar)


DataArgument = Annotated[
    Path,
    typer.Argument(
        metavar="DATA",
        show_default=False,
        help="A folder of class folders (or of train/ and, if you have one, val/ with them), or a "
        "CSV file with the columns image and label, or image and one column a class.",
    ),
]
OutOption = Annotated[Path, _option("--out", "-o", metavar="RUN", help="The run folder to write.")]
SettingsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        show_default=False,
        help="What the model needs beside its name; give it again for more: preprocessing=NAME, "
        "checkpoint=FILE, size=HxW, layer=NAME.",
    ),
]
BackboneOption = Annotated[
    str | None,
    _option(
        "--model",
        "-m",
        default="efficientnet-lite0",
        help="What gets a new head: the embedded efficientnet-lite0, timm:NAME, torchvision:NAME, "
        "hf:NAME_OR_FOLDER, or the paper's alexnet, alexnet-star, vgg16, googlenet.",
    ),
]
FinetuneOption = Annotated[
    bool,
    typer.Option(
        "--finetune/--head-only",
        help="Train the whole net, or fit a linear head on its features (minutes on a CPU).",
    ),
]
PoolOption = Annotated[
    Pool | None,
    _option(
        "--pool",
        default="gap",
        help="How features become scores: average, maximum, log-sum-exp or thresholded average "
        "pooling; fc flattens them, the paper's contrast. lse and fc need --finetune.",
    ),
]
ImagesOption = Annotated[
    Path | None,
    _option("--images", metavar="DIR", help="Where the CSV file's pictures are, if not beside it."),
]
StrideOption = Annotated[
    int | None,
    _option(
        "--map-stride",
        metavar="8|16|32",
        default="the trunk's",
        help="Input pixels between map cells: removes the last strides, with dilation.",
    ),
]
MultiOption = Annotated[
    bool | None,
    _option(
        "--multi-label/--single-label",
        default="as the data says",
        help="Whether a picture may show several classes (a sigmoid each).",
    ),
]
NormalOption = Annotated[
    str | None,
    _option(
        "--normal",
        metavar="CLASS",
        help='The class that means "nothing there" ("normal", "good"): it gets no box.',
    ),
]
ValidationOption = Annotated[
    float | None,
    _option(
        "--validation",
        metavar="SHARE",
        default="0.2",
        help="Of the pictures, kept to choose by class labels; where the data has no val/.",
    ),
]
SeedOption = Annotated[
    int | None,
    _option("--seed", metavar="N", default="0", help="Of split, weights, order, augmentation."),
]
ResumeOption = Annotated[
    bool, typer.Option("--resume", help="Go on with the run that RUN holds, to the same result.")
]


def _tuned(*names: str, help: str, default: str, metavar: str | None = None) -> Any:  # noqa: A002
    return _option(*names, help=f"Fine-tuning: {help}", default=default, metavar=metavar)


EpochsOption = Annotated[
    int | None, _tuned("--epochs", metavar="N", default="10", help="passes over the pictures.")
]
BatchOption = Annotated[
    int | None,
    _tuned("--batch-size", metavar="N", default="32", help="pictures a step and process."),
]
AccumulateOption = Annotated[
    int | None,
    _tuned("--accumulate", metavar="N", default="1", help="steps whose gradients are summed."),
]
OptimizerOption = Annotated[
    Optimizer | None, _tuned("--optimizer", default="sgd", help="what changes the weights.")
]
RateOption = Annotated[
    float | None,
    _tuned(
        "--learning-rate",
        metavar="RATE",
        default="0.03, adamw 0.001",
        help="of the head, after warm-up.",
    ),
]
TrunkRateOption = Annotated[
    float | None,
    _tuned(
        "--trunk-rate",
        metavar="SHARE",
        default="0.1",
        help="the trunk's rate over the head's; 0 freezes it.",
    ),
]
DecayOption = Annotated[
    float | None,
    _tuned("--weight-decay", metavar="X", default="0.0001", help="of weights, not of biases."),
]
WarmupOption = Annotated[
    float | None,
    _tuned("--warmup", metavar="EPOCHS", default="1", help="until the full rate; then a cosine."),
]
SmoothingOption = Annotated[
    float | None,
    _tuned("--label-smoothing", metavar="X", default="0.1", help="share spread over all classes."),
]
AugmentOption = Annotated[
    str | None,
    _tuned(
        "--augment",
        metavar="A,B",
        default="crop,flip,colour",
        help="some of crop, flip, colour, cutmix, hide-and-seek; or none.",
    ),
]
EmaOption = Annotated[
    float | None,
    _tuned("--ema", metavar="DECAY", default="off", help="keep averaged weights, like 0.999."),
]
PrecisionOption = Annotated[
    Precision | None, _tuned("--precision", default="auto", help="auto is mixed on a GPU.")
]
DevicesOption = Annotated[
    int | None,
    _tuned("--devices", metavar="N", default="1", help="GPUs, or CPU processes where none is."),
]
NodesOption = Annotated[int | None, _tuned("--nodes", metavar="N", default="1", help="machines.")]
WorkersOption = Annotated[
    int | None,
    _tuned("--workers", metavar="N", default="0", help="reading processes; 0 reads in threads."),
]
PatienceOption = Annotated[
    int | None,
    _tuned("--patience", metavar="N", default="never", help="stop after N epochs no better."),
]
LogOption = Annotated[
    Log | None, _tuned("--log", default="csv", help="tensorboard writes its files too.")
]


@app.command(no_args_is_help=True)
def train(
    data: DataArgument,
    out: OutOption,
    model: BackboneOption = None,
    settings: SettingsOption = None,
    finetune: FinetuneOption = False,
    pool: PoolOption = None,
    map_stride: StrideOption = None,
    images: ImagesOption = None,
    multi_label: MultiOption = None,
    normal: NormalOption = None,
    validation: ValidationOption = None,
    seed: SeedOption = None,
    epochs: EpochsOption = None,
    batch_size: BatchOption = None,
    accumulate: AccumulateOption = None,
    optimizer: OptimizerOption = None,
    learning_rate: RateOption = None,
    trunk_rate: TrunkRateOption = None,
    weight_decay: DecayOption = None,
    warmup: WarmupOption = None,
    label_smoothing: SmoothingOption = None,
    augment: AugmentOption = None,
    ema: EmaOption = None,
    precision: PrecisionOption = None,
    devices: DevicesOption = None,
    nodes: NodesOption = None,
    workers: WorkersOption = None,
    patience: PatienceOption = None,
    log: LogOption = None,
    resume: ResumeOption = False,
) -> None:
    """Train a localizer on class labels: a folder of class folders in, boxes out.

    Nothing looks at boxes: the model is chosen by its validation accuracy. RUN holds the model
    file, a report (training.html), metrics and sample maps. Exit code: 0 done, 1 failed, 2 wrong
    usage; 130 interrupted, and --resume goes on.
    """
    given = {
        "method": "finetune" if finetune else "head-only",
        "pool": pool and pool.value,
        "map_stride": map_stride,
        "multi_label": multi_label,
        "normal": normal,
        "validation_share": validation,
        "seed": seed,
        "epochs": epochs,
        "batch_size": batch_size,
        "accumulate": accumulate,
        "optimizer": optimizer and optimizer.value,
        "learning_rate": learning_rate,
        "trunk_rate": trunk_rate,
        "weight_decay": weight_decay,
        "warmup": warmup,
        "label_smoothing": label_smoothing,
        "augment": None if augment is None else _augment(augment),
        "ema": ema,
        "precision": precision and precision.value,
        "devices": devices,
        "nodes": nodes,
        "workers": workers,
        "patience": patience,
        "logger": log and log.value,
    }
    choices = {name: value for name, value in given.items() if value is not None}
    with reporting_errors(f"interrupted; what is done is kept in {out}: add --resume to go on"):
        from gapcam.trainer import train as run

        with _told_once(), staged_progress(one_at_a_time=True) as shown:
            report = run(
                data,
                out,
                model=model,
                images=images,
                resume=resume,
                tell=tell,
                progress=shown,
                **choices,
                **_backbone_settings(settings),
            )
        if report is not None:
            with printing() as console:
                console.print(escape(str(report)), soft_wrap=True)
        raise typer.Exit(DONE)


def _backbone_settings(given: list[str] | None) -> dict[str, Any]:
    """`--set KEY=VALUE`, of what a backbone takes.

    Raises:
        ArgumentError: As `model_settings`, or a key that says nothing of a backbone.
    """
    settings = model_settings(given)
    for key in settings:
        if key not in OF_SOURCE:
            raise ArgumentError(
                f"--set {key}: a model that is trained takes preprocessing, checkpoint, size and "
                "layer only; classes and scores come from DATA"
            )
    return settings


@contextmanager
def _told_once() -> Iterator[None]:
    """Let a process that another of its machine started end without a word: that one tells."""
    from gapcam.trainer import is_added

    try:
        yield
    except (GapcamError, KeyboardInterrupt) as error:
        if is_added():
            raise typer.Exit(SOME_FAILED) from error
        raise


def _augment(text: str) -> tuple[str, ...]:
    return () if text == NONE else tuple(part.strip() for part in text.split(","))
