"""The same pictures after every epoch: what a net in training sees of their known classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from gapcam.engines import LinearHead, MapOutputs, Outputs, classes_for
from gapcam.localizer import Localizer
from gapcam.models.gap_net import GapNet
from gapcam.models.pooling import PooledLinear
from gapcam.sheet import contact_sheet
from gapcam.types import (
    ByteArray,
    FloatArray,
    IntArray,
    ModelCard,
    Picture,
    PictureSource,
    Preprocessing,
)

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image

    from gapcam.training.labelled import LabelledSet

PICTURES = 12
COLUMNS = 4
TILE = 240
BATCH = 4


class NetEngine:
    """A net in training as an engine: maps from its weights, or through any other head.

    Args:
        net: In evaluation mode, on any device; it is not changed. Its `spatial` gives features
            `[B, K, h, w]` and its `head` makes logits of them.
        preprocessing: What it expects of pictures.
        classes: C.
    """

    name = "torch"
    fingerprint = ""  # results of a net in training are not compared with those of another

    def __init__(self, net: nn.Module, preprocessing: Preprocessing, classes: int) -> None:
        self._net = net
        self._head = net.get_submodule("head")
        self._device = next(self._head.parameters()).device
        self._preprocessing = preprocessing
        self._classes = classes

    @cached_property
    def head(self) -> LinearHead | None:
        """Of a `GapNet`."""
        if not isinstance(self._net, GapNet):
            return None
        linear = self._net.head.linear
        return LinearHead(_array(linear.weight), _array(linear.bias))

    @property
    def bias(self) -> FloatArray:
        """`[C]`; zero where the head is not linear: sheets do not compare maps with scores."""
        return np.zeros(self._classes, np.float32) if self.head is None else self.head.bias

    def run(self, pixels: ByteArray) -> Outputs:
        """Logits and features of `uint8` RGB `[B, H, W, 3]`."""
        with torch.no_grad():
            features = self._features(pixels)
            logits = self._head(features)
        return Outputs(_array(logits), _array(features), None)

    def run_maps(self, pixels: ByteArray, wanted: IntArray | int) -> MapOutputs:
        """Logits and M_c = N sum_k (dS_c / df_k) f_k, which a linear head's w_ck f_k is."""
        with torch.no_grad():
            features = self._features(pixels)
        features.requires_grad_()
        with torch.enable_grad():
            logits = self._head(features)
            classes = classes_for(wanted, _array(logits))
            if isinstance(self._head, PooledLinear):
                every = _array(self._head.class_maps(features))
                maps = np.take_along_axis(every, classes[:, :, None, None], axis=1)
            else:
                maps = _first_order(logits, features, classes)
        return MapOutputs(_array(logits), classes, maps, None)

    def _features(self, pixels: ByteArray) -> Tensor:
        wants = self._preprocessing
        order = slice(None, None, -1 if wants.channels == "bgr" else 1)
        values = pixels[..., order].astype(np.float32)
        scaled = (values - np.array(wants.mean, np.float32)) / np.array(wants.scale, np.float32)
        x = torch.from_numpy(np.ascontiguousarray(scaled.transpose(0, 3, 1, 2)))
        spatial: Callable[[Tensor], Tensor] = self._net.spatial  # type: ignore[assignment]
        return spatial(x.to(self._device)).detach()


def _first_order(logits: Tensor, features: Tensor, classes: IntArray) -> FloatArray:
    positions = features.shape[2] * features.shape[3]
    columns = []
    for column in torch.from_numpy(classes).to(logits.device).T:
        chosen = logits.gather(1, column[:, None]).sum()
        (gradient,) = torch.autograd.grad(chosen, features, retain_graph=True)
        columns.append(_array((gradient * features).sum(1) * positions))
    return np.stack(columns, axis=1)


def _array(values: Tensor) -> FloatArray:
    return np.asarray(values.detach().float().cpu().numpy(), np.float32)


class SampleSheet:
    """A fixed choice of pictures, drawn again for every net.

    Args:
        data: The pictures.
        among: Which of them may be chosen, `[n]`; the validation part.
        without: Classes that have no place, which are passed over.
    """

    def __init__(self, data: LabelledSet, among: IntArray, without: Sequence[int]) -> None:
        self._data = data
        self.indices, self.classes = _choose(data, among, set(without))

    def draw(self, localizer: Localizer) -> Image.Image:
        """The pictures with the maps and boxes of their own classes.

        Raises:
            PictureError: A picture can no longer be read.
        """
        paths: list[Path] = [self._data.paths[i] for i in self.indices]
        found = []
        for start in range(0, len(paths), BATCH):
            sources: list[PictureSource] = list(paths[start : start + BATCH])
            pictures: list[Picture] = [localizer.read(source) for source in sources]
            ids = np.array(self.classes[start : start + BATCH])[:, None]
            found += localizer.localize(pictures, sources, ids)
        return contact_sheet(found, columns=min(COLUMNS, len(paths)), tile=TILE)

    def draw_net(
        self, net: nn.Module, preprocessing: Preprocessing, card: ModelCard
    ) -> Image.Image:
        """The same with a net in training, on its plain maps."""
        return self.draw(Localizer(NetEngine(net, preprocessing, len(card.labels)), card))


def _choose(data: LabelledSet, among: IntArray, without: set[int]) -> tuple[list[int], list[int]]:
    """Pictures in turn from every class, the first of each first, and the class of each."""
    shown = data.targets[among]
    per_class = {
        c: among[np.flatnonzero(shown[:, c])[:PICTURES]].tolist()
        for c in range(len(data.classes))
        if c not in without
    }
    chosen: dict[int, int] = {}
    for turn in range(PICTURES):
        for c, pictures in per_class.items():
            if turn < len(pictures) and len(chosen) < PICTURES:
                chosen.setdefault(pictures[turn], c)
    pairs = sorted(chosen.items(), key=lambda pair: pair[1])
    return [i for i, _ in pairs], [c for _, c in pairs]
