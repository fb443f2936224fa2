"""Resampling of maps: separable, half-pixel centres (`align_corners=False`), edges repeated.

A map is small, so each axis is one small matrix and any number of maps is two products.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from gapcam.products import matmul
from gapcam.types import FloatArray, SizeHW

Fractions: TypeAlias = npt.NDArray[np.float64]

BICUBIC_A = -0.75
"""The cubic coefficient of OpenCV, PyTorch and ONNX `Resize`."""


def resample(maps: FloatArray, size_hw: SizeHW, kind: Literal["bilinear", "bicubic"]) -> FloatArray:
    """Interpolate `[..., h, w]` to `[..., H, W]`; no antialiasing, so meant for enlarging.

    Output sample i reads the input at (i + 1/2) * n_in / n_out - 1/2.
    """
    rows = interpolation_matrix(maps.shape[-2], size_hw[0], kind)
    columns = interpolation_matrix(maps.shape[-1], size_hw[1], kind)
    return matmul(matmul(rows, maps), columns.T)


@lru_cache(maxsize=64)
def interpolation_matrix(n_in: int, n_out: int, kind: Literal["bilinear", "bicubic"]) -> FloatArray:
    """The matrix `[n_out, n_in]` that interpolates one axis. Read-only, rows sum to 1."""
    positions = (np.arange(n_out) + 0.5) * n_in / n_out - 0.5
    first = np.floor(positions).astype(np.int64)
    fractions = positions - first
    taps, offsets = _linear_taps(fractions) if kind == "bilinear" else _cubic_taps(fractions)
    matrix = np.zeros((n_out, n_in))
    for tap, offset in zip(taps, offsets, strict=True):
        np.add.at(matrix, (np.arange(n_out), np.clip(first + offset, 0, n_in - 1)), tap)
    result = matrix.astype(np.float32)
    result.flags.writeable = False
    return result


def _linear_taps(f: Fractions) -> tuple[list[Fractions], list[int]]:
    return [1 - f, f], [0, 1]


def _cubic_taps(f: Fractions) -> tuple[list[Fractions], list[int]]:
    """Keys' cubic convolution (IEEE TASSP 1981) at distances 1+f, f, 1-f, 2-f."""
    taps = [_cubic_outer(1 + f), _cubic_inner(f), _cubic_inner(1 - f), _cubic_outer(2 - f)]
    return taps, [-1, 0, 1, 2]


def _cubic_inner(d: Fractions) -> Fractions:
    weights: Fractions = ((BICUBIC_A + 2) * d - (BICUBIC_A + 3)) * d * d + 1
    return weights


def _cubic_outer(d: Fractions) -> Fractions:
    weights: Fractions = ((d - 5) * d + 8) * d * BICUBIC_A - 4 * BICUBIC_A
    return weights
