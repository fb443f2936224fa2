from __future__ import annotations

import functools

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn import functional

from gapcam.models.embedded import load_network
from gapcam.models.heads import find_head
from gapcam.models.heads.axes import carried, regrouped
from gapcam.models.onnx_graphs.trace import trace_onnx
from gapcam.models.pytorch.trace import trace_module
from gapcam.models.trace import Layout, Step, Trace
from gapcam.types import ModelError
from head_nets import (
    CHANNELS,
    CLASSES,
    NETS,
    SIDE,
    TOKENS,
    Headed,
    Residual,
    gap,
    old_onnx,
    traced,
    trunk,
)

PLANE = Layout(1, (2, 3), (4, 4))
PATCHES = Layout(2, (1,), (8, 8))
FOUND = {
    "gap_linear": ("gap-linear", CHANNELS, PLANE),
    "gap_functional_relu": ("gap-linear", CHANNELS, PLANE),
    "gap_conv1x1": ("gap-linear", CHANNELS, PLANE),
    "conv1x1_gap": ("gap-linear", CHANNELS, PLANE),
    "squeezenet": ("gap-linear", CLASSES, PLANE),
    "gap_batchnorm_linear": ("gap-linear", CHANNELS, PLANE),
    "gap_two_linear": ("gap-linear", CHANNELS, PLANE),
    "window_avgpool": ("gap-linear", CHANNELS, PLANE),
    "sum_linear": ("gap-linear", CHANNELS, PLANE),
    "gmp_linear": ("gmp-linear", CHANNELS, PLANE),
    "gap_norm_linear": ("gap-norm-linear", CHANNELS, PLANE),
    "gap_rms_linear": ("gap-norm-linear", CHANNELS, PLANE),
    "gap_l2_linear": ("gap-norm-linear", CHANNELS, PLANE),
    "gap_hidden": ("gap-hidden", CHANNELS, PLANE),
    "flatten_linear": ("flatten-linear", CHANNELS, PLANE),
    "flatten_hidden": ("flatten-hidden", CHANNELS, PLANE),
    "mobile": ("gap-linear", CHANNELS, PLANE),
    "squeezed": ("gap-linear", CHANNELS, PLANE),
    "nhwc_swin": ("gap-linear", CHANNELS, PLANE),
    "tokens_mean": ("gap-linear", TOKENS, PATCHES),
    "tokens_mean_norm": ("gap-norm-linear", TOKENS, PATCHES),
    "tokens_class": ("class-token", TOKENS, Layout(2, (1,), (8, 8), 1)),
    "tokens_registers_mean": ("gap-linear", TOKENS, PATCHES),
    "tokens_registers_class": ("class-token", TOKENS, Layout(2, (1,), (8, 8), 5)),
    "tokens_mix": ("token-mix", TOKENS, Layout(2, (1,), (8, 8), 1)),
}


@functools.cache
def file_of(name: str) -> bytes:
    return old_onnx(NETS[name]())


def onnx_trace(net: nn.Module | str, size_hw: tuple[int, int] = (SIDE, SIDE)) -> Trace:
    """Of a network, or of the one of `NETS` that is called so."""
    data = file_of(net) if isinstance(net, str) else old_onnx(net, size_hw=size_hw)
    return trace_onnx(onnx.load_from_string(data), size_hw)


def run(net: nn.Module | str, wanted: list[str], noise: np.ndarray) -> list[np.ndarray]:
    """Tensors of the network as ONNX Runtime computes them."""
    data = file_of(net) if isinstance(net, str) else old_onnx(net, size_hw=noise.shape[2:])
    proto = onnx.load_from_string(data)
    del proto.graph.output[:]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"picture": noise})


def pictures(*size_hw: int) -> np.ndarray:
    return np.random.default_rng(3).normal(0, 1, (2, 3, *(size_hw or (SIDE, SIDE)))).astype("f")


@pytest.mark.parametrize("name", FOUND)
@pytest.mark.parametrize("front", ["onnx", "torch"])
def test_every_kind_of_head_is_found_from_both_front_ends(name: str, front: str):
    trace = onnx_trace(name) if front == "onnx" else traced(name)[1]
    plan = find_head(trace)
    kind, channels, layout = FOUND[name]
    assert (plan.kind, plan.layout) == (kind, layout)
    assert trace.shapes[plan.features][layout.channel_axis] == channels
    assert plan.head[-1].outputs == (trace.logits,)


