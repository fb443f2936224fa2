"""Near-duplicates: copies of a picture that were scaled, compressed or lit differently.

Two pictures are near-duplicates when their difference hashes differ in at most `MAX_BITS` bits
and their thumbnails agree as well: the hash of a picture with little in it says little. Groups are
closed: a near-duplicate of a near-duplicate is in the same one. The rule is ours. On the magnetic
tile defects (Huang et al., 2020), where a place was often taken under several lights, it finds
such series.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from gapcam.training.inspect import Inspection
from gapcam.types import BoolArray, ByteArray, FloatArray, IntArray

MAX_BITS = 7
"""The most bits of 64 in which the hashes of near-duplicates differ."""

MIN_CORRELATION = 0.98
"""The least correlation of the thumbnails of near-duplicates, over pixels and channels."""

FLAT = 4.0
"""A thumbnail whose standard deviation is below this, of 255, is flat: its structure is noise."""

MAX_FLAT_DIFFERENCE = 3.0
"""The most by which flat near-duplicates differ: the root of the mean square, of 255."""

FEWER_BITS = 3
"""The same where so many hashes resemble each other that comparing them would take minutes (tens of
thousands of pictures with little in them, such as digits on black)."""

_FLIPS = (0, *(1 << bit for bit in range(16)))
_MOST_PAIRS = 2**30
_PAIRS = 2**20  # compared at a time
_THUMBNAIL_PAIRS = 2**11

Pairs = tuple[IntArray, IntArray]


def near_duplicates(seen: Inspection) -> tuple[tuple[int, ...], ...]:
    """Groups of two or more near-duplicates among the pictures that can be read.

    Pairs are found without comparing all: of four 16-bit pieces of the hashes, at least one
    differs in no more than one bit when the hashes differ in no more than seven, and in none when
    they differ in no more than three (`FEWER_BITS`).

    Returns:
        Indices in each group rising, groups by their first.
    """
    readable = _readable(seen)
    if len(readable) < 2:
        return ()
    firsts, inverse = _distinct(seen.hashes[readable], seen.thumbnails[readable])
    hashes = seen.hashes[readable][firsts]
    looks = _Looks(seen.thumbnails[readable][firsts])
    group = _Groups(len(firsts))
    for one, other in _close_hashes(hashes):
        apart = group.apart(one, other) & looks.may_agree(one, other)
        one, other = one[apart], other[apart]
        for start in range(0, len(one), _THUMBNAIL_PAIRS):
            part = slice(start, start + _THUMBNAIL_PAIRS)
            agree = looks.agree(one[part], other[part])
            group.join(one[part][agree], other[part][agree])
    return _listed(readable, group.roots()[inverse])


def compared_fewer_bits(seen: Inspection) -> bool:
    """Whether `near_duplicates` went by `FEWER_BITS` for these pictures, and so finds fewer."""
    readable = _readable(seen)
    if len(readable) < 2:
        return False
    firsts, _ = _distinct(seen.hashes[readable], seen.thumbnails[readable])
    return _too_many(_pieces(seen.hashes[readable][firsts]))


def _readable(seen: Inspection) -> IntArray:
    return np.array([i for i in range(len(seen.hashes)) if i not in seen.unreadable], np.int64)


def _distinct(hashes: npt.NDArray[np.uint64], thumbnails: ByteArray) -> Pairs:
    """The first of pictures that look exactly the same, and for each picture which that is."""
    count = len(hashes)
    both = np.hstack([hashes[:, None].view(np.uint8), thumbnails.reshape(count, -1)])
    whole = np.ascontiguousarray(both).view(f"V{both.shape[1]}")[:, 0]
    _, firsts, inverse = np.unique(whole, return_index=True, return_inverse=True)
    return firsts.astype(np.int64), inverse.reshape(count).astype(np.int64)


def _listed(readable: IntArray, roots: IntArray) -> tuple[tuple[int, ...], ...]:
    order = np.argsort(roots, kind="stable")
    starts = np.flatnonzero(np.diff(roots[order])) + 1
    groups = [tuple(map(int, part)) for part in np.split(readable[order], starts) if len(part) > 1]
    return tuple(sorted(groups))


class _Looks:
    """Thumbnails of n pictures."""

    def __init__(self, thumbnails: ByteArray) -> None:
        self._thumbnails = thumbnails.reshape(len(thumbnails), -1)
        self._flat = np.zeros(len(thumbnails), np.bool_)
        self._mean = np.zeros(len(thumbnails), np.float32)
        for start in range(0, len(thumbnails), _THUMBNAIL_PAIRS):
            part = slice(start, start + _THUMBNAIL_PAIRS)
            self._flat[part] = self._thumbnails[part].std(axis=1, dtype=np.float32) < FLAT
            self._mean[part] = self._thumbnails[part].mean(axis=1, dtype=np.float32)

    def may_agree(self, one: IntArray, other: IntArray) -> BoolArray:
        """False for pairs that cannot, quickly: means differ by no more than the pixels do."""
        flat = self._flat[one]
        near: BoolArray = np.abs(self._mean[one] - self._mean[other]) <= MAX_FLAT_DIFFERENCE + 0.01
        may: BoolArray = (flat == self._flat[other]) & (~flat | near)
        return may

    def agree(self, one: IntArray, other: IntArray) -> BoolArray:
        """Whether the thumbnails of each pair do."""
        a, b = (self._thumbnails[i].astype(np.float32) for i in (one, other))
        difference = np.sqrt(((a - b) ** 2).mean(axis=1))
        flat, flat_too = self._flat[one], self._flat[other]
        alike = np.where(
            flat, difference <= MAX_FLAT_DIFFERENCE, _correlation(a, b) >= MIN_CORRELATION
        )
        agree: BoolArray = alike & (flat == flat_too)
        return agree


def _correlation(a: FloatArray, b: FloatArray) -> FloatArray:
    a = a - a.mean(axis=1, keepdims=True)
    b = b - b.mean(axis=1, keepdims=True)
    norm = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    return np.asarray((a * b).sum(axis=1) / np.maximum(norm, 1e-6), np.float32)


def _close_hashes(hashes: npt.NDArray[np.uint64]) -> Iterator[Pairs]:
    """Pairs of pictures whose hashes are close, `i < j`; a pair may come several times."""
    pieces = _pieces(hashes)
    limit, flips = (FEWER_BITS, (0,)) if _too_many(pieces) else (MAX_BITS, _FLIPS)
    for piece in pieces:
        order = np.argsort(piece, kind="stable")
        ends = np.cumsum(np.bincount(piece, minlength=2**16))
        for flip in flips:
            wanted = piece ^ flip
            stops = ends[wanted]
            starts = np.where(wanted > 0, ends[wanted - 1], 0)
            for one, at in _expand(starts, stops):
                other = order[at]
                near = (one < other) & (_bits(hashes[one] ^ hashes[other]) <= limit)
                yield one[near], other[near]


def _too_many(pieces: Sequence[IntArray]) -> bool:
    return sum(_candidates(piece, _FLIPS) for piece in pieces) > _MOST_PAIRS


def _candidates(piece: IntArray, flips: tuple[int, ...]) -> int:
    """How many pairs would be compared for a piece."""
    counts = np.bincount(piece, minlength=2**16)
    values = np.arange(2**16)
    return int(sum((counts * counts[values ^ flip]).sum() for flip in flips))


def _pieces(hashes: npt.NDArray[np.uint64]) -> list[IntArray]:
    """Four 16-bit pieces, `int64 [n]` each; the bits of a piece lie all over the picture.

    Pieces of neighbouring bits would be the same for all pictures with, say, a white border.
    """
    bits = np.unpackbits(hashes[:, None].view(np.uint8), axis=1)
    row, column = np.divmod(np.arange(64), 8)
    values = 1 << np.arange(16)
    return [bits[:, (row + column) % 4 == piece].astype(np.int64) @ values for piece in range(4)]


def _expand(starts: IntArray, stops: IntArray) -> Iterator[Pairs]:
    """Every row with every number from its start to its stop, about `_PAIRS` at a time."""
    counts = stops - starts
    totals = np.cumsum(counts)
    row = 0
    while row < len(counts):
        done = totals[row - 1] if row else 0
        end = max(row + 1, int(np.searchsorted(totals, done + _PAIRS, side="right")))
        rows = np.repeat(np.arange(row, end), counts[row:end])
        before = np.repeat(totals[row:end] - counts[row:end] - done, counts[row:end])
        if len(rows):
            yield rows, starts[rows] + np.arange(len(rows)) - before
        row = end


def _bits(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint8]:
    """How many bits are set; NumPy before 2.0 has no `bitwise_count`."""
    counts: npt.NDArray[np.uint8] = _SET_BITS[values.view(np.uint16)].reshape(-1, 4)
    return np.asarray(counts.sum(axis=1, dtype=np.uint8))


_SET_BITS = np.array([value.bit_count() for value in range(2**16)], np.uint8)


class _Groups:
    """Disjoint groups that are joined pair by pair (union-find)."""

    def __init__(self, count: int) -> None:
        self._parent = np.arange(count, dtype=np.int64)

    def roots(self) -> IntArray:
        """The group of each; every path made short."""
        above = self._parent[self._parent]
        while not np.array_equal(above, self._parent):
            self._parent = above
            above = above[above]
        return self._parent

    def apart(self, one: IntArray, other: IntArray) -> BoolArray:
        """Whether the two of each pair are in different groups."""
        roots = self.roots()
        return np.asarray(roots[one] != roots[other])

    def join(self, one: IntArray, other: IntArray) -> None:
        """Put the two of each pair in one group."""
        parent = self._parent
        for a, b in zip(one.tolist(), other.tolist(), strict=True):
            while parent[a] != a:
                a = int(parent[a])
            while parent[b] != b:
                b = int(parent[b])
            parent[max(a, b)] = min(a, b)
