"""What an image processor of Transformers does to pixels, read from its JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gapcam.models.preprocessing import Triple, checked
from gapcam.models.sources.common import PREPROCESSING_ADVICE
from gapcam.types import ArgumentError, Preprocessing, SizeHW

NO_NORMALIZE = "MobileViT"
TWICE_NORMALIZED = "EfficientNet"
RESCALE_FACTOR = 1 / 255


def preprocessing_of_processor(processor: Mapping[str, Any], origin: str) -> Preprocessing:
    """The one formula `(pixels - mean) / scale` for what a processor does in steps.

    The steps are Transformers': pixels times `rescale_factor` (minus 1 with `rescale_offset`),
    minus `image_mean` over `image_std`, and for EfficientNet with `include_top` once more over
    `image_std`. So mean = (offset + image_mean) / factor and scale = image_std / factor.

    Args:
        processor: The object in `preprocessor_config.json`.
        origin: Where it comes from, for the message.

    Raises:
        ArgumentError: It does not say, or does something else.
    """
    try:
        mean, scale = _formula(processor)
        size = _size(processor)
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise ArgumentError(
            f"{origin}: its preprocessor_config.json does not say what the network expects of a "
            f"picture ({_words(error)}); {PREPROCESSING_ADVICE}"
        ) from error
    if processor.get("do_flip_channel_order"):
        return checked(Preprocessing(size, mean[::-1], scale[::-1], "bgr"), origin)
    return checked(Preprocessing(size, mean, scale), origin)


def _formula(processor: Mapping[str, Any]) -> tuple[Triple, Triple]:
    kind = _kind(processor)
    factor = 1.0
    if processor.get("do_rescale", True):
        factor = float(processor.get("rescale_factor", RESCALE_FACTOR))
    offset = 1.0 if processor.get("rescale_offset") else 0.0
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if processor.get("do_normalize", not kind.startswith(NO_NORMALIZE)):
        mean, std = _three(processor["image_mean"]), _three(processor["image_std"])
    scale = std
    if processor.get("include_top", kind.startswith(TWICE_NORMALIZED)):
        again = _three(processor["image_std"])
        scale = (std[0] * again[0], std[1] * again[1], std[2] * again[2])
    return (
        ((mean[0] + offset) / factor, (mean[1] + offset) / factor, (mean[2] + offset) / factor),
        (scale[0] / factor, scale[1] / factor, scale[2] / factor),
    )


def _size(processor: Mapping[str, Any]) -> SizeHW:
    """What reaches the network: the crop where there is one, else the resized picture."""
    crop = processor.get("crop_size")
    if processor.get("do_center_crop") and crop is not None:
        return _two_sides(crop)
    return _two_sides(processor["size"])


def _two_sides(size: Any) -> SizeHW:
    """Height and width of `224`, `[224, 224]`, `{"height", "width"}` or `{"shortest_edge"}`."""
    if isinstance(size, int):
        return size, size
    if isinstance(size, list):
        height, width = size
        return int(height), int(width)
    if "height" in size and "width" in size:
        return int(size["height"]), int(size["width"])
    side = int(size["shortest_edge"])
    return side, side


def _three(values: Any) -> Triple:
    numbers = [float(v) for v in (values if isinstance(values, list) else [values])]
    first, second, third = numbers * 3 if len(numbers) == 1 else numbers
    return first, second, third


def _kind(processor: Mapping[str, Any]) -> str:
    names = (processor.get("image_processor_type"), processor.get("feature_extractor_type"))
    return next((name for name in names if isinstance(name, str)), "")


def _words(error: Exception) -> str:
    return f"no {error.args[0]}" if isinstance(error, KeyError) else str(error)
