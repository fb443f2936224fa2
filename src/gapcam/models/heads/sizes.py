"""Which input sizes a traced network takes: tried, and compared with the network itself.

A network is traced at one size, which takes seconds; with free sides it can take minutes. In most
traces nothing depends on the size; where something does (a padding, a resize, position embeddings),
another size gives other scores, or none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gapcam.models.trace import Layout, Step
from gapcam.types import SizeHW

WINDOWS = frozenset(
    {"AveragePool", "MaxPool", "avg_pool2d", "max_pool2d", "max_pool2d_with_indices"}
)
"""Pooling in windows of a fixed size, in ONNX and in PyTorch."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """The input sizes that a network takes.

    Attributes:
        fixed_hw: The only one; None: any.
        multiple: What sides must be multiples of.
    """

    fixed_hw: SizeHW | None
    multiple: int = 1


def sizes_taken(same: Callable[[SizeHW], bool], size_hw: SizeHW, layout: Layout) -> Sizes:
    """Try three more sizes: smaller and larger by whole strides, and odd.

    Args:
        same: Whether the traced network gives the scores that it should at a size.
        size_hw: What it was traced at, pixels.
        layout: Of its features at that size.
    """
    larger = larger_size(size_hw, layout)
    if not (same(smaller_size(size_hw, layout)) and same(larger)):
        return Sizes(size_hw)
    if same((larger[0] + 1, larger[1] + 3)):
        return Sizes(None)
    strides = {side / cells for side, cells in zip(size_hw, layout.grid_hw, strict=True)}
    (stride, *others) = strides
    whole = not others and stride == int(stride)
    return Sizes(None, int(stride)) if whole else Sizes(size_hw)


def rigid(head: Sequence[Step]) -> bool:
    """Whether a head is right at the traced size only, though it may run at others.

    A sum weighs a position by how many there are; a window that covered the whole plane leaves out
    the rest of a larger one.
    """
    return any(
        step.op == "sum" or (step.op in ("mean", "max") and step.words.split()[0] in WINDOWS)
        for step in head
    )


def larger_size(size_hw: SizeHW, layout: Layout) -> SizeHW:
    """A larger size of another shape, whole strides away, pixels."""
    rows = -(-size_hw[0] // layout.grid_hw[0])
    columns = -(-size_hw[1] // layout.grid_hw[1])
    return size_hw[0] + 2 * rows, size_hw[1] + columns


def smaller_size(size_hw: SizeHW, layout: Layout) -> SizeHW:
    """About three quarters of a size, whole strides away where there are several, pixels."""
    height, width = (
        max(1, cells - -(-cells // 4)) * (side // cells)
        for side, cells in zip(size_hw, layout.grid_hw, strict=True)
    )
    return height, width
