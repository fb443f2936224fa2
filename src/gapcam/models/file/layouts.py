"""Features as networks lay them, tokens and channels last too, to `[B, K, h, w]` in ONNX nodes."""

from __future__ import annotations

from gapcam.models.file.nodes import Nodes
from gapcam.models.model_file import INPUT
from gapcam.models.trace import Layout
from gapcam.types import SizeHW


def to_channels_first(
    n: Nodes, tensor: str, layout: Layout, stride_hw: SizeHW | None, output: str
) -> str:
    """`tensor` as `[B, K, h, w]`, called `output`.

    Args:
        n: Collects the nodes.
        tensor: Laid out as `layout` says.
        layout: Its axes and grid.
        stride_hw: Input pixels between rows and columns; None: the grid is always the layout's.
        output: The result's name.
    """
    if len(layout.position_axes) == 2:
        rows, columns = layout.position_axes
        order = [0, layout.channel_axis, rows, columns]
        if order == [0, 1, 2, 3]:
            return n.add("Identity", [tensor], output)
        return n.add("Transpose", [tensor], output, perm=order)
    if layout.channel_axis != 1:
        tensor = n.add("Transpose", [tensor], perm=[0, 2, 1])
    patches = _patches(n, tensor, 2, layout)
    return n.add("Reshape", [patches, _grid_shape(n, layout, stride_hw)], output)


def positions_to_grid(n: Nodes, tensor: str, layout: Layout, stride_hw: SizeHW | None) -> str:
    """`[n, B, positions...]`, a value a position, as `[n, B, h, w]`.

    `tensor` is the features' layout without its channel axis, behind an axis of classes.
    """
    if len(layout.position_axes) == 2:
        return tensor  # rows come before columns in every layout there is
    return n.add("Reshape", [_patches(n, tensor, 2, layout), _grid_shape(n, layout, stride_hw)])


def _patches(n: Nodes, tensor: str, axis: int, layout: Layout) -> str:
    """Only the tokens that have a place in the picture."""
    first = layout.first_patch
    if first == 0:
        return tensor
    ends = n.integers(2**62)  # to the end: patches come last
    return n.add("Slice", [tensor, n.integers(first), ends, n.integers(axis)])


def _grid_shape(n: Nodes, layout: Layout, stride_hw: SizeHW | None) -> str:
    """`[0, 0, h, w]`: the first two sides as they are, then the grid."""
    if stride_hw is None:
        return n.integers(0, 0, *layout.grid_hw)
    sides = n.add("Shape", [INPUT], start=1, end=3)
    grid = n.add("Div", [sides, n.integers(*stride_hw)])
    return n.add("Concat", [n.integers(0, 0), grid], axis=0)
