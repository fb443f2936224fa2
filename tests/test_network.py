from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch.nn import functional

from gapcam.models import embedded
from gapcam.models.efficientnet_lite import (
    EfficientNetLite0,
    SameConv2d,
    fold_batch_norms,
    network_from_state,
)
from gapcam.types import ModelError

if TYPE_CHECKING:
    from torch import Tensor


@pytest.fixture(scope="module")
def network() -> EfficientNetLite0:
    return embedded.load_network()


def tensorflow_same(conv: SameConv2d, x: Tensor) -> Tensor:
    """The padding TensorFlow computes from the input's size, then a plain convolution."""
    pads = []
    for side in (3, 2):
        kernel, stride = conv.kernel_size[0], conv.stride[0]
        size = x.shape[side]
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        pads += [total // 2, total - total // 2]
    return functional.conv2d(
        functional.pad(x, pads), conv.weight, None, conv.stride, groups=conv.groups
    )


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size_hw", [(2, 2), (14, 20), (112, 64)])
def test_padding_is_tensorflows_same_for_even_inputs(
    kernel: int, stride: int, size_hw: tuple[int, int]
):
    torch.manual_seed(0)
    conv = SameConv2d(4, 4, kernel, stride, groups=4)
    x = torch.randn(1, 4, *size_hw)
    expected = tensorflow_same(conv, x)
    assert expected.shape[2:] == (size_hw[0] // stride, size_hw[1] // stride)
    torch.testing.assert_close(conv(x), expected)


def test_the_network_has_the_published_size(network: EfficientNetLite0):
    assert sum(p.numel() for p in network.parameters()) == 4_652_008
    assert len(network._blocks) == 16
    assert not network.training


@pytest.mark.parametrize("size_hw", [(224, 224), (32, 96)])
def test_features_have_strides_32_and_16(network: EfficientNetLite0, size_hw: tuple[int, int]):
    with torch.inference_mode():
        features, fine = network.spatial(torch.zeros(1, 3, *size_hw))
    h, w = size_hw
    assert features.shape == (1, 1280, h // 32, w // 32)
    assert fine.shape == (1, 112, h // 16, w // 16)


def test_folding_batch_norms_changes_nothing(network: EfficientNetLite0):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 64, 64)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    folded = fold_batch_norms(network)
    with torch.inference_mode():
        torch.testing.assert_close(folded(x), network(x), atol=1e-4, rtol=1e-4)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in folded.modules())
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), f"{name} of the original was changed"


def test_a_missing_weight_is_refused(network: EfficientNetLite0):
    state = network.state_dict()
    del state["_blocks.3._bn1.weight"]
    with pytest.raises(ModelError, match=r"w\.pth.*Missing key.*_blocks\.3\._bn1\.weight"):
        network_from_state(state, "w.pth")


def test_a_weight_too_many_is_refused(network: EfficientNetLite0):
    state = {**network.state_dict(), "_blocks.0._se_reduce.weight": torch.zeros(1)}
    with pytest.raises(ModelError, match=r"Unexpected key.*_se_reduce.*Reinstall"):
        network_from_state(state, "w.pth")


def test_a_weight_of_another_shape_is_refused(network: EfficientNetLite0):
    state = {**network.state_dict(), "_fc.weight": torch.zeros(10, 1280)}
    with pytest.raises(ModelError, match=r"size mismatch for _fc\.weight"):
        network_from_state(state, "w.pth")
