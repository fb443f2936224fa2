"""Small networks with every kind of head, for `[B, 3, 64, 64]` pictures; seeded, in eval mode."""

import functools
import io
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.nn import functional

from exporter import list_operators_once
from gapcam.models.pytorch.trace import trace_module
from gapcam.models.trace import Trace

list_operators_once()

SIDE = 64
CLASSES = 7
CHANNELS = 24
TOKENS = 32


def conv_block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


def trunk(outputs: int = CHANNELS) -> nn.Sequential:
    """Strides 2, 4, 8, 16; the last tensor is a ReLU's, 4 x 4."""
    return nn.Sequential(
        conv_block(3, 8, 2), conv_block(8, 12, 2), conv_block(12, 16, 2), conv_block(16, outputs, 2)
    )


class Headed(nn.Module):
    """A trunk and a head."""

    def __init__(self, body: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


class Rms(nn.Module):
    """RMS norm over the last axis, with a gain."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.rand(channels) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * self.gain


class Cosine(nn.Module):
    """Cosine classifier: L2-normalized features and weights, times a constant."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(CLASSES, channels))

    def forward(self, x: Tensor) -> Tensor:
        return 16.0 * functional.linear(
            functional.normalize(x, dim=-1), functional.normalize(self.weight, dim=-1)
        )


class FunctionalRelu(nn.Module):
    """Conv and batch norm; the ReLU is a function call right before the pooling (DenseNet)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = trunk(16)
        self.convolution = nn.Conv2d(16, CHANNELS, 3, padding=1)
        self.norm = nn.BatchNorm2d(CHANNELS)
        self.classifier = nn.Linear(CHANNELS, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.norm(self.convolution(self.stem(x))))
        return self.classifier(torch.flatten(functional.adaptive_avg_pool2d(x, 1), 1))


class Pooled(nn.Module):
    """A trunk, one of torch's reductions over positions, a linear layer."""

    def __init__(self, reduction: Callable[..., Tensor]) -> None:
        super().__init__()
        self.body = trunk()
        self.reduction = reduction
        self.classifier = nn.Linear(CHANNELS, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.reduction(self.body(x), dim=(2, 3)))


class Residual(nn.Module):
    """A bottleneck block with a depthwise convolution and, at stride 1, a residual."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        wide = 2 * inputs
        self.expand = nn.Conv2d(inputs, wide, 1)
        self.depthwise = nn.Conv2d(wide, wide, 3, stride, padding=1, groups=wide)
        self.project = nn.Conv2d(wide, outputs, 1)
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu6(self.expand(x))
        y = self.project(functional.relu6(self.depthwise(y)))
        return x + y if self.shortcut else y


def mobile() -> nn.Module:
    """MobileNetV2 in small: strides 2, 4, 8 (twice, residual), 16, a pointwise stage, GAP."""
    body = nn.Sequential(
        conv_block(3, 8, 2),
        Residual(8, 12, 2),
        Residual(12, 16, 2),
        Residual(16, 16, 1),
        Residual(16, 20, 2),
        nn.Conv2d(20, CHANNELS, 1),
        nn.ReLU6(),
    )
    return Headed(body, gap(nn.Dropout(0.2), nn.Linear(CHANNELS, CLASSES)))


def squeezed() -> nn.Module:
    """Gates by a pooled vector in the trunk (squeeze and excitation), then GAP and linear."""

    class Gate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down = nn.Conv2d(CHANNELS, 6, 1)
            self.up = nn.Conv2d(6, CHANNELS, 1)

        def forward(self, x: Tensor) -> Tensor:
            pooled = x.mean((2, 3), keepdim=True)
            return x * torch.sigmoid(self.up(functional.silu(self.down(pooled))))

    body = nn.Sequential(trunk(), Gate(), nn.Conv2d(CHANNELS, CHANNELS, 1), nn.SiLU())
    return Headed(body, gap(nn.Linear(CHANNELS, CLASSES)))


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(TOKENS)
        self.qkv = nn.Linear(TOKENS, 3 * TOKENS)
        self.project = nn.Linear(TOKENS, TOKENS)
        self.norm2 = nn.LayerNorm(TOKENS)
        self.mlp = nn.Sequential(
            nn.Linear(TOKENS, 2 * TOKENS), nn.GELU(), nn.Linear(2 * TOKENS, TOKENS)
        )

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(batch, tokens, 3, 4, TOKENS // 4)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        weights = (query @ key.transpose(-2, -1) * (TOKENS // 4) ** -0.5).softmax(-1)
        mixed = (weights @ value).transpose(1, 2).reshape(batch, tokens, TOKENS)
        x = x + self.project(mixed)
        return x + self.mlp(self.norm2(x))


class Tokens(nn.Module):
    """A vision transformer of two blocks on 8 x 8 patches.

    Args:
        read: What of the normed tokens the classifier sees: `mean` (of the patches), `class`,
            `mix` (class token beside the mean of the patches).
        extra: How many class and register tokens come before the patches.
        norm_first: Norm, then pool; otherwise pool, then norm.
    """

    def __init__(self, read: str, extra: int, norm_first: bool = True) -> None:
        super().__init__()
        self.read, self.extra, self.norm_first = read, extra, norm_first
        self.patches = nn.Conv2d(3, TOKENS, 8, 8)
        self.front = nn.Parameter(torch.randn(1, extra, TOKENS))
        self.places = nn.Parameter(torch.randn(1, 64, TOKENS) / 4)
        self.blocks = nn.Sequential(Block(), Block())
        self.norm = nn.LayerNorm(TOKENS)
        self.classifier = nn.Linear((2 if read == "mix" else 1) * TOKENS, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.places
        if self.extra:
            tokens = torch.cat([self.front.expand(x.shape[0], -1, -1), tokens], 1)
        tokens = self.blocks(tokens)
        if self.norm_first:
            tokens = self.norm(tokens)
        pooled = self._pool(tokens)
        return self.classifier(pooled if self.norm_first else self.norm(pooled))

    def _pool(self, tokens: Tensor) -> Tensor:
        mean = tokens[:, self.extra :].mean(1)
        if self.read == "mean":
            return mean
        return tokens[:, 0] if self.read == "class" else torch.cat([tokens[:, 0], mean], 1)


class ChannelsLast(nn.Module):
    """Swin's end: `[B, h, w, K]` through a layer norm, permuted, pooled, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.body = trunk()
        self.mix = nn.Linear(CHANNELS, CHANNELS)
        self.norm = nn.LayerNorm(CHANNELS)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(CHANNELS, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.mix(self.body(x).permute(0, 2, 3, 1)))
        return self.classifier(self.pool(x.permute(0, 3, 1, 2)).flatten(1))


def gap(*after: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), *after)


