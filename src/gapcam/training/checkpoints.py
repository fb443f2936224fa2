"""The states of a training run on disk: written whole or not at all, read as data only."""

from __future__ import annotations

import io
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias, cast

import torch

from gapcam.outputs import replacing
from gapcam.types import ArgumentError, ModelError, OutputError

State: TypeAlias = dict[str, Any]
"""Tensors, numbers, strings, and lists and dictionaries of them."""

FORMAT = "gapcam training 1"
LAST = "last.ckpt"
_BEGIN = "begin a new run in another folder"


class Checkpoints:
    """The folder that holds `last.ckpt`, from which a run goes on, and the best weights.

    `last.ckpt` names its epoch's best weights, which are written before it under a name of their
    own; older ones go after it is in place. So whatever moment a run is killed at, what `last.ckpt`
    says is there.

    Attributes:
        folder: Where they lie.
        run: What the run is made from, as words by name; a state of another run is refused.
    """

    def __init__(self, folder: Path, run: dict[str, str]) -> None:
        self.folder = folder
        self.run = run

    def has_last(self) -> bool:
        """Whether some epoch was finished here."""
        return os.path.lexists(self.folder / LAST)

    def begin(self, *, resume: bool) -> None:
        """Clear what a killed run left half written.

        Raises:
            OutputError: A new run, and there is one here already.
        """
        if not resume and self.has_last():
            raise OutputError(
                f"{self.folder / LAST}: another run's state is here; resume it, or {_BEGIN}"
            )
        for left in self.folder.glob(".gapcam-*.tmp"):
            with suppress(OSError):
                left.unlink()

    def last(self) -> State | None:
        """The state after the last finished epoch; None: no epoch was finished.

        Raises:
            ModelError: The file is torn, of another kind, or of a net that does not fit.
            ArgumentError: The run was begun with other choices or data.
        """
        path = self.folder / LAST
        if not self.has_last():
            return None
        state = self._read(path)
        for name, value in self.run.items():
            before = state["run"].get(name)
            if before != value:
                raise ArgumentError(
                    f"{path}: this run was begun with {name} {before}, not {value}; resume it with "
                    f"the same, or {_BEGIN}"
                )
        return state

    def best(self, epoch: int) -> State:
        """The weights that were best, by name.

        Raises:
            ModelError: The file is lost, torn or of another kind.
        """
        return cast("State", self._read(self._best_path(epoch))["net"])

    def keep_best(self, epoch: int, net: State) -> None:
        """Write an epoch's weights beside the best before; `keep_last` ends those.

        Raises:
            OutputError: They cannot be written; what was there stays.
        """
        self._write(self._best_path(epoch), {"epoch": epoch, "net": net})

    def keep_last(self, state: State, best_epoch: int) -> None:
        """Replace the state that a run goes on from.

        Raises:
            OutputError: It cannot be written; what was there stays.
        """
        self._write(self.folder / LAST, state)
        for path in self.folder.glob("best-*.ckpt"):
            if path != self._best_path(best_epoch):
                with suppress(OSError):  # it takes space, no more
                    path.unlink()

    def _best_path(self, epoch: int) -> Path:
        return self.folder / f"best-{epoch:05d}.ckpt"

    def _write(self, path: Path, state: State) -> None:
        content = io.BytesIO()  # in memory first: torch.save hides what the system says of a file
        torch.save({"format": FORMAT, "run": self.run, **state}, content)
        with replacing(path, binary=True) as out:
            out.write(content.getbuffer())
            out.flush()
            os.fsync(out.fileno())  # the name must not reach the disk before the bytes

    def _read(self, path: Path) -> State:
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch and pickle raise almost anything for a torn file
            raise ModelError(
                f"{path}: expected a state that gapcam wrote, it cannot be read "
                f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}); "
                f"restore the file, or {_BEGIN}"
            ) from error
        if not isinstance(state, dict) or state.get("format") != FORMAT:
            found = state.get("format") if isinstance(state, dict) else type(state).__name__
            raise ModelError(
                f"{path}: expected a state that gapcam wrote ({FORMAT!r}), it holds {found!r}; "
                f"restore the file, or {_BEGIN}"
            )
        return state
