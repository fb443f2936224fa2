"""An ONNX classifier that another tool wrote: read, bounded, and run as it is to compare with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from gapcam.models.file.build import network_of
from gapcam.models.file.network import Network
from gapcam.models.preprocessing import preprocessing_from
from gapcam.types import ArgumentError, ByteArray, FloatArray, ModelError, Preprocessing, SizeHW

LARGEST_FILE = 2**31
"""Bytes; protobuf reads no more."""

QUANTIZING = ("QuantizeLinear", "DynamicQuantizeLinear")
"""The operators by which a network shows that it computes in 8 bits."""


def read_onnx(path: Path) -> onnx.ModelProto:
    """The file as ONNX, its weights beside it included.

    Raises:
        ModelError: It is missing, too large, or no ONNX file.
    """
    try:
        size = path.stat().st_size
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror or error})") from error
    if size >= LARGEST_FILE:
        raise ModelError(
            f"{path}: {size / 1e9:.1f} GB, an ONNX file holds at most 2 GiB. Give the PyTorch "
            "module with engine='torch'."
        )
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf's and the checker's errors share no base class
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise ModelError(f"{path}: not an ONNX model ({reason}). Export it again.") from error
    return model


def open_onnx(
    path: Path,
    preprocessing: Preprocessing | str | None,
    size_hw: SizeHW | None,
    layer: str | None,
) -> Network:
    """The classifier in an ONNX file, with its head.

    Args:
        path: The file.
        preprocessing: What it expects of pictures, or the name of a usual one.
        size_hw: The input size, pixels; the file's own where it has one, else 224 x 224.
        layer: Where to take the features instead of where the head begins.

    Raises:
        ArgumentError: No preprocessing is given.
        ModelError: It is no classifier of pictures, or has no head that gives maps.
    """
    model = read_onnx(path)
    if preprocessing is None:
        raise ArgumentError(
            f"{path}: an ONNX file does not say what it expects of pictures: give preprocessing, "
            "'imagenet' for mean .485 .456 .406 and deviation .229 .224 .225, '-1..1', '0..1', "
            "'0..255', or numbers"
        )
    wants = preprocessing_from(preprocessing, size_hw or _own_size(model))
    try:
        return network_of(model, wants, str(path), layer=layer)
    except ModelError as error:
        if not any(node.op_type in QUANTIZING for node in model.graph.node):
            raise
        raise ModelError(
            f"{path}: the network is quantized, and gives no maps as it is ({error}). Give its "
            "float file; int8 quantizes that so that maps stay."
        ) from error


def _own_size(model: onnx.ModelProto) -> SizeHW | None:
    """The input size that the file fixes, if any."""
    constants = {c.name for c in model.graph.initializer}
    for given in model.graph.input:
        sides = [d.dim_value for d in given.type.tensor_type.shape.dim]
        if given.name not in constants and len(sides) == 4:
            height, width = sides[2:] if sides[1] == 3 else sides[1:3]
            return (height, width) if height > 0 and width > 0 else None
    return None


class OriginalEngine:
    """Runs the classifier without any of the model file's own nodes, to compare with."""

    def __init__(self, network: Network) -> None:
        self._network = network
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        data, providers = network.proto.SerializeToString(), ["CPUExecutionProvider"]
        self._session = onnxruntime.InferenceSession(data, options, providers=providers)

    def logits(self, pixels: ByteArray) -> FloatArray:
        """The scores `[B, C]` of `uint8` RGB `[B, H, W, 3]`."""
        wants = self._network.preprocessing
        ordered = pixels[..., ::-1] if wants.channels == "bgr" else pixels
        mean, scale = np.array(wants.mean, np.float32), np.array(wants.scale, np.float32)
        picture = (ordered.astype(np.float32) - mean) / scale
        if self._network.picture_layout == "nchw":
            picture = picture.transpose(0, 3, 1, 2)
        step = self._network.fixed_batch or len(picture)
        rows = [
            self._session.run(
                [self._network.logits], {self._network.picture: picture[start : start + step]}
            )[0]
            for start in range(0, len(picture), step)
        ]
        scores: FloatArray = np.concatenate(rows)
        return scores
