"""What processes that train together tell each other; alone, each of these is immediate."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, distributed

from gapcam.training.ranks import is_first
from gapcam.types import GapcamError


def is_first_process() -> bool:
    """Whether this process writes the run: false in those that Lightning or a launcher adds.

    Works before training starts too, when only the environment tells.
    """
    if _several():
        return distributed.get_rank() == 0
    return is_first()


def total(tensor: Tensor) -> Tensor:
    """The sum over processes; every process gets it."""
    if _several():
        distributed.all_reduce(tensor)
    return tensor


def share_first(tensors: Iterable[Tensor]) -> None:
    """Every process takes the first one's values, in place."""
    if _several():
        for tensor in tensors:
            distributed.broadcast(tensor, 0)


def raise_together(error: GapcamError | None, device: torch.device) -> None:
    """Raise the first error of any process in all of them: none waits for one that stopped.

    Args:
        error: This process's.
        device: The one that processes exchange tensors on.

    Raises:
        GapcamError: Some process has an error; of this one's or the first's kind.
    """
    if not _several():
        if error is not None:
            raise error
        return
    failed = total(torch.tensor(float(error is not None), device=device))
    if not failed:
        return
    errors: list[GapcamError | None] = [None] * distributed.get_world_size()
    distributed.all_gather_object(errors, error)
    raise next(item for item in errors if item is not None)


def gathered(rows: Tensor, values: Tensor, count: int, device: torch.device) -> Tensor:
    """Values by row, from whichever process has them: each row is in exactly one.

    Args:
        rows: `int64 [m]`, where this process's values go, 0 to `count - 1`.
        values: `float32 [m, C]`.
        count: Rows in all processes together.
        device: The one that processes exchange tensors on.

    Returns:
        `float32 [count, C]`: adding zeros changes no value.
    """
    together = torch.zeros((count, values.shape[1]), device=device)
    together[rows.to(device)] = values.to(device)
    return total(together).cpu()


def _several() -> bool:
    return (
        distributed.is_available()
        and distributed.is_initialized()
        and distributed.get_world_size() > 1
    )
