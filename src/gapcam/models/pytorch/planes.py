"""Features as networks lay them, tokens and channels last too, to `[B, K, h, w]` in PyTorch."""

from __future__ import annotations

from torch import Tensor

from gapcam.models.trace import Layout
from gapcam.types import ModelError, SizeHW


def to_planes(tensor: Tensor, layout: Layout, traced_hw: SizeHW, size_hw: SizeHW) -> Tensor:
    """The patches of `tensor` as `[B, K, h, w]`.

    Args:
        tensor: Laid out as `layout` says.
        layout: Its axes, and its grid at the traced size.
        traced_hw: The picture's size when the layout was found.
        size_hw: The picture's size now.

    Raises:
        ModelError: The tokens are no grid at this size.
    """
    if len(layout.position_axes) == 2:
        return tensor.permute(0, layout.channel_axis, *layout.position_axes)
    tokens = tensor.movedim(layout.channel_axis, 1).flatten(2)[..., layout.first_patch :]
    rows, columns = (
        grid * side // traced
        for grid, side, traced in zip(layout.grid_hw, size_hw, traced_hw, strict=True)
    )
    if rows * columns != tokens.shape[2]:
        raise ModelError(
            f"the network gives {tokens.shape[2]} patches for a picture {size_hw[0]} x "
            f"{size_hw[1]}, expected a grid of {rows} x {columns}. Use sides that are multiples "
            "of the patch"
        )
    return tokens.reshape(*tokens.shape[:2], rows, columns)
