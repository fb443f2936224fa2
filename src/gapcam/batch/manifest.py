"""The folder of a run: its settings, its shards while it goes on, its results when it is done.

- `run.json`: what the results depend on. A run is only taken up with the same.
- `unfinished/`: the shards of a run that goes on, and a run that ended early. It is there if, and
  only if, a run is not finished.
- `localizations.jsonl`, or `shards/` where they are kept: the results of a finished run. They stay
  as they are until those of the next run are whole.
- `errors.jsonl`: the failures of a finished run; not there when there are none.

No file lists what is done: a shard is done when its file is there.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gapcam.batch.options import ShardKind
from gapcam.batch.shards import shard_files
from gapcam.outputs import output_errors, replacing
from gapcam.types import ArgumentError

RESULTS = "localizations.jsonl"
SHARDS = "shards"
ERRORS = "errors.jsonl"
UNFINISHED = "unfinished"
SETTINGS = "run.json"
FOLDER = "folder"
"""The setting that names the working folder, which relative paths in the records go from."""

PARTS = ".gapcam-*.tmp"
"""What files are called while they are written (`gapcam.outputs`)."""

_ASIDE = ("-making", "-old")


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The paths of a run in `folder`, and what may be done with them.

    Attributes:
        folder: The run's output folder.
        kind: What its shards are written as.
        keep_shards: Whether the shards are the results.
    """

    folder: Path
    kind: ShardKind = "jsonl"
    keep_shards: bool = False
    settings: Path = field(init=False)
    work: Path = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "settings", self.folder / SETTINGS)
        object.__setattr__(self, "work", self.folder / UNFINISHED)

    @property
    def results(self) -> Path:
        """Where the results of a finished run are."""
        return self.folder / (SHARDS if self.keep_shards else RESULTS)

    @property
    def errors(self) -> Path:
        """Where its failures are."""
        return self.folder / ERRORS

    def is_unfinished(self) -> bool:
        """Whether a run there has not come to its end.

        Raises:
            OutputError: The folder cannot be looked into.
        """
        with output_errors(self.folder):
            return self.work.exists()

    def begin(self, settings: Mapping[str, Any], *, resume: bool) -> None:
        """Make the folder ready for shards; what was done stays when `resume` is on.

        Raises:
            ArgumentError: An unfinished run is there and `resume` is off.
            OutputError: The folder cannot be written.
        """
        if not resume and self.is_unfinished():
            raise ArgumentError(
                f"{self.folder} holds an unfinished run: add --resume to take it up, or delete "
                f"{self.work} to start anew"
            )
        with output_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        with output_errors(self.work):
            self._clear_asides()
            self.work.mkdir(exist_ok=True)  # before the settings: old results must not pass as new
        with replacing(self.settings) as out:
            out.write(json.dumps(settings, indent=2) + "\n")

    def earlier_settings(self) -> dict[str, Any] | None:
        """The settings of the run that is there; None when there is none.

        Raises:
            ArgumentError: They cannot be read.
        """
        try:
            return dict(json.loads(self.settings.read_text("utf-8")))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            raise ArgumentError(
                f"{self.settings}: cannot be read ({error}); start anew in another folder"
            ) from error

    def check_settings(self, earlier: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        """Refuse to take up a run with other settings than its own.

        Raises:
            ArgumentError: They differ; both are named.
        """
        compared = [k for k in settings if k != FOLDER]
        other = [k for k in compared if earlier.get(k) != json.loads(json.dumps(settings[k]))]
        if other:
            was = ", ".join(f"{k}={earlier.get(k)!r}" for k in other)
            now = ", ".join(f"{k}={settings[k]!r}" for k in other)
            raise ArgumentError(
                f"{self.settings}: that run had {was}, this one has {now}; use the same settings "
                "to resume, or another output folder"
            )

    def publish_shards(self) -> None:
        """The shards of a run whose work is done become its results.

        Raises:
            OutputError: They cannot be renamed.
        """
        old = self.folder / f"{SHARDS}-old"
        with output_errors(self.results):
            if self.results.exists():
                self.results.replace(old)
            self.work.replace(self.results)
            if old.exists():
                shutil.rmtree(old)
            (self.folder / RESULTS).unlink(missing_ok=True)

    def end(self) -> None:
        """The results are written: take the working folder away.

        Raises:
            OutputError: It cannot be removed.
        """
        with output_errors(self.work):
            shutil.rmtree(self.work)
            if (self.folder / SHARDS).exists():  # of the run that this one replaces
                shutil.rmtree(self.folder / SHARDS)

    def take_back_shards(self) -> None:
        """The kept shards of a finished run, once more as those of an unfinished one.

        Raises:
            OutputError: They cannot be linked or copied.
        """
        with self.making() as folder:
            for index in shard_files(self.results, self.kind):
                name = f"part-{index:06}.{self.kind}"
                try:
                    os.link(self.results / name, folder / name)
                except OSError:
                    shutil.copyfile(self.results / name, folder / name)

    def making(self) -> _Making:
        """A folder to fill with shards, which becomes the working folder when it is whole."""
        return _Making(self.work)

    def _clear_asides(self) -> None:
        """Remove what a killed run was about to make."""
        for folder in (self.folder, self.work):
            for part in folder.glob(PARTS):
                part.unlink()
        for name in (UNFINISHED, SHARDS):
            for end in _ASIDE:
                with suppress(FileNotFoundError):
                    shutil.rmtree(self.folder / f"{name}{end}")


class _Making:
    """Makes a folder that is there whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._part = folder.with_name(folder.name + _ASIDE[0])

    def __enter__(self) -> Path:
        with output_errors(self._folder):
            if self._part.exists():
                shutil.rmtree(self._part)
            self._part.mkdir(parents=True)
        return self._part

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            with output_errors(self._folder):
                self._part.replace(self._folder)


def numbered(start: int) -> Iterator[int]:
    """Numbers from `start` on."""
    while True:
        yield start
        start += 1
