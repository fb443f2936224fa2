"""torchvision's weights of an original network into one of the paper's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from gapcam.models.gap_net import GapNet
from gapcam.models.sources.checkpoint import (
    compare,
    load_strictly,
    read_state,
    unwrapped_names,
)
from gapcam.types import ModelError

if TYPE_CHECKING:
    from gapcam.models.gap_nets import OriginalNet, Plan

AUXILIARY = ("aux1.", "aux2.")
"""GoogLeNet's heads for training, which are not built here."""


def load_paper_weights(net: GapNet | OriginalNet, name: str, plan: Plan, path: Path) -> None:
    """Load what a checkpoint of the original network and the net have in common, strictly.

    Args:
        net: A new one; its trunk is filled, and with the original head that too.
        name: What it is called.
        plan: The net's.
        path: The checkpoint.

    Raises:
        ModelError: It cannot be read, or a tensor is missing, left over or of another shape.
    """
    target = net.trunk if isinstance(net, GapNet) else net
    state = unwrapped_names(read_state(path), target)
    state = {key: value for key, value in state.items() if not key.startswith(AUXILIARY)}
    if isinstance(net, GapNet):
        state = {key: value for key, value in state.items() if not key.startswith(plan.removed)}
    else:
        state = _with_new_last_layer(net, state, plan.last)
    differs = compare(target, state)
    if differs:
        raise ModelError(
            f"{path}: these are not torchvision's weights of {name}: {differs}. Give a checkpoint "
            "of that network"
        )
    load_strictly(target, state, str(path))


def _with_new_last_layer(
    net: OriginalNet, state: Mapping[str, Tensor], last: str
) -> dict[str, Tensor]:
    """The state with the net's own last layer where the file's is for other classes."""
    own = net.state_dict()
    names = (f"{last}.weight", f"{last}.bias")
    given = state.get(names[0])
    if given is None or given.shape == own[names[0]].shape:
        return dict(state)
    if given.shape[1:] != own[names[0]].shape[1:]:
        return dict(state)  # of another network: it is refused with the rest
    return {**state, **{name: own[name] for name in names}}
