"""How the pictures of a run are divided, and what was noticed about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gapcam.types import BoolArray, IntArray


@dataclass(frozen=True, slots=True)
class DataFacts:
    """What `data.json` holds.

    Attributes:
        classes: C names.
        train: Training pictures that show each class.
        validation: Validation pictures that show each class.
        pictures: All pictures, unreadable ones too.
        train_pictures: Those trained on.
        validation_pictures: Those that choose.
        split: Where the split comes from, in words.
        duplicates: Groups of pictures that are nearly the same, by name.
        notes: What was chosen for the user, in words.
    """

    classes: tuple[str, ...]
    train: tuple[int, ...]
    validation: tuple[int, ...]
    pictures: int
    train_pictures: int
    validation_pictures: int
    split: str
    duplicates: tuple[tuple[str, ...], ...] = ()
    notes: tuple[str, ...] = ()


def data_facts(
    names: Sequence[str],
    classes: Sequence[str],
    targets: BoolArray,
    train: IntArray,
    validation: IntArray,
    *,
    split: str,
    duplicates: Sequence[Sequence[int]] = (),
    notes: Sequence[str] = (),
) -> DataFacts:
    """Count the pictures of each class in each part.

    Args:
        names: Of n pictures, unreadable ones too.
        classes: C names.
        targets: Which classes a picture shows, `bool [n, C]`.
        train: Indices of the training pictures.
        validation: Indices of the validation pictures.
        split: Where the split comes from, in words.
        duplicates: Groups of indices of nearly the same pictures.
        notes: What was chosen for the user, in words.
    """
    return DataFacts(
        classes=tuple(classes),
        train=tuple(map(int, targets[train].sum(0))),
        validation=tuple(map(int, targets[validation].sum(0))),
        pictures=len(names),
        train_pictures=len(train),
        validation_pictures=len(validation),
        split=split,
        duplicates=tuple(tuple(names[i] for i in group) for group in duplicates),
        notes=tuple(notes),
    )
