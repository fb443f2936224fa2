"""A network as a list of steps: what `gapcam.models.heads` reads to find the head.

Two front ends make one, `gapcam.models.onnx_graphs.trace` from an ONNX graph and
`gapcam.models.pytorch.trace` from a PyTorch program; the names of the steps are the same in both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from gapcam.types import SizeHW

PROBE_BATCH = 2
"""How many pictures the traced run has, `shapes`' first side, where the network's batch is free."""

Op = Literal[
    "conv",  # with a kernel larger than one position
    "pointwise_conv",  # 1 x 1, stride 1, no padding: a linear step on channels (axis 1)
    "linear",  # a matrix of weights on the last axis
    "batch_norm",  # in evaluation mode: scale and shift of channels (axis 1)
    "scale",  # times, plus, less or over a constant: affine
    "norm",  # layer, group, RMS or L2 norm; `axes`, where known: those of its statistics
    "activation",  # elementwise and not affine: ReLU, GELU, Sigmoid, Clip, ...
    "mean",  # over whole axes, `axes`; windowed average pooling over the whole plane too
    "sum",  # over whole axes, `axes`
    "max",  # over whole axes, `axes`; windowed max pooling over the whole plane too
    "average_pool",  # windowed
    "max_pool",  # windowed
    "reshape",  # also flatten, squeeze, unsqueeze: same values in the same order
    "transpose",  # `axes` is the permutation
    "select",  # positions `kept[0]` to `kept[1]` of axis `axes[0]`: slice, gather of one, split
    "concat",  # along `axes[0]`; the first input lies at `kept`, if known; else constants lead
    "add",  # of two or more tensors that depend on the picture
    "multiply",  # likewise, and division; gates and attention maps
    "matmul",  # of two tensors that depend on the picture
    "softmax",  # along `axes[0]`
    "attention",  # fused
    "resize",
    "identity",  # casts, copies, dropout in evaluation mode
    "other",
]


@dataclass(frozen=True, slots=True)
class Step:
    """One operation on tensors that depend on the picture.

    Attributes:
        op: What it does.
        inputs: Names of the tensors it reads that depend on the picture, in the order of its
            arguments; constants are left out.
        outputs: Names of the tensors it gives.
        axes: Not negative; see `Op`.
        kept: With `select` and `concat`: the first position and the one after the last.
        words: What a person would call it: the operation's own name and, if known, a space and
            its module, as in `relu layer4.2`.
    """

    op: Op
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    axes: tuple[int, ...] = ()
    kept: tuple[int, int] = (0, 0)
    words: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """The steps between the picture and the logits, in an order in which they can run.

    Attributes:
        steps: Only those that the logits need and that depend on the picture's values.
        shapes: Of every tensor in `steps` in one run; others may be there too. The batch is
            `PROBE_BATCH`, or the only one that the network takes.
        picture: The network's input, `[B, 3, H, W]` or `[B, H, W, 3]`.
        logits: `[B, C]`.
    """

    steps: tuple[Step, ...]
    shapes: Mapping[str, tuple[int, ...]]
    picture: str
    logits: str


HeadKind = Literal[
    "gap-linear",
    "gmp-linear",
    "lse-linear",
    "tap-linear",
    "gap-norm-linear",
    "gap-hidden",
    "flatten-linear",
    "flatten-hidden",
    "class-token",
    "token-mix",
    "other",
]
"""`gap-linear`: mean over positions, then affine steps only. `gmp-linear`: maximum, then affine.
`lse-linear`, `tap-linear`: one linear layer under log-sum-exp and thresholded average pooling, of
nets that gapcam trained (`gapcam.models.pooling`); another tool's is `other`.
`gap-norm-linear`: mean, a norm of the pooled vector, affine steps. `gap-hidden`: mean, then at
least one activation between affine steps. `flatten-*`: every position has weights of its own.
`class-token`: a token read after attention mixed the positions into it. `token-mix`: mean of the
patches beside a token. `other`: everything else that can be differentiated."""

LINEAR_KINDS = frozenset({"gap-linear", "gmp-linear", "lse-linear", "tap-linear"})
"""Heads that are one matrix `[C, K]` and one bias `[C]` on features pooled alike everywhere: the
class maps are M = W f."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How a tensor lies: which axis holds channels, which hold positions.

    Attributes:
        channel_axis: 1 for `[B, K, h, w]` and `[B, K, N]`, last for `[B, h, w, K]`, `[B, N, K]`.
        position_axes: The two axes of rows and columns, or the one axis of tokens.
        grid_hw: Rows and columns at the traced size.
        first_patch: With tokens: how many (class and register tokens) come before the patches.
    """

    channel_axis: int
    position_axes: tuple[int, ...]
    grid_hw: SizeHW
    first_patch: int = 0


@dataclass(frozen=True, slots=True)
class HeadPlan:
    """Where a network's features end and what its head is.

    Attributes:
        kind: What the head is.
        features: The tensor before the head.
        layout: Of `features`.
        head: The steps from `features` to the logits, in order.
        fine: The last tensor at half the map's stride, for refinement; None where there is none.
        fine_layout: Of `fine`.
        words: Where the features are taken and what follows them, for people.
    """

    kind: HeadKind
    features: str
    layout: Layout
    head: tuple[Step, ...]
    fine: str | None
    fine_layout: Layout | None
    words: str
