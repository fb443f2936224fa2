from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from gapcam.models.pytorch.modules import (
    copy_on,
    detached_copy,
    evaluation_copy,
    float_copy,
    logits_of,
    unwrapped,
)
from gapcam.types import ModelError
from head_nets import NETS, SIDE

PICTURES = torch.linspace(-2, 2, 2 * 3 * SIDE * SIDE).reshape(2, 3, SIDE, SIDE)


class Returns(nn.Module):
    """Gives whatever a function makes of the logits."""

    def __init__(self, make):
        super().__init__()
        self.net = NETS["gap_linear"]()
        self.make = make

    def forward(self, x):
        return self.make(self.net(x))


def test_the_copy_gives_the_logits_and_shares_the_weights():
    net = NETS["gap_linear"]()
    made = evaluation_copy(net)
    with torch.no_grad():
        torch.testing.assert_close(made(PICTURES), net(PICTURES))
    assert {id(p) for p in made.parameters()} == {id(p) for p in net.parameters()}
    assert {id(b) for b in made.buffers()} == {id(b) for b in net.buffers()}
    assert not {id(m) for m in made.modules()} & {id(m) for m in net.modules()}


def test_the_copy_evaluates_whatever_the_mode():
    net = NETS["gap_hidden"]()
    with torch.no_grad():
        expected = net(PICTURES)
        net.train()
        torch.testing.assert_close(evaluation_copy(net)(PICTURES), expected)
    assert all(m.training for m in net.modules())


@pytest.mark.parametrize(
    "make",
    [
        lambda logits: SimpleNamespace(logits=logits),
        lambda logits: {"logits": logits, "features": None},
        lambda logits: {"out": logits},
        lambda logits: (logits, torch.zeros(1)),
        lambda logits: [None, logits],
    ],
)
def test_logits_are_found_in_what_classifiers_return(make):
    net = Returns(make)
    with torch.no_grad():
        torch.testing.assert_close(evaluation_copy(net)(PICTURES), net.net(PICTURES))


@pytest.mark.parametrize(
    ("output", "described"),
    [
        (torch.zeros(2, 3, 4, 4), r"got a tensor \[2, 3, 4, 4\]"),
        ({"boxes": torch.zeros(2, 3)}, "got a mapping with boxes"),
        ((torch.zeros(3), torch.zeros(2, 7)), r"got tuple of a tensor \[3\], a tensor \[2, 7\]"),
        ([], "got list of nothing"),
        ("cat", "got str"),
    ],
)
def test_what_holds_no_logits_is_refused(output, described: str):
    with pytest.raises(ModelError, match=described):
        logits_of(output)


def test_wrappers_are_taken_off():
    net = NETS["gap_linear"]()
    compiled = torch.compile(net, backend="eager")
    for wrapped in (nn.DataParallel(net), compiled, nn.DataParallel(compiled)):
        assert unwrapped(wrapped) is net
    inner = nn.Sequential(torch.compile(net.body, backend="eager"), net.head)
    made = evaluation_copy(inner)
    assert type(made.network[0]) is type(net.body)
    assert inner[0]._orig_mod is net.body
    with torch.no_grad():
        torch.testing.assert_close(made(PICTURES), net(PICTURES))


def test_what_cannot_be_taken_apart_is_refused():
    with pytest.raises(ModelError, match="expected a PyTorch module, got str"):
        evaluation_copy("resnet18")
    scripted = object.__new__(torch.jit.ScriptModule)
    with pytest.raises(ModelError, match="TorchScript module cannot be taken apart"):
        unwrapped(scripted)
    net = NETS["gap_linear"]()
    net.lock = threading.Lock()
    with pytest.raises(ModelError, match=r"cannot copy it \(TypeError: cannot pickle '_thread"):
        evaluation_copy(net)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_float_copy_of_another_precision_has_its_own_weights(dtype: torch.dtype):
    net = NETS["gap_norm_linear"]().to(dtype)
    made = float_copy(net)
    assert {p.dtype for p in made.parameters()} == {torch.float32}
    assert {p.dtype for p in net.parameters()} == {dtype}
    with torch.no_grad():
        exact = NETS["gap_norm_linear"]()(PICTURES)
        torch.testing.assert_close(made(PICTURES), exact, atol=0.1, rtol=0.1)
        own = evaluation_copy(net)(PICTURES)  # casts the pictures itself
    assert own.dtype == dtype


def test_a_float_copy_of_a_float_module_costs_no_memory():
    net = NETS["gap_linear"]()
    made = float_copy(net)
    assert {id(p) for p in made.parameters()} == {id(p) for p in net.parameters()}
    assert made.network.head[2].weight.requires_grad


def test_a_detached_copy_records_no_gradient_and_writes_to_its_own_buffers():
    net = NETS["gap_linear"]()
    made = detached_copy(net)
    assert not any(p.requires_grad for p in made.parameters())
    weights = zip(made.parameters(), net.parameters(), strict=True)
    assert all(a.data_ptr() == b.data_ptr() for a, b in weights)
    made.network.body[0][1].running_mean += 1
    torch.testing.assert_close(
        net.body[0][1].running_mean, NETS["gap_linear"]().body[0][1].running_mean
    )
    again = copy_on(made, torch.device("cpu"))
    assert {id(p) for p in again.parameters()} == {id(p) for p in made.parameters()}


def test_tied_weights_stay_tied():
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 12, bias=False), nn.Linear(12, 12, bias=False))
    net[2].weight = net[1].weight
    made = float_copy(net.half()).network
    assert made[2].weight is made[1].weight


def test_tensors_that_nobody_registered_are_kept():
    class Remembers(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = NETS["gap_linear"]()
            self.scale = torch.full((1,), 2.0)
            self.seen = [(self.scale * self.net.head[2].weight.sum())]  # no leaf: not copyable

        def forward(self, x):
            return self.net(x) * self.scale

    net = Remembers()
    with torch.no_grad():
        torch.testing.assert_close(evaluation_copy(net)(PICTURES), net(PICTURES))


def test_hooks_that_make_the_weights_still_do():
    net = NETS["gap_linear"]()
    nn.utils.parametrizations.weight_norm(net.head[2])
    seen = []
    net.body.register_forward_hook(lambda module, arguments, output: 2 * output)
    net.body.register_full_backward_hook(lambda *arguments: seen.append(arguments))
    made = evaluation_copy(net)
    torch.testing.assert_close(made(PICTURES), net(PICTURES))
    made(PICTURES).sum().backward()
    assert not seen  # it is nobody's backward pass
    assert len(net.body._backward_hooks) == 1
