"""The paper's networks against torchvision's: names, shapes and outputs with the same weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn

from gapcam.models.gap_net import network_of_net
from gapcam.models.gap_nets import paper_net, paper_preprocessing

pytestmark = pytest.mark.filterwarnings(
    # What torch.export and the exporter say of themselves.
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
    "ignore::UserWarning:torch",
)

CLASSES = 12


def reference(name: str) -> nn.Module:
    torch.manual_seed(0)
    options = {}
    if name == "googlenet":  # as it is made with its weights
        options = {"aux_logits": True, "transform_input": True, "init_weights": False}
    net = torchvision.models.get_model(name, weights=None, num_classes=CLASSES, **options)
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, std=0.3)
            part.running_mean.normal_(0, 0.2)
            part.running_var.uniform_(0.5, 1.5)
    return net.eval()


def up_to_the_trunks_end(name: str, net: nn.Module, x: Tensor) -> Tensor:
    """torchvision's own layers: to conv5, to conv5_3, to inception4e."""
    if name != "googlenet":
        return net.features[:-1](x)
    seen = []
    hook = net.inception4e.register_forward_hook(lambda module, given, out: seen.append(out))
    net(x)
    hook.remove()
    return seen[0]


@pytest.mark.parametrize("name", ["alexnet", "vgg16", "googlenet"])
def test_trunk_and_original_give_what_torchvisions_give(name: str, tmp_path: Path):
    theirs = reference(name)
    path = tmp_path / f"{name}.pth"
    torch.save(theirs.state_dict(), path)
    ours = paper_net(name, 5, "gap", checkpoint=path).eval()
    state = theirs.state_dict()
    for key, value in ours.trunk.state_dict().items():
        assert torch.equal(value, state[key]), key
    left = {key for key in state if key not in ours.trunk.state_dict()}
    starts = {key.split(".")[0] for key in left}
    assert starts <= {"classifier", "inception5a", "inception5b", "fc", "aux1", "aux2"}

    pixels = torch.randint(0, 256, (2, 3, 224, 224)).float()
    with torch.no_grad():
        features = ours.trunk(prepared(name, pixels))
        expected = up_to_the_trunks_end(name, theirs, prepared("alexnet", pixels))
        assert features.shape == expected.shape
        torch.testing.assert_close(features, expected, rtol=1e-5, atol=1e-5 * scale(expected))
        whole = paper_net(name, CLASSES, "fc", checkpoint=path).eval()
        kept = {key for key in state if not key.startswith("aux")}
        assert set(whole.state_dict()) == kept
        expected = theirs(prepared("alexnet", pixels))
        logits = whole(prepared(name, pixels))
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5 * scale(expected))


@pytest.mark.parametrize(
    ("name", "pool"), [("googlenet", "gap"), ("googlenet", "lse"), ("alexnet-star", "tap")]
)
def test_the_papers_networks_become_model_files(name: str, pool: str):
    # The graph is compared with PyTorch at this and other sizes by network_of_net itself.
    torch.manual_seed(4)
    net = paper_net(name, 5, pool)
    network = network_of_net(net, paper_preprocessing(name), name)
    assert network.kind == f"{pool}-linear"
    side, finer = (14, 28) if name == "googlenet" else (13, 27)
    assert network.layout.grid_hw == (side, side)
    assert network.fine_layout.grid_hw == (finer, finer)
    assert network.fixed_hw is None


def prepared(name: str, pixels: Tensor) -> Tensor:
    """What a network of ours takes; torchvision's GoogLeNet takes what AlexNet does."""
    wants = paper_preprocessing(name)
    mean = torch.tensor(wants.mean).reshape(3, 1, 1)
    return (pixels - mean) / torch.tensor(wants.scale).reshape(3, 1, 1)


def scale(values: Tensor) -> float:
    return float(values.abs().max())
