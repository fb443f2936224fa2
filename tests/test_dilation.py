"""The à trous conversion against its definition: old features are every second of the new ones."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from gapcam.models.dilation import dilate
from gapcam.models.efficientnet_lite import SameConv2d
from gapcam.models.trunks import embedded_trunk
from gapcam.types import ArgumentError, ModelError
from head_nets import NETS


def sampled(trunk: nn.Module, from_stride: int, to_stride: int, size_hw: tuple[int, int]):
    """Old features and those of the dilated net at the same positions."""
    torch.manual_seed(1)
    picture = torch.randn(2, 3, *size_hw)
    made = dilate(trunk, from_stride, to_stride, size_hw)
    finer = from_stride // to_stride
    with torch.no_grad():
        fine = made(picture)
        return trunk(picture), fine[..., ::finer, ::finer], fine


@pytest.mark.parametrize("to_stride", [16, 8])
def test_the_embedded_trunk_keeps_its_features_and_its_names(to_stride):
    trunk = embedded_trunk().trunk
    finer = embedded_trunk(to_stride)
    assert finer.stride == to_stride
    assert str(to_stride) in finer.words
    state = finer.trunk.state_dict()
    assert state.keys() == trunk.state_dict().keys()
    assert all(torch.equal(state[name], value) for name, value in trunk.state_dict().items())
    torch.manual_seed(0)
    for size_hw in ((128, 160), (96, 64)):
        picture = torch.randn(1, 3, *size_hw)
        with torch.no_grad():
            old, new = trunk(picture), finer.trunk(picture)
        assert new.shape == (1, 1280, size_hw[0] // to_stride, size_hw[1] // to_stride)
        step = 32 // to_stride
        torch.testing.assert_close(new[..., ::step, ::step], old, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["gap_linear", "mobile"])
@pytest.mark.parametrize("size_hw", [(64, 64), (61, 75)])
def test_old_features_are_every_nth_of_the_new(name, size_hw):
    trunk = NETS[name]().body
    for to_stride in (8, 4, 2):
        old, same, fine = sampled(trunk, 16, to_stride, size_hw)
        torch.testing.assert_close(same, old, atol=1e-5, rtol=1e-5)
        assert fine.shape[2] > 2 * old.shape[2] - 2


def windowed(kernel, padding, ceil, kind):
    pool = {
        "conv": lambda: nn.Conv2d(6, 6, kernel, 2, padding, groups=3),
        "max": lambda: nn.MaxPool2d(kernel, 2, padding, ceil_mode=ceil),
        "mean": lambda: nn.AvgPool2d(kernel, 2, padding, ceil_mode=ceil, count_include_pad=ceil),
    }[kind]
    torch.manual_seed(2)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, 2, 1), pool(), nn.Conv2d(6, 6, 3, 1, 1), nn.AvgPool2d(3, 1, 1),
        nn.MaxPool2d(3, 1, 1), pool(), nn.Conv2d(6, 4, 5, 1, 2),
    )  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(
    kernel=st.integers(1, 4),
    ceil=st.booleans(),
    kind=st.sampled_from(["conv", "max", "mean"]),
    size_hw=st.tuples(st.integers(60, 80), st.integers(60, 80)),
    to_stride=st.sampled_from([4, 2]),
    padded=st.booleans(),
)
def test_any_window_lines_up_at_any_size(kernel, ceil, kind, size_hw, to_stride, padded):
    net = windowed(kernel, kernel // 2 if padded and kernel > 1 else 0, ceil, kind)
    old, same, _ = sampled(net, 8, to_stride, size_hw)
    torch.testing.assert_close(same, old, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kernel", [3, 5])
def test_asymmetric_padding_lines_up(kernel):
    torch.manual_seed(0)
    net = nn.Sequential(
        SameConv2d(3, 4, 3, 2), SameConv2d(4, 4, kernel, 2, groups=4), SameConv2d(4, 5, kernel)
    )
    old, same, fine = sampled(net, 4, 2, (32, 48))
    torch.testing.assert_close(same, old, atol=1e-6, rtol=1e-5)
    assert fine.shape[2:] == (16, 24)


class TwoWays(nn.Module):
    """A residual step whose shortcut pools by 2 and projects, as ResNet-D does."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, 2, 1)
        self.main = nn.Conv2d(6, 6, 3, 2, 1)
        self.shortcut = nn.Sequential(nn.AvgPool2d(2, 2, ceil_mode=True), nn.Conv2d(6, 6, 1))
        self.project = nn.Conv2d(6, 6, 1, 2)
        self.gate = nn.Conv2d(6, 6, 1)

    def forward(self, x):
        x = self.stem(x)
        x = self.main(x) + self.shortcut(x) + self.project(x)
        return x * torch.sigmoid(self.gate(x.mean((2, 3), keepdim=True)))


def test_branches_change_together_and_gates_do_not_stand_in_the_way():
    torch.manual_seed(0)
    net = TwoWays()
    for size_hw in ((32, 32), (30, 46)):
        made = dilate(net, 4, 2, size_hw)
        assert made(torch.zeros(1, 3, *size_hw)).shape[2:] == (size_hw[0] // 2, size_hw[1] // 2)


def test_the_given_trunk_is_left_as_it_is():
    trunk = NETS["gap_linear"]().body.train()
    before, words = copy.deepcopy(trunk.state_dict()), repr(trunk)
    made = dilate(trunk, 16, 8)
    assert repr(trunk) == words
    assert all(torch.equal(before[name], value) for name, value in trunk.state_dict().items())
    assert all(part.training for part in (*made.modules(), *trunk.modules()))
    made(torch.randn(2, 3, 64, 64)).sum().backward()
    assert all(value.grad is not None for value in made.parameters())
    assert all(value.grad is None for value in trunk.parameters())


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, 2, 1)
        self.last = nn.Conv2d(4, 4, 3, 1, 1)

    def forward(self, x):
        return self.last(functional.max_pool2d(self.stem(x), 2))


class Merging(nn.Module):
    """Swin's step: four neighbours become one position's channels."""

    def forward(self, x):
        return functional.pixel_unshuffle(x, 2)


@pytest.mark.parametrize(
    ("net", "strides", "words"),
    [
        (Functional(), (4, 2), "steps between its modules"),
        (nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), Merging()), (4, 2), r"1 \(Merging\).*2 to 4"),
        (nn.Sequential(nn.Conv2d(3, 4, 8, 8)), (8, 4), r"0 \(Conv2d\).*1 to 8 at once"),
        (
            nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1, padding_mode="reflect")),
            (2, 1),
            "'reflect'.*Leave the map stride",
        ),
    ],
)
def test_what_cannot_be_dilated_is_named(net, strides, words):
    with pytest.raises(ModelError, match=words):
        dilate(net, *strides, (32, 32))


def test_strides_that_are_no_half_are_refused():
    for to_stride in (32, 12, 0, 1):
        with pytest.raises(ArgumentError, match=r"map stride.*16"):
            dilate(nn.Identity(), 16, to_stride)
