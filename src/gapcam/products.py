"""Matrix products that stay in the calling thread.

NumPy's BLAS spreads a larger product over helper threads, which then go on spinning for
milliseconds and take the cores from the engine's next forward pass: a product that saves 0.1 ms
costs several (`benchmarks/speed.py`). Small blocks are never spread.
"""

from __future__ import annotations

import numpy as np

from gapcam.types import FloatArray

LARGEST_BLOCK = 2**19 - 1
"""Multiplications a block; OpenBLAS uses a second thread above."""


def matmul(a: FloatArray, b: FloatArray) -> FloatArray:
    """`np.matmul` of `[..., m, k]` and `[..., k, n]`, some rows of `a` at a time."""
    height, depth = a.shape[-2:]
    width = b.shape[-1]
    rows = max(1, LARGEST_BLOCK // max(1, depth * width))
    if rows >= height:
        whole: FloatArray = np.matmul(a, b)
        return whole
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    product = np.empty((*batch, height, width), np.result_type(a, b))
    for start in range(0, height, rows):
        block = slice(start, start + rows)
        np.matmul(a[..., block, :], b, out=product[..., block, :])
    return product


def gram(columns: FloatArray) -> FloatArray:
    """Every column of `[..., k, n]` times every other, `[..., n, n]`; each pair is done once."""
    *batch, depth, width = columns.shape
    transposed = columns.swapaxes(-1, -2)
    product = np.empty((*batch, width, width), columns.dtype)
    start = 0
    while start < width:
        end = min(width, start + max(1, LARGEST_BLOCK // max(1, depth * (width - start))))
        block = product[..., start:end, start:]
        np.matmul(transposed[..., start:end, :], columns[..., start:], out=block)
        product[..., end:, start:end] = block[..., end - start :].swapaxes(-1, -2)
        start = end
    return product


def span(values: np.ndarray) -> float:
    """Highest less lowest; the largest magnitude where all are one; never 0.

    What a difference between two such arrays is measured against.
    """
    found = float(np.ptp(values)) or float(np.abs(values).max())
    return max(found, float(np.finfo(np.float32).tiny))