def gap_norm_linear() -> nn.Module:
    return Headed(trunk(), gap(nn.LayerNorm(CHANNELS), nn.Linear(CHANNELS, CLASSES)))


def gap_hidden() -> nn.Module:
    layers = nn.Linear(CHANNELS, 32), nn.Hardswish(), nn.Dropout(0.2), nn.Linear(32, CLASSES)
    return Headed(trunk(), gap(*layers))


def flatten_hidden() -> nn.Module:
    layers = nn.Linear(CHANNELS * 16, 32), nn.ReLU(), nn.Dropout(), nn.Linear(32, CLASSES)
    body = nn.Sequential(trunk(), nn.AdaptiveAvgPool2d(4))
    return Headed(body, nn.Sequential(nn.Flatten(), *layers))


def no_head() -> nn.Module:
    """One number a pixel is all that is left: positions never lie apart from the classes."""
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 16), nn.ReLU(), nn.Linear(16, 7))


_MAKERS: dict[str, Callable[[], nn.Module]] = {
    "gap_linear": lambda: Headed(trunk(), gap(nn.Linear(CHANNELS, CLASSES))),
    "gap_functional_relu": FunctionalRelu,
    "gap_conv1x1": lambda: Headed(
        trunk(),
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(CHANNELS, CLASSES, 1), nn.Flatten()),
    ),
    "conv1x1_gap": lambda: Headed(
        trunk(),
        nn.Sequential(nn.Conv2d(CHANNELS, CLASSES, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    ),
    "squeezenet": lambda: Headed(
        trunk(), nn.Sequential(nn.Dropout(), nn.Conv2d(CHANNELS, CLASSES, 1), nn.ReLU(), gap())
    ),
    "gap_batchnorm_linear": lambda: Headed(
        trunk(), gap(nn.BatchNorm1d(CHANNELS), nn.Linear(CHANNELS, CLASSES))
    ),
    "gap_two_linear": lambda: Headed(trunk(), gap(nn.Linear(CHANNELS, 32), nn.Linear(32, CLASSES))),
    "window_avgpool": lambda: Headed(
        trunk(), nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(CHANNELS, CLASSES))
    ),
    "sum_linear": lambda: Pooled(torch.sum),
    "gmp_linear": lambda: Pooled(torch.amax),
    "gap_norm_linear": gap_norm_linear,
    "gap_rms_linear": lambda: Headed(trunk(), gap(Rms(CHANNELS), nn.Linear(CHANNELS, CLASSES))),
    "gap_l2_linear": lambda: Headed(trunk(), gap(Cosine(CHANNELS))),
    "gap_hidden": gap_hidden,
    "flatten_linear": lambda: Headed(
        trunk(), nn.Sequential(nn.Flatten(), nn.Linear(CHANNELS * 16, CLASSES))
    ),
    "flatten_hidden": flatten_hidden,
    "mobile": mobile,
    "squeezed": squeezed,
    "nhwc_swin": ChannelsLast,
    "tokens_mean": lambda: Tokens("mean", extra=0),
    "tokens_mean_norm": lambda: Tokens("mean", extra=1, norm_first=False),
    "tokens_class": lambda: Tokens("class", extra=1),
    "tokens_registers_mean": lambda: Tokens("mean", extra=5),
    "tokens_registers_class": lambda: Tokens("class", extra=5),
    "tokens_mix": lambda: Tokens("mix", extra=1),
    "no_head": no_head,
}


def _seeded(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            net = make().eval()
            _stir(net)
        return net

    return build


def _stir(net: nn.Module) -> None:
    """Statistics and shifts that differ, as in a trained net; a fresh norm would hide mistakes."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.LayerNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)


NETS: dict[str, Callable[[], nn.Module]] = {name: _seeded(make) for name, make in _MAKERS.items()}
"""`NETS[name]()` gives the same network every time."""


@functools.cache
def traced(name: str) -> tuple[ExportedProgram, Trace]:
    """`NETS[name]` through `trace_module`, which takes a second; for readers only, it is kept."""
    return trace_module(NETS[name](), (SIDE, SIDE))


def old_onnx(net: nn.Module, opset: int = 17, size_hw: tuple[int, int] = (SIDE, SIDE)) -> bytes:
    """The network as PyTorch's older exporter writes it, like most files about; batch free.

    It takes a tenth of a second; the newer one takes seconds.
    """
    written = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)  # of the exporter itself
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)
        torch.onnx.export(
            net,
            (torch.zeros(2, 3, *size_hw),),
            written,
            dynamo=False,
            opset_version=opset,
            input_names=["picture"],
            output_names=["logits"],
            dynamic_axes={"picture": {0: "batch"}, "logits": {0: "batch"}},
        )
    return written.getvalue()
