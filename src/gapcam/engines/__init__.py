"""Engines: a network that runs. A batch of pixels goes in, logits and features come out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from gapcam.types import ArgumentError, ModelError

if TYPE_CHECKING:
    from gapcam.types import ByteArray, FloatArray, IntArray


@dataclass(frozen=True, slots=True, eq=False)
class Outputs:
    """What one forward pass gives for a batch.

    Attributes:
        logits: `[B, C]`.
        features: `[B, K, h, w]`, the last spatial layer.
        fine_features: `[B, K2, h2, w2]`, the last tensor at half the map's stride; None for a
            network that has none.
    """

    logits: FloatArray
    features: FloatArray
    fine_features: FloatArray | None


@dataclass(frozen=True, slots=True, eq=False)
class MapOutputs:
    """What one forward pass gives for a batch, maps included.

    Attributes:
        logits: `[B, C]`.
        classes: The classes that the maps are of, `[B, n]`.
        maps: Raw class maps `[B, n, h, w]`, signed, logit units.
        fine_features: As in `Outputs`.
    """

    logits: FloatArray
    classes: IntArray
    maps: FloatArray
    fine_features: FloatArray | None


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
    def name(self) -> str:
        """What runs the network, in a word: `onnx` or `torch`."""

    @property
    def head(self) -> LinearHead | None:
        """The head where it is linear on pooled features; None: only `run_maps` gives maps."""

    @property
    def bias(self) -> FloatArray:
        """The score `[C]` of a picture whose features are all zero."""

    @property
    def fingerprint(self) -> str:
        """A hash of all that the outputs depend on."""

    def run(self, pixels: ByteArray) -> Outputs:
        """One forward pass over `uint8` RGB `[B, H, W, 3]`."""

    def run_maps(self, pixels: ByteArray, wanted: IntArray | int) -> MapOutputs:
        """One forward pass and class maps, for any head.

        Args:
            pixels: `uint8` RGB `[B, H, W, 3]`.
            wanted: How many of the best classes (ties go to the lower id), or class ids, `[n]`
                or `[B, n]`.
        """


def classes_for(wanted: IntArray | int, logits: FloatArray) -> IntArray:
    """The class ids `[B, n]` that `wanted` means for logits `[B, C]`.

    Args:
        wanted: How many of the best (ties go to the lower id), or class ids, `[n]` or `[B, n]`.
        logits: Only their shape counts when ids are given.

    Raises:
        ArgumentError: A number of classes or an id out of range, or not one row of ids a picture.
    """
    batch, count = logits.shape
    if isinstance(wanted, int | np.integer):
        if not 1 <= wanted <= count:
            raise ArgumentError(f"classes wanted: expected 1 to {count}, got {wanted}")
        best: IntArray = np.argsort(-logits, axis=1, kind="stable")[:, :wanted].astype(np.int64)
        return best
    ids = np.asarray(wanted)
    if ids.dtype.kind not in "iu" or ids.ndim not in (1, 2) or ids.shape[-1] == 0:
        raise ArgumentError(
            f"class ids: expected whole numbers [n] or [B, n], got {ids.dtype} {list(ids.shape)}"
        )
    if ids.ndim == 2 and len(ids) != batch:
        raise ArgumentError(
            f"class ids: expected one row for each of {batch} pictures, got {len(ids)}"
        )
    wrong = ids[(ids < 0) | (ids >= count)]
    if wrong.size:
        raise ArgumentError(f"class id {wrong[0]}: this network has classes 0 to {count - 1}")
    return np.array(np.broadcast_to(ids, (batch, ids.shape[-1])), dtype=np.int64)


def check_finite(logits: FloatArray, maps: FloatArray, classes: IntArray) -> None:
    """Refuse scores `[B, C]` and maps `[B, n, h, w]` of `classes [B, n]` that are no numbers.

    Raises:
        ModelError: A score or a map is infinite or NaN.
    """
    scored = np.isfinite(logits).all(1)
    if not scored.all():
        raise ModelError(f"picture {scored.argmin()} of the batch: its scores are not all finite")
    broken = np.argwhere(~np.isfinite(maps).all((2, 3)))
    if len(broken):
        picture, place = broken[0]
        raise ModelError(
            f"picture {picture} of the batch: the map of class {classes[picture, place]} is not "
            "finite"
        )
