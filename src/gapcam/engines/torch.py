"""The same interface over a PyTorch network, for nets that do not export and for comparison."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, Protocol, TypeAlias, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from gapcam.engines import LinearHead, MapOutputs, Outputs, check_finite, classes_for
from gapcam.types import (
    ArgumentError,
    ByteArray,
    FloatArray,
    IntArray,
    ModelError,
    Preprocessing,
    SizeHW,
)

Method: TypeAlias = Literal["cam", "gradcam", "layercam"]
Gradient: TypeAlias = Literal["none", "frozen", "true"]

CLASSES_AT_ONCE = 256
"""How many rows of a linear head are found in one backward pass."""


class Pass(Protocol):
    """One forward pass: logits, features and fine features as the network lays them."""

    @property
    def logits(self) -> Tensor:
        """`[B, C]`."""

    @property
    def features(self) -> Tensor:
        """A leaf that the logits can be differentiated by, where that was asked for."""

    @property
    def fine(self) -> Tensor | None:
        """Or None."""


class Network(Protocol):
    """What this engine runs: `gapcam.models` makes them."""

    @property
    def kind(self) -> str:
        """What the head is (`gapcam.models.trace.HeadKind`)."""

    @property
    def size_hw(self) -> SizeHW:
        """The size that it was made for."""

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """All that the outputs depend on."""

    def moved(self, device: torch.device, autocast: torch.dtype | None = None) -> Any:
        """The same network on a device; `autocast` is the precision of its body's products."""

    def run(self, x: Tensor, gradient: Gradient = "none") -> Pass:
        """One forward pass over pictures `[B, 3, H, W]`; which gradient of the head is wanted."""

    def zero_score(self, x: Tensor) -> Tensor:
        """The logits `[B, C]` of all-zero features."""

    def planes(self, tensor: Tensor, size_hw: SizeHW) -> Tensor:
        """Features or a gradient by them, of pictures of that size, as `[B, K, h, w]`."""

    def fine_planes(self, tensor: Tensor, size_hw: SizeHW) -> Tensor:
        """Fine features as `[B, K2, h2, w2]`."""


