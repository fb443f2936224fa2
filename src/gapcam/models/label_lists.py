"""The names of a network's classes: given by the user, stated by a library, or ImageNet's."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from gapcam.types import ArgumentError

IMAGENET = "imagenet"
IMAGENET_CLASSES = 1000
IMAGENET_SHARE = 0.95
LARGEST_FILE = 2**24  # bytes
EXPECTED = (
    "a list of names, a text file with one name a line, a JSON file (a list, or an object from id "
    f"to name), or {IMAGENET!r}"
)


@dataclass(frozen=True, slots=True)
class Labels:
    """The names of classes, in the order of the logits.

    Attributes:
        names: One unique name a class.
        aliases: Other names of each class, for looking one up.
        source: Where they come from.
        notes: What was chosen for the user, in words.
    """

    names: tuple[str, ...]
    aliases: tuple[tuple[str, ...], ...]
    source: str
    notes: tuple[str, ...] = ()


@cache
def imagenet_labels() -> Labels:
    """ImageNet-1k: one unique name a class; its WordNet id, then its synonyms as aliases."""
    table = resources.files("gapcam.models").joinpath("imagenet.csv").read_text("utf-8")
    rows = list(csv.DictReader(table.splitlines()))
    return Labels(
        names=tuple(row["label"] for row in rows),
        aliases=tuple((row["wnid"], *filter(None, row["other_names"].split("; "))) for row in rows),
        source="ILSVRC2012 synsets in WordNet-id order, WordNet 3.0 names",
    )


def given_labels(labels: Sequence[str] | Path | str, classes: int | None) -> Labels:
    """The labels that a user gives.

    Args:
        labels: A list of names, the path of a file with them (`EXPECTED`), or `"imagenet"`.
        classes: How many classes the network has; None when it is not known yet.

    Raises:
        ArgumentError: The file cannot be read, a name is empty or there twice, or their number is
            not that of the classes.
    """
    if isinstance(labels, str) and labels.strip().lower() == IMAGENET:
        found = imagenet_labels()
    elif isinstance(labels, str | Path):
        names = _from_file(Path(labels))
        found = Labels(names, ((),) * len(names), f"{Path(labels).name}, given by the user")
    else:
        names = _checked(labels, "labels")
        found = Labels(names, ((),) * len(names), "given by the user")
    check_count(found.names, classes, "labels")
    return found


def library_labels(names: Sequence[str], source: str) -> Labels:
    """The labels that a library states, made unique.

    A list that is ImageNet-1k's becomes gapcam's own, whose names are unique and carry synonyms;
    the library's names stay as aliases. In any other list, classes of one name get their id behind
    it: `crane (134)`.

    Args:
        names: One a class, in the order of the logits.
        source: The library, for people.

    Raises:
        ArgumentError: The list holds something that is no name.
    """
    plain = _texts(names, source)
    if looks_like_imagenet(plain):
        return _imagenet_with(plain, source)
    empty = [i for i, name in enumerate(plain) if not name]
    named = [name or f"class {i}" for i, name in enumerate(plain)]
    unique = _made_unique(named)
    changed = [i for i, (old, new) in enumerate(zip(named, unique, strict=True)) if old != new]
    notes = []
    if empty:
        notes.append(f"{source} has no name for {len(empty)} classes: called by their id")
    if changed:
        notes.append(
            f"{source} has the same name for several classes: {len(changed)} names got their class "
            f"id, as {unique[changed[0]]!r}"
        )
    aliases = tuple((old,) if old != new else () for old, new in zip(named, unique, strict=True))
    return Labels(unique, aliases, source, tuple(notes))


def looks_like_imagenet(names: Sequence[str]) -> bool:
    """Whether a list names ImageNet-1k's classes in the usual order.

    So it is when at least 95 % of its 1000 entries hold a name, synonym or WordNet id of the class
    in that place; libraries spell the others in their own ways.
    """
    if len(names) != IMAGENET_CLASSES:
        return False
    own = imagenet_labels()
    places = zip(names, own.names, own.aliases, strict=True)
    alike = sum(bool(_parts(name) & _parts(label, *others)) for name, label, others in places)
    return alike >= IMAGENET_SHARE * IMAGENET_CLASSES


def check_count(names: Sequence[str], classes: int | None, origin: str) -> None:
    """Refuse a list of labels that does not fit the network.

    Raises:
        ArgumentError: Another number of names than of classes.
    """
    if classes is not None and len(names) != classes:
        raise ArgumentError(
            f"{origin}: the network has {classes} classes and {len(names)} names were given; "
            "give one name a class, in the order of the network's outputs"
        )


def _imagenet_with(names: Sequence[str], source: str) -> Labels:
    own = imagenet_labels()
    aliases = tuple(
        (*others, name) if name not in (label, *others) else others
        for name, label, others in zip(names, own.names, own.aliases, strict=True)
    )
    note = f"{source} names ImageNet-1k's classes: they got gapcam's unique names and synonyms"
    return Labels(own.names, aliases, f"{own.source}; {source}", (note,))


def _parts(*names: str) -> set[str]:
    """The synonyms in names, in one spelling: `Egyptian cat, puss` and `egyptian_cat` meet."""
    pieces = [piece for name in names for piece in (name, *name.split(","))]
    return {"".join(c for c in piece.casefold() if c.isalnum()) for piece in pieces} - {""}


def _made_unique(names: Sequence[str]) -> tuple[str, ...]:
    """Append the id to names that are there twice, and again where that meets another name."""
    unique = list(names)
    while True:
        counts = Counter(unique)
        twice = [i for i, name in enumerate(unique) if counts[name] > 1]
        if not twice:
            return tuple(unique)
        for i in twice:
            unique[i] = f"{unique[i]} ({i})"


def _from_file(path: Path) -> tuple[str, ...]:
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise ArgumentError(f"labels: {path}: larger than {LARGEST_FILE} bytes: no label list")
        text = path.read_text("utf-8-sig")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ArgumentError(
            f"labels: {path}: cannot be read ({reason}); expected {EXPECTED}"
        ) from error
    if path.suffix.lower() == ".json":
        return _checked(_from_json(text, path), f"labels: {path}")
    lines = text.splitlines()
    return _checked(lines, f"labels: {path}", "line")


def _from_json(text: str, path: Path) -> list[Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ArgumentError(f"labels: {path}: not valid JSON ({error})") from error
    if isinstance(value, Mapping):
        return names_by_id(value, f"labels: {path}")
    if not isinstance(value, list):
        raise ArgumentError(f"labels: {path}: expected {EXPECTED}, got {type(value).__name__}")
    return value


def names_by_id(table: Mapping[Any, Any], origin: str) -> list[Any]:
    """The names of a table from class id to name, by id.

    Args:
        table: Its keys are whole numbers, as numbers or text.
        origin: Where it comes from, for the message.

    Raises:
        ArgumentError: The ids are not 0, 1, 2, ...
    """
    try:
        by_id = {int(key): name for key, name in table.items()}
    except (TypeError, ValueError):
        by_id = {}
    if len(by_id) != len(table) or set(by_id) != set(range(len(table))):
        some = ", ".join(map(repr, list(table)[:3])) or "none"
        raise ArgumentError(
            f"{origin}: expected the ids 0 to {max(len(table) - 1, 0)} as keys, got {some} ..."
        )
    return [by_id[i] for i in range(len(table))]


def _texts(names: object, origin: str) -> list[str]:
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise ArgumentError(f"{origin}: expected {EXPECTED}, got {names!r}")
    for i, name in enumerate(names):
        if not isinstance(name, str):
            raise ArgumentError(f"{origin}: entry {i} is no name: {name!r}")
    return [" ".join(name.split()) for name in names]


def _checked(names: object, origin: str, unit: str = "entry") -> tuple[str, ...]:
    """Names that are there, and there once; lines count from 1, entries from 0."""
    plain = _texts(names, origin)
    first = 1 if unit == "line" else 0
    if not plain:
        raise ArgumentError(f"{origin}: no names; expected {EXPECTED}")
    seen: dict[str, int] = {}
    for i, name in enumerate(plain, first):
        if not name:
            raise ArgumentError(
                f"{origin}: {unit} {i} is empty; every class needs a name, in the order of the "
                "network's outputs"
            )
        if name in seen:
            raise ArgumentError(
                f"{origin}: {name!r} is there twice, {unit} {seen[name]} and {unit} {i}; "
                "give each class a name of its own"
            )
        seen[name] = i
    return tuple(plain)
