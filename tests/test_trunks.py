"""Trunks against what class maps are made of, trained for a step, exported with a new head."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import transformers
from torch import nn
from torch.nn import functional

from gapcam.models.dilation import dilate
from gapcam.models.gap_net import GapNet
from gapcam.models.heads import find_head
from gapcam.models.pooling import PooledLinear
from gapcam.models.pytorch.network import TorchNetwork
from gapcam.models.pytorch.trace import trace_module
from gapcam.models.sources import SourceModel
from gapcam.models.trunks import FoundTrunk, embedded_trunk, trunk_of
from gapcam.types import ModelError, Preprocessing
from head_nets import CLASSES, NETS, Headed, conv_block, traced

SIZE = (64, 64)
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:transformers")


def source(net: nn.Module, size_hw=SIZE) -> SourceModel:
    wants = Preprocessing(size_hw, (127.0,) * 3, (60.0,) * 3)
    return SourceModel("mine", net, (), (), wants, {}, ())


def pictures(size_hw=SIZE, count=3) -> torch.Tensor:
    return torch.randn(count, 3, *size_hw, generator=torch.Generator().manual_seed(4))


def planes_of_maps(name: str, net: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """What the torch engine makes class maps of."""
    program, trace = traced(name) if name in NETS else trace_module(net, SIZE)
    network = TorchNetwork(program, find_head(trace))
    return network.planes(network.run(x).features, tuple(x.shape[2:]))


def expected(name: str, net: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """What maps are made of: traced, or, where that takes long, as Transformers names it."""
    if name not in ("resnet", "convnext"):
        return planes_of_maps(name, net, x)
    with torch.no_grad():
        return net.get_submodule(name)(x).last_hidden_state


def resnet() -> nn.Module:
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 12, 16], depths=[1, 2, 1], num_labels=5
    )
    return transformers.ResNetForImageClassification(config)


def convnext() -> nn.Module:
    config = transformers.ConvNextConfig(
        hidden_sizes=[8, 12, 16, 20], depths=[1, 1, 2, 1], num_labels=5, drop_path_rate=0.3
    )
    return transformers.ConvNextForImageClassification(config)


def vit() -> nn.Module:
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=64,
        patch_size=16,
        num_labels=5,
        hidden_dropout_prob=0.2,
    )
    return transformers.ViTForImageClassification(config)


MAKERS = {
    **{name: NETS[name] for name in ("gap_functional_relu", "nhwc_swin", "tokens_registers_mean")},
    "resnet": resnet,
    "convnext": convnext,
    "vit": vit,
}


@pytest.fixture(scope="module")
def found() -> dict[str, tuple[nn.Module, FoundTrunk]]:
    return {}


@pytest.fixture
def pair(found):
    """A classifier, and its trunk."""

    def make(name: str) -> tuple[nn.Module, FoundTrunk]:
        if name not in found:
            torch.manual_seed(0)
            net = MAKERS[name]().eval()
            found[name] = net, trunk_of(source(net))
        net, trunk = found[name]
        return net, FoundTrunk(
            copy.deepcopy(trunk.trunk), trunk.channels, trunk.stride, trunk.words
        )

    return make


@pytest.mark.parametrize("name", MAKERS)
def test_a_trunk_gives_what_maps_are_made_of_and_learns(name, pair):
    net, trunk = pair(name)
    x = pictures()
    with torch.no_grad():
        features = trunk.trunk(x)
    torch.testing.assert_close(features, expected(name, net, x), atol=1e-5, rtol=1e-5)
    assert features.shape[1] == trunk.channels
    assert features.shape[2] * trunk.stride == SIZE[0]
    assert trunk.words.startswith("features: output of")
    alone = trunk.trunk(x[:1])
    torch.testing.assert_close(alone, features[:1], atol=1e-5, rtol=1e-5)
    learns(trunk)


def learns(found: FoundTrunk):
    """Every parameter that may learn gets a gradient, and one step moves the loss down."""
    torch.manual_seed(2)
    net = GapNet(found.trunk, PooledLinear(found.channels, 4)).train()
    nn.init.normal_(net.head.linear.weight, std=0.3)
    x, y = pictures(count=8), torch.arange(8) % 4
    free = [value for value in net.parameters() if value.requires_grad]
    loss = functional.cross_entropy(net(x), y)
    loss.backward()
    assert all(value.grad is not None for value in free)
    assert len(free) > 4
    state = copy.deepcopy(net.state_dict())
    with torch.no_grad():
        for value in net.parameters():
            value.add_(0.1)
    net.load_state_dict(state)
    assert all(torch.equal(state[name], value) for name, value in net.state_dict().items())


def test_the_given_network_is_left_as_it_is():
    net = NETS["gap_functional_relu"]().train()
    net.norm.eval()
    net.stem.requires_grad_(False)
    before = copy.deepcopy(net.state_dict())
    modes = [part.training for part in net.modules()]
    trunk = trunk_of(source(net)).trunk
    with torch.no_grad():
        for value in trunk.parameters():
            value.add_(1.0)
    trunk.train()(pictures()).sum().backward()
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert [part.training for part in net.modules()] == modes
    assert all(value.grad is None for value in net.parameters())
    assert not any(value.requires_grad for value in net.stem.parameters())
    assert all(value.requires_grad for value in trunk.parameters())
    assert not any(part._forward_hooks for part in (*net.modules(), *trunk.modules()))


def test_the_old_head_is_gone(pair):
    for name, part in (("vit", "classifier"), ("resnet", "classifier")):
        net, trunk = pair(name)
        assert isinstance(trunk.trunk.network.get_submodule(part), nn.Identity)
        assert part in trunk.words
        held = sum(value.numel() for value in trunk.trunk.parameters())
        assert held < sum(value.numel() for value in net.parameters())


def test_batch_norm_and_stochastic_depth_train(pair):
    trunk = pair("resnet")[1].trunk.train()
    norms = [part for part in trunk.modules() if isinstance(part, nn.BatchNorm2d)]
    counts = [int(norm.num_batches_tracked) for norm in norms]
    trunk(pictures())
    assert [int(norm.num_batches_tracked) for norm in norms] == [c + 1 for c in counts]
    deep = pair("convnext")[1].trunk
    for value in deep.parameters():  # the layer scales start at 1e-6
        nn.init.ones_(value) if value.ndim == 1 and value.max() < 1e-3 else None
    assert torch.equal(deep(pictures()), deep(pictures()))
    deep.train()
    assert not torch.equal(deep(pictures()), deep(pictures()))


@pytest.mark.parametrize(("name", "stride"), [("resnet", 8), ("convnext", 16)])
def test_trunks_of_convolutions_are_dilated(name, stride, pair):
    trunk = pair(name)[1]
    finer = dilate(trunk.trunk, trunk.stride, stride)
    step = trunk.stride // stride
    with torch.no_grad():
        old, new = trunk.trunk(pictures()), finer(pictures())
    assert new.shape[2] == step * old.shape[2]
    # padding that is the same on both sides, or none at all: every old window is where it was
    torch.testing.assert_close(new[..., ::step, ::step], old, atol=1e-5, rtol=1e-5)
    assert finer.state_dict().keys() == trunk.trunk.state_dict().keys()


def test_patches_are_not_dilated(pair):
    with pytest.raises(ModelError, match=r"projection \(Conv2d\).*1 to 16 at once"):
        dilate(pair("vit")[1].trunk, 16, 8)


@pytest.mark.parametrize("name", ["vit", "gap_functional_relu"])
def test_a_trunk_with_a_new_head_is_traced_as_gap_linear(name, pair):
    trunk = pair(name)[1]
    net = GapNet(trunk.trunk, PooledLinear(trunk.channels, 4)).eval()
    program, trace = trace_module(net, SIZE)
    plan = find_head(trace)
    assert plan.kind == "gap-linear"
    network = TorchNetwork(program, plan)
    for count in (1, 5):
        x = pictures(count=count)
        with torch.no_grad():
            torch.testing.assert_close(network.run(x).logits, net(x), atol=1e-5, rtol=1e-4)


def test_a_dilated_trunk_becomes_a_networks_file():
    from gapcam.models.file.build import network_of_module

    torch.manual_seed(0)
    net = nn.Sequential(
        conv_block(3, 8, 2), nn.MaxPool2d(2), nn.Conv2d(8, 8, 2, 2), nn.AvgPool2d(3, 2, 1),
        nn.Conv2d(8, 12, 3, 1, 1), nn.ReLU(),
    )  # fmt: skip
    whole = Headed(
        net.eval(), nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5))
    )
    trunk = trunk_of(source(whole.eval()), map_stride=4)
    assert trunk.stride == 4
    assert "stride 4 instead of 16" in trunk.words
    made = GapNet(trunk.trunk, PooledLinear(trunk.channels, 3)).eval()
    written = network_of_module(made, source(whole).preprocessing, "mine")
    assert written.kind == "gap-linear"
    assert written.layout.grid_hw == (16, 16)
    weights = made.head.linear.weight.detach().numpy()
    np.testing.assert_allclose(written.weights, weights, atol=1e-5)


def test_a_layer_is_taken_when_it_is_named(pair):
    net = NETS["gap_linear"]()
    trunk = trunk_of(source(net), layer="body.2")
    assert (trunk.channels, trunk.stride) == (16, 8)
    assert trunk.words.endswith("left out: body.3, head")
    blocks = pair("tokens_registers_mean")[0]
    early = trunk_of(source(blocks), layer="blocks.0")
    tokens = []
    handle = blocks.blocks[0].register_forward_hook(lambda m, a, out: tokens.append(out))
    with torch.no_grad():
        blocks(pictures())
        planes = early.trunk(pictures())
    handle.remove()
    assert torch.equal(planes.flatten(2).transpose(1, 2), tokens[0][:, 5:])
    with pytest.raises(ModelError, match=r"mine: layer 'body.nothing'"):
        trunk_of(source(net), layer="body.nothing")


class Between(nn.Module):
    """The features come from two modules, in the network's own code."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_block(3, 8, 4)
        self.one, self.two = nn.Conv2d(8, 8, 3, 2, 1), nn.Conv2d(8, 8, 1, 2)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x):
        x = self.stem(x)
        return self.head((self.one(x) + self.two(x)).mean((2, 3)))


