"""Engines: a network that runs. A batch of pixels goes in, logits and features come out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from gapcam.types import ByteArray, FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class Outputs:
    """What one forward pass gives for a batch.

    Attributes:
        logits: `[B, C]`.
        features: `[B, K, h, w]`, the last spatial layer.
        fine_features: `[B, K2, h2, w2]`, the last tensor at half the map's stride.
    """

    logits: FloatArray
    features: FloatArray
    fine_features: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class LinearHead:
    """The layer after the pooling: `logits = weights @ mean_xy(features) + bias`.

    Attributes:
        weights: `[C, K]`.
        bias: `[C]`.
    """

    weights: FloatArray
    bias: FloatArray


class Engine(Protocol):
    """Anything that runs a network. Engines are safe to call from several threads."""

    @property
    def head(self) -> LinearHead:
        """The network's linear head."""

    @property
    def fingerprint(self) -> str:
        """A hash of all that the outputs depend on."""

    def run(self, pixels: ByteArray) -> Outputs:
        """One forward pass over `uint8` RGB `[B, H, W, 3]`."""