WEIGHTS = {
    "gap_linear": lambda net: net.head[2],
    "gap_functional_relu": lambda net: net.classifier,
    "gap_conv1x1": lambda net: net.head[1],
    "conv1x1_gap": lambda net: net.head[0],
    "window_avgpool": lambda net: net.head[2],
    "mobile": lambda net: net.head[3],
    "squeezed": lambda net: net.head[2],
    "nhwc_swin": lambda net: net.classifier,
    "tokens_mean": lambda net: net.classifier,
    "tokens_registers_mean": lambda net: net.classifier,
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_the_mean_of_the_features_times_the_weights_is_the_logits(name: str):
    net = NETS[name]()
    plan = find_head(onnx_trace(name))
    features, logits = run(name, [plan.features, "logits"], pictures())
    last = WEIGHTS[name](net)
    weights = last.weight.detach().numpy().reshape(CLASSES, -1)
    pooled = features.mean(plan.layout.position_axes)
    np.testing.assert_allclose(pooled @ weights.T + last.bias.detach().numpy(), logits, atol=1e-5)


def test_a_class_token_is_followed_back_to_before_the_last_attention():
    net = NETS["tokens_registers_class"]()
    plan = find_head(onnx_trace("tokens_registers_class"))
    kept: list[torch.Tensor] = []
    hook = net.blocks[0].register_forward_hook(lambda *found: kept.append(found[2]))
    with torch.no_grad():
        net(torch.from_numpy(pictures()))
    hook.remove()
    (features,) = run("tokens_registers_class", [plan.features], pictures())
    np.testing.assert_allclose(features, kept[0].numpy(), atol=1e-5)


@pytest.mark.parametrize("name", ["gap_linear", "tokens_class", "tokens_mean", "nhwc_swin"])
def test_grids_keep_their_shape_when_pictures_are_not_square(name: str):
    net = NETS[name]()
    tall = (64, 64) if name.startswith("tokens") else (64, 128)
    if name.startswith("tokens"):  # as many positions as its places were made for
        tall = (32, 128)
    plan = find_head(onnx_trace(net, tall))
    stride = 8 if name.startswith("tokens") else 16
    assert plan.layout.grid_hw == (tall[0] // stride, tall[1] // stride)
    assert plan.kind == FOUND[name][0]


def test_fine_features_are_the_last_block_output_at_twice_the_grid():
    net = NETS["mobile"]()
    plan = find_head(onnx_trace(net))
    fine, expected = (
        run(net, [plan.fine], pictures())[0],
        net.body[:4](torch.from_numpy(pictures())),
    )
    assert plan.fine_layout == Layout(1, (2, 3), (8, 8))
    np.testing.assert_allclose(fine, expected.detach().numpy(), atol=1e-5)


class Bottleneck(nn.Module):
    """A residual block with a ReLU after the sum, as in ResNet."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.one = nn.Conv2d(channels, channels, 3, padding=1)
        self.two = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        return functional.relu(x + self.two(functional.relu(self.one(x))))


def test_fine_features_take_the_relu_after_a_residual_sum_with_them():
    torch.manual_seed(0)
    stages = nn.Sequential(trunk(16)[:3], Bottleneck(16), trunk()[3], Bottleneck(CHANNELS))
    net = Headed(stages, gap(nn.Linear(CHANNELS, CLASSES))).eval()
    plan = find_head(onnx_trace(net))
    fine = run(net, [plan.fine], pictures())[0]
    expected = stages[:2](torch.from_numpy(pictures())).detach().numpy()
    np.testing.assert_allclose(fine, expected, atol=1e-5)
    assert "activation" not in [step.op for step in plan.head]


def test_fine_features_of_the_embedded_network_are_those_it_was_measured_with():
    trace = trace_module(load_network(), (64, 96))[1]
    plan = find_head(trace)
    assert trace.shapes[plan.features] == (2, 1280, 2, 3)
    assert trace.shapes[plan.fine] == (2, 112, 4, 6)
    made = next(step for step in trace.steps if plan.fine in step.outputs)
    readers = [step.words for step in trace.steps if plan.fine in step.inputs]
    assert made.op == "add"
    assert all("_blocks.11" in words for words in readers)  # the last that halves the grid


def test_without_a_finer_grid_there_are_no_fine_features():
    plan = find_head(onnx_trace("tokens_mean"))
    assert (plan.fine, plan.fine_layout) == (None, None)


@pytest.mark.parametrize("layer", ["body.2", "body.2.2", "/body/body.2/body.2.2/Relu_output_0"])
def test_a_layer_can_be_named_by_its_module_or_tensor(layer: str):
    net = NETS["gap_linear"]()
    plan = find_head(onnx_trace("gap_linear"), layer)
    assert (plan.kind, plan.layout.grid_hw) == ("other", (8, 8))
    (features,) = run("gap_linear", [plan.features], pictures())
    expected = net.body[:3](torch.from_numpy(pictures())).detach().numpy()
    np.testing.assert_allclose(features, expected, atol=1e-5)


def test_the_layer_that_would_be_chosen_can_be_named():
    trace = onnx_trace("gap_linear")
    assert find_head(trace, "body.3") == find_head(trace)


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        ("bdoy.2", "close: body.2"),
        ("head.2", "expected a tensor with positions"),
        ("body.1.0.nonsense", "no module or tensor"),
    ],
)
def test_layers_that_cannot_be_used_are_refused_with_others_that_can(layer: str, words: str):
    with pytest.raises(ModelError, match=words):
        find_head(onnx_trace("gap_linear"), layer)


def test_a_layer_beside_the_way_is_refused():
    with pytest.raises(ModelError, match="every path from the picture"):
        find_head(onnx_trace("squeezed"), "body.1.up")


def test_a_network_that_mixes_positions_at_once_is_refused_with_ways_out():
    with pytest.raises(ModelError, match=r"gradcam.*gapcam train"):
        find_head(onnx_trace("no_head"))


def test_a_single_position_is_refused_with_larger_pictures_as_the_way_out():
    net = NETS["gap_linear"]()
    net.body = nn.Sequential(nn.Conv2d(3, 16, 8, 8), nn.ReLU(), nn.Conv2d(16, CHANNELS, 1))
    with pytest.raises(ModelError, match="Use larger pictures"):
        find_head(onnx_trace(net, (8, 8)))


class Averaged(nn.Module):
    """The class token and the distillation token, each with a classifier: DeiT's distilled form."""

    def __init__(self) -> None:
        super().__init__()
        self.body = NETS["tokens_registers_class"]()
        self.body.extra = 2
        self.body.front = nn.Parameter(self.body.front[:, :2].clone())
        self.one, self.two = nn.Linear(TOKENS, CLASSES), nn.Linear(TOKENS, CLASSES)

    def forward(self, x):
        body = self.body
        tokens = body.patches(x).flatten(2).transpose(1, 2) + body.places
        tokens = torch.cat([body.front.expand(x.shape[0], -1, -1), tokens], 1)
        tokens = body.norm(body.blocks(tokens))
        return (self.one(tokens[:, 0]) + self.two(tokens[:, 1])) / 2


def test_two_front_tokens_are_not_two_positions_of_the_grid():
    plan = find_head(onnx_trace(Averaged().eval()))
    assert (plan.kind, plan.layout) == ("class-token", Layout(2, (1,), (8, 8), 2))


class BothPoolings(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.last = trunk(), nn.Linear(2 * CHANNELS, CLASSES)

    def forward(self, x):
        x = self.body(x)
        return self.last(torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1))


def test_mean_beside_maximum_is_no_linear_head():
    assert find_head(onnx_trace(BothPoolings().eval())).kind == "other"


def test_rows_then_columns_are_one_pooling():
    net = Headed(trunk(), nn.Identity())
    net.head = nn.Linear(CHANNELS, CLASSES)
    net.forward = lambda x: net.head(net.body(x).mean(3).mean(2))
    plan = find_head(onnx_trace(net.eval()))
    assert (plan.kind, plan.layout) == ("gap-linear", PLANE)


def test_residual_networks_are_cut_only_where_nothing_passes_by():
    net = Headed(
        nn.Sequential(trunk(16)[:3], Residual(16, 16, 1), nn.Conv2d(16, CHANNELS, 3, 2, 1)),
        gap(nn.Linear(CHANNELS, CLASSES)),
    ).eval()
    plan = find_head(onnx_trace(net))
    for layer in ("body.1.expand", "body.1.depthwise", "body.1.project"):
        with pytest.raises(ModelError, match="every path"):
            find_head(onnx_trace(net), layer)
    assert plan.layout == PLANE


def test_reshapes_are_taken_apart_into_the_axes_that_turn_into_each_other():
    assert regrouped((2, 32, 4, 4), (2, 32, 16)) == [([0], [0]), ([1], [1]), ([2, 3], [2])]
    assert regrouped((2, 16, 32), (2, 4, 4, 8, 4)) == [([0], [0]), ([1], [1, 2]), ([2], [3, 4])]
    assert regrouped((2, 32, 1, 1), (2, 32)) == [([0], [0]), ([1], [1])]


def test_a_step_carries_the_axes_it_does_not_mix():
    shape = (2, 8, 4, 4)
    assert carried(Step("pointwise_conv", ("x",), ("y",)), shape, shape) == {0: 0, 2: 2, 3: 3}
    assert carried(Step("mean", ("x",), ("y",), (2,)), shape, (2, 8, 4)) == {0: 0, 1: 1, 3: 2}
    assert carried(Step("select", ("x",), ("y",), (1,), (3, 4)), shape, (2, 4, 4)) == {
        0: 0,
        2: 1,
        3: 2,
    }
    assert carried(Step("conv", ("x",), ("y",)), shape, shape) == {}
