"""Which boxes were right at which threshold, remembered in bits."""

from __future__ import annotations

from typing import ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt

from gapcam.types import ArgumentError, BoolArray, ByteArray, IntArray

Numbers: TypeAlias = npt.NDArray[np.float64]

PAIRS_AT_ONCE = 1024
"""Pairs in a block of the table: blocks are never copied when the table grows."""


class HitTable:
    """Whether each pair of picture and class is hit, at each threshold and three IoUs.

    A box is right where `iou >= delta`, delta one of `IOUS` (MaxBoxAccV2 of Choe et al., IEEE
    TPAMI 2022). The table grows by a bit an answer: 3 ceil(T / 8) bytes a pair, 375 for the 1,000
    thresholds of the WSOL protocol; 50,000 pairs take 19 MB.
    """

    IOUS: ClassVar[tuple[float, ...]] = (0.3, 0.5, 0.7)

    def __init__(self, thresholds: int) -> None:
        """Start an empty table.

        Args:
            thresholds: How many thresholds T there are.

        Raises:
            ArgumentError: There is none.
        """
        if thresholds < 1:
            raise ArgumentError(f"thresholds: expected at least 1, got {thresholds}")
        self._thresholds = thresholds
        self._blocks: list[ByteArray] = []
        self._length = 0
        self._hits = np.zeros((len(self.IOUS), thresholds), np.int64)

    def __len__(self) -> int:
        """How many pairs were added."""
        return self._length

    @property
    def nbytes(self) -> int:
        """What the table holds, bytes."""
        return sum(block.nbytes for block in self._blocks)

    def add(self, ious: npt.ArrayLike) -> None:
        """Remember n more pairs.

        Args:
            ious: `[n, T]`, the IoU of each pair at each threshold, 0..1; compared as float64.

        Raises:
            ArgumentError: The shape is not `[n, T]`, or an IoU is NaN or outside 0..1.
        """
        table = np.asarray(ious, np.float64)
        if table.ndim != 2 or table.shape[1] != self._thresholds:
            raise ArgumentError(
                f"ious: expected [n, {self._thresholds}], got an array {list(table.shape)}"
            )
        if table.size and not (table.min() >= 0 and table.max() <= 1):  # also refuses NaN
            raise ArgumentError(f"ious: expected 0..1, got {table.min():g} to {table.max():g}")
        done = 0
        while done < len(table):
            done += self._fill(table[done : done + PAIRS_AT_ONCE])

    def hit_counts(self) -> IntArray:
        """How many pairs are hit, `[3, T]`, a row an IoU."""
        return self._hits.copy()

    def accuracy(self) -> Numbers:
        """The share of pairs that are hit, `[3, T]`, a row an IoU.

        Raises:
            ArgumentError: No pair was added.
        """
        if not self._length:
            raise ArgumentError("hits: expected at least one picture with its class, got none")
        share: Numbers = self._hits / self._length
        return share

    def column(self, iou: float, threshold_index: int) -> BoolArray:
        """Which pairs are hit at one IoU and one threshold, `[n]`, in the order of `add`.

        Raises:
            ArgumentError: `iou` is not one of `IOUS`, or there is no such threshold.
        """
        if iou not in self.IOUS:
            raise ArgumentError(f"iou: expected one of {self.IOUS}, got {iou}")
        if not 0 <= threshold_index < self._thresholds:
            raise ArgumentError(
                f"threshold_index: expected 0 to {self._thresholds - 1}, got {threshold_index}"
            )
        byte, bit = divmod(threshold_index, 8)
        row = self.IOUS.index(iou)
        parts = [block[:, row, byte] for block in self._blocks]
        held = np.concatenate([np.zeros(0, np.uint8), *parts])[: self._length]
        hit: BoolArray = (held >> (7 - bit)) & 1 == 1
        return hit

    def _fill(self, ious: Numbers) -> int:
        """Store what fits into the last block, and say how many pairs that was."""
        place = self._length % PAIRS_AT_ONCE
        if not place:
            shape = (PAIRS_AT_ONCE, len(self.IOUS), -(-self._thresholds // 8))
            self._blocks.append(np.zeros(shape, np.uint8))
        ious = ious[: PAIRS_AT_ONCE - place]
        hit = ious[:, np.newaxis] >= np.array(self.IOUS)[:, np.newaxis]
        self._blocks[-1][place : place + len(ious)] = np.packbits(hit, axis=2)
        self._hits += hit.sum(axis=0)
        self._length += len(ious)
        return len(ious)
