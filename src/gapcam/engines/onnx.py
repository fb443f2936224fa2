"""The default engine: a model file on ONNX Runtime. Never imports PyTorch."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime

from gapcam.engines import LinearHead, MapOutputs, Outputs, check_finite, classes_for
from gapcam.maps import class_maps
from gapcam.types import ByteArray, FloatArray, IntArray, ModelError

USUAL_SIDE = 224
LARGEST_SIDE = 4096
"""No file can make the engine hold a larger picture than this for its constants."""

FATAL_ONLY = 4


class OnnxEngine:
    """Runs a model file.

    Args:
        source: The model file, or its bytes.
        threads: How many threads one forward pass may use; 0 means one a core.
        name: What to call a model given as bytes, in messages.

    Raises:
        ModelError: The file is missing or is not a model that ONNX Runtime can load.
    """

    name = "onnx"

    def __init__(self, source: Path | bytes, threads: int = 0, name: str = "<bytes>") -> None:
        held = isinstance(source, bytes)
        self._path = None if isinstance(source, bytes) else source
        self._digest = hashlib.sha256(source).hexdigest() if isinstance(source, bytes) else ""
        self._origin = name if held else str(source)
        self._session = _open_session(source, self._origin, threads)
        self._fetch_only = onnxruntime.RunOptions()
        self._fetch_only.only_execute_path_to_fetches = True
        self._outputs = {output.name for output in self._session.get_outputs()}
        self._sides = self._session.get_inputs()[0].shape
        self._head: LinearHead | None = None
        self._bias: FloatArray | None = None

    @property
    def path(self) -> Path:
        """The model file.

        Raises:
            ModelError: The model was given as bytes.
        """
        if self._path is None:
            raise ModelError(f"{self._origin}: this model is in memory and has no file")
        return self._path

    @property
    def metadata(self) -> Mapping[str, str]:
        """What the file says of itself."""
        found: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
        return found

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of the file."""
        if not self._digest:
            self._digest = hashlib.sha256(self.path.read_bytes()).hexdigest()
        return self._digest

    @property
    def head(self) -> LinearHead | None:
        """The linear head kept in the file; None where the head is not linear."""
        if self._head is None and "head_weights" in self._outputs:
            weights = self._fetch(("head_weights",), self._any_picture())[0]
            self._head = LinearHead(weights, self.bias)
        return self._head

    @property
    def bias(self) -> FloatArray:
        """The score `[C]` of all-zero features, kept in the file."""
        if self._bias is None:
            self._bias = self._fetch(("head_bias",), self._any_picture())[0]
        return self._bias

    def run(self, pixels: ByteArray) -> Outputs:
        """One forward pass over `uint8` RGB `[B, H, W, 3]`."""
        names = ("logits", "features", *self._fine)
        logits, features, *fine = self._fetch(names, pixels)
        return Outputs(logits, features, fine[0] if fine else None)

    def run_logits(self, pixels: ByteArray) -> FloatArray:
        """The plain classifier, no maps: logits `[B, C]`. What map cost is measured against."""
        return self._fetch(("logits",), pixels)[0]

    def run_maps(self, pixels: ByteArray, wanted: IntArray | int) -> MapOutputs:
        """One forward pass over `uint8` RGB `[B, H, W, 3]`, with class maps.

        Args:
            pixels: The batch.
            wanted: How many of the best classes, or class ids, `[n]` or `[B, n]`.

        Raises:
            ArgumentError: `wanted` does not fit the batch or the classes.
            ModelError: A score or a map is no number.
        """
        head = self.head
        if head is not None:
            out = self.run(pixels)
            classes = classes_for(wanted, out.logits)
            maps = class_maps(out.features, head.weights, classes)
            found = MapOutputs(out.logits, classes, maps, out.fine_features)
        else:
            found = self._run_gradient(pixels, wanted)
        check_finite(found.logits, found.maps, found.classes)
        return found

    def _run_gradient(self, pixels: ByteArray, wanted: IntArray | int) -> MapOutputs:
        """The maps of a head that is not linear, which the file's own nodes give."""
        shape = np.empty((len(pixels), len(self.bias)), np.float32)
        classes = classes_for(wanted, shape)  # which also refuses what cannot be meant
        if isinstance(wanted, int | np.integer):
            names = ("logits", "top_classes", "top_maps", *self._fine)
            more = {"top": np.array([wanted], np.int64)}
            logits, classes, maps, *fine = self._fetch(names, pixels, more)
        else:
            names = ("logits", "asked_maps", *self._fine)
            logits, maps, *fine = self._fetch(names, pixels, {"asked_classes": classes})
        return MapOutputs(logits, classes, maps, fine[0] if fine else None)

    @property
    def _fine(self) -> tuple[str, ...]:
        return ("fine_features",) if "fine_features" in self._outputs else ()

    def _any_picture(self) -> ByteArray:
        """A black picture to fetch constants with."""
        batch = self._sides[0] if isinstance(self._sides[0], int) else 1
        # At the size that the file names: networks may divide by sides that are nothing below it.
        known = json.loads(self.metadata.get("gapcam.input_size_hw", "null"))
        sides = [min(side, LARGEST_SIDE) for side in known or ()] or [
            s if isinstance(s, int) else USUAL_SIDE for s in self._sides[1:3]
        ]
        return np.zeros((batch, *sides, 3), np.uint8)

    def _fetch(
        self, names: tuple[str, ...], pixels: ByteArray, more: Mapping[str, IntArray] | None = None
    ) -> list[np.ndarray]:
        batch, *sides = self._sides[:3]
        taken = zip(sides, pixels.shape[1:3], strict=True)
        if any(isinstance(side, int) and side != given for side, given in taken):
            raise ModelError(
                f"{self._origin}: takes pictures of {sides[0]} x {sides[1]} only, got "
                f"{pixels.shape[1]} x {pixels.shape[2]}"
            )
        if not isinstance(batch, int) or batch == len(pixels):
            return self._fetch_at_once(names, pixels, more or {})
        # A foreign file may be fixed to one picture at a time.
        parts = []
        for start in range(0, len(pixels), batch):
            part = {
                key: value[start : start + batch] if len(value) == len(pixels) > 1 else value
                for key, value in (more or {}).items()
            }
            parts.append(self._fetch_at_once(names, pixels[start : start + batch], part))
        return [np.concatenate(values) for values in zip(*parts, strict=True)]

    def _fetch_at_once(
        self, names: tuple[str, ...], pixels: ByteArray, more: Mapping[str, IntArray]
    ) -> list[np.ndarray]:
        try:
            fetched: list[np.ndarray] = self._session.run(
                list(names), {"images": pixels, **more}, self._fetch_only
            )
        except Exception as error:  # ONNX Runtime's errors share no base class of their own
            raise ModelError(
                f"{self._origin}: cannot run on pixels {pixels.dtype} {list(pixels.shape)} "
                f"({str(error).splitlines()[0]}). Build the file again."
            ) from error
        return fetched


def _open_session(source: Path | bytes, origin: str, threads: int) -> onnxruntime.InferenceSession:
    if not isinstance(source, bytes) and not os.path.isfile(source):
        raise ModelError(f"{origin}: no such model file. Check the path, or see: gapcam models")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = FATAL_ONLY
    given = source if isinstance(source, bytes) else str(source)
    try:
        return onnxruntime.InferenceSession(given, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors share no base class of their own
        raise ModelError(
            f"{origin}: not a model that ONNX Runtime can load ({str(error).splitlines()[0]}). "
            "Build or export it again."
        ) from error