class TorchEngine:
    """Runs a PyTorch network and differentiates its head.

    `cam`: M_c = N dS_c/df f summed over channels, N positions, with the statistics of norms in the
    head as constants, so that mean(M_c) + bias = S_c wherever the head is otherwise linear (Zhou et
    al., CVPR 2016, equation 2, for heads of any kind; for max pooling that equation itself).
    `gradcam`: Selvaraju et al., ICCV 2017, equations 1 and 2. `layercam`: Jiang et al., TIP 2021,
    equations 5 to 7. These two take the true gradient and are never negative.

    Args:
        network: From `gapcam.models`.
        preprocessing: What it expects of a picture.
        device: Where it runs, `cpu` or `cuda`; None: on CUDA if there is a GPU.
        method: How maps are made.

    Raises:
        ArgumentError: An unknown method, or a device that is not there.
    """

    name = "torch"

    def __init__(
        self,
        network: Network,
        preprocessing: Preprocessing,
        device: str | None = None,
        method: Method = "cam",
    ) -> None:
        if method not in get_args(Method):
            raise ArgumentError(f"method: expected {' or '.join(get_args(Method))}, got {method!r}")
        self.device = _device(device)
        self.method: Method = method
        self.preprocessing = preprocessing
        self.fixed_hw: SizeHW | None = None
        """The only input size that the network is right at; None: any."""
        self._lock = threading.RLock()
        self._linear = network.kind in ("gap-linear", "gmp-linear") and method == "cam"
        self._rows: dict[SizeHW, Tensor] = {}
        half = torch.float16 if self.device.type == "cuda" else None
        with _own_modes():
            self._network: Network = network.moved(self.device, half)
            self._mean = torch.tensor(preprocessing.mean, device=self.device).reshape(3, 1, 1)
            self._scale = torch.tensor(preprocessing.scale, device=self.device).reshape(3, 1, 1)
            self._bias = self._zero_score(network.kind)

    @property
    def head(self) -> LinearHead | None:
        """The head where maps are one matrix times the features, else None."""
        if not self._linear:
            return None
        with self._lock, _own_modes():
            return LinearHead(_array(self._linear_rows(self._network.size_hw)), self.bias)

    @property
    def bias(self) -> FloatArray:
        """The score `[C]` of all-zero features."""
        return _array(self._bias)

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of the weights, what goes in before them and the method."""
        said = f"{self.preprocessing} {self.method} {self._network.kind}"
        digest = hashlib.sha256(said.encode())
        for name, value in self._network.weights():
            said = f"{name} {value.dtype} {list(value.shape)}"
            plain = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            digest.update(said.encode() + plain.numpy().tobytes())
        return digest.hexdigest()

    def run(self, pixels: ByteArray) -> Outputs:
        """One forward pass over `uint8` RGB `[B, H, W, 3]`."""
        with self._lock, _own_modes():
            out = self._run(self._input(pixels), "none")
            size_hw = _size_of(pixels)
            features = self._network.planes(out.features, size_hw)
            return Outputs(_array(out.logits), _array(features), self._fine(out, size_hw))

    def run_maps(self, pixels: ByteArray, wanted: IntArray | int) -> MapOutputs:
        """One forward pass and class maps.

        Args:
            pixels: `uint8` RGB `[B, H, W, 3]`.
            wanted: How many of the best classes (ties go to the lower id), or class ids, `[n]` or
                `[B, n]`.

        Raises:
            ArgumentError: `wanted` names no classes of this network, or is for another batch.
            ModelError: A map or a score is no finite number.
        """
        with self._lock, _own_modes():
            x, size_hw = self._input(pixels), _size_of(pixels)
            out = self._run(x, self._gradient())
            logits = _array(out.logits)
            classes = classes_for(wanted, logits)
            maps = _array(self._maps(out, classes, size_hw))
            check_finite(logits, maps, classes)
            return MapOutputs(logits, classes, maps, self._fine(out, size_hw))

    def _gradient(self) -> Gradient:
        if self._linear:
            return "none"
        return "frozen" if self.method == "cam" else "true"

    def _run(self, x: Tensor, gradient: Gradient) -> Pass:
        try:
            return self._network.run(x, gradient)
        except RuntimeError as error:
            reason = next(iter(str(error).splitlines()), "no reason given")
            height, width = self._network.size_hw
            raise ModelError(
                f"the network does not run on {len(x)} pictures {x.shape[2]} x {x.shape[3]} "
                f"({reason}). It was made for {height} x {width}"
            ) from error

    def _maps(self, out: Pass, classes: IntArray, size_hw: SizeHW) -> Tensor:
        """Maps `[B, n, h, w]`."""
        features = self._network.planes(out.features.detach(), size_hw)
        if self._linear:
            rows = self._linear_rows(size_hw)[torch.from_numpy(classes).to(self.device)]
            return torch.einsum("bnk,bkhw->bnhw", rows, features)
        combine = {"cam": _cam, "gradcam": _gradcam, "layercam": _layercam}[self.method]
        maps = []
        for column in torch.from_numpy(classes).to(self.device).T:
            # pictures do not mix: one backward pass holds each picture's own slopes
            one_hot = torch.zeros_like(out.logits).scatter_(1, column[:, None], 1)
            (slope,) = torch.autograd.grad(out.logits, out.features, one_hot, retain_graph=True)
            maps.append(combine(self._network.planes(slope, size_hw), features))
        return torch.stack(maps, 1)

    def _linear_rows(self, size_hw: SizeHW) -> Tensor:
        """Weights `[C, K]` of a linear head on features pooled alike everywhere."""
        if size_hw not in self._rows:
            out = self._run(self._blank(size_hw), "frozen")
            slopes = _slopes(out.logits, out.features)
            rows = [self._network.planes(slope, size_hw).sum((2, 3)) for slope in slopes]
            self._rows[size_hw] = torch.cat(rows)
        return self._rows[size_hw]

    def _zero_score(self, kind: str) -> Tensor:
        """The score `[C]` of all-zero features.

        A cosine head has none, but divides by their length: what its map does not explain.
        """
        blank = self._blank(self._network.size_hw)
        scores = self._network.zero_score(blank)[0]
        if kind != "gap-norm-linear" or torch.isfinite(scores).all():
            return scores
        noise = np.random.default_rng(0).normal(0, 1, blank.shape).astype(np.float32)
        out = self._run(torch.from_numpy(noise).to(self.device), "frozen")
        features, slopes = out.features.detach(), _slopes(out.logits, out.features)
        shares = [(slope * features).flatten(1).sum(1) for slope in slopes]
        return (out.logits[0] - torch.cat(shares)).detach()

    def _fine(self, out: Pass, size_hw: SizeHW) -> FloatArray | None:
        return None if out.fine is None else _array(self._network.fine_planes(out.fine, size_hw))

    def _blank(self, size_hw: SizeHW) -> Tensor:
        return torch.zeros(1, 3, *size_hw, device=self.device)

    def _input(self, pixels: ByteArray) -> Tensor:
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] != 3:
            raise ArgumentError(
                f"pixels: expected uint8 [B, H, W, 3], got {pixels.dtype} {list(pixels.shape)}"
            )
        if self.fixed_hw is not None and self.fixed_hw != _size_of(pixels):
            height, width = self.fixed_hw
            raise ModelError(
                f"the network takes pictures of {height} x {width} only, got "
                f"{pixels.shape[1]} x {pixels.shape[2]}"
            )
        ordered = pixels if self.preprocessing.channels == "rgb" else pixels[..., ::-1]
        x = torch.from_numpy(np.array(ordered)).to(self.device).permute(0, 3, 1, 2).float()
        return ((x - self._mean) / self._scale).contiguous(memory_format=torch.channels_last)


def _cam(slope: Tensor, features: Tensor) -> Tensor:
    """N times the sum over channels of dS/df f."""
    positions = features.shape[2] * features.shape[3]
    return positions * (slope * features).sum(1)


def _gradcam(slope: Tensor, features: Tensor) -> Tensor:
    """The channels, weighted by the mean of their slopes, where their sum is positive."""
    return (slope.mean((2, 3), keepdim=True) * features).sum(1).relu()


def _layercam(slope: Tensor, features: Tensor) -> Tensor:
    """The channels, weighted at each position by its own slope if that is positive."""
    return (slope.relu() * features).sum(1).relu()


def _slopes(logits: Tensor, features: Tensor) -> Iterator[Tensor]:
    """dS/df of every class for a batch of one, some classes at a time: `[classes, ...]`."""
    count = logits.shape[1]
    for first in range(0, count, CLASSES_AT_ONCE):
        some = torch.arange(first, min(first + CLASSES_AT_ONCE, count), device=logits.device)
        one_hot = functional.one_hot(some, count).to(logits).unsqueeze(1)
        (slopes,) = torch.autograd.grad(
            logits, features, one_hot, retain_graph=True, is_grads_batched=True
        )
        yield slopes[:, 0]


def _device(name: str | None) -> torch.device:
    present = torch.cuda.is_available()
    if name is None:
        return torch.device("cuda" if present else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ArgumentError(f"device: expected cpu or cuda, got {name!r}") from error
    if device.type == "cuda" and not present:
        raise ArgumentError(f"device {name!r}: PyTorch finds no GPU here. Use cpu")
    return device


@contextmanager
def _own_modes() -> Iterator[None]:
    """Whatever the caller has set (inference mode, autocast) is off inside."""
    off = torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False)
    with torch.inference_mode(False), torch.no_grad(), off[0], off[1]:
        yield


def _size_of(pixels: ByteArray) -> SizeHW:
    return pixels.shape[1], pixels.shape[2]


def _array(values: Tensor) -> FloatArray:
    """A float32 array of its own."""
    return np.array(values.detach().float().cpu().numpy(), np.float32)
