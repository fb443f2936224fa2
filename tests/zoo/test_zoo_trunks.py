"""Other libraries' classifiers as trunks: their features, gradients, dilation and export."""

from __future__ import annotations

import pytest
import timm
import torch
import torchvision
from torch import nn
from zoo_models import wake

from gapcam.models.dilation import dilate
from gapcam.models.file.build import network_of_module
from gapcam.models.gap_net import GapNet
from gapcam.models.heads import find_head
from gapcam.models.pooling import PooledLinear
from gapcam.models.pytorch.network import TorchNetwork
from gapcam.models.pytorch.trace import trace_module
from gapcam.models.sources import SourceModel
from gapcam.models.trunks import trunk_of
from gapcam.types import ModelError, Preprocessing

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
    "ignore::UserWarning:torch",
    "ignore::UserWarning:timm",
)
WANTED = Preprocessing((224, 224), (123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
CONVOLUTIONS = (
    "timm:resnet18",
    "timm:mobilenetv3_small_100",
    "timm:densenet121",
    "timm:convnext_atto",
    "torchvision:resnet18",
    "torchvision:densenet121",
    "torchvision:googlenet",
    "torchvision:vgg11",
)
PATCHES = ("timm:vit_tiny_patch16_224", "timm:swin_tiny_patch4_window7_224")


def classifier(spec: str) -> nn.Module:
    library, _, name = spec.partition(":")
    torch.manual_seed(0)
    if library == "timm":
        net = timm.create_model(name, pretrained=False, num_classes=10)
    else:
        asked = {"init_weights": False} if name == "googlenet" else {}
        net = torchvision.models.get_model(name, weights=None, num_classes=10, **asked)
    with torch.no_grad():
        for path, value in net.named_parameters():
            wake(path, value)
    return net.eval()


@pytest.mark.parametrize("spec", CONVOLUTIONS + PATCHES)
def test_a_trunk_is_what_maps_are_made_of_learns_and_exports(spec):
    net = classifier(spec)
    found = trunk_of(SourceModel(spec, net, (), (), WANTED, {}, ()))
    picture = torch.randn(2, 3, 224, 224)
    program, trace = trace_module(net, (224, 224))
    network = TorchNetwork(program, find_head(trace))
    with torch.no_grad():
        expected = network.planes(network.run(picture).features, (224, 224))
        features = found.trunk(picture)
    torch.testing.assert_close(features, expected, atol=1e-5, rtol=1e-4)
    assert features.shape[1] == found.channels
    assert features.shape[2] == 224 // found.stride
    made = GapNet(found.trunk, PooledLinear(found.channels, 4))
    made.train()(picture).square().sum().backward()
    assert all(value.grad is not None for value in made.parameters() if value.requires_grad)
    written = network_of_module(made.eval(), WANTED, spec)
    assert written.kind == "gap-linear"
    assert written.layout.grid_hw == tuple(features.shape[2:])
    check_dilation(spec, found.trunk, found.stride, picture)


def check_dilation(spec: str, trunk: nn.Module, stride: int, picture: torch.Tensor):
    for finer in (16, 8):
        if finer >= stride:
            continue
        if spec in PATCHES:
            with pytest.raises(ModelError, match=r"cannot be dilated|at once"):
                dilate(trunk, stride, finer)
            continue
        step = stride // finer
        made = dilate(trunk, stride, finer)
        assert made.state_dict().keys() == trunk.state_dict().keys()
        with torch.no_grad():
            old, new = trunk(picture), made(picture)
        assert new.shape[2:] == (224 // finer, 224 // finer)
        if "mobilenetv3" not in spec:  # its gates average over all positions, the new ones too
            found = [new[..., first::step, first::step] for first in range(step)]
            # googlenet's features hardly vary with random weights, and fit at two of them
            assert any(torch.allclose(f, old, atol=1e-4, rtol=1e-4) for f in found)
