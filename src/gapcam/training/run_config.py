"""What a run was asked to do, and whether it is the same when it is taken up."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gapcam.training.plan import TrainOptions
from gapcam.training.run_tables import as_json
from gapcam.types import ArgumentError, Preprocessing

FREE = ("options.workers", "options.logger", "command")
"""What may change when a run is taken up: it changes no result."""
VERSIONS = "versions"
"""What may change too, but is told: other versions may not repeat a result to the last bit."""
FIRST_WEIGHTS = "first_weights"
WHY = {
    "options.epochs": "the learning rate falls to 0 along a cosine over all epochs, so a run "
    "cannot be made longer or shorter",
    "options.devices": "the pictures of a step are devices x batch_size x accumulate",
    "options.nodes": "the pictures of a step are nodes x devices x batch_size x accumulate",
}
_LONGEST = 80  # characters of a value in a message
_ABSENT = "nothing"


def run_config(
    options: TrainOptions,
    *,
    data: Path,
    model: str,
    classes: Sequence[str],
    single: bool,
    preprocessing: Preprocessing,
    trunk: str,
    versions: Mapping[str, str],
    **more: Any,
) -> dict[str, Any]:
    """What `config.json` holds.

    Args:
        options: Every choice.
        data: The folder or table of labels.
        model: The network whose trunk is used, as the user named it.
        classes: Their names, in the order of the logits.
        single: One class a picture.
        preprocessing: What the network expects of a picture.
        trunk: The trunk, in words.
        versions: Of gapcam, torch and lightning, by name.
        more: Anything else that decides the result (`images`, `command`, ...).
    """
    config = {
        VERSIONS: dict(versions),
        "data": os.path.abspath(data),  # noqa: PTH100 (resolve() would follow links)
        "model": model,
        "trunk": trunk,
        "single": single,
        "classes": list(classes),
        "preprocessing": preprocessing,
        "options": options.as_json(),
        **more,
    }
    return {name: as_json(value) for name, value in config.items()}


def check_same(folder: Path, earlier: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Refuse to take up a run that was asked for otherwise.

    Args:
        folder: The run's, for the message.
        earlier: As `config.json` holds it.
        asked: Now.

    Raises:
        ArgumentError: Something differs that changes the result; each such choice is named.
    """
    differing = [
        d
        for d in _differences(earlier, asked)
        if d[0] not in FREE and not d[0].startswith(f"{VERSIONS}.")
    ]
    # other choices (a seed, a network) bring other first weights: those are the ones to name
    named = [d for d in differing if d[0] != FIRST_WEIGHTS] or differing
    lines = [
        f"{name.removeprefix('options.')} was {_shown(was)}, is now {_shown(now)}"
        + (f" ({WHY[name]})" if name in WHY else "")
        for name, was, now in named
    ]
    if lines:
        raise ArgumentError(
            f"{folder}: that run was asked for otherwise: {'; '.join(lines)}. Use the same choices "
            "to resume, or choose another --out"
        )


def freely_changed(earlier: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """The versions that differ, in words."""
    return [
        f"the run was started with {name.partition('.')[2]} {was}, it goes on with {now}: "
        "the result may differ in its last digits"
        for name, was, now in _differences(earlier, asked)
        if name.startswith(f"{VERSIONS}.")
    ]


def _differences(earlier: Any, asked: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(earlier, Mapping) and isinstance(asked, Mapping):
        for key in dict.fromkeys((*earlier, *asked)):
            below = f"{name}.{key}" if name else str(key)
            yield from _differences(earlier.get(key, _ABSENT), asked.get(key, _ABSENT), below)
    elif earlier != asked:
        yield name, earlier, asked


def _shown(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    text = _ABSENT if value is None or text == "" else text
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."
