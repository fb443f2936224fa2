"""The same interface over a PyTorch module, for comparison and for nets that do not export."""

from __future__ import annotations

import hashlib
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from gapcam.engines import LinearHead, Outputs
from gapcam.types import ByteArray


class GapNetwork(Protocol):
    """A module that ends in global average pooling and one linear layer."""

    @property
    def head(self) -> nn.Linear:
        """The linear layer."""

    def state_dict(self) -> dict[str, Any]:
        """The weights."""

    def spatial(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`[B, 3, H, W]` to features and fine features."""


class TorchEngine:
    """Runs a PyTorch network as it is: its mode, gradients and hooks are left alone.

    Args:
        network: In evaluation mode.
        mean: Subtracted from the pixels of each channel.
        scale: Divides the result.
    """

    def __init__(
        self,
        network: GapNetwork,
        mean: tuple[float, float, float],
        scale: tuple[float, float, float],
    ) -> None:
        self._network = network
        self._mean = torch.tensor(mean).reshape(3, 1, 1)
        self._scale = torch.tensor(scale).reshape(3, 1, 1)

    @property
    def head(self) -> LinearHead:
        """The network's linear head."""
        head = self._network.head
        return LinearHead(head.weight.detach().numpy(), head.bias.detach().numpy())

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of the weights."""
        digest = hashlib.sha256()
        for name, value in self._network.state_dict().items():
            digest.update(name.encode() + value.detach().cpu().numpy().tobytes())
        return digest.hexdigest()

    def run(self, pixels: ByteArray) -> Outputs:
        """One forward pass over `uint8` RGB `[B, H, W, 3]`."""
        with torch.inference_mode():
            x = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float()
            features, fine = self._network.spatial((x - self._mean) / self._scale)
            logits = self._network.head(features.mean((2, 3)))
        return Outputs(logits.numpy(), features.numpy(), fine.numpy())
