"""Which pictures train and which validate, chosen when the data does not say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from gapcam.training.duplicates import FEWER_BITS, compared_fewer_bits, near_duplicates
from gapcam.training.inspect import Inspection
from gapcam.training.label_rows import TRAIN, VALIDATION, counted, few
from gapcam.training.labelled import LabelledSet
from gapcam.training.stratify import Counts, count_labels, lacks, stratify
from gapcam.types import ArgumentError, BoolArray, DataError, IntArray


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """The two parts.

    Attributes:
        train: Indices of the pictures that train, rising.
        validation: Indices of those that choose, rising; pictures that cannot be read are in
            neither.
        words: What was done, for people.
        duplicates: Groups of near-duplicates, indices rising.
    """

    train: IntArray
    validation: IntArray
    words: str
    duplicates: tuple[tuple[int, ...], ...]


def make_split(data: LabelledSet, inspection: Inspection, share: float, seed: int) -> Split:
    """Split the pictures, or take the split that the data gives.

    Every class has about its share in validation, and at least one picture on each side.
    Near-duplicates (`gapcam.training.duplicates`) are kept on one side, so the shares of classes
    with large groups of them are less exact. A split that the data gives is taken as it is, and
    `words` says when near-duplicates are on both sides of it.

    Args:
        data: The pictures.
        inspection: What was seen in them.
        share: Of the pictures for validation, more than 0 and less than 1.
        seed: The same gives the same split.

    Raises:
        ArgumentError: `share` is out of range.
        DataError: A class cannot be on both sides.
    """
    if not 0 < share < 1:
        raise ArgumentError(f"share: expected more than 0 and less than 1, got {share}")
    readable = np.ones(len(data.names), np.bool_)
    readable[list(inspection.unreadable)] = False
    _check_readable(data, inspection, readable)
    duplicates = near_duplicates(inspection)
    if data.given is None:
        validates = _choose(data, readable, duplicates, share, seed)
    else:
        validates = data.given == VALIDATION
    split = split_of(data, readable & ~validates, readable & validates, duplicates)
    if not compared_fewer_bits(inspection):
        return split
    fewer = (
        "so many pictures look alike that near-duplicates were looked for among those whose "
        f"hashes differ in {FEWER_BITS} bits of 64 at most, and some may have been missed"
    )
    return replace(split, words=f"{split.words}; {fewer}")


def split_of(
    data: LabelledSet,
    train: BoolArray,
    validation: BoolArray,
    duplicates: tuple[tuple[int, ...], ...],
) -> Split:
    """The split of two masks `[n]`, with its words."""
    words = [
        f"{counted(int(train.sum()), 'picture')} train and {int(validation.sum()):,} validate, "
        + ("as the data says" if data.given is not None else "chosen by class at random")
    ]
    unread = len(train) - int(train.sum()) - int(validation.sum())
    if unread:
        are = "is" if unread == 1 else "are"
        words.append(f"{counted(unread, 'picture')} cannot be read and {are} left out")
    words += _about_duplicates(data, validation, duplicates)
    return Split(np.flatnonzero(train), np.flatnonzero(validation), "; ".join(words), duplicates)


def _about_duplicates(
    data: LabelledSet, validation: BoolArray, duplicates: Sequence[tuple[int, ...]]
) -> list[str]:
    if not duplicates:
        return []
    torn = [group for group in duplicates if len(set(validation[list(group)].tolist())) > 1]
    groups = f"{counted(len(duplicates), 'group')} of near-duplicate pictures"
    words = []
    if len(torn) < len(duplicates):
        kept = "all kept" if not torn else f"{len(duplicates) - len(torn):,} of them kept"
        words.append(
            f"{groups}, {kept} together" if len(duplicates) > 1 else f"{groups} kept together"
        )
    if torn:
        said = few([_named(data, group) for group in torn], "; ")
        words.append(
            f"{counted(len(torn), 'group')} of near-duplicate pictures in both training and "
            f"validation, so validation scores flatter ({said})"
        )
    mixed = [group for group in duplicates if len({data.labels_of(i) for i in group}) > 1]
    if mixed:
        said = few([_labelled(data, group) for group in mixed], "; ")
        words.append(
            f"{counted(len(mixed), 'group')} of near-duplicate pictures with different labels, "
            f"worth a look ({said})"
        )
    return words


def _named(data: LabelledSet, group: Sequence[int]) -> str:
    return few([data.names[i] for i in group])


def _labelled(data: LabelledSet, group: Sequence[int]) -> str:
    first = group[0]
    other = next(i for i in group if data.labels_of(i) != data.labels_of(first))
    return " and ".join(
        f"{data.names[i]}: {', '.join(data.labels_of(i)) or 'none'}" for i in (first, other)
    )


def _check_readable(data: LabelledSet, inspection: Inspection, readable: BoolArray) -> None:
    """Refuse data in which a class is lost with the pictures that cannot be read."""
    if data.given is None:
        left = data.targets[readable].sum(axis=0) >= 2
        expected = "two pictures of every class that can be read, to train and to validate with"
    else:
        sides = [readable & (data.given == part) for part in (TRAIN, VALIDATION)]
        left = np.all([data.targets[side].any(axis=0) for side in sides], axis=0)
        expected = "pictures of every class that can be read in training and in validation"
    for c in np.flatnonzero(~left):
        lost = [why for i, why in sorted(inspection.unreadable.items()) if data.targets[i, c]]
        raise DataError(
            f"{data.root}: expected {expected}, of class {data.classes[c]!r} "
            f"{len(lost):,} cannot be read ({few(lost, '; ')}); mend or replace them, or take the "
            "class out"
        )


def _choose(
    data: LabelledSet,
    readable: BoolArray,
    duplicates: Sequence[tuple[int, ...]],
    share: float,
    seed: int,
) -> BoolArray:
    """The mask of the pictures that validate."""
    group = np.arange(len(readable))
    for members in duplicates:
        group[list(members)] = members[0]
    _, group = np.unique(group[readable], return_inverse=True)
    targets = data.targets[readable]
    bare = ~targets.any(axis=1, keepdims=True)  # pictures of no class are shared out like a class
    counts = count_labels(group.reshape(-1), np.hstack([targets, bare]))
    required = np.ones(counts.classes, np.bool_)
    required[-1] = False
    chosen = stratify(counts, share, required, np.random.default_rng(seed))
    _check_both(data, counts, lacks(counts, chosen, required))
    validates = np.zeros(len(readable), np.bool_)
    validates[readable] = chosen[group.reshape(-1)]
    return validates


def _check_both(data: LabelledSet, counts: Counts, lacking: BoolArray) -> None:
    names = [repr(data.classes[c]) for c in np.flatnonzero(lacking)]
    if not names:
        return
    alone = [data.classes[c] for c in np.flatnonzero(lacking) if (counts.label == c).sum() == 1]
    if alone:
        why = f"all pictures of {few([*map(repr, alone)])} are near-duplicates of each other"
    else:
        why = f"no way was found for {few(names)} without parting pictures that belong together"
    raise DataError(
        f"{data.root}: expected every class in training and in validation, but {why}; add other "
        "pictures of it, or say which pictures validate (folders train/ and val/, or a column "
        "split in a CSV file)"
    )
