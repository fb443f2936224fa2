"""PyTorch's ONNX exporter, which lists all its operators anew in each export, made to do so once.

That list is most of what the export of a small network takes, and always the same.
"""

import functools

from torch._export import utils
from torch.onnx._internal.exporter._registration import ONNXRegistry


def list_operators_once() -> None:
    """All exports of this process share the lists of operators, which none of them changes."""
    if not hasattr(ONNXRegistry.from_torchlib, "cache_info"):
        ONNXRegistry.from_torchlib = staticmethod(functools.cache(ONNXRegistry.from_torchlib))
    if not hasattr(utils._collect_all_valid_cia_ops_for_namespace, "cache_info"):
        listed = functools.cache(utils._collect_all_valid_cia_ops_for_namespace)
        utils._collect_all_valid_cia_ops_for_namespace = listed
