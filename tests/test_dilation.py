"""The à trous conversion against its definition: old features are every second of the new ones.

Which ones is searched for here, and where the new ones lie is asked of their gradients.
"""

from __future__ import annotations

import copy
import itertools

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


def found_in(fine: torch.Tensor, old: torch.Tensor, finer: int) -> list[tuple[int, int]]:
    """From which rows and columns on every `finer`-th new feature is an old one, none left out."""
    firsts = itertools.product(range(finer), repeat=2)
    every = {(r, c): fine[..., r::finer, c::finer] for r, c in firsts}
    return [
        first
        for first, same in every.items()
        if same.shape == old.shape and torch.allclose(same, old, atol=1e-5, rtol=1e-5)
    ]


def dilated(trunk: nn.Module, from_stride: int, to_stride: int, size_hw: tuple[int, int]):
    """Where the old features are among the new ones, and these."""
    torch.manual_seed(1)
    picture = torch.randn(2, 3, *size_hw)
    made = dilate(trunk, from_stride, to_stride, size_hw)
    with torch.no_grad():
        fine, old = made(picture), trunk(picture)
    return found_in(fine, old, from_stride // to_stride), fine


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
        first = step - 1  # its windows lie a position after the middle at every step
        torch.testing.assert_close(new[..., first::step, first::step], old, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["gap_linear", "mobile"])
@pytest.mark.parametrize("size_hw", [(64, 64), (61, 75)])
def test_old_features_are_every_nth_of_the_new(name, size_hw):
    trunk = NETS[name]().body
    for to_stride in (8, 4, 2):
        firsts, fine = dilated(trunk, 16, to_stride, size_hw)
        assert firsts == [(0, 0)]  # padded alike on both sides
        assert fine.shape[2] > 2 * (size_hw[0] // 16) - 2


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


@settings(deadline=None, max_examples=50)
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
    firsts, fine = dilated(net, 8, to_stride, size_hw)
    assert len(firsts) == 1
    assert fine.isfinite().all()


def same(inputs, outputs, kernel, stride=1):
    return SameConv2d(inputs, outputs, kernel, stride)


def even(inputs, outputs, kernel, stride=1):
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2)


def pooled(inputs, outputs, kernel, stride=1):
    pool = nn.AvgPool2d(kernel, stride) if stride > 1 else nn.Identity()
    return nn.Sequential(pool, nn.Conv2d(inputs, outputs, 3, 1, 1))


def steps(layer, *kernels) -> nn.Sequential:
    """A stem of stride 2 and a layer of stride 2 for each kernel, each with one of stride 1."""
    torch.manual_seed(0)
    stem = layer(3, 4, 3, 2) if layer is not pooled else even(3, 4, 3, 2)
    more = (part for k in kernels for part in (layer(4, 4, k, 2), layer(4, 4, k | 1)))
    return nn.Sequential(stem, *more)


def displaced(net: nn.Module, stride: int, side: int = 256) -> float:
    """How far right of its cell's centre lies what a feature reads: pixels, by its gradient."""
    net = copy.deepcopy(net)
    for part in net.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.ones_(part.weight)  # so that nothing cancels
    picture = torch.zeros(1, 3, side, side, dtype=torch.float64, requires_grad=True)
    features = net.double()(picture)
    column = features.shape[3] // 2
    features[..., column].sum().backward()
    read = picture.grad.abs().sum((0, 1, 2)).nonzero().flatten()
    centre = (read[0] + read[-1] + 1) / 2
    return float(centre - (column + 0.5) * stride)


@pytest.mark.parametrize(
    ("layer", "kernels", "first", "before", "after"),
    [
        (same, (3, 3, 3), 7, 7.5, 0.5),
        (same, (5, 3), 3, 3.5, 0.5),
        (same, (3, 7), 3, 3.5, 0.5),
        (even, (3, 5, 3), 0, -7.5, -0.5),
        (pooled, (3, 3), 3, 2.5, -0.5),
        (pooled, (2, 2), 1, -0.5, 0.5),  # of 2 alone there is no middle: half a cell to the right
        (pooled, (2, 2, 2), 3, -0.5, 0.5),
    ],
)
def test_windows_are_centred_and_no_removed_step_moves_the_maps(
    layer, kernels, first, before, after
):
    net = steps(layer, *kernels)
    stride = 2 << len(kernels)
    assert displaced(net, stride) == before
    for side in (64, 128):
        firsts, fine = dilated(net, stride, 2, (side, side))
        assert firsts == [(first, first)]
        assert fine.shape[2] == net(torch.zeros(1, 3, side, side)).shape[2] * stride // 2
    assert displaced(dilate(net, stride, 2, (side, side)), 2) == after


class TwoWays(nn.Module):
    """A residual step whose shortcuts pool by 2, as ResNet-D does, and project; with a gate."""

    def __init__(self, layer, inputs: int, gated: bool) -> None:
        super().__init__()
        self.main = layer(inputs, 6, 3, 2)
        self.shortcut = nn.Sequential(nn.AvgPool2d(2, 2, ceil_mode=True), nn.Conv2d(inputs, 6, 1))
        self.project = nn.Conv2d(inputs, 6, 1, 2)
        self.gate = nn.Conv2d(6, 6, 1) if gated else None

    def forward(self, x):
        x = self.main(x) + self.shortcut(x) + self.project(x)
        return x * torch.sigmoid(self.gate(x.mean((2, 3), keepdim=True))) if self.gate else x


@pytest.mark.parametrize(("layer", "first"), [(even, 0), (same, 3)])
@pytest.mark.parametrize("size_hw", [(32, 32), (64, 32)])
def test_branches_move_together(layer, first, size_hw):
    torch.manual_seed(0)
    net = nn.Sequential(layer(3, 6, 3, 2), TwoWays(layer, 6, False), TwoWays(layer, 6, False))
    assert dilated(net, 8, 2, size_hw)[0] == [(first, first)]


@pytest.mark.parametrize("layer", [even, same])
def test_gates_do_not_stand_in_the_way(layer):
    torch.manual_seed(0)
    net = nn.Sequential(layer(3, 6, 3, 2), TwoWays(layer, 6, True), TwoWays(layer, 6, True))
    made = dilate(net, 8, 2, (32, 48))  # which compares them, gates as they were
    assert made(torch.zeros(1, 3, 32, 48)).shape[2:] == (16, 24)


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


class PadsAnew(nn.Conv2d):
    """A convolution that pads by what its stride asks for, each time."""

    def forward(self, x):
        return super().forward(functional.pad(x, (2 - self.stride[0], 1) * 2))


class Merging(nn.Module):
    """Swin's step: four neighbours become one position's channels."""

    def forward(self, x):
        return functional.pixel_unshuffle(x, 2)


@pytest.mark.parametrize(
    ("net", "strides", "words"),
    [
        (Functional(), (4, 2), "steps between its modules"),
        (nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), Merging()), (4, 2), r"1 \(Merging\).*2 to 4"),
        (nn.Sequential(even(3, 4, 3, 2), PadsAnew(4, 4, 3, 2)), (4, 2), "gives other features.*%"),
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
