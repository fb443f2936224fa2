"""Class maps and finer features to finer maps. Pure functions."""

from __future__ import annotations

import numpy as np

from gapcam.maps import normalize_max
from gapcam.products import gram, matmul
from gapcam.resample import resample
from gapcam.types import ArgumentError, FloatArray, Recipe

TINY = 1e-12


def refine(maps: FloatArray, fine_features: FloatArray | None, recipe: Recipe) -> FloatArray:
    """Raw maps as the recipe refines them: by `affinity`, or not at all.

    Arguments and result as `affinity`'s; the maps themselves where the recipe refines none.

    Raises:
        ArgumentError: The recipe refines and the network gave no fine features.
    """
    if recipe.refine == "affinity":
        if fine_features is None:
            raise ArgumentError(f"recipe {recipe.name!r} needs fine features, got none")
        return affinity(maps, fine_features, recipe.centring)
    return maps


def affinity(maps: FloatArray, fine_features: FloatArray, centring: float = 1.0) -> FloatArray:
    """Spread the positive part of class maps over places that look alike to the network. Ours.

    With g the fine features less `centring` times their spatial mean, each position scaled to
    length 1:

        A = relu(g^T g), rows scaled to sum 1;    R = A relu(resample(M))

    Every value of R is an average of the map over the positions similar to it, so the part of an
    object that the classifier ignored takes the heat of the part that it used. The maps may come
    from a pass at another size than the features: both show the whole picture.

    Args:
        maps: Raw class maps `[B, n, h, w]`.
        fine_features: `[B, K2, h2, w2]` from an earlier, finer layer of the same network.
        centring: 0..1. At 1 only what sets a place apart from the rest of this picture counts; at
            0 everything that all of them share counts too.

    Returns:
        `[B, n, h2, w2]`, not negative, logit units (no longer a share of the logit); all zero for
        a map with no positive value.
    """
    batch, _, height, width = fine_features.shape
    # Bicubic weights overshoot: a map with no positive value must not get one.
    positive = maps.max((-2, -1), keepdims=True) > 0
    seeds = np.where(positive, np.maximum(resample(maps, (height, width), "bicubic"), 0), 0)
    flat = seeds.reshape(batch, maps.shape[1], height * width)
    similar = similarity(fine_features, centring)
    # The rows are scaled after the product, which has far fewer values; A is symmetric.
    total: FloatArray = np.maximum(similar.sum(1, keepdims=True), TINY)
    spread: FloatArray = matmul(flat, similar) / total
    return spread.reshape(batch, -1, height, width)


def similarity(features: FloatArray, centring: float = 1.0) -> FloatArray:
    """Affinity relu(g^T g), `[B, N, N]`, 0..1, of the N = h * w positions of `[B, K, h, w]`."""
    batch, channels, height, width = features.shape
    g = features.reshape(batch, channels, height * width)
    g = g - np.float32(centring) * g.mean(-1, keepdims=True)
    g = g / np.maximum(np.linalg.norm(g, axis=1, keepdims=True), TINY)
    alike = gram(g)
    np.maximum(alike, 0, out=alike)
    return alike


def fuse(first: FloatArray, second: FloatArray) -> FloatArray:
    """The average of two passes' evidence, each scaled to peak at 1. Ours.

        E = (max(R1, 0) / max R1 + max(R2, 0) / max R2) / 2

    A pass at a finer input sees small objects, one at a coarser input whole large ones. Scaled,
    because logits fall as the input grows. A map with no positive value counts as zero.

    Args:
        first: `[..., h, w]`.
        second: `[..., h2, w2]`, resampled to the first's grid where it differs.

    Returns:
        `[..., h, w]`, 0..1.
    """
    size_hw = (first.shape[-2], first.shape[-1])
    if second.shape[-2:] != size_hw:
        second = resample(second, size_hw, "bicubic")
    return (normalize_max(first) + normalize_max(second)) / np.float32(2)
