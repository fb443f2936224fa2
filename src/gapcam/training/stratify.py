"""Shares of every class on both sides of a split, with groups of pictures that stay together.

Iterative stratification (Sechidis, Tsoumakas and Vlahavas, "On the Stratification of Multi-Label
Data", ECML PKDD 2011, algorithm 1) on groups in place of single pictures, with whole numbers of
pictures wanted, at least one a side. With one class a picture and no groups it gives exactly these
numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gapcam.types import BoolArray, FloatArray, IntArray

_TRIES = 20


@dataclass(frozen=True, slots=True, eq=False)
class Counts:
    """How many pictures of each of C classes are in each of G groups; only those above 0.

    Attributes:
        sizes: Pictures in each group, `int64 [G]`.
        classes: C.
        group: Of every entry, rising.
        label: The class of every entry.
        pictures: How many, 1 or more.
    """

    sizes: IntArray
    classes: int
    group: IntArray
    label: IntArray
    pictures: IntArray

    def per_class(self, chosen: BoolArray | None = None) -> IntArray:
        """Pictures of each class, `int64 [C]`, in the groups chosen or in all."""
        among = slice(None) if chosen is None else chosen[self.group]
        weights = self.pictures[among]
        sums = np.bincount(self.label[among], weights=weights, minlength=self.classes)
        return np.rint(sums).astype(np.int64)


def count_labels(group: IntArray, targets: BoolArray) -> Counts:
    """Count classes in groups.

    Args:
        group: `int64 [n]`: the group of every picture, 0 to G - 1.
        targets: `bool [n, C]`: its classes.
    """
    picture, label = np.nonzero(targets)
    classes = targets.shape[1]
    keys, pictures = np.unique(group[picture] * classes + label, return_counts=True)
    sizes = np.bincount(group).astype(np.int64)
    return Counts(sizes, classes, keys // classes, keys % classes, pictures.astype(np.int64))


def stratify(
    counts: Counts, share: float, required: BoolArray, rng: np.random.Generator
) -> BoolArray:
    """Choose groups for validation.

    Args:
        counts: The classes in each group.
        share: Of the pictures of each class that validation is to have, 0..1.
        required: `bool [C]`: classes that both sides need.
        rng: Decides between equals.

    Returns:
        `bool [G]`: the groups for validation. Where both sides have every required class in none
        of 20 tries, it is the try that lacks the fewest.
    """
    best = np.zeros(len(counts.sizes), np.bool_)
    fewest = counts.classes + 1
    for _ in range(_TRIES):
        chosen = _repaired(counts, _assign(counts, share, rng), required)
        lacking = int(lacks(counts, chosen, required).sum())
        if lacking < fewest:
            best, fewest = chosen, lacking
        if not lacking:
            break
    return best


def lacks(counts: Counts, chosen: BoolArray, required: BoolArray) -> BoolArray:
    """`bool [C]`: the required classes that one of the sides has no picture of."""
    bare: BoolArray = (counts.per_class(chosen) == 0) | (counts.per_class(~chosen) == 0)
    return bare & required


def _assign(counts: Counts, share: float, rng: np.random.Generator) -> BoolArray:
    """The algorithm: the class with the fewest pictures left goes first."""
    totals = counts.per_class()
    wanted = np.clip(np.floor(totals * share + 0.5), 1, np.maximum(totals - 1, 1))
    desire = np.stack([totals - wanted, wanted]).astype(np.float32)  # [2, C]: train, validation
    bounds = np.searchsorted(counts.group, np.arange(len(counts.sizes) + 1)).tolist()
    members = _members(counts, rng)
    side = np.full(len(counts.sizes), -1, np.int8)
    left = totals.astype(np.float64)
    while np.isfinite(left).any():
        label = int(np.argmin(left))
        for group in members[label][side[members[label]] < 0].tolist():
            entries = slice(bounds[group], bounds[group + 1])
            labels, pictures = counts.label[entries], counts.pictures[entries]
            side[group] = _side(desire, label, labels, rng)
            desire[side[group], labels] -= pictures
            left[labels] -= pictures
        left[label] = np.inf
    return np.asarray(side == 1)


def _members(counts: Counts, rng: np.random.Generator) -> list[IntArray]:
    """The groups with each class: large ones first, while there is room, else by chance."""
    rank = np.empty(len(counts.sizes), np.int64)
    rank[np.lexsort((rng.permutation(len(rank)), -counts.sizes))] = np.arange(len(rank))
    order = np.lexsort((rank[counts.group], counts.label))
    ends = np.cumsum(np.bincount(counts.label, minlength=counts.classes))
    return np.split(counts.group[order], ends[:-1])


def _side(desire: FloatArray, label: int, labels: IntArray, rng: np.random.Generator) -> int:
    """The side that wants the class most; of equals, the one that wants the group's classes most.

    0 is train, 1 validation.
    """
    if desire[0, label] != desire[1, label]:
        return int(desire[1, label] > desire[0, label])
    sums = desire[:, labels].sum(axis=1)
    if sums[0] != sums[1]:
        return int(sums[1] > sums[0])
    return int(rng.integers(2))


def _repaired(counts: Counts, chosen: BoolArray, required: BoolArray) -> BoolArray:
    """Move the smallest groups that give a side the class that it lacks and take none away."""
    chosen = chosen.copy()
    for label in np.flatnonzero(lacks(counts, chosen, required)):
        with_it = counts.group[counts.label == label]
        here = bool(chosen[with_it].any())  # the side that has it
        before = int(lacks(counts, chosen, required).sum())
        movable = with_it[chosen[with_it] == here]
        for group in movable[np.argsort(counts.sizes[movable], kind="stable")]:
            chosen[group] = not here
            if int(lacks(counts, chosen, required).sum()) < before:
                break
            chosen[group] = here
    return chosen
