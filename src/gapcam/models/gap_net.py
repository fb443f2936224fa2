"""A trunk with a head that localizes, and how it becomes a model file's network."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from gapcam.models.file.build import SAME, network_of_module
from gapcam.models.file.network import Network
from gapcam.models.file.pools import run_pooled
from gapcam.models.heads.sizes import larger_size
from gapcam.models.pooling import FIRST_SPREAD, Pool, PooledLinear
from gapcam.models.pytorch.modules import LogitsOnly, detached_copy
from gapcam.models.trace import HeadKind
from gapcam.products import span
from gapcam.types import ArgumentError, FloatArray, ModelError, Preprocessing, SizeHW

KINDS: dict[Pool, HeadKind] = {
    "gap": "gap-linear",
    "gmp": "gmp-linear",
    "lse": "lse-linear",
    "tap": "tap-linear",
}


class GapNet(nn.Module):
    """A trunk and a pooled linear head (Zhou et al., CVPR 2016, section 2).

    Args:
        trunk: Pictures `[B, 3, H, W]` to a grid of channels; its weights may be trained ones.
        head: Features `[B, K, h, w]` to logits.
        added: New layers that make the features of what the trunk gives; None: it gives them.
    """

    def __init__(
        self, trunk: nn.Module, head: PooledLinear, added: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.added = nn.Identity() if added is None else added
        self.head = head

    def spatial(self, x: Tensor) -> Tensor:
        """Pictures `[B, 3, H, W]` to features `[B, K, h, w]`."""
        features: Tensor = self.added(self.trunk(x))
        return features

    def forward(self, x: Tensor) -> Tensor:
        """Pictures `[B, 3, H, W]` to logits `[B, C]`."""
        logits: Tensor = self.head(self.spatial(x))
        return logits


class FlattenNet(nn.Module):
    """A trunk whose features are flattened and go through fully connected layers.

    The contrast to `GapNet`: every position has weights of its own, so the net takes one input size
    only, and with hidden layers its maps are a first-order account of the scores. Hidden layers
    have ReLU and dropout after them, as AlexNet's (Krizhevsky et al., NIPS 2012); their weights
    begin as He et al. (ICCV 2015) draw them.

    Args:
        trunk: Pictures `[B, 3, H, W]` to features `[B, K, h, w]`.
        channels: K.
        grid_hw: h and w of the features at the input size that the net is for.
        classes: C.
        hidden: Units of each hidden layer; none: one linear layer.
        dropout: The share of hidden units that a training step leaves out.

    Raises:
        ArgumentError: A count below 1, or a share out of range.
    """

    def __init__(
        self,
        trunk: nn.Module,
        channels: int,
        grid_hw: SizeHW,
        classes: int,
        hidden: Sequence[int] = (512,),
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        counts = (channels, *grid_hw, *hidden, classes)
        if min(counts) < 1 or not 0 <= dropout < 1:
            raise ArgumentError(
                "FlattenNet: expected channels, grid, hidden units and classes of at least 1 and "
                f"dropout from 0 to below 1, got {counts} and {dropout}"
            )
        self.trunk = trunk
        self.head = nn.Sequential(nn.Flatten())
        inputs = channels * grid_hw[0] * grid_hw[1]
        for units in hidden:
            layer = nn.Linear(inputs, units)
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
            self.head.extend((layer, nn.ReLU(), nn.Dropout(dropout)))
            inputs = units
        last = nn.Linear(inputs, classes)
        nn.init.normal_(last.weight, std=FIRST_SPREAD)
        nn.init.zeros_(last.bias)
        self.head.append(last)

    def spatial(self, x: Tensor) -> Tensor:
        """Pictures `[B, 3, H, W]` to features `[B, K, h, w]`."""
        features: Tensor = self.trunk(x)
        return features

    def forward(self, x: Tensor) -> Tensor:
        """Pictures `[B, 3, H, W]` of the one size to logits `[B, C]`."""
        logits: Tensor = self.head(self.spatial(x))
        return logits


def network_of_net(net: nn.Module, preprocessing: Preprocessing, origin: str) -> Network:
    """A trained net as ONNX with its head found and its scores compared with PyTorch's.

    A `GapNet` of any pool gives a head with weights `[C, K]` and maps M = W f; any other net (a
    `FlattenNet`, the paper's nets with `fc`) goes through `network_of_module` as it is.

    Args:
        net: It is not changed; what it does in evaluation mode is exported.
        preprocessing: What it expects of pictures.
        origin: What to call it in messages.

    Raises:
        ModelError: It cannot be exported, or the graph gives other scores than PyTorch.
    """
    if not isinstance(net, GapNet) or net.head.pool == "gap":
        return network_of_module(net, preprocessing, origin)
    averaging = network_of_module(
        GapNet(net.trunk, _with_average(net.head), net.added), preprocessing, origin
    )
    network = _pooled(averaging, net.head, origin)
    _check(network, net, origin)
    return network


def _with_average(head: PooledLinear) -> PooledLinear:
    """The head over the same weights with `gap`, whose features and weights can be found."""
    made = copy.copy(head)  # shares its layers; making one anew would draw random numbers
    made.pool = "gap"
    return made


def _pooled(averaging: Network, head: PooledLinear, origin: str) -> Network:
    """The same network whose scores come from another pool of the same features."""
    weights, bias = _array(head.linear.weight), _array(head.linear.bias)
    found = averaging.weights
    if found is None or found.shape != weights.shape or _differ(found, weights) > SAME:
        raise _features_lost(averaging, origin)
    values = {"lse": head.sharpness, "tap": head.share}
    return replace(
        averaging,
        kind=KINDS[head.pool],
        logits=None,
        weights=weights,
        bias=bias,
        stored_weights=None,
        pool_value=values.get(head.pool),
        words=_words(averaging.words, head),
    )


def _words(words: str, head: PooledLinear) -> str:
    """What is said of the features, with this pool in place of the mean."""
    pools = {
        "gmp": "max",
        "lse": f"log-sum-exp of the class maps (r = {head.sharpness:g})",
        "tap": f"mean of what exceeds {head.share:g} of the channel's maximum",
    }
    order = ("linear", pools["lse"]) if head.pool == "lse" else (pools[head.pool], "linear")
    then = f"then {', '.join(order)}"
    parts = words.split("; ")
    return "; ".join(then if part.startswith("then ") else part for part in parts)


def _check(network: Network, net: GapNet, origin: str) -> None:
    """Compare the graph's features and scores with PyTorch's, at two sizes.

    The scores are compared on the graph's features, as rounding can carry a value of PyTorch's
    across the threshold of `tap`.
    """
    reference = _evaluated(net)
    sizes = [network.preprocessing.size_hw]
    if network.fixed_hw is None:
        sizes.append(larger_size(sizes[0], network.layout))
    for size_hw in sizes:
        shape = (network.fixed_batch or 2, 3, *size_hw)
        noise = np.random.default_rng(0).normal(0, 1, shape).astype(np.float32)
        features, logits = run_pooled(network, noise)
        with torch.inference_mode():
            expected = reference.spatial(torch.from_numpy(noise)).numpy()
            if features.shape != expected.shape or _differ(features, expected) > SAME:
                raise _features_lost(network, origin)
            differ = _differ(logits, reference.head(torch.from_numpy(features)).numpy())
        if not differ <= SAME:
            raise ModelError(
                f"{origin}: as ONNX, {network.kind} gives other scores than PyTorch at "
                f"{size_hw[0]} x {size_hw[1]} ({differ:.1%} of their range). Please report it"
            )


def _evaluated(net: GapNet) -> GapNet:
    copied = detached_copy(net)
    assert isinstance(copied, LogitsOnly)  # noqa: S101 (for the type checker)
    assert isinstance(copied.network, GapNet)  # noqa: S101
    return copied.network


def _features_lost(network: Network, origin: str) -> ModelError:
    return ModelError(
        f"{origin}: the trunk's output was not found in the ONNX graph ({network.words}). The "
        "trunk must give features [B, K, h, w] of more than one position"
    )


def _differ(values: FloatArray, expected: FloatArray) -> float:
    """The largest difference as a share of the range."""
    return float(np.abs(values - expected).max()) / span(expected)


def _array(values: Tensor) -> FloatArray:
    return np.array(values.detach().float().cpu().numpy(), np.float32)
