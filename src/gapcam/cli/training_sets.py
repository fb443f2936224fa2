"""The options of `gapcam localize` for training sets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from gapcam.types import ArgumentError

LabelsOption = Annotated[
    str | None,
    typer.Option(
        metavar="folders|FILE",
        show_default=False,
        help="With --out: what each picture shows, from its class folder or a CSV table as train "
        "reads it; it is localized for that only, and only those classes are in the annotations.",
    ),
]
MinScoreOption = Annotated[
    float,
    typer.Option(
        min=0.0,
        max=1.0,
        metavar="S",
        help="Leave boxes with a lower score out of the annotations, and pictures that have no "
        "other; without_boxes.csv lists them.",
    ),
]
ReviewOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=100_000,
        metavar="N",
        show_default=False,
        help="With --out: write the N least certain boxes to review.csv, and to review.html to "
        "accept or reject them.",
    ),
]
RejectOption = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="FILE",
        show_default=False,
        help="Leave out of the annotations what was rejected: rejected.csv of a review page. With "
        "--resume no picture is done twice. May be given again.",
    ),
]


def check_set(
    labels: str | None,
    top: int | None,
    classes: list[str] | None,
    of_annotations: Mapping[str, object],
    *,
    annotates: bool,
) -> None:
    """Refuse options for training sets that contradict others.

    Args:
        labels: What `--labels` says.
        top: What `--top` says.
        classes: What `--class` says.
        of_annotations: Options that only mean something with annotations.
        annotates: Whether annotations are written.

    Raises:
        ArgumentError: They do.
    """
    if labels is not None and (top is not None or classes):
        raise ArgumentError("--labels says which classes: leave out --top and --class, or --labels")
    given = [option for option, value in of_annotations.items() if value]
    if given and not annotates:
        raise ArgumentError(f"{given[0]} is about annotations: add --format coco, yolo, voc or csv")
