"""Everything that is needed to do an evaluation again, as names and values in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from gapcam.report.scores import Result
from gapcam.report.words import count

_ORDERS = {"_hw": "height × width", "_wh": "width × height"}
_SHOWN_ELSEWHERE = {"left_out"}


class Fact(NamedTuple):
    """A name and its value, in lines."""

    name: str
    lines: list[str]


class LeftOut(NamedTuple):
    """Rows of a data set that were not scored, each with where and what."""

    title: str
    rows: list[Mapping[str, str]]


def fact_groups(result: Result) -> list[tuple[str, list[Fact]]]:
    """Run, data, selection, model, recipe and protocol, each with all that the result says."""
    groups: list[tuple[str, Mapping[str, Any] | None]] = [
        ("Run", _run(result)),
        ("Data set", {**result["data"], **_counts(result)}),
        ("Selection set", _selection(result["selection"])),
        ("Model", result["model"]),
        ("Recipe", result["recipe"]),
        ("Protocol", result["protocol"]),
    ]
    return [(title, facts(entries)) for title, entries in groups if entries is not None]


def left_out(result: Result) -> list[LeftOut]:
    """Every row that was left out, by data set."""
    sets = (("data set", result["data"]), ("selection set", result["selection"] or {}))
    found = [
        LeftOut(f"Left out of the {title}", entry.get("left_out") or []) for title, entry in sets
    ]
    return [group for group in found if group.rows]


def _run(result: Result) -> dict[str, Any]:
    speed = result["speed"]
    quick, seconds = f"{speed['pictures_per_second']:g}", f"{speed['seconds']:g}"
    command = result.get("command")
    return {
        "gapcam": result["gapcam"],
        **({} if command is None else {"command": command}),
        "complete": not result["partial"],
        "speed": f"{quick} pictures a second, {seconds} seconds",
    }


def _counts(result: Result) -> dict[str, Any]:
    return {
        "pictures_in_the_set": result["n_total"],
        "pictures_scored": result["n"],
        "pairs_scored": result["n_targets"],
    }


def _selection(selection: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    if selection is None:
        return None
    said = {"n": "pictures_scored", "shared": "pictures_also_in_the_data_set"}
    return {said.get(key, key): value for key, value in selection.items()}


def facts(entries: Mapping[str, Any]) -> list[Fact]:
    """Names and values of a mapping, whatever it holds, in its order."""
    return [
        Fact(_name(key), _lines(key, value))
        for key, value in entries.items()
        if key not in _SHOWN_ELSEWHERE and value not in ([], {})
    ]


def _name(key: str) -> str:
    for order, words in _ORDERS.items():
        if key.endswith(order):
            return f"{_name(key.removesuffix(order))} ({words})"
    return key.replace("_", " ")


def _lines(key: str, value: Any) -> list[str]:
    if isinstance(value, Mapping):
        return [f"{name}: {_text(part)}" for name, part in value.items()]
    if key.endswith(tuple(_ORDERS)) and _is_list(value):
        return [" × ".join(map(_text, value))]
    if _is_list(value):
        return [_text(part) for part in value]
    return [_text(value)]


def _is_list(value: Any) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, str | Mapping)


def _text(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return count(value)
    return f"{value:g}" if isinstance(value, float) else str(value)
