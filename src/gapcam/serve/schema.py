"""The shapes of answers, as OpenAPI shows them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from gapcam.serve.body import FIELD, FORM, RAW
from gapcam.serve.errors import STATUSES

IMAGE_TYPES = ("image/jpeg", "image/png", "image/webp", "image/gif", "image/tiff", "image/avif")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ErrorBody(_Strict):
    """What went wrong, and what to do."""

    kind: str = Field(description="For programs.", examples=["picture"])
    message: str = Field(
        description="For people.",
        examples=["notes.txt: expected a picture, this is empty (0 bytes); get the file again"],
    )


class ErrorOut(_Strict):
    """Every answer that is not 2xx."""

    error: ErrorBody


class DetectionOut(_Strict):
    """One class at one place."""

    label: str = Field(examples=["tabby"])
    class_id: int = Field(ge=0, examples=[281])
    score: float = Field(ge=0, le=1, description="Probability.", examples=[0.81])
    box: tuple[float, float, float, float] | None = Field(
        description="x0, y0, x1, y1 in pixels of the upright picture, half-open; null: no positive "
        "evidence.",
        examples=[[12.5, 30.0, 210.0, 244.5]],
    )
    peak: tuple[float, float] | None = Field(
        description="Where the heat is highest, x and y in pixels.", examples=[[101.5, 97.0]]
    )


class MapsOut(_Strict):
    """Raw class maps, small, as they come from the network; arrays are base64, rows first."""

    logits: str = Field(description="Of every class: float32, little-endian, [C].")
    class_ids: list[int] | None = Field(
        description="Whose maps these are, in this order; null: those of every class, by id."
    )
    size_hw: tuple[int, int] = Field(description="Rows and columns of a map.", examples=[[7, 7]])
    values: str = Field(
        description="float16, little-endian, [classes, rows, columns]: signed, logit units; the "
        "mean of a map plus the class's bias is its logit, where the model's maps are exact."
    )
    finer_size_hw: tuple[int, int] | None = Field(
        description="Rows and columns of the maps of the recipe's second pass; null: it has none."
    )
    finer_values: str | None = Field(description="The second pass's maps, as `values`.")
    similarity_hw: tuple[int, int] | None = Field(
        description="Rows and columns of the grid that maps are refined on; null: the recipe "
        "refines none."
    )
    similarity: str | None = Field(
        description="float16, little-endian, [N, N] for the N places of that grid, 0..1. The "
        "refined map is this times the positive part of the map resampled to the grid (bicubic), "
        "over this one's row sums."
    )


class PictureOut(_Strict):
    """What was found in one picture."""

    name: str = Field(examples=["cat.jpg"])
    width: int = Field(ge=1, description="Of the upright picture, pixels.", examples=[451])
    height: int = Field(ge=1, examples=[300])
    notes: list[str] = Field(description="What the reader chose, in words.", examples=[[]])
    detections: list[DetectionOut] = Field(description="Best class first.")
    maps: MapsOut | None = Field(description="null unless asked for.", examples=[None])


class FailedOut(_Strict):
    """A picture of several that could not be read."""

    name: str = Field(examples=["notes.txt"])
    error: ErrorBody


class LocalizeOut(_Strict):
    """The answer to a request: a result a picture, in the order they came."""

    model: str = Field(examples=["efficientnet-lite0"])
    model_sha256: str
    recipe: str = Field(examples=["default"])
    results: list[PictureOut | FailedOut] = Field(min_length=1)


class LimitsOut(_Strict):
    """What the server takes."""

    max_bytes: int = Field(description="Of one picture file.")
    max_request_bytes: int
    max_pixels: int = Field(description="Of one picture.")
    max_pictures: int = Field(description="In one request.")
    max_classes: int = Field(description="Asked for in one request.")


class ModelOut(_Strict):
    """The model, what it takes and gives, and the server's limits."""

    name: str = Field(examples=["efficientnet-lite0"])
    version: str = Field(description="gapcam's.")
    model_sha256: str
    labels: list[str] = Field(description="By class id.")
    aliases: dict[str, list[str]] | None = Field(description="Other names, by class id.")
    recipe: dict[str, Any] = Field(description="Every choice between a map and a box.")
    head: str = Field(examples=["gap-linear"])
    features_at: str
    exact: bool = Field(description="Whether maps add up to the scores.")
    proof: str = Field(description="How far they do, in words.")
    largest_gap: float = Field(description="The largest |mean(map) + bias - logit| seen.")
    input_size_hw: tuple[int, int]
    scores: Literal["softmax", "sigmoid"] = Field(description="How logits become scores.")
    placeless: list[int] = Field(description="Classes that mean that nothing is there: no box.")
    bias: list[float] = Field(description="By class id, logit units.")
    all_maps: bool = Field(description="Whether maps=all is answered: where the head is linear.")
    max_top: int
    limits: LimitsOut


class HealthOut(_Strict):
    """The server lives."""

    status: Literal["ok"]


_BYTES = {"type": "string", "format": "binary"}
REQUEST_BODY: dict[str, Any] = {
    "required": True,
    "description": "The bytes of one picture (any image/... type; what it is, is seen from the "
    f"bytes), or a form with one or more files in the field `{FIELD}`.",
    "content": {
        **{media: {"schema": _BYTES} for media in (*IMAGE_TYPES, RAW)},
        FORM: {
            "schema": {
                "type": "object",
                "properties": {FIELD: {"type": "array", "items": _BYTES, "minItems": 1}},
                "required": [FIELD],
                "additionalProperties": False,
            }
        },
    },
}


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """These statuses, as a route documents them."""
    return {
        status: {
            "model": ErrorOut,
            "description": STATUSES[status][1],
            "content": {
                "application/json": {
                    "example": {
                        "error": {"kind": STATUSES[status][0], "message": STATUSES[status][1]}
                    }
                }
            },
        }
        for status in statuses
    }
