"""Nothing that is done to a module shows in it: not while it runs, not after an exception."""

from __future__ import annotations

import copy
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import nn

from gapcam.engines.torch import TorchEngine
from gapcam.models.pytorch.hooks import HookedNetwork
from gapcam.models.pytorch.modules import evaluation_copy, float_copy
from gapcam.models.pytorch.network import TorchNetwork
from gapcam.models.pytorch.trace import trace_module
from gapcam.models.trace import HeadPlan
from gapcam.types import ModelError, Preprocessing
from head_nets import NETS, SIDE
from torch_plans import PLANE, last_of

PREPARED = Preprocessing((SIDE, SIDE), (127.0,) * 3, (64.0,) * 3)
PIXELS = np.random.default_rng(3).integers(0, 256, (2, SIDE, SIDE, 3), dtype=np.uint8)


def seen(module: nn.Module) -> dict:
    """All that a user could notice."""
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {
        "parts": [(name, id(part), part.training) for name, part in module.named_modules()],
        "hooks": [
            [list(getattr(part, kind).items()) for kind in vars(part) if kind.endswith("_hooks")]
            for part in module.modules()
        ],
        "tensors": [
            (name, id(t), t.dtype, t.device, t.requires_grad, t._version, id(t.grad), t.is_leaf)
            for name, t in tensors.items()
        ],
        "random": torch.get_rng_state().tolist(),
        "modes": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "kernels": torch.backends.mha.get_fastpath_enabled(),
    }


def values(module: nn.Module) -> list[torch.Tensor]:
    gradients = [p.grad.clone() for p in module.parameters() if p.grad is not None]
    return [t.detach().clone() for t in module.state_dict().values()] + gradients


def engines(module: nn.Module):
    """Everything that is made of a module, one way after the other."""
    program, trace = trace_module(module, (SIDE, SIDE))
    plan = HeadPlan("gap-norm-linear", last_of("body")(trace), PLANE, (), None, None, "")
    for network in (TorchNetwork(program, plan), HookedNetwork(module, (SIDE, SIDE), "body")):
        for method in ("cam", "gradcam", "layercam"):
            yield TorchEngine(network, PREPARED, "cpu", method)


def train_mode(net: nn.Module) -> nn.Module:
    net.train()
    net.body[0].eval()
    return net


def frozen(net: nn.Module) -> nn.Module:
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    return net


def frozen_backbone(net: nn.Module) -> nn.Module:
    frozen(net.body)
    return net


def with_gradients(net: nn.Module) -> nn.Module:
    net(torch.ones(2, 3, SIDE, SIDE)).sum().backward()
    return net


def with_hooks(net: nn.Module) -> nn.Module:
    net.body.register_forward_hook(lambda module, arguments, output: None)
    net.head.register_forward_pre_hook(lambda module, arguments: None)
    net.head.register_full_backward_hook(lambda module, taken, given: None)
    return net


def compiled(net: nn.Module) -> nn.Module:
    return torch.compile(net, backend="eager")


def compiled_in_place(net: nn.Module) -> nn.Module:
    net.compile(backend="eager")
    return net


def half(net: nn.Module) -> nn.Module:
    return net.to(torch.bfloat16)


STATES = [
    *(train_mode, frozen, frozen_backbone, with_gradients, with_hooks, half),
    *(compiled, compiled_in_place),
]


@pytest.fixture(scope="module")
def expected() -> list[np.ndarray]:
    return [made.run_maps(PIXELS, 2).maps for made in engines(NETS["gap_norm_linear"]())]


@pytest.mark.parametrize("state", STATES)
def test_every_state_gives_the_same_maps_and_stays(state, expected: list[np.ndarray]):
    net = state(NETS["gap_norm_linear"]())
    before, held = seen(net), values(net)
    tolerance = 0.1 if state is half else 1e-5
    for made, maps in zip(engines(net), expected, strict=True):
        np.testing.assert_allclose(
            made.run_maps(PIXELS, 2).maps, maps, atol=tolerance * np.ptp(maps)
        )
        made.run(PIXELS)
    assert seen(net) == before
    for now, then in zip(values(net), held, strict=True):
        torch.testing.assert_close(now, then, rtol=0, atol=0)


