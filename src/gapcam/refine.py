"""Class maps and finer features to finer maps. Pure functions."""

from __future__ import annotations

import numpy as np

from gapcam.products import gram, matmul
from gapcam.resample import resample
from gapcam.types import FloatArray

TINY = 1e-12


def affinity(maps: FloatArray, fine_features: FloatArray) -> FloatArray:
    """Spread the positive part of class maps over places that look alike to the network. Ours.

    With g the fine features less their spatial mean, each position scaled to length 1:

        A = relu(g^T g), rows scaled to sum 1;    R = A relu(resample(M))

    Every value of R is an average of the map over the positions similar to it, so the part of an
    object that the classifier ignored takes the heat of the part that it used.

    Args:
        maps: Raw class maps `[B, n, h, w]`.
        fine_features: `[B, K2, h2, w2]` from an earlier, finer layer of the same network.

    Returns:
        `[B, n, h2, w2]`, not negative, logit units (no longer a share of the logit); all zero for
        a map with no positive value.
    """
    batch, _, height, width = fine_features.shape
    # Bicubic weights overshoot: a map with no positive value must not get one.
    positive = maps.max((-2, -1), keepdims=True) > 0
    seeds = np.where(positive, np.maximum(resample(maps, (height, width), "bicubic"), 0), 0)
    flat = seeds.reshape(batch, maps.shape[1], height * width)
    similar = similarity(fine_features)
    # The rows are scaled after the product, which has far fewer values; A is symmetric.
    total: FloatArray = np.maximum(similar.sum(1, keepdims=True), TINY)
    spread: FloatArray = matmul(flat, similar) / total
    return spread.reshape(batch, -1, height, width)


def similarity(features: FloatArray) -> FloatArray:
    """Affinity relu(g^T g), `[B, N, N]`, 0..1, of the N = h * w positions of `[B, K, h, w]`."""
    batch, channels, height, width = features.shape
    g = features.reshape(batch, channels, height * width)
    g = g - g.mean(-1, keepdims=True)
    g = g / np.maximum(np.linalg.norm(g, axis=1, keepdims=True), TINY)
    alike = gram(g)
    np.maximum(alike, 0, out=alike)
    return alike
