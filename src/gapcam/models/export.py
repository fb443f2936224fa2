"""PyTorch network to ONNX, spatial part only. Imports PyTorch."""

from __future__ import annotations

from typing import Protocol

import onnx
import torch
from torch import Tensor, nn

from gapcam.models.graph import NETWORK_INPUT, OPSET
from gapcam.types import ModelError


class SpatialNetwork(Protocol):
    """A network whose part before the pooling can be called."""

    def spatial(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`[B, 3, H, W]` to features and fine features."""


class _Trunk(nn.Module):
    def __init__(self, network: SpatialNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features, fine_features = self.network.spatial(x)
        return features, fine_features


def export_network(network: SpatialNetwork, example_side: int = 224) -> onnx.ModelProto:
    """The part before the pooling as ONNX: `network_input` to `features`, `fine_features`.

    Batch, height and width stay free.

    Args:
        network: In evaluation mode; it is not changed.
        example_side: The picture side it is traced with, pixels.

    Raises:
        ModelError: The exporter gave no graph.
    """
    free = {0: "batch", 2: "height", 3: "width"}
    program = torch.onnx.export(
        _Trunk(network).eval(),
        (torch.zeros(2, 3, example_side, example_side),),
        dynamo=True,
        opset_version=OPSET,
        input_names=[NETWORK_INPUT],
        output_names=["features", "fine_features"],
        dynamic_shapes={"x": free},
        verbose=False,
    )
    if program is None:
        raise ModelError(f"PyTorch could not export {type(network).__name__} to ONNX.")
    return program.model_proto
