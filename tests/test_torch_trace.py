from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from gapcam.models.pytorch.trace import trace_module
from gapcam.models.trace import Trace
from gapcam.types import ModelError
from head_nets import NETS, SIDE, traced


def ends(trace: Trace, count: int) -> list[str]:
    return [step.op for step in trace.steps[-count:]]


@pytest.mark.parametrize(
    ("name", "ops"),
    [
        ("gap_linear", ["conv", "batch_norm", "activation", "mean", "reshape", "linear"]),
        ("conv1x1_gap", ["activation", "pointwise_conv", "mean", "reshape"]),
        ("window_avgpool", ["activation", "mean", "reshape", "linear"]),
        ("gmp_linear", ["activation", "max", "linear"]),
        ("sum_linear", ["activation", "sum", "linear"]),
        ("gap_rms_linear", ["mean", "reshape", "norm", "scale", "linear"]),
        ("gap_l2_linear", ["mean", "reshape", "norm", "linear", "scale"]),
        ("gap_hidden", ["mean", "reshape", "linear", "activation", "identity", "linear"]),
        ("flatten_hidden", ["identity", "reshape", "linear", "activation", "identity", "linear"]),
        ("nhwc_swin", ["transpose", "linear", "norm", "transpose", "mean", "reshape", "linear"]),
        ("tokens_registers_mean", ["norm", "identity", "select", "mean", "linear"]),
        ("tokens_mix", ["select", "mean", "identity", "select", "concat", "linear"]),
    ],
)
def test_heads_are_listed_in_the_words_of_the_contract(name: str, ops: list[str]):
    assert ends(traced(name)[1], len(ops)) == ops


def test_steps_name_axes_shapes_positions_and_modules():
    trace = traced("tokens_registers_mean")[1]
    by_op = {step.op: step for step in trace.steps}
    select, mean = by_op["select"], by_op["mean"]
    assert (select.axes, select.kept) == ((1,), (5, 69))
    assert trace.shapes[select.inputs[0]] == (2, 69, 32)
    assert (mean.axes, trace.shapes[mean.outputs[0]]) == ((1,), (2, 32))
    assert by_op["softmax"].axes == (3,)
    assert trace.steps[-1].words == "linear classifier"
    assert (trace.shapes[trace.picture], trace.shapes[trace.logits]) == ((2, 3, 64, 64), (2, 7))


def test_steps_run_in_their_order_and_all_count():
    for name in ("mobile", "squeezed", "tokens_mix"):
        trace = traced(name)[1]
        known = {trace.picture}
        used = {name for step in trace.steps for name in step.inputs}
        for step in trace.steps:
            assert set(step.inputs) <= known
            known.update(step.outputs)
            assert set(step.outputs) & (used | {trace.logits})
        assert known == set(trace.shapes)


@pytest.mark.parametrize(
    ("act", "word"),
    [
        (lambda x: x * torch.sigmoid(x), "activation"),
        (lambda x: x * functional.relu6(x + 3) / 6, "scale"),
        (lambda x: x * torch.tanh(functional.softplus(x)), "activation"),
        (lambda x: 0.5 * x * (1 + torch.tanh(0.8 * (x + 0.04 * x**3))), "activation"),
        (lambda x: x * x, "activation"),
        (lambda x: (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True), "norm"),
        (lambda x: x / (x.pow(2).sum(1, keepdim=True) + 1e-6).sqrt(), "norm"),
        (lambda x: x * torch.sigmoid(x.mean((2, 3), keepdim=True)), "multiply"),
        (lambda x: torch.reciprocal(x + 9), "activation"),
        (lambda x: 3 - x / 2, "scale"),
        (lambda x: torch.cat([x, x], 1)[:, :6], "select"),
        (lambda x: functional.avg_pool2d(x, 2), "average_pool"),
        (lambda x: functional.interpolate(x, scale_factor=2), "resize"),
        (lambda x: x.chunk(2, 1)[1], "select"),
        (lambda x: x.roll(1, 2), "other"),
    ],
)
def test_what_is_spelled_out_is_named(act, word: str):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 6, 3)
            self.fc = nn.LazyLinear(4)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(act(self.conv(x)).mean((2, 3)))

    net = Net().eval()
    net(torch.zeros(1, 3, 18, 18))
    trace = trace_module(net, (18, 18))[1]
    before_pooling = [s.op for s in trace.steps][-3]
    assert before_pooling == word


def test_a_split_knows_which_part():
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            _, second, third = x.flatten(2).split([4, 5, 7], 2)
            return second.sum(2) + third.sum(2)

    steps = trace_module(Net(), (4, 4))[1].steps
    assert [s.kept for s in steps if s.op == "select"] == [(4, 9), (9, 16)]


def test_the_batch_is_free_and_planes_need_not_be_square():
    pictures = torch.randn(3, 3, SIDE, SIDE)
    for name in ("gap_norm_linear", "mobile"):
        program, _ = traced(name)
        with torch.no_grad():
            torch.testing.assert_close(program.module()(pictures), NETS[name]()(pictures))
    _, trace = trace_module(NETS["gap_linear"](), (48, 80))
    assert trace.shapes[trace.steps[-4].outputs[0]] == (2, 24, 3, 5)


def test_a_program_writes_to_nothing():
    class Writes(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = NETS["gap_linear"]()
            self.register_buffer("calls", torch.zeros(1))

        def forward(self, x):
            self.calls.add_(1)
            return self.net(x).relu_()

    net = Writes()
    program, _ = trace_module(net, (SIDE, SIDE))
    assert net.calls.item() == 0
    targets = [str(n.target).split(".") for n in program.graph.nodes if n.op == "call_function"]
    assert not [t for t in targets if len(t) > 1 and t[1].endswith("_") and t[0] == "aten"]


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (lambda x: x.mean((2, 3)) if x.sum() > 0 else x.amax((2, 3)), "torch.export cannot trace"),
        (lambda x: x[:, 0], r"expected logits \[B, C\].*got a tensor \[2, 8, 8\]"),
        (lambda x: x.reshape(2, 5), "does not run on a picture .*RuntimeError: shape"),
        (lambda x: torch.ones(2, 4), "do not depend on the picture"),
    ],
)
def test_what_cannot_be_traced_is_refused_with_the_reason(forward, message: str):
    class Net(nn.Module):
        def forward(self, x):
            return forward(x)

    with pytest.raises(ModelError, match=message):
        trace_module(Net(), (8, 8))


def test_the_same_module_gives_the_same_trace():
    one, two = traced("gap_hidden")[1], trace_module(NETS["gap_hidden"](), (SIDE, SIDE))[1]
    assert one.steps == two.steps
    assert dict(one.shapes) == dict(two.shapes)
    assert np.all([one.picture == two.picture, one.logits == two.logits])
