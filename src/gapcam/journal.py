"""The growing result of a run: one JSONL line a picture, safe against a kill at any moment.

While a run goes on its lines are in `localizations.jsonl.partial`, each handed to the system as it
is written; when all are done the file is renamed. A run that is taken up again keeps the lines of
the pictures that succeeded, drops a half-written last line and tries the failed ones again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from gapcam.formats import Record, read_records, record_line
from gapcam.outputs import output_errors, replacing
from gapcam.types import ArgumentError

RESULTS = "localizations.jsonl"
PARTIAL = "localizations.jsonl.partial"
SETTINGS = "run.json"
FOLDER = "folder"
"""The setting that names the working folder, which relative paths in the records go from."""


class Journal:
    """The records of a run in `folder`.

    Args:
        folder: The run's output folder; made when missing.
        settings: What the results depend on; a run can only be taken up with the same.
        resume: Take up what is there.

    Raises:
        ArgumentError: An unfinished run is there and `resume` is off, or it had other settings.
        OutputError: The folder cannot be written.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], *, resume: bool) -> None:
        self.results = folder / RESULTS
        self._partial = folder / PARTIAL
        self._settings = folder / SETTINGS
        started_in = self._check_settings(settings) if resume else None
        with output_errors(folder):
            if not resume and self._partial.exists():
                raise ArgumentError(
                    f"{folder} holds an unfinished run: add --resume to take it up, or delete "
                    f"{self._partial} to start anew"
                )
            folder.mkdir(parents=True, exist_ok=True)
        self.done = self._take_up() if resume else frozenset()
        if resume and started_in != settings.get(FOLDER) and not all(map(os.path.isabs, self.done)):
            raise ArgumentError(
                f"{self._settings}: that run was started in {started_in}, and its records have "
                "relative paths; resume it from there"
            )
        with output_errors(self._partial):
            self._partial.touch()  # before the settings, or old results could pass as made by them
        with replacing(self._settings) as out:
            out.write(json.dumps(settings, indent=2) + "\n")
        with output_errors(self._partial):
            self._out = self._partial.open("ab")

    def append(self, record: Record) -> None:
        """Add one line.

        Raises:
            OutputError: It cannot be written.
        """
        with output_errors(self._partial):
            self._out.write(record_line(record).encode("utf-8"))
            self._out.flush()

    def finish(self) -> None:
        """All pictures are done: give the file its name."""
        with output_errors(self.results):
            self._out.close()
            self._partial.replace(self.results)

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with output_errors(self._partial):
            self._out.close()

    def _check_settings(self, settings: Mapping[str, Any]) -> object:
        """Refuse other settings than the earlier run's; returns the folder it was started in."""
        try:
            earlier = dict(json.loads(self._settings.read_text("utf-8")))
        except FileNotFoundError:
            return settings.get(FOLDER)
        except (OSError, ValueError, TypeError) as error:
            raise ArgumentError(
                f"{self._settings}: cannot be read ({error}); start anew in another folder"
            ) from error
        compared = [k for k in settings if k != FOLDER]
        other = [k for k in compared if earlier.get(k) != json.loads(json.dumps(settings[k]))]
        if other:
            was = ", ".join(f"{k}={earlier.get(k)!r}" for k in other)
            now = ", ".join(f"{k}={settings[k]!r}" for k in other)
            raise ArgumentError(
                f"{self._settings}: that run had {was}, this one has {now}; use the same settings "
                "to resume, or another output folder"
            )
        return earlier.get(FOLDER)

    def _take_up(self) -> frozenset[str]:
        """Keep only the good lines of the earlier run; returns the paths of their pictures."""
        earlier = self._partial if self._partial.exists() else self.results
        done: set[str] = set()
        if not earlier.exists():
            return frozenset()
        with replacing(self._partial, binary=True) as out:
            for record in _whole_records(earlier):
                if "error" not in record and record["path"] not in done:
                    done.add(record["path"])
                    out.write(record_line(record).encode("utf-8"))
        return frozenset(done)


def _whole_records(path: Path) -> Iterator[Record]:
    """The records of a file whose last line may have been cut off by a kill or a full disk."""
    with path.open("rb") as lines:
        size = sum(len(line) for line in lines if line.endswith(b"\n"))
    with path.open("rb+") as file:
        file.truncate(size)
    yield from read_records(path)
