"""The default engine: a model file on ONNX Runtime. Never imports PyTorch."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime

from gapcam.engines import LinearHead, Outputs
from gapcam.types import ByteArray, ModelError

SMALLEST_SIDE = 32
RUN_OUTPUTS = ("logits", "features", "fine_features")
FATAL_ONLY = 4


class OnnxEngine:
    """Runs a model file.

    Args:
        path: The model file.
        threads: How many threads one forward pass may use; 0 means one a core.

    Raises:
        ModelError: The file is missing or is not a model that ONNX Runtime can load.
    """

    def __init__(self, path: Path, threads: int = 0) -> None:
        self.path = path
        self._session = _open_session(path, threads)
        self._fetch_only = onnxruntime.RunOptions()
        self._fetch_only.only_execute_path_to_fetches = True

    @property
    def metadata(self) -> Mapping[str, str]:
        """What the file says of itself."""
        found: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
        return found

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of the file."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()

    @property
    def head(self) -> LinearHead:
        """The linear head kept in the file."""
        smallest = np.zeros((1, SMALLEST_SIDE, SMALLEST_SIDE, 3), np.uint8)
        weights, bias = self._fetch(("head_weights", "head_bias"), smallest)
        return LinearHead(weights, bias)

    def run(self, pixels: ByteArray) -> Outputs:
        """One forward pass over `uint8` RGB `[B, H, W, 3]`."""
        return Outputs(*self._fetch(RUN_OUTPUTS, pixels))

    def run_logits(self, pixels: ByteArray) -> np.ndarray:
        """The plain classifier, no maps: logits `[B, C]`. What map cost is measured against."""
        return self._fetch(("logits",), pixels)[0]

    def _fetch(self, names: tuple[str, ...], pixels: ByteArray) -> list[np.ndarray]:
        try:
            fetched: list[np.ndarray] = self._session.run(
                list(names), {"images": pixels}, self._fetch_only
            )
        except Exception as error:  # ONNX Runtime's errors share no base class of their own
            raise ModelError(
                f"{self.path}: cannot run on pixels {pixels.dtype} {list(pixels.shape)} "
                f"({str(error).splitlines()[0]}). Build the file again."
            ) from error
        return fetched


def _open_session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    if not os.path.isfile(path):
        raise ModelError(f"{path}: no such model file. Check the path, or see: gapcam models")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = FATAL_ONLY
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors share no base class of their own
        raise ModelError(
            f"{path}: not a model that ONNX Runtime can load ({str(error).splitlines()[0]}). "
            "Delete the file and build it again."
        ) from error
