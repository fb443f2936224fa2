"""Masks as COCO holds them: run lengths down the columns, packed into text (Lin et al., 2014).

Runs alternate between outside and inside, outside first, column by column. Each count is written
as the difference to the count two before (the first three as they are), low bits first: five bits
a character, a sixth bit for "more follows", 48 added to make it printable. This is the text that
`pycocotools.mask.decode` reads.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gapcam.types import BoolArray, IntArray

_BITS, _MORE, _SIGN, _FIRST = 5, 32, 16, 48


def encode_mask(mask: BoolArray) -> dict[str, Any]:
    """A mask as `{"size": [H, W], "counts": text}`.

    Args:
        mask: `bool [H, W]`, at least one pixel.
    """
    height, width = mask.shape
    return {"size": [height, width], "counts": pack_counts(run_lengths(mask))}


def run_lengths(mask: BoolArray) -> IntArray:
    """Lengths of the runs down the columns of `bool [H, W]`, outside first (it may be 0)."""
    height, width = mask.shape
    columns = np.flatnonzero(mask.any(axis=0))
    if not len(columns):
        return np.array([height * width])
    # Only the columns that hold the mask are walked: a picture is mostly not mask.
    first, last = int(columns[0]), int(columns[-1]) + 1
    inside = np.zeros((last - first) * height + 2, np.int8)
    inside[1:-1] = mask[:, first:last].T.reshape(-1)
    edges = np.flatnonzero(np.diff(inside)) + first * height
    ends = [height * width] if edges[-1] < height * width else []
    return np.diff(np.concatenate([[0], edges, ends])).astype(np.int64)


def pack_counts(counts: IntArray) -> str:
    """Run lengths as text, at least one of them."""
    steps = counts.copy()
    steps[3:] -= counts[1:-2]
    return "".join(map(_packed, steps.tolist()))


def area_of(counts: str) -> int:
    """How many pixels are inside, from the text of the run lengths."""
    return sum(unpack_counts(counts)[1::2])


def unpack_counts(text: str) -> list[int]:
    """The run lengths that `pack_counts` wrote."""
    counts: list[int] = []
    value = shift = 0
    for code in text.encode("ascii"):
        bits = code - _FIRST
        value |= (bits & (_MORE - 1)) << shift
        shift += _BITS
        if not bits & _MORE:
            value -= (1 << shift) if bits & _SIGN else 0
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    return counts


def _packed(value: int) -> str:
    characters = ""
    while True:
        bits = value & (_MORE - 1)
        value >>= _BITS
        done = value == (-1 if bits & _SIGN else 0)
        characters += chr(_FIRST + bits + (0 if done else _MORE))
        if done:
            return characters
