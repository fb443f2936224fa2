"""Class names to class ids, with a word for those who misspell them."""

from __future__ import annotations

import difflib
from typing import TypeAlias

import numpy as np

from gapcam.types import ArgumentError, ModelCard

ClassName: TypeAlias = "str | int"
MOST_SUGGESTIONS = 4


def class_id(card: ModelCard, name: ClassName) -> int:
    """The id of a class, given by id, label, synonym or WordNet id; case does not matter.

    Raises:
        ArgumentError: No class, or more than one, has that name; close names are suggested.
    """
    labels = card.labels
    if isinstance(name, int | np.integer):
        if 0 <= name < len(labels):
            return int(name)
        raise ArgumentError(f"class id {name}: expected 0 to {len(labels) - 1}")
    if not isinstance(name, str):
        raise ArgumentError(f"class: expected a name or an id, got {name!r}")
    asked = _plain(name)
    found = [i for i, label in enumerate(labels) if _plain(label) == asked] or [
        i for i, names in enumerate(card.aliases) if asked in map(_plain, names)
    ]
    if len(found) == 1:
        return found[0]
    if found:
        options = " or ".join(repr(labels[i]) for i in found)
        raise ArgumentError(f"class {name!r} is ambiguous: did you mean {options}?")
    raise ArgumentError(f"class {name!r} is unknown to {card.name}; {_advice(card, asked)}")


def _advice(card: ModelCard, asked: str) -> str:
    """Classes that have the word in their name, then those spelt nearly so."""
    known = {_plain(label): label for label in card.labels}
    for label, names in zip(card.labels, card.aliases, strict=True):
        for other in names[1:]:
            known.setdefault(_plain(other), label)
    with_the_word = [text for text in known if asked in text.split()]
    near = with_the_word + difflib.get_close_matches(asked, known, n=MOST_SUGGESTIONS, cutoff=0.7)
    close = list(dict.fromkeys(known[text] for text in near))[:MOST_SUGGESTIONS]
    if close:
        return f"did you mean {' or '.join(map(repr, close))}?"
    return "for all names see: gapcam models --classes"


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").replace("-", " ").casefold().split())
