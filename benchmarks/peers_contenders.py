"""The contenders of `peers.py`: each lives in a process of its own and gives class maps.

Every one ends with float32 maps `[B, n, 224, 224]` on the CPU, of the classes it is asked for,
from a batch that is in memory: for gapcam `uint8` pixels, for the others the normalized tensor.
Each is used as its documentation shows, on the layer that gives it the best result.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gapcam.maps import class_maps
from gapcam.resample import resample
from gapcam.types import Preprocessing

if TYPE_CHECKING:
    from torch import Tensor, nn

THREADS = 2
SIDE = 224
RESNET_CLASSES = 1000
PICTURES = "pixels.npy"
CLASSES = "classes.npy"

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]
Run = Callable[[int, Ids], Floats]
"""How many pictures and the class ids `[B, n]` in; maps or, for a plain forward, logits out."""


@dataclass(frozen=True)
class Material:
    """What all contenders share; written to `folder` once.

    Attributes:
        network: `efficientnet-lite0` or `resnet50`.
        folder: Holds `PICTURES`, uint8 `[16, 224, 224, 3]`, `CLASSES`, `[16, 5]`, `weights.pt` and
            `model.onnx`.
    """

    network: str
    folder: Path

    def pixels(self) -> npt.NDArray[np.uint8]:
        """The batch, `[16, 224, 224, 3]`."""
        loaded: npt.NDArray[np.uint8] = np.load(self.folder / PICTURES)
        return loaded

    def classes(self) -> Ids:
        """The best classes of each picture, `[16, 5]`."""
        loaded: Ids = np.load(self.folder / CLASSES)
        return loaded


def on_gapcam(material: Material, *, plain: bool = False) -> Run:
    """Gapcam on ONNX Runtime; `plain` gives logits only."""
    from gapcam.engines.onnx import OnnxEngine

    engine = OnnxEngine(material.folder / "model.onnx", THREADS)
    pixels, head = material.pixels(), engine.head
    assert head is not None

    def forward(batch: int, _: Ids) -> Floats:
        return engine.run_logits(pixels[:batch])

    def maps(batch: int, classes: Ids) -> Floats:
        features = engine.run(pixels[:batch]).features
        return resample(class_maps(features, head.weights, classes), (SIDE, SIDE), "bilinear")

    return forward if plain else maps


def on_torch(material: Material) -> Run:
    """The plain network in eager PyTorch: logits."""
    import torch

    network, _, tensor = _torch(material)

    def forward(batch: int, _: Ids) -> Floats:
        with torch.inference_mode():
            logits: Floats = network(tensor[:batch]).numpy()
        return logits

    return forward


def on_torchcam(material: Material) -> Run:
    """Torchcam's CAM: one forward pass, then a call a class."""
    import torch
    from torchcam.methods import CAM

    network, layer, tensor = _torch(material)
    extractor = CAM(network, layer, "fc")

    def maps(batch: int, classes: Ids) -> Floats:
        with torch.inference_mode():
            logits = network(tensor[:batch])
            found = [
                extractor(column.tolist(), logits, normalized=False)[0] for column in classes.T
            ]
            return _enlarged(torch.stack(found, 1))

    return maps


def on_captum(material: Material) -> Run:
    """Captum's LayerGradCam without its ReLU: a call a class."""
    import torch
    from captum.attr import LayerAttribution, LayerGradCam

    network, layer, tensor = _torch(material)
    method = LayerGradCam(network, layer)

    def maps(batch: int, classes: Ids) -> Floats:
        found = [
            method.attribute(tensor[:batch], target=column.tolist(), relu_attributions=False)
            for column in classes.T
        ]
        large: Tensor = LayerAttribution.interpolate(
            torch.cat(found, 1).detach(), (SIDE, SIDE), "bilinear"
        )
        result: Floats = large.numpy()
        return result

    return maps


def on_grad_cam(material: Material) -> Run:
    """pytorch-grad-cam's GradCAM: a call a class; it scales every map to 0..1."""
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    network, layer, tensor = _torch(material)
    method = GradCAM(model=network, target_layers=[layer])

    def maps(batch: int, classes: Ids) -> Floats:
        found = [
            method(tensor[:batch], targets=[ClassifierOutputTarget(int(c)) for c in column])
            for column in classes.T
        ]
        return np.stack(found, 1)

    return maps


