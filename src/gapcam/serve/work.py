"""What a worker thread does with a batch of uploads: read, run, cut, write as JSON."""

from __future__ import annotations

import base64
import json
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from gapcam.formats import to_record
from gapcam.images import Limits
from gapcam.localizer import Localizer, Seen
from gapcam.refine import similarity
from gapcam.serve.body import Upload
from gapcam.serve.metrics import Metrics
from gapcam.types import (
    FloatArray,
    GapcamError,
    IntArray,
    Localization,
    ModelError,
    Picture,
    Recipe,
)

MapChoice: TypeAlias = Literal["none", "found", "all"]
UNNAMED = "<bytes>: "
LARGEST_HALF = 65504.0


@dataclass(frozen=True, slots=True)
class Wants:
    """What a request asks of each of its pictures; requests that want the same share batches.

    Attributes:
        top: How many of the best classes; None where classes are named.
        classes: Their ids, or None for the best.
        maps: Whose raw maps to send.
    """

    top: int | None
    classes: tuple[int, ...] | None
    maps: MapChoice = "none"

    @property
    def wanted(self) -> IntArray | int:
        """As `Localizer.localize` takes it."""
        if self.classes is not None:
            return np.array(self.classes)
        assert self.top is not None  # noqa: S101  (one of them is given)
        return self.top


class Work:
    """Uploads to results, in whichever thread calls it.

    Args:
        localizer: What localizes.
        limits: How large a picture may be.
        metrics: Where stages are timed.
    """

    def __init__(self, localizer: Localizer, limits: Limits, metrics: Metrics) -> None:
        self._localizer, self._limits, self._metrics = localizer, limits, metrics

    def __call__(self, uploads: Sequence[Upload], wants: Hashable) -> list[bytes | GapcamError]:
        """One JSON object an upload, as in `schema.PictureOut`, or why there is none.

        Raises:
            ModelError: The network gives no finite scores for one of the pictures.
        """
        assert isinstance(wants, Wants)  # noqa: S101  (the batcher knows it as a key only)
        with self._metrics.stage("read"):
            read = [self._read(upload) for upload in uploads]
        pictures = [picture for picture in read if isinstance(picture, Picture)]
        written = iter(self._written(pictures, wants) if pictures else ())
        self._metrics.batch.observe(len(uploads))
        self._metrics.pictures.labels("localized").inc(len(pictures))
        self._metrics.pictures.labels("refused").inc(len(uploads) - len(pictures))
        return [next(written) if isinstance(r, Picture) else r for r in read]

    def _read(self, upload: Upload) -> Picture | GapcamError:
        try:
            picture = self._localizer.read(upload.data, self._limits)
        except GapcamError as error:
            return type(error)(f"{upload.name}: {str(error).removeprefix(UNNAMED)}")
        return Picture(
            upload.name, picture.pixels, picture.size_hw, picture.notes, picture.evidence_pixels
        )

    def _written(self, pictures: Sequence[Picture], wants: Wants) -> list[bytes]:
        localizer = self._localizer
        with self._metrics.stage("run"):
            seen = localizer.see(pictures, wants.wanted, every=wants.maps == "all")
            found = localizer.cut(seen, pictures, [picture.name for picture in pictures])
        with self._metrics.stage("write"):
            maps: Sequence[Any] = [None] * len(pictures)
            if wants.maps != "none":
                maps = maps_of(seen, localizer.recipe)
            return [_object(one, own) for one, own in zip(found, maps, strict=True)]


def _object(found: Localization, maps: dict[str, Any] | None) -> bytes:
    record = to_record(found)
    body = {
        "name": found.name,
        "width": record["width"],
        "height": record["height"],
        "notes": list(found.notes),
        "detections": record["detections"],
        "maps": maps,
    }
    return json.dumps(body, separators=(",", ":"), allow_nan=False).encode()


def maps_of(seen: Seen, recipe: Recipe) -> list[dict[str, Any]]:
    """The raw maps of each picture of a batch, and what refines them, as in `schema.MapsOut`.

    Raises:
        ModelError: A map is too large for 16 bits.
    """
    every = seen.all_maps is not None
    values = half(seen.maps if seen.all_maps is None else seen.all_maps)
    finer = seen.all_finer_maps if every else seen.finer_maps
    finer_values = None if finer is None else half(finer)
    alike = grid_hw = None
    if recipe.refine == "affinity" and seen.fine_features is not None:
        alike = half(similarity(seen.fine_features, recipe.centring))
        grid_hw = list(seen.fine_features.shape[2:])
    return [
        {
            "logits": text(seen.logits[i].astype("<f4")),
            "class_ids": None if every else seen.classes[i].tolist(),
            "size_hw": list(values.shape[2:]),
            "values": text(values[i]),
            "finer_size_hw": None if finer_values is None else list(finer_values.shape[2:]),
            "finer_values": None if finer_values is None else text(finer_values[i]),
            "similarity_hw": grid_hw,
            "similarity": None if alike is None else text(alike[i]),
        }
        for i in range(len(values))
    ]


def half(values: FloatArray) -> np.ndarray:
    """As little-endian float16, which holds up to 65504 and about three digits.

    Raises:
        ModelError: A value is too large for it.
    """
    largest = float(np.abs(values).max())
    if largest > LARGEST_HALF:
        raise ModelError(
            f"maps: a value of {largest:.3g} is too large for the 16 bits that maps are sent in "
            "(65504); ask for maps=none, or use the library"
        )
    return values.astype("<f2")


def text(values: np.ndarray) -> str:
    """The bytes of an array, rows first, in base64."""
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()
