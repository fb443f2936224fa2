"""A run folder as its report shows it: read without holding it, at any time of the run."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from gapcam.training.plan import EpochRecord, best_epoch
from gapcam.training.run_folder import (
    CONFIG,
    CONFUSION,
    DATA,
    FINAL,
    FINISHED,
    HEAD,
    METRICS,
    MISTAKES,
    PER_CLASS,
    SAMPLES,
    UNREADABLE,
    VALIDATION,
    read_state,
)
from gapcam.training.run_tables import HeadPoint, Unreadable, read_counts, read_json, read_rows
from gapcam.training.validation import ClassScore, Mistake
from gapcam.types import DataError, IntArray

_SHEET = re.compile(r"epoch_(\d+)\.jpg")


@dataclass(frozen=True, slots=True)
class Sheet:
    """A sheet of localized pictures: the JPEG file's bytes, its sides in pixels.

    Attributes:
        epoch: Of the net that drew it; None: the kept model, with its own recipe.
        jpeg: The file's bytes.
        size_wh: Its sides in pixels.
    """

    epoch: int | None
    jpeg: bytes
    size_wh: tuple[int, int]


@dataclass(frozen=True, slots=True, eq=False)
class RunContents:
    """What a run folder holds so far.

    Attributes:
        path: The folder.
        config: `config.json`.
        state: `run.json`.
        data: `data.json`; None before it is written.
        records: The epochs.
        head: Head-only: what was tried.
        validation: `validation.json`; None before it is written.
        classes: A score for each class.
        confusion: `[C, C]` counts, a row the true class; None with several classes a picture.
        mistakes: The wrong answers, the surest first.
        unreadable: Pictures that could not be read.
        sheets: Where the sheets lie, by epoch.
        final_sheet: Where the kept model's lies; None before it is drawn.
    """

    path: Path
    config: Mapping[str, Any]
    state: Mapping[str, Any]
    data: Mapping[str, Any] | None
    records: tuple[EpochRecord, ...]
    head: tuple[HeadPoint, ...]
    validation: Mapping[str, Any] | None
    classes: tuple[ClassScore, ...]
    confusion: IntArray | None
    mistakes: tuple[Mistake, ...]
    unreadable: tuple[Unreadable, ...]
    sheets: Mapping[int, Path]
    final_sheet: Path | None

    @property
    def finished(self) -> bool:
        """Whether the run ended well."""
        return bool(self.state["state"] == FINISHED)

    @property
    def best_epoch(self) -> int | None:
        """The epoch whose net is kept; None without epochs.

        Before the end the best so far: of equal accuracy the lower loss, then the earlier epoch.
        """
        kept = self.state.get("result", {}).get("best_epoch")
        if kept is not None:
            return int(kept)
        return best_epoch(self.records) or None


def read_run(path: Path) -> RunContents:
    """Read a run folder; what is not there yet is left empty.

    Raises:
        DataError: No run is here, or a file of it cannot be read.
    """
    state = read_state(path)
    there = (path / VALIDATION).exists()  # written after the tables: without it they are not whole
    counts = read_counts(path / CONFUSION) if there else None
    return RunContents(
        path=path,
        config=read_json(path / CONFIG),
        state=state,
        data=read_json(path / DATA) if (path / DATA).exists() else None,
        records=tuple(read_rows(path / METRICS, EpochRecord, growing=True)),
        head=tuple(read_rows(path / HEAD, HeadPoint)),
        validation=read_json(path / VALIDATION) if there else None,
        classes=tuple(read_rows(path / PER_CLASS, ClassScore)) if there else (),
        confusion=counts[1] if counts else None,
        mistakes=tuple(read_rows(path / MISTAKES, Mistake)) if there else (),
        unreadable=tuple(read_rows(path / UNREADABLE, Unreadable)),
        sheets=_sheets(path / SAMPLES),
        final_sheet=final if (final := path / SAMPLES / FINAL).exists() else None,
    )


def read_sheet(epoch: int | None, path: Path) -> Sheet:
    """Read a sheet.

    Raises:
        DataError: It is no JPEG file, or cannot be read.
    """
    try:
        jpeg = path.read_bytes()
        with Image.open(io.BytesIO(jpeg), formats=("JPEG",)) as image:
            return Sheet(epoch, jpeg, image.size)
    except OSError as error:
        raise DataError(f"{path}: cannot be read as a JPEG picture ({error})") from error


def _sheets(folder: Path) -> dict[int, Path]:
    if not folder.is_dir():
        return {}
    found = ((_SHEET.fullmatch(path.name), path) for path in folder.iterdir())
    return dict(sorted((int(match[1]), path) for match, path in found if match))
