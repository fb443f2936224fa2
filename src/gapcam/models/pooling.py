"""Heads that pool features over positions and end in one linear layer: how scores are made.

The class maps are the same for every pool, M_c = sum_k w_ck f_k (Zhou et al., CVPR 2016, equation
2); what the pools change is the score that training sees. Only with `gap` is it the map's mean
plus the bias.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from gapcam.types import ArgumentError

Pool: TypeAlias = Literal["gap", "gmp", "lse", "tap"]

SHARPNESS = 5.0
"""r of `lse`, as Pinheiro and Collobert chose it."""
SHARE = 0.1
"""theta of `tap`, as Bae et al. chose it."""
FIRST_SPREAD = 0.01
"""Standard deviation of a new head's weights: all classes begin about equal."""


class PooledLinear(nn.Module):
    """Features `[B, K, h, w]` to logits `[B, C]`, at any grid size.

    - `gap`: S = W mean_xy f + b (Zhou et al., CVPR 2016, section 2).
    - `gmp`: S = W max_xy f + b (the paper's contrast, after Oquab et al., CVPR 2015).
    - `lse`: S_c = (1/r) log mean_xy exp(r M_c) + b_c, between the map's mean (r to 0) and its
      maximum (r to infinity) (Pinheiro and Collobert, CVPR 2015, equation 6).
    - `tap`: S = W p + b with `thresholded_average` p (Bae et al., ECCV 2020, equation 3).

    Args:
        channels: K.
        classes: C.
        pool: How positions are joined.
        sharpness: r of `lse`.
        share: theta of `tap`.

    Raises:
        ArgumentError: An unknown pool, no channels or classes, or a value out of range.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        pool: Pool = "gap",
        *,
        sharpness: float = SHARPNESS,
        share: float = SHARE,
    ) -> None:
        super().__init__()
        _check(channels, classes, pool, sharpness, share)
        self.pool: Pool = pool
        self.sharpness = float(sharpness)
        self.share = float(share)
        self.linear = nn.Linear(channels, classes)
        nn.init.normal_(self.linear.weight, std=FIRST_SPREAD)
        nn.init.zeros_(self.linear.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Features `[B, K, h, w]` to logits `[B, C]`."""
        if self.pool == "lse":
            return log_sum_exp(self.class_maps(features), self.sharpness) + self.linear.bias
        if self.pool == "tap":
            pooled = thresholded_average(features, self.share)
        else:
            pooled = _PLAIN[self.pool](features)
        logits: Tensor = self.linear(pooled)
        return logits

    def class_maps(self, features: Tensor) -> Tensor:
        """M_c = sum_k w_ck f_k, without the bias: `[B, C, h, w]`."""
        return functional.conv2d(features, self.linear.weight[:, :, None, None])

    def extra_repr(self) -> str:
        """What `print` shows beside the linear layer."""
        values = {"lse": f", sharpness={self.sharpness:g}", "tap": f", share={self.share:g}"}
        return f"pool={self.pool}{values.get(self.pool, '')}"


def global_average(features: Tensor) -> Tensor:
    """The mean over positions, `[B, K, h, w]` to `[B, K]` (Lin et al., ICLR 2014)."""
    return features.mean((2, 3))


def global_maximum(features: Tensor) -> Tensor:
    """The maximum over positions, `[B, K, h, w]` to `[B, K]` (Oquab et al., CVPR 2015)."""
    return features.amax((2, 3))


def log_sum_exp(maps: Tensor, sharpness: float = SHARPNESS) -> Tensor:
    """(1/r) log mean_xy exp(r M), `[B, C, h, w]` to `[B, C]` (Pinheiro and Collobert, CVPR 2015).

    The largest value of each map is taken out before the exponential, so none overflows.
    """
    summed = torch.logsumexp(sharpness * maps.flatten(2), 2)
    return (summed - math.log(maps.shape[2] * maps.shape[3])) / sharpness


def thresholded_average(features: Tensor, share: float = SHARE) -> Tensor:
    """p_k = sum 1[f_k > t_k] f_k / #{f_k > t_k}, t_k = theta max_xy f_k (Bae et al., ECCV 2020).

    Where no value exceeds its threshold (a channel that is zero or negative everywhere), p_k is 0.
    The gradient goes to the values that are averaged; the threshold counts as a constant.

    Args:
        features: `[B, K, h, w]`, at least zero as a ReLU gives them.
        share: theta.

    Returns:
        `[B, K]`.
    """
    threshold = share * features.detach().amax((2, 3), keepdim=True)
    kept = (features > threshold).to(features.dtype)
    return (features * kept).sum((2, 3)) / kept.sum((2, 3)).clamp(min=1)


_PLAIN: Mapping[str, Callable[[Tensor], Tensor]] = {"gap": global_average, "gmp": global_maximum}


def _check(channels: int, classes: int, pool: str, sharpness: float, share: float) -> None:
    if pool not in get_args(Pool):
        raise ArgumentError(f"pool: expected {' or '.join(get_args(Pool))}, got {pool!r}")
    for name, count in (("channels", channels), ("classes", classes)):
        if count < 1:
            raise ArgumentError(f"{name}: expected at least 1, got {count}")
    if not 0 < sharpness < math.inf:
        raise ArgumentError(f"sharpness: expected a number above 0, got {sharpness}")
    if not 0 <= share < 1:
        raise ArgumentError(f"share: expected 0 or more and less than 1, got {share}")