CONTENDERS: dict[str, Callable[[Material], Run]] = {
    "gapcam": on_gapcam,
    "plain ONNX Runtime": lambda material: on_gapcam(material, plain=True),
    "plain PyTorch": on_torch,
    "torchcam CAM": on_torchcam,
    "captum LayerGradCam": on_captum,
    "pytorch-grad-cam GradCAM": on_grad_cam,
}


def torch_network(name: str) -> tuple[nn.Module, nn.Module, Preprocessing]:
    """The network with a linear layer `fc`, the layer whose output its maps are of, its pixels."""
    import torch
    from torch import nn
    from torchvision.models import resnet50

    if name == "resnet50":
        torch.manual_seed(0)
        resnet = resnet50(weights=None, num_classes=RESNET_CLASSES)
        mean, scale = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
        return resnet, resnet.layer4, Preprocessing((SIDE, SIDE), mean, scale)
    from gapcam.models import embedded

    lite = embedded.load_network()
    head = lite.head
    setattr(lite, "_fc", nn.Identity())  # noqa: B010 - it is to be found in one place only

    class Trunk(nn.Module):
        """A module for the last activation, which the network applies as a function."""

        def __init__(self) -> None:
            super().__init__()
            self.network = lite

        def forward(self, x: Tensor) -> Tensor:
            features: Tensor = self.network.spatial(x).features
            return features

    trunk = Trunk()
    parts = {"trunk": trunk, "pool": nn.AdaptiveAvgPool2d(1), "flat": nn.Flatten(), "fc": head}
    whole = nn.Sequential()
    for part, module in parts.items():
        whole.add_module(part, module)
    return whole, trunk, embedded.PREPROCESSING


def normalized(pixels: npt.NDArray[np.uint8], wanted: Preprocessing) -> Tensor:
    """Pixels `[B, H, W, 3]` as the tensor `[B, 3, H, W]` that the network takes."""
    import torch

    mean, scale = (np.array(values, np.float32) for values in (wanted.mean, wanted.scale))
    return torch.from_numpy((pixels - mean) / scale).permute(0, 3, 1, 2).contiguous()


def _torch(material: Material) -> tuple[nn.Module, nn.Module, Tensor]:
    import torch

    torch.set_num_threads(THREADS)
    network, layer, wanted = torch_network(material.network)
    state = torch.load(material.folder / "weights.pt", weights_only=True)
    network.load_state_dict(state)
    return network.eval(), layer, normalized(material.pixels(), wanted)


def _enlarged(maps: Tensor) -> Floats:
    from torch.nn import functional

    large: Floats = functional.interpolate(
        maps, (SIDE, SIDE), mode="bilinear", align_corners=False
    ).numpy()
    return large


class Worker:
    """What a contender's process holds."""

    run: Run
    classes: Ids


def open_contender(name: str, material: Material) -> None:
    """Load a contender into this process."""
    Worker.run = staticmethod(CONTENDERS[name](material))
    Worker.classes = material.classes()


def seconds(batch: int, count: int) -> float:
    """How long the maps of the `count` best classes of `batch` pictures take."""
    classes = Worker.classes[:batch, :count]
    start = time.perf_counter()
    Worker.run(batch, classes)
    return time.perf_counter() - start


def result(batch: int, count: int) -> Floats:
    """The maps themselves."""
    return Worker.run(batch, Worker.classes[:batch, :count])


def peak_megabytes(batch: int, count: int) -> tuple[float, float]:
    """Peak resident memory of a run: of the whole process, and above what it held before (Linux).

    What the loading freed is given back first, so that it does not hide what the run takes.
    """
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew at what is held now
    before = _status("VmRSS")
    for _ in range(2):
        Worker.run(batch, Worker.classes[:batch, :count])
    peak = _status("VmHWM")
    return peak, peak - before


def _status(field: str) -> float:
    lines: dict[str, Any] = dict(
        line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines()
    )
    return int(lines[field].split()[0]) / 1024