def test_features_between_modules_fall_back_to_the_nearest_module():
    torch.manual_seed(0)
    net = Between().eval()
    trunk = trunk_of(source(net))
    assert (trunk.channels, trunk.stride) == (8, 4)
    assert "nearest that a module gives" in trunk.words
    with torch.no_grad():
        torch.testing.assert_close(trunk.trunk(pictures()), net.stem(pictures()))


class Zeroed(nn.Module):
    """A residual block whose last scale is zero: for all pictures its output is its input."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_block(3, 8, 8)
        self.last = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1), nn.BatchNorm2d(8))
        self.act = nn.ReLU()
        self.head = nn.Linear(8, CLASSES)
        nn.init.zeros_(self.last[1].weight)

    def forward(self, x):
        x = self.stem(x)
        return self.head(self.act(x + self.last(x)).mean((2, 3)))


def test_a_block_that_starts_as_the_identity_is_kept():
    trunk = trunk_of(source(Zeroed().eval()))
    assert "last.0.weight" in {
        n.removeprefix("network.") for n, _ in trunk.trunk.named_parameters()
    }


class ByValue(nn.Module):
    """Python code that asks for a tensor's value: it cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = conv_block(3, 8, 8), nn.Linear(8, CLASSES)

    def forward(self, x):
        x = self.body(x)
        if float(x.sum()) > 1e9:
            x = -x
        return self.head(x.mean((2, 3)))


class NoGradients(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = NETS["gap_linear"]()

    def forward(self, x):
        with torch.no_grad():
            return self.body(x)


def test_networks_that_cannot_be_traced_run_as_they_are():
    net = ByValue().eval()
    trunk = trunk_of(source(net))
    with torch.no_grad():
        torch.testing.assert_close(trunk.trunk(pictures()), net.body(pictures()))
    learns(trunk)


def test_what_cannot_be_a_trunk_is_refused():
    with pytest.raises(ModelError, match=r"mine: .*no tensor with positions"):
        trunk_of(source(NETS["no_head"]()))
    with pytest.raises(ModelError, match=r"records no gradients.*no_grad"):
        trunk_of(source(NoGradients().eval()))


def test_the_embedded_trunk_is_the_networks_body():
    from gapcam.models.embedded import load_network

    found, whole = embedded_trunk(), load_network()
    x = pictures((64, 96), 1)
    with torch.no_grad():
        assert torch.equal(found.trunk(x), whole.spatial(x).features)
    assert (found.channels, found.stride) == (1280, 32)
    assert found.trunk.state_dict().keys() == whole.state_dict().keys() - {"_fc.weight", "_fc.bias"}
    learns(found)
