"""Averaged weights: an exponential moving average of a net while it trains."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

Tensors: TypeAlias = "tuple[Tensor, ...] | list[Tensor]"


def averaged_net(net: nn.Module, decay: float) -> AveragedModel:
    """A copy of the net whose weights and buffers follow it: `a <- d a + (1 - d) w` a step.

    In step t the decay is `d = min(decay, (1 + t) / (10 + t))`, so that a short run does not keep
    its first weights (`tf.train.ExponentialMovingAverage` with `num_updates`). Buffers that count
    are copied. Use: Tan and Le, ICML 2019, section 5.2, decay .9999 over 350 ImageNet epochs.

    Args:
        net: Is not changed.
        decay: 0..1.
    """
    averaged = AveragedModel(net, multi_avg_fn=_average(decay), use_buffers=True)
    return averaged.requires_grad_(False).eval()


def _average(decay: float) -> Callable[[Tensors, Tensors, Tensor | int], None]:
    @torch.no_grad()
    def average(old: Tensors, new: Tensors, step: Tensor | int) -> None:
        """Of tensors of one kind; never called for the first step, which copies."""
        share = min(decay, (1 + int(step)) / (10 + int(step)))
        for kept, latest in zip(old, new, strict=True):
            if kept.is_floating_point():
                kept.lerp_(latest, 1 - share)
            else:
                kept.copy_(latest)

    return average
