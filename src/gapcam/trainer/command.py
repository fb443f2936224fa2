"""The command line of a run, to be shown to whoever goes on with it."""

from __future__ import annotations

import dataclasses
import os
import shlex
from pathlib import Path
from typing import Any

from gapcam.training.plan import TrainOptions

NAMES = {"validation_share": "validation", "logger": "log"}
"""Options whose name on the command line is another."""


def command_line(
    data: Path, out: Path, model: object, images: Path | None, choices: dict[str, Any]
) -> str | None:
    """`gapcam train ...` with what was chosen; None for a module, which no command names."""
    if model is not None and not isinstance(model, str | Path):
        return None
    words = ["gapcam", "train", os.fspath(data), "--out", os.fspath(out)]
    for name, value in (("model", model), ("images", images)):
        if value is not None:
            words += [f"--{name}", str(value)]
    known = {field.name for field in dataclasses.fields(TrainOptions)}
    for name, value in choices.items():
        words += _option(name, value) if name in known else _setting(name, value)
    return shlex.join(words)


def _option(name: str, value: Any) -> list[str]:
    if name == "method":
        return ["--finetune"] if value == "finetune" else []
    if name == "multi_label":
        return [] if value is None else ["--multi-label" if value else "--single-label"]
    if name == "augment":
        value = ",".join(value) or "none"
    spelled = NAMES.get(name, name).replace("_", "-")
    return [] if value is None else [f"--{spelled}", str(value)]


def _setting(name: str, value: Any) -> list[str]:
    if value is None:
        return []
    if name == "size_hw":
        return ["--set", f"size={value[0]}x{value[1]}"]
    return ["--set", f"{name}={value}"]
