"""How fast each weight changes: the groups of parameters, and the learning rate's course."""

from __future__ import annotations

import math
from typing import Any

from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from gapcam.training.plan import TrainOptions
from gapcam.types import ModelError

LEARNING_RATES = {"sgd": 0.03, "adamw": 1e-3}
MOMENTUM = 0.9


def peak_rate(options: TrainOptions) -> float:
    """The head's learning rate at its peak."""
    return options.learning_rate or LEARNING_RATES[options.optimizer]


def rate_share(update: int, updates: int, warmup: int) -> float:
    """The learning rate of an update as a share of its peak; above 0.

    It rises in equal steps over the warm-up (Goyal et al., arXiv 1706.02677, section 2.2), then
    falls along half a cosine (Loshchilov and Hutter, ICLR 2017, equation 5, one cycle).

    Args:
        update: From 0.
        updates: In the whole run.
        warmup: Updates before the peak.
    """
    if update < warmup:
        return (update + 1) / (warmup + 1)
    return 0.5 * (1 + math.cos(math.pi * (update - warmup) / max(updates - warmup, 1)))


def warmup_updates(options: TrainOptions, updates_an_epoch: int) -> int:
    """How many updates the warm-up takes."""
    return round(options.warmup * updates_an_epoch)


def make_optimizer(net: nn.Module, options: TrainOptions) -> Optimizer:
    """SGD with Nesterov momentum, or AdamW; every parameter is in one group.

    A group holds head or trunk, with decay or without: biases and norms (one dimension or none)
    have none. The trunk is the module `net.trunk`; all else is the head. `rate` in a group is its
    learning rate at the peak.

    Raises:
        ModelError: Nothing in the net can be trained.
    """
    groups = [group for group in parameter_groups(net, options) if group["params"]]
    if not groups:
        raise ModelError("the net has no parameters that can be trained; choose another model")
    rate = peak_rate(options)
    if options.optimizer == "adamw":
        return AdamW(groups, rate)
    return SGD(groups, rate, MOMENTUM, nesterov=True)


def parameter_groups(net: nn.Module, options: TrainOptions) -> list[dict[str, Any]]:
    """Head with decay, head without, trunk with, trunk without; a frozen trunk has none."""
    trunk = getattr(net, "trunk", None)
    in_trunk = {id(p) for p in trunk.parameters()} if isinstance(trunk, nn.Module) else set()
    rate = peak_rate(options)
    groups: list[dict[str, Any]] = [
        {"params": [], "rate": rate * share, "lr": rate * share, "weight_decay": decay}
        for share in (1.0, options.trunk_rate)
        for decay in (options.weight_decay, 0.0)
    ]
    for parameter in net.parameters():
        if parameter.requires_grad:
            index = 2 * (id(parameter) in in_trunk) + (parameter.ndim <= 1)
            groups[index]["params"].append(parameter)
    return groups
