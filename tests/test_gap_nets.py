"""The paper's networks: names and counts of weights, mapping resolution, checkpoints, export."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from gapcam.models.gap_net import FlattenNet, GapNet, network_of_net
from gapcam.models.gap_nets import NAMES, OriginalNet, paper_net, paper_preprocessing
from gapcam.models.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from gapcam.types import ArgumentError, ModelError
from head_nets import CHANNELS, trunk

RESOLUTION = {"alexnet": 13, "alexnet-star": 13, "vgg16": 14, "googlenet": 14}
TRUNK_CHANNELS = {"alexnet": 256, "alexnet-star": 256, "vgg16": 512, "googlenet": 832}
ORIGINAL_WEIGHTS = {  # with 1000 classes, as torchvision counts them
    "alexnet": 61_100_840,
    "vgg16": 138_357_544,
    "googlenet": 6_624_904,
}
FEATURE_LAYERS = {  # of torchvision's checkpoints
    "alexnet": {0: (64, 3, 11, 11), 3: (192, 64, 5, 5), 6: (384, 192, 3, 3)}
    | {8: (256, 384, 3, 3), 10: (256, 256, 3, 3)},
    "vgg16": {0: (64, 3, 3, 3), 2: (64, 64, 3, 3), 5: (128, 64, 3, 3), 7: (128, 128, 3, 3)}
    | {10: (256, 128, 3, 3), 12: (256, 256, 3, 3), 14: (256, 256, 3, 3)}
    | {17: (512, 256, 3, 3), 19: (512, 512, 3, 3), 21: (512, 512, 3, 3)}
    | {24: (512, 512, 3, 3), 26: (512, 512, 3, 3), 28: (512, 512, 3, 3)},
}
GOOGLENET_WEIGHTS = {
    "conv1.conv.weight": (64, 3, 7, 7),
    "conv1.bn.running_var": (64,),
    "conv2.conv.weight": (64, 64, 1, 1),
    "conv3.conv.weight": (192, 64, 3, 3),
    "inception3a.branch1.conv.weight": (64, 192, 1, 1),
    "inception3b.branch2.0.conv.weight": (128, 256, 1, 1),
    "inception4a.branch3.1.conv.weight": (48, 16, 3, 3),
    "inception4d.branch2.1.bn.weight": (288,),
    "inception4e.branch4.1.conv.weight": (128, 528, 1, 1),
}


def on_paper(name: str, classes: int, pool: str) -> nn.Module:
    """Without memory for its weights."""
    with torch.device("meta"):
        return paper_net(name, classes, pool)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("pool", ["gap", "gmp", "lse", "tap"])
def test_maps_have_the_papers_resolution(name: str, pool: str):
    net = on_paper(name, 20, pool).eval()
    pictures = torch.empty(2, 3, 224, 224, device="meta")
    side = RESOLUTION[name]
    assert net.trunk(pictures).shape == (2, TRUNK_CHANNELS[name], side, side)
    features = net.spatial(pictures)
    assert features.shape == (2, 1024, side, side)
    assert net.head.pool == pool
    assert net.head.class_maps(features).shape == (2, 20, side, side)
    assert net(pictures).shape == (2, 20)


@pytest.mark.parametrize("name", NAMES)
def test_the_added_layers_are_the_papers(name: str):
    convs = [m for m in on_paper(name, 10, "gap").added.modules() if isinstance(m, nn.Conv2d)]
    assert [c.out_channels for c in convs] == ([512, 1024] if "star" in name else [1024])
    for conv in convs:
        assert (conv.kernel_size, conv.stride, conv.padding) == ((3, 3), (1, 1), (1, 1))
        assert conv.groups == 1
        assert conv.bias is not None


@pytest.mark.parametrize("name", FEATURE_LAYERS)
def test_trunks_have_torchvisions_names_and_shapes(name: str):
    expected = {f"features.{i}.weight": shape for i, shape in FEATURE_LAYERS[name].items()}
    expected |= {f"features.{i}.bias": shape[:1] for i, shape in FEATURE_LAYERS[name].items()}
    trunk = on_paper(name, 10, "gap").trunk
    assert {key: tuple(value.shape) for key, value in trunk.state_dict().items()} == expected


def test_googlenets_trunk_has_torchvisions_names_and_ends_at_inception4e():
    state = on_paper("googlenet", 10, "gap").trunk.state_dict()
    assert {key: tuple(state[key].shape) for key in GOOGLENET_WEIGHTS} == GOOGLENET_WEIGHTS
    stages = {key.split(".")[0] for key in state}
    assert stages == {"conv1", "conv2", "conv3", "inception3a", "inception3b"} | {
        f"inception4{letter}" for letter in "abcde"
    }


@pytest.mark.parametrize("name", ORIGINAL_WEIGHTS)
def test_the_original_networks_have_as_many_weights_as_torchvisions(name: str):
    net = on_paper(name, 1000, "fc")
    assert count(net) == ORIGINAL_WEIGHTS[name]
    assert count(net.trunk) + count(net.head) == count(net)
    pictures = torch.empty(2, 3, 224, 224, device="meta")
    assert net.eval()(pictures).shape == (2, 1000)
    assert net.spatial(pictures).shape == net.trunk(pictures).shape


def test_alexnet_star_with_fc_is_alexnet():
    star, plain = on_paper("alexnet-star", 5, "fc"), on_paper("alexnet", 5, "fc")
    assert star.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize("name", ["alexnet-star", "googlenet"])
def test_features_of_a_new_net_neither_vanish_nor_explode(name: str):
    torch.manual_seed(0)
    net = paper_net(name, 10, "gap")
    with torch.no_grad():
        features = net.spatial(torch.randn(2, 3, 96, 96))
    assert 0.05 < features.std() < 5
    assert (features > 0).any((0, 2, 3)).float().mean() > 0.5


def test_the_same_seed_gives_the_same_net():
    made = []
    for _ in range(2):
        torch.manual_seed(3)
        made.append(paper_net("googlenet", 4, "tap").state_dict())
    assert all(torch.equal(made[0][key], value) for key, value in made[1].items())


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    """A checkpoint of GoogLeNet with 6 classes, wrapped and with auxiliary heads as it comes."""
    torch.manual_seed(1)
    state = paper_net("googlenet", 6, "fc").state_dict()
    state |= {"aux1.fc2.weight": torch.zeros(6, 1024), "aux2.conv.conv.weight": torch.zeros(1)}
    path = tmp_path_factory.mktemp("checkpoint") / "googlenet.pth"
    torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}}, path)
    return path


def loaded(path: Path) -> dict[str, torch.Tensor]:
    state = torch.load(path, weights_only=True)["state_dict"]
    return {key.removeprefix("module."): value for key, value in state.items()}


def test_a_trunk_is_filled_from_a_checkpoint(original: Path):
    state = loaded(original)
    torch.manual_seed(2)
    net = paper_net("googlenet", 3, "gmp", checkpoint=original)
    for key, value in net.trunk.state_dict().items():
        assert torch.equal(value, state[key]), key


@pytest.mark.parametrize("classes", [6, 4])
def test_the_original_head_is_filled_where_the_classes_are_as_many(original: Path, classes: int):
    state = loaded(original)
    net = paper_net("googlenet", classes, "fc", checkpoint=original)
    for key, value in net.state_dict().items():
        if classes == 6 or not key.startswith("fc."):
            assert torch.equal(value, state[key]), key
    assert net.fc.out_features == classes


def test_a_checkpoint_of_another_network_is_refused(original: Path, tmp_path: Path):
    with pytest.raises(
        ModelError, match=r"googlenet\.pth: these are not torchvision's weights of "
    ):
        paper_net("alexnet", 6, "gap", checkpoint=original)
    with pytest.raises(ModelError, match=r"nothing\.pth: there is no such file"):
        paper_net("alexnet", 6, "gap", checkpoint=tmp_path / "nothing.pth")


@pytest.mark.parametrize("change", ["missing", "unexpected", "shape"])
@pytest.mark.parametrize("pool", ["gap", "fc"])
def test_every_tensor_of_a_trunk_must_fit(original: Path, tmp_path: Path, change: str, pool: str):
    state, key = loaded(original), "inception4e.branch4.1.conv.weight"
    if change == "missing":
        del state[key]
    elif change == "unexpected":
        state["inception4f.branch1.conv.weight"] = torch.zeros(1)
    else:
        state[key] = torch.zeros(1, 2)
    path = tmp_path / "odd.pth"
    torch.save(state, path)
    said = {
        "missing": rf"missing in the file: {key}",
        "unexpected": r"not in the network: inception4f",
        "shape": rf"of another shape: {key} \(128, 528, 1, 1\) in the file \(1, 2\)",
    }
    with pytest.raises(ModelError, match=rf"odd\.pth: .*weights of googlenet: {said[change]}"):
        paper_net("googlenet", 6, pool, checkpoint=path)


def test_alexnet_gap_becomes_a_model_files_network():  # GoogLeNet-GAP does in tests/zoo
    # The graph is compared with PyTorch at this and other sizes by network_of_net itself.
    torch.manual_seed(4)
    net = paper_net("alexnet", 5, "gap")
    network = network_of_net(net, paper_preprocessing("alexnet"), "alexnet")
    assert network.kind == "gap-linear"
    assert network.layout.grid_hw == (13, 13)
    assert network.fixed_hw is None
    assert network.fine_layout.grid_hw == (27, 27)
    np.testing.assert_allclose(network.weights, net.head.linear.weight.detach(), atol=1e-5)


def test_googlenet_takes_pixels_as_torchvision_turns_them_inside():
    assert paper_preprocessing("vgg16").size_hw == (224, 224)
    imagenet, own = paper_preprocessing("alexnet"), paper_preprocessing("googlenet")
    pixels = np.array([0.0, 100.0, 255.0])
    for channel in range(3):
        normal = (pixels - imagenet.mean[channel]) / imagenet.scale[channel]
        mean, deviation = IMAGENET_MEAN[channel], IMAGENET_STD[channel]
        transformed = normal * (deviation / 0.5) + (mean - 0.5) / 0.5
        ours = (pixels - own.mean[channel]) / own.scale[channel]
        np.testing.assert_allclose(ours, transformed, atol=1e-12)


def test_what_is_unknown_is_named():
    with pytest.raises(ArgumentError, match=r"network: expected alexnet or .*, got 'resnet50'"):
        paper_net("resnet50", 5, "gap")
    with pytest.raises(ArgumentError, match=r"network: expected alexnet or .*, got 'vgg19'"):
        paper_preprocessing("vgg19")
    with pytest.raises(ArgumentError, match=r"pool: expected gap or gmp or lse or tap or fc, got"):
        paper_net("alexnet", 5, "mean")
    with pytest.raises(ArgumentError, match=r"classes: expected at least 1, got 0"):
        paper_net("alexnet", 0, "gap")


def test_a_flatten_net_has_a_weight_for_every_position():
    torch.manual_seed(5)
    net = FlattenNet(trunk(), CHANNELS, (4, 4), 7, (32, 16), dropout=0.25).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        values = net.spatial(x).flatten(1)
        for layer in [m for m in net.head if isinstance(m, nn.Linear)]:
            hidden = values @ layer.weight.T + layer.bias
            values = hidden.clamp(min=0)
        torch.testing.assert_close(net(x), hidden)
    assert [m.p for m in net.head if isinstance(m, nn.Dropout)] == [0.25, 0.25]
    with pytest.raises(ArgumentError, match=r"FlattenNet: expected channels, .* got \(24, 0, 4"):
        FlattenNet(trunk(), CHANNELS, (0, 4), 7)


def test_both_forms_have_a_trunk_and_a_head():
    for pool, kind in (("gap", GapNet), ("fc", OriginalNet)):
        net = on_paper("alexnet", 5, pool)
        assert isinstance(net, kind)
        in_trunk = {id(p) for p in net.trunk.parameters()}
        assert in_trunk == {id(p) for k, p in net.named_parameters() if "features." in k}
