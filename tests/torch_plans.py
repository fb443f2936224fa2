"""Where the features of `head_nets` are and what their heads do, by hand: oracles for engines.

Heads are written out as torch functions of the features; `frozen` norms divide by statistics that
autograd sees as constants.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gapcam.models.pytorch.network import TorchNetwork
from gapcam.models.trace import HeadPlan, Layout, Trace
from head_nets import NETS, traced

PLANE = Layout(1, (2, 3), (4, 4))


@dataclass(frozen=True)
class ByHand:
    """A network's features and head.

    `exact`: mean(map) + bias is the logit.
    """

    kind: str
    features: Callable[[nn.Module, Tensor], Tensor]
    head: Callable[[nn.Module, Tensor, bool], Tensor]
    named: Callable[[Trace], str]
    layout: Layout = PLANE
    exact: bool = True


def last_of(prefix: str) -> Callable[[Trace], str]:
    """The last tensor that a module whose name starts so gives."""

    def find(trace: Trace) -> str:
        inside = [s for s in trace.steps if f" {prefix}" in s.words]
        return inside[-1].outputs[0]

    return find


def layer_norm(norm: nn.LayerNorm, x: Tensor, frozen: bool) -> Tensor:
    if not frozen:
        return norm(x)
    centred = x - x.mean(-1, keepdim=True)
    deviation = torch.sqrt(x.var(-1, correction=0, keepdim=True) + norm.eps).detach()
    return centred / deviation * norm.weight + norm.bias


def norm_head(net: nn.Module, f: Tensor, frozen: bool) -> Tensor:
    return net.head[3](layer_norm(net.head[2], f.mean((2, 3)), frozen))


def rms_head(net: nn.Module, f: Tensor, frozen: bool) -> Tensor:
    pooled = f.mean((2, 3))
    size = torch.sqrt(pooled.square().mean(-1, keepdim=True) + 1e-6)
    size = size.detach() if frozen else size
    return net.head[3](pooled / size * net.head[2].gain)


def cosine_head(net: nn.Module, f: Tensor, frozen: bool) -> Tensor:
    pooled = f.mean((2, 3))
    length = pooled.norm(dim=-1, keepdim=True)
    length = length.detach() if frozen else length
    weight = net.head[2].weight
    return 16 * (pooled / length) @ (weight / weight.norm(dim=-1, keepdim=True)).T


def block(part: nn.Module, x: Tensor, frozen: bool) -> Tensor:
    batch, tokens, width = x.shape
    qkv = part.qkv(layer_norm(part.norm1, x, frozen)).reshape(batch, tokens, 3, 4, width // 4)
    query, key, value = qkv.permute(2, 0, 3, 1, 4)
    weights = torch.softmax(query @ key.transpose(-2, -1) * (width // 4) ** -0.5, -1)
    x = x + part.project((weights @ value).transpose(1, 2).reshape(batch, tokens, width))
    return x + part.mlp(layer_norm(part.norm2, x, frozen))


def embedded(net: nn.Module, x: Tensor) -> Tensor:
    tokens = net.patches(x).flatten(2).transpose(1, 2) + net.places
    front = net.front.expand(len(x), -1, -1)
    return torch.cat([front, tokens], 1) if net.extra else tokens


def class_head(net: nn.Module, tokens: Tensor, frozen: bool) -> Tensor:
    mixed = block(net.blocks[1], tokens, frozen)
    return net.classifier(layer_norm(net.norm, mixed, frozen)[:, 0])


def mean_norm_head(net: nn.Module, tokens: Tensor, frozen: bool) -> Tensor:
    pooled = tokens[:, net.extra :].mean(1)
    return net.classifier(layer_norm(net.norm, pooled, frozen))


def pooled_head(net: nn.Module, tokens: Tensor, frozen: bool) -> Tensor:
    return net.classifier(net._pool(tokens))


def headed(kind: str, exact: bool = True) -> ByHand:
    return ByHand(
        kind,
        lambda net, x: net.body(x),
        lambda net, f, frozen: net.head(f),
        last_of("body"),
        exact=exact,
    )


def tokens(kind: str, extra: int, head: Callable, exact: bool) -> ByHand:
    def features(net: nn.Module, x: Tensor) -> Tensor:
        return net.norm(net.blocks(embedded(net, x)))

    layout = Layout(2, (1,), (8, 8), extra)
    return ByHand(kind, features, head, last_of("norm"), layout, exact)


BY_HAND: dict[str, ByHand] = {
    **{name: headed("gap-linear") for name in ("gap_linear", "gap_conv1x1", "conv1x1_gap")},
    **{name: headed("gap-linear") for name in ("gap_batchnorm_linear", "gap_two_linear")},
    **{name: headed("gap-linear") for name in ("window_avgpool", "mobile", "squeezed")},
    "gap_functional_relu": ByHand(
        "gap-linear",
        lambda net, x: torch.relu(net.norm(net.convolution(net.stem(x)))),
        lambda net, f, frozen: net.classifier(f.mean((2, 3))),
        lambda trace: trace.steps[-4].outputs[0],
    ),
    "sum_linear": ByHand(
        "gap-linear",
        lambda net, x: net.body(x),
        lambda net, f, frozen: net.classifier(f.sum((2, 3))),
        last_of("body"),
    ),
    "gmp_linear": ByHand(
        "gmp-linear",
        lambda net, x: net.body(x),
        lambda net, f, frozen: net.classifier(f.amax((2, 3))),
        last_of("body"),
        exact=False,
    ),
    "squeezenet": headed("other", exact=False),
    "gap_norm_linear": ByHand(
        "gap-norm-linear", lambda net, x: net.body(x), norm_head, last_of("body")
    ),
    "gap_rms_linear": ByHand(
        "gap-norm-linear", lambda net, x: net.body(x), rms_head, last_of("body")
    ),
    "gap_l2_linear": ByHand(
        "gap-norm-linear", lambda net, x: net.body(x), cosine_head, last_of("body")
    ),
    "gap_hidden": headed("gap-hidden", exact=False),
    "flatten_linear": headed("flatten-linear"),
    "flatten_hidden": headed("flatten-hidden", exact=False),
    "nhwc_swin": ByHand(
        "gap-linear",
        lambda net, x: net.norm(net.mix(net.body(x).permute(0, 2, 3, 1))),
        lambda net, f, frozen: net.classifier(f.mean((1, 2))),
        last_of("norm"),
        Layout(3, (1, 2), (4, 4)),
    ),
    "tokens_mean": tokens("gap-linear", 0, pooled_head, exact=True),
    "tokens_mean_norm": ByHand(
        "gap-norm-linear",
        lambda net, x: net.blocks(embedded(net, x)),
        mean_norm_head,
        last_of("blocks.1"),
        Layout(2, (1,), (8, 8), 1),
    ),
    "tokens_class": ByHand(
        "class-token",
        lambda net, x: net.blocks[0](embedded(net, x)),
        class_head,
        last_of("blocks.0"),
        Layout(2, (1,), (8, 8), 1),
        exact=False,
    ),
    "tokens_registers_mean": tokens("gap-linear", 5, pooled_head, exact=True),
    "tokens_registers_class": ByHand(
        "class-token",
        lambda net, x: net.blocks[0](embedded(net, x)),
        class_head,
        last_of("blocks.0"),
        Layout(2, (1,), (8, 8), 5),
        exact=False,
    ),
    "tokens_mix": tokens("token-mix", 1, pooled_head, exact=False),
}


def network(name: str) -> TorchNetwork:
    """The traced network, cut where `BY_HAND` says."""
    hand = BY_HAND[name]
    program, trace = traced(name)
    plan = HeadPlan(hand.kind, hand.named(trace), hand.layout, (), None, None, "")
    return TorchNetwork(program, plan)


def planes(tensor: Tensor, layout: Layout) -> Tensor:
    """`[B, K, h, w]`, obviously."""
    if len(layout.position_axes) == 1:
        patches = tensor[:, layout.first_patch :]
        return patches.transpose(1, 2).reshape(len(tensor), -1, *layout.grid_hw)
    return tensor if layout.channel_axis == 1 else tensor.permute(0, 3, 1, 2)


def slopes(name: str, x: Tensor, frozen: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Logits `[B, C]`, features `[B, K, h, w]` and dS/df `[C, B, K, h, w]`, class by class."""
    net, hand = NETS[name](), BY_HAND[name]
    features = hand.features(net, x).detach().requires_grad_()
    logits = hand.head(net, features, frozen)
    rows = [
        torch.autograd.grad(logits[:, c].sum(), features, retain_graph=True)[0]
        for c in range(logits.shape[1])
    ]
    stacked = torch.stack([planes(row, hand.layout) for row in rows])
    return logits.detach(), planes(features.detach(), hand.layout), stacked
