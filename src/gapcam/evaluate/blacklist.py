"""Pictures that a list says to leave out, as the ILSVRC devkit does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path, PurePosixPath

from gapcam.data import Dataset
from gapcam.types import DataError

ILSVRC_NAME = "ILSVRC2012_val_{:08d}"


def without(dataset: Dataset, path: Path) -> Dataset:
    """The set without the pictures that a file lists, and a note of how many there were.

    Args:
        dataset: Any.
        path: A line a picture: its name, with or without folder and suffix, or the number of an
            ILSVRC validation picture (the devkit's `ILSVRC2014_clsloc_validation_blacklist.txt`).

    Raises:
        DataError: The file cannot be read, or none of its lines is a picture of the set.
    """
    listed = _listed(path)
    kept = tuple(e for e in dataset.examples if not listed.keys() & _names_of(e.name))
    problems = tuple(
        p for p in dataset.problems if not (p.picture and listed.keys() & _names_of(p.picture))
    )
    named = {name for e in dataset.examples for name in _names_of(e.name)}
    named |= {name for p in dataset.problems if p.picture for name in _names_of(p.picture)}
    found = {line for name, line in listed.items() if name in named}
    lines = set(listed.values())
    if not found:
        raise DataError(
            f"{path}: none of its {len(lines)} lines names a picture of {dataset.name}; expected "
            "names, or numbers of ILSVRC validation pictures"
        )
    note = f"blacklist {path.name}: {len(found)} of its {len(lines)} lines name pictures, left out"
    pictures = max(dataset.pictures - len(found), len(kept))
    return replace(
        dataset,
        examples=kept,
        problems=problems,
        notes=(*dataset.notes, note),
        pictures=pictures,
    )


def _listed(path: Path) -> dict[str, str]:
    """What pictures may be called, and the line that says so."""
    try:
        lines = path.read_text("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: the blacklist cannot be read ({error}); check the path"
        ) from error
    texts = [line.strip() for line in lines if line.strip()]
    numbered = {ILSVRC_NAME.format(int(text)): text for text in texts if text.isdecimal()}
    return {text: text for text in texts} | numbered


def _names_of(name: str) -> set[str]:
    """The ways in which a list may name a picture."""
    path = PurePosixPath(name)
    return {name, str(path.with_suffix("")), path.name, path.stem}
