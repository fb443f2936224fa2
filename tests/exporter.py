"""PyTorch's ONNX exporter, which lists all its operators anew in each export, made to do so once.

That list is most of what the export of a small network takes, and always the same.
"""

import functools

from torch.onnx._internal.exporter._registration import ONNXRegistry


def list_operators_once() -> None:
    """All exports of this process share one list of operators, which none of them changes."""
    if not hasattr(ONNXRegistry.from_torchlib, "cache_info"):
        ONNXRegistry.from_torchlib = staticmethod(functools.cache(ONNXRegistry.from_torchlib))
