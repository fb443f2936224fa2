"""The folder of a training run: what was asked, how it went, and what came out.

    config.json      what was asked; written first
    data.json        how the pictures were divided, and what was noticed
    metrics.csv      a row an epoch
    head.csv         head-only: every strength of regularization that was tried
    validation.json  the score on the validation pictures, with per_class.csv, mistakes.csv and,
                     with one class a picture, confusion.csv
    unreadable.csv   pictures that could not be read, where there are any
    run.json         running, finished or failed
    samples/         sheets of localized pictures, one an epoch, and the kept model's
    checkpoints/, split.csv, model.onnx, training.html

Every file is replaced when its new content is whole, so a kill leaves the old one or the new one.
Only one process may hold a folder: of several that train together, the first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Any

from gapcam.outputs import output_errors
from gapcam.training.plan import EpochRecord
from gapcam.training.run_config import check_same, freely_changed
from gapcam.training.run_data import DataFacts
from gapcam.training.run_lock import LOCK, RunLock
from gapcam.training.run_tables import (
    HeadPoint,
    Unreadable,
    as_json,
    read_json,
    read_rows,
    write_counts,
    write_json,
    write_rows,
)
from gapcam.training.validation import ClassScore, Mistake, Validation
from gapcam.types import ArgumentError, DataError, OutputError

CONFIG = "config.json"
DATA = "data.json"
METRICS = "metrics.csv"
HEAD = "head.csv"
VALIDATION = "validation.json"
CONFUSION = "confusion.csv"
PER_CLASS = "per_class.csv"
MISTAKES = "mistakes.csv"
UNREADABLE = "unreadable.csv"
STATE = "run.json"
SPLIT = "split.csv"
MODEL = "model.onnx"
REPORT = "training.html"
CHECKPOINTS = "checkpoints"
SAMPLES = "samples"
FINAL = "final.jpg"

RUNNING, FINISHED, FAILED = "running", "finished", "failed"
INTERRUPTED = "interrupted"


class RunFolder:
    """A run folder that this process writes; made by `create` or `open_for_resume`.

    As a context it says on leaving how the run ended: an error is kept as its reason. What it
    holds is released in any case.

    Attributes:
        path: The folder.
        config: What was asked, as `config.json` holds it.
        resumed: Whether an earlier run is taken up.
        notes: What the user should know of taking it up, or of the folder, in words.
    """

    def __init__(
        self, path: Path, config: Mapping[str, Any], lock: RunLock, *, resumed: bool
    ) -> None:
        self.path, self.config, self.resumed = path, config, resumed
        self.notes: list[str] = [] if lock.note is None else [lock.note]
        self._lock = lock
        self._records = read_rows(path / METRICS, EpochRecord, growing=True) if resumed else []
        self._state = read_json(path / STATE) if resumed and (path / STATE).exists() else {}

    @classmethod
    def create(cls, path: Path, config: Mapping[str, Any]) -> RunFolder:
        """Start a run in a new or empty folder.

        Args:
            path: The folder; made when missing.
            config: What is asked (`run_config`).

        Raises:
            ArgumentError: The folder holds something, or another process trains in it.
            OutputError: It cannot be written.
        """
        return cls._started(path, config, _locked(path))

    @classmethod
    def open_for_resume(cls, path: Path, config: Mapping[str, Any]) -> RunFolder:
        """Take up the run in a folder; a run that is not there is started.

        Whoever repeats one command until it succeeds need not know whether a kill came before the
        first file. A finished run is opened too: `finished` says so, and nothing is left to do.

        Args:
            path: The folder.
            config: What is asked, the same as before in all that changes the result.

        Raises:
            ArgumentError: The run was asked for otherwise, each difference named; the folder holds
                something that is no run; another process trains in it.
            DataError: The run's files cannot be read.
            OutputError: The folder cannot be written.
        """
        lock = _locked(path)
        try:
            if not (path / CONFIG).exists():
                return cls._started(path, config, lock)
            earlier, asked = read_json(path / CONFIG), as_json(config)
            check_same(path, earlier, asked)
            folder = cls(path, earlier, lock, resumed=True)
        except BaseException:
            lock.release()
            raise
        folder.notes += freely_changed(earlier, asked)
        _remove_parts(path)
        if not folder.finished:
            folder._go_on()
        return folder

    @classmethod
    def _started(cls, path: Path, config: Mapping[str, Any], lock: RunLock) -> RunFolder:
        try:
            _check_empty(path)
            _remove_parts(path)
            asked = as_json(config)
            write_json(path / CONFIG, asked)
            folder = cls(path, asked, lock, resumed=False)
            folder._write_state(state=RUNNING, started=_now())
        except BaseException:
            lock.release()
            raise
        return folder

    def _go_on(self) -> None:
        resumed = [*self._state.get("resumed", ()), _now()]
        started = self._state.get("started") or resumed[0]
        self._write_state(state=RUNNING, started=started, resumed=resumed)

    # --- where things are ----------------------------------------------------------------------

    @property
    def split(self) -> Path:
        """The table of pictures and their parts."""
        return self.path / SPLIT

    @property
    def checkpoints(self) -> Path:
        """The folder of what a run is taken up from."""
        return self.path / CHECKPOINTS

    @property
    def model(self) -> Path:
        """The model file."""
        return self.path / MODEL

    @property
    def report(self) -> Path:
        """The report."""
        return self.path / REPORT

    def sample(self, epoch: int) -> Path:
        """The sheet of localized pictures after an epoch; 0: before any training."""
        return sample_path(self.path, epoch)

    @property
    def final_sample(self) -> Path:
        """The sheet of the kept net, with its own recipe."""
        return self.path / SAMPLES / FINAL

    @property
    def finished(self) -> bool:
        """Whether the run ended well."""
        return self._state.get("state") == FINISHED

    @property
    def result(self) -> Mapping[str, Any]:
        """What `finish` was given; empty before."""
        return dict(self._state.get("result", {}))

    # --- what happens --------------------------------------------------------------------------

    @property
    def records(self) -> tuple[EpochRecord, ...]:
        """The epochs so far."""
        return tuple(self._records)

    def record(self, record: EpochRecord) -> None:
        """Add an epoch. Rows of this and later epochs, left by a killed run, are dropped.

        Raises:
            OutputError: The table cannot be written.
        """
        self._keep([*(row for row in self._records if row.epoch < record.epoch), record])

    def rewind(self, epoch: int) -> None:
        """Drop the epochs after the one that a checkpoint was written at.

        Args:
            epoch: The checkpoint's.

        Raises:
            OutputError: The table cannot be written.
        """
        self._keep([row for row in self._records if row.epoch <= epoch])

    def _keep(self, records: list[EpochRecord]) -> None:
        write_rows(self.path / METRICS, EpochRecord, records)
        self._records = records

    def write_data(self, facts: DataFacts) -> None:
        """Keep how the pictures were divided.

        Raises:
            OutputError: The file cannot be written.
        """
        write_json(self.path / DATA, as_json(facts))

    def write_unreadable(self, pictures: Iterable[tuple[str, str]]) -> None:
        """Keep which pictures could not be read, and why; without any there is no file.

        Raises:
            OutputError: The file cannot be written.
        """
        rows = [Unreadable(*picture) for picture in pictures]
        if rows:
            write_rows(self.path / UNREADABLE, Unreadable, rows)
        else:
            self._remove(UNREADABLE)

    def write_head_path(self, points: Sequence[HeadPoint]) -> None:
        """Keep the strengths of regularization that were tried.

        Raises:
            OutputError: The file cannot be written.
        """
        write_rows(self.path / HEAD, HeadPoint, points)

    def write_validation(self, validation: Validation) -> None:
        """Keep the score of the kept net and where it errs.

        Raises:
            OutputError: A file cannot be written.
        """
        labels = [row.label for row in validation.classes]
        write_rows(self.path / PER_CLASS, ClassScore, validation.classes)
        write_rows(self.path / MISTAKES, Mistake, validation.mistakes)
        if validation.confusion is not None:
            write_counts(self.path / CONFUSION, labels, validation.confusion)
        else:
            self._remove(CONFUSION)
        names = ("single", "pictures", "right", "accuracy", "interval")
        # The last one: where it is, the tables are.
        write_json(self.path / VALIDATION, {name: getattr(validation, name) for name in names})

    def _remove(self, name: str) -> None:
        with output_errors(self.path / name):
            (self.path / name).unlink(missing_ok=True)

    # --- how it ends ---------------------------------------------------------------------------

    def finish(self, result: Mapping[str, Any]) -> None:
        """The run ended well.

        Args:
            result: Figures. `best_epoch`: the epoch whose net is kept, which the report marks.

        Raises:
            OutputError: The file cannot be written.
        """
        self._write_state(state=FINISHED, ended=_now(), result=as_json(result), reason=None)

    def fail(self, reason: str) -> None:
        """The run ended early; it can be taken up.

        Raises:
            OutputError: The file cannot be written.
        """
        self._write_state(state=FAILED, ended=_now(), reason=reason)

    def close(self) -> None:
        """Let others use the folder."""
        self._lock.release()

    def _write_state(self, **changes: object) -> None:
        merged = {**self._state, **changes}
        state = {name: value for name, value in merged.items() if value is not None}
        if state["state"] == RUNNING:
            state = {k: v for k, v in state.items() if k not in ("ended", "reason")}
        write_json(self.path / STATE, state)
        self._state = state

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is not None and not self.finished:
                reason = str(error) or type(error).__name__
                with suppress(OutputError):  # a full disk: the first error is the one to tell
                    self.fail(INTERRUPTED if isinstance(error, KeyboardInterrupt) else reason)
        finally:
            self.close()


def sample_path(folder: Path, epoch: int) -> Path:
    """The sheet of localized pictures after an epoch."""
    return folder / SAMPLES / f"epoch_{epoch:03d}.jpg"


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _locked(path: Path) -> RunLock:
    with output_errors(path):
        if path.exists() and not path.is_dir():
            raise ArgumentError(f"{path}: expected a folder, this is a file; choose another --out")
        path.mkdir(parents=True, exist_ok=True)
    return RunLock(path)


def _check_empty(path: Path) -> None:
    with output_errors(path):
        there = sorted(entry.name for entry in path.iterdir() if not _is_ours_to_ignore(entry))
    if CONFIG in there:
        raise ArgumentError(
            f"{path} holds a run already: --resume to go on, or choose another --out"
        )
    if there:
        raise ArgumentError(
            f"{path} is not empty and holds no run ({', '.join(there[:3])}"
            f"{', ...' if len(there) > 3 else ''}); choose another --out"
        )


def _is_ours_to_ignore(entry: Path) -> bool:
    return entry.name == LOCK or (entry.name.startswith(".gapcam-") and entry.suffix == ".tmp")


def _remove_parts(path: Path) -> None:
    """Remove half-written files that a killed run left; the lock says that nobody writes them."""
    with output_errors(path):
        for part in path.rglob(".gapcam-*.tmp"):
            part.unlink(missing_ok=True)


def read_state(path: Path) -> Mapping[str, Any]:
    """How the run in a folder stands, without holding it: `state`, `started`, `ended`, `reason`...

    Raises:
        DataError: There is no run, or its file cannot be read.
    """
    if not (path / CONFIG).exists():
        raise DataError(f"{path}: no run is here ({CONFIG} is missing)")
    return read_json(path / STATE) if (path / STATE).exists() else {"state": RUNNING}