@pytest.mark.parametrize(
    "outside", [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu"), nullcontext]
)
def test_modes_around_the_call_change_nothing(outside, expected: list[np.ndarray]):
    with outside():
        net = NETS["gap_norm_linear"]()  # under inference_mode its weights are inference tensors
        before = seen(net) if not torch.is_inference_mode_enabled() else None
        for made, maps in zip(engines(net), expected, strict=True):
            np.testing.assert_allclose(
                made.run_maps(PIXELS, 2).maps, maps, atol=1e-5 * np.ptp(maps)
            )
        assert before is None or seen(net) == before


class Raises(nn.Module):
    """Fails from the given call of its forward pass on, in the middle of the head."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.body = NETS["gap_linear"]().body
        self.head = nn.Linear(24, 7)
        self.left = [after]

    def forward(self, x):
        pooled = torch.dropout(self.body(x).mean((2, 3)), 0.5, self.training)
        self.left[0] -= 1
        if self.left[0] < 0:
            raise ValueError("out of coffee")
        return self.head(pooled)


def test_an_exception_while_tracing_leaves_everything():
    net = Raises(after=0).train()
    before, held = seen(net), values(net)
    with pytest.raises(ModelError, match=r"does not run on a picture .*ValueError: out of coffee"):
        trace_module(net, (SIDE, SIDE))
    assert seen(net) == before
    for now, then in zip(values(net), held, strict=True):
        torch.testing.assert_close(now, then, rtol=0, atol=0)


def test_an_exception_while_running_leaves_everything():
    net = Raises(after=3).train()
    before, held = seen(net), values(net)
    made = TorchEngine(HookedNetwork(net, (SIDE, SIDE), "body"), PREPARED, "cpu")
    made.run_maps(PIXELS, 1)
    with pytest.raises(ValueError, match="out of coffee"):
        made.run_maps(PIXELS, 1)
    inside = made._network._module.get_submodule("network.body")
    assert not inside._forward_hooks  # nor does the copy keep the hook
    assert seen(net) == before
    assert net.left == [3]
    for now, then in zip(values(net), held, strict=True):
        torch.testing.assert_close(now, then, rtol=0, atol=0)


class Counts(nn.Module):
    """Writes to a buffer and to a list in every forward pass, draws random numbers in training."""

    def __init__(self) -> None:
        super().__init__()
        self.body = NETS["gap_linear"]().body
        self.norm = nn.LayerNorm(24)
        self.head = nn.Linear(24, 7)
        self.register_buffer("calls", torch.zeros(1))
        self.log: list[str] = []

    def forward(self, x):
        self.calls += 1
        self.log.append("called")
        return self.head(self.norm(self.body(x).mean((2, 3))))


def test_a_forward_pass_that_writes_does_not_write_to_the_original():
    net = Counts()
    before, held = seen(net), values(net)
    for made in engines(net):
        first = made.run_maps(PIXELS, 2).maps
        np.testing.assert_array_equal(first, made.run_maps(PIXELS, 2).maps)
    assert seen(net) == before
    assert net.log == []
    for now, then in zip(values(net), held, strict=True):
        torch.testing.assert_close(now, then, rtol=0, atol=0)


def test_training_goes_on_after_a_look_at_the_maps():
    looked, alone = NETS["gap_norm_linear"]().train(), NETS["gap_norm_linear"]().train()
    for net in (looked, alone):
        optimizer = torch.optim.SGD(net.parameters(), 0.1)
        for step in range(2):
            if net is looked:
                for made in list(engines(net))[step::3]:
                    made.run_maps(PIXELS, 1)
            optimizer.zero_grad()
            net(torch.ones(2, 3, SIDE, SIDE) * (step + 1)).square().sum().backward()
            optimizer.step()
    for one, other in zip(values(looked), values(alone), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_copies_of_a_module_in_inference_mode_can_be_differentiated():
    with torch.inference_mode():
        net = NETS["gap_linear"]()
    for make in (evaluation_copy, float_copy):
        assert make(copy.deepcopy(net))(torch.ones(1, 3, SIDE, SIDE)).shape == (1, 7)
