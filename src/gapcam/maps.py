"""Features and head to class maps; class maps to heat in 0..1. Pure functions.

Zhou et al., "Learning Deep Features for Discriminative Localization" (CVPR 2016), equation 2:

    M_c(x, y) = sum_k w_ck f_k(x, y)        so that        mean_xy M_c + b_c = S_c
"""

from __future__ import annotations

import numpy as np

from gapcam.products import matmul
from gapcam.types import FloatArray, IntArray, Recipe


def class_maps(features: FloatArray, weights: FloatArray, classes: IntArray) -> FloatArray:
    """Raw class maps of the asked classes, for the whole batch in one product (eq. 2).

    Args:
        features: `[B, K, h, w]`, the last spatial layer.
        weights: `[C, K]`, the linear head.
        classes: `[B, n]`, the class ids asked for in each picture.

    Returns:
        `[B, n, h, w]`, signed, logit units: `mean(map) + bias = logit`.
    """
    batch, channels, height, width = features.shape
    flat = features.reshape(batch, channels, height * width)
    return matmul(weights[classes], flat).reshape(batch, -1, height, width)


def softmax(logits: FloatArray) -> FloatArray:
    """Probabilities `[B, C]` of logits `[B, C]`."""
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    scores: FloatArray = shifted / shifted.sum(-1, keepdims=True)
    return scores


def sigmoid(logits: FloatArray) -> FloatArray:
    """1 / (1 + exp(-logits)), of any shape; never overflows."""
    small = np.exp(-np.abs(logits))
    scores: FloatArray = np.where(logits >= 0, 1 / (1 + small), small / (1 + small))
    return scores.astype(np.float32)


def class_scores(logits: FloatArray, rule: str = "softmax") -> FloatArray:
    """Scores 0..1, `[B, C]`, by the card's rule; of a network with one class, the sigmoid.

    Args:
        logits: `[B, C]`.
        rule: `ModelCard.scores`: `softmax`, or `sigmoid`.
    """
    return sigmoid(logits) if rule == "sigmoid" or logits.shape[-1] == 1 else softmax(logits)


def top_classes(logits: FloatArray, count: int) -> IntArray:
    """The ids `[B, count]` of the highest logits `[B, C]`, best first; ties go to the lower id."""
    return np.argsort(-logits, axis=-1, kind="stable")[:, :count]


def map_gap(maps: FloatArray, classes: IntArray, bias: FloatArray, logits: FloatArray) -> float:
    """The largest |mean(map) + bias - logit| over a batch, logit units; NaN where there is one.

    Args:
        maps: Raw class maps `[B, n, h, w]`; their means are summed in float64.
        classes: What they are of, `[B, n]`.
        bias: `[C]`, the score of all-zero features.
        logits: `[B, C]`.
    """
    means = maps.mean((-2, -1), dtype=np.float64)
    gaps = np.abs(means + bias[classes] - np.take_along_axis(logits, classes, axis=1))
    return float(gaps.max())


def normalize(maps: FloatArray, recipe: Recipe) -> FloatArray:
    """Scale maps `[..., h, w]` to heat in 0..1 by the recipe's rule.

    A map with no positive value is all zero: it is never stretched into a hot spot.
    """
    if recipe.normalize == "max":
        return normalize_max(maps)
    if recipe.normalize == "minmax":
        return normalize_minmax(maps)
    return normalize_ivr(maps, recipe.ivr_percentile)


def normalize_max(maps: FloatArray) -> FloatArray:
    """max(M, 0) / max M, each map for itself (the paper's rule, section 3.2)."""
    return _divide_by_peak(np.maximum(maps, 0), maps)


def normalize_minmax(maps: FloatArray) -> FloatArray:
    """(M - min M) / (max M - min M), each map for itself (Choe et al., CVPR 2020).

    A positive map that is the same everywhere is 1 everywhere.
    """
    low = maps.min((-2, -1), keepdims=True)
    flat = low == maps.max((-2, -1), keepdims=True)
    return _divide_by_peak(maps - np.where(flat, 0, low), maps)


def normalize_ivr(maps: FloatArray, percentile: float) -> FloatArray:
    """max(M - percentile(M), 0) / its maximum (Kim et al., ICCV 2021, "IVR").

    Args:
        maps: `[..., h, w]`.
        percentile: Which share of the cells ends at zero, 0..1.
    """
    low = np.quantile(maps, percentile, axis=(-2, -1), keepdims=True).astype(np.float32)
    flat = low == maps.max((-2, -1), keepdims=True)
    return _divide_by_peak(np.maximum(maps - np.where(flat, 0, low), 0), maps)


def _divide_by_peak(scaled: FloatArray, maps: FloatArray) -> FloatArray:
    """Make the peak of each map 1, or the whole map 0 where `maps` has no positive value."""
    peak = scaled.max((-2, -1), keepdims=True)
    positive = (maps.max((-2, -1), keepdims=True) > 0) & (peak > 0)
    heat: FloatArray = np.clip(np.where(positive, scaled / np.where(positive, peak, 1), 0), 0, 1)
    return heat
