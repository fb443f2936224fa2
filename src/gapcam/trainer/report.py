"""What a finished run says at the end."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gapcam.training.run_folder import RunFolder


@dataclass(frozen=True, slots=True)
class TrainReport:
    """What came out of a run.

    Attributes:
        path: The run folder.
        model: The model file, which `gapcam.load` takes.
        report: The report, an HTML page.
        accuracy: On the validation pictures: Top-1, or with several classes a picture the mean
            average precision; None where nothing can be scored.
        pictures: How many validation pictures there are.
        interval: 95 % interval of Top-1; None with several classes a picture.
        chosen: How the net was chosen, in words.
        proof: Whether its class maps are exact, in words.
    """

    path: Path
    model: Path
    report: Path
    accuracy: float | None
    pictures: int
    interval: tuple[float, float] | None
    chosen: str
    proof: str

    @classmethod
    def of(cls, folder: RunFolder) -> TrainReport:
        """The report of a finished run."""
        result = folder.result
        interval = result["interval"]
        return cls(
            folder.path,
            folder.model,
            folder.report,
            result["accuracy"],
            result["pictures"],
            None if interval is None else (interval[0], interval[1]),
            result["chosen"],
            result["proof"],
        )

    def __str__(self) -> str:
        run = shlex.quote(os.fspath(self.path))
        return "\n".join(
            (
                f"{self._score} Chosen by class labels only, no boxes: {self.chosen}.",
                self.proof,
                f"Look at {self.report}. Then: gapcam localize PICTURES --model {run}",
            )
        )

    @property
    def _score(self) -> str:
        if self.accuracy is None:
            return f"No score on {self.pictures} validation pictures."
        if self.interval is None:
            return (
                f"Mean average precision {self.accuracy:.1%} on {self.pictures} validation "
                "pictures."
            )
        low, high = self.interval
        return (
            f"Validation accuracy {self.accuracy:.1%} ({low:.1%} to {high:.1%}) on "
            f"{self.pictures} pictures."
        )
