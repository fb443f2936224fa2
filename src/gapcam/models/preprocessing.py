"""What a network expects of a picture: the named conventions, and words and numbers for others.

Libraries state mean and standard deviation for pixels scaled to 0..1; `Preprocessing` holds them
for pixels 0..255, so both are 255 times as large here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from gapcam.types import ArgumentError, Preprocessing, SizeHW

Channels = Literal["rgb", "bgr"]
Triple = tuple[float, float, float]

WHITE = 255.0
USUAL_SIZE_HW: SizeHW = (224, 224)
LARGEST_SIDE = 8192

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

NAMED = {
    "imagenet": Preprocessing(
        USUAL_SIZE_HW,
        (WHITE * 0.485, WHITE * 0.456, WHITE * 0.406),
        (WHITE * 0.229, WHITE * 0.224, WHITE * 0.225),
    ),
    "-1..1": Preprocessing(USUAL_SIZE_HW, (127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
    "0..1": Preprocessing(USUAL_SIZE_HW, (0.0, 0.0, 0.0), (WHITE, WHITE, WHITE)),
    "0..255": Preprocessing(USUAL_SIZE_HW, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "caffe": Preprocessing(USUAL_SIZE_HW, (103.939, 116.779, 123.68), (1.0, 1.0, 1.0), "bgr"),
}
"""By the names that users type, at 224 x 224. `imagenet`: the mean and standard deviation of
ImageNet's pixels that torchvision and timm use; `caffe`: the mean in blue, green, red order that
the first VGG nets used."""

NUMBERS = "'mean=0.5,0.5,0.5;std=0.5,0.5,0.5' (with range=255 for pixels 0..255, channels=bgr, "
CHOICES = f"{', '.join(map(repr, NAMED))} or numbers as {NUMBERS}size=HxW where needed)"
_KEYS = ("mean", "std", "range", "channels", "size")


def preprocessing_from(wanted: Preprocessing | str, size_hw: SizeHW | None = None) -> Preprocessing:
    """The preprocessing that someone names.

    Args:
        wanted: The value itself; a name in `NAMED`; or numbers, `mean=...;std=...`, one or three
            each, for pixels 0..1 unless `range=255` follows.
        size_hw: Height and width in pixels, before any other; 224 x 224 where nothing says it.

    Raises:
        ArgumentError: An unknown name, or numbers that cannot be meant.
    """
    if isinstance(wanted, str):
        chosen = NAMED.get(wanted.strip().lower()) or _from_numbers(wanted)
    else:
        chosen = wanted
    return at_size(checked(chosen, "preprocessing"), size_hw)


def at_size(preprocessing: Preprocessing, size_hw: SizeHW | None) -> Preprocessing:
    """The same at another size, pixels; unchanged with None.

    Raises:
        ArgumentError: A size that is no two sides in pixels.
    """
    if size_hw is None:
        return preprocessing
    return replace(preprocessing, size_hw=_size_checked(size_hw, "size_hw"))


def from_unit_range(
    mean: Sequence[float],
    std: Sequence[float],
    size_hw: SizeHW,
    origin: str,
    channels: Channels = "rgb",
) -> Preprocessing:
    """Preprocessing from a mean and standard deviation of pixels 0..1, as libraries state them.

    Args:
        mean: One number, or one a channel.
        std: Likewise, above 0.
        size_hw: Height and width, pixels.
        origin: Where the numbers come from, for the message.
        channels: The order of the channels, and of the numbers.

    Raises:
        ArgumentError: Not three channels, or no numbers, or a `std` that is not above 0.
    """
    means, scales = _triple(mean, f"{origin}: mean"), _triple(std, f"{origin}: std")
    found = Preprocessing(size_hw, _times(means, WHITE), _times(scales, WHITE), channels)
    return checked(found, origin)


def checked(preprocessing: Preprocessing, origin: str) -> Preprocessing:
    """The same value, when a picture can be prepared with it.

    Raises:
        ArgumentError: It is no `Preprocessing`, or has numbers that cannot be meant.
    """
    if not isinstance(preprocessing, Preprocessing):
        raise ArgumentError(f"{origin}: expected {CHOICES}, got {preprocessing!r}")
    _triple(preprocessing.mean, f"{origin}: mean")
    if min(_triple(preprocessing.scale, f"{origin}: scale (std)")) <= 0:
        raise ArgumentError(
            f"{origin}: scale (std): expected three numbers above 0, got {preprocessing.scale}"
        )
    if preprocessing.channels not in ("rgb", "bgr"):
        raise ArgumentError(
            f"{origin}: channels: expected 'rgb' or 'bgr', got {preprocessing.channels!r}"
        )
    _size_checked(preprocessing.size_hw, f"{origin}: size_hw")
    return preprocessing


def _from_numbers(text: str) -> Preprocessing:
    """Read `mean=...;std=...;range=...;channels=...;size=...`."""
    fields = dict(_pair(part, text) for part in text.split(";") if part.strip())
    unknown = sorted(set(fields) - set(_KEYS))
    missing = [key for key in ("mean", "std") if key not in fields]
    if unknown or missing:
        raise ArgumentError(
            f"preprocessing {text!r}: {'unknown' if unknown else 'missing'} "
            f"{', '.join(unknown or missing)}; expected {CHOICES}"
        )
    mean, std = _numbers(fields["mean"], "mean"), _numbers(fields["std"], "std")
    white = _range(fields.get("range", "1"))
    if white == 1 and max(map(abs, (*mean, *std))) > 3:
        raise ArgumentError(
            f"preprocessing {text!r}: these numbers look meant for pixels 0..255, and pixels 0..1 "
            "are assumed; add range=255 or divide them by 255"
        )
    unit = WHITE / white
    size = _size_from(fields["size"]) if "size" in fields else USUAL_SIZE_HW
    channels: Any = fields.get("channels", "rgb").lower()
    scaled = (_times(_triple(mean, "mean"), unit), _times(_triple(std, "std"), unit))
    return Preprocessing(size, *scaled, channels)


def _pair(part: str, text: str) -> tuple[str, str]:
    key, equals, value = part.partition("=")
    if not equals:
        raise ArgumentError(f"preprocessing {text!r} is unknown: expected {CHOICES}")
    return key.strip().lower(), value.strip()


def _numbers(text: str, key: str) -> list[float]:
    try:
        return [float(number) for number in text.split(",")]
    except ValueError:
        raise ArgumentError(
            f"preprocessing: {key}: expected one or three numbers with commas, got {text!r}"
        ) from None


def _range(text: str) -> float:
    if text not in ("1", "255"):
        raise ArgumentError(f"preprocessing: range: expected 1 or 255, got {text!r}")
    return float(text)


def _size_from(text: str) -> SizeHW:
    sides = re.fullmatch(r"(\d{1,5})(?:\s*[xX,]\s*(\d{1,5}))?", text.strip())
    if sides is None:
        raise ArgumentError(
            f"preprocessing: size: expected HEIGHTxWIDTH in pixels, as 224x224, got {text!r}"
        )
    return _size_checked((int(sides[1]), int(sides[2] or sides[1])), "preprocessing: size")


def _size_checked(size_hw: object, name: str) -> SizeHW:
    pair = isinstance(size_hw, tuple | list) and len(size_hw) == 2
    sides: Any = tuple(size_hw) if pair else ()  # type: ignore[arg-type]  # a pair by now
    whole = all(isinstance(side, int) and not isinstance(side, bool) for side in sides)
    if not pair or not whole or not all(0 < side <= LARGEST_SIDE for side in sides):
        raise ArgumentError(
            f"{name}: expected height and width in pixels, 1 to {LARGEST_SIDE}, got {size_hw!r}"
        )
    return (sides[0], sides[1])


def _triple(values: object, name: str) -> Triple:
    """Three finite numbers; one stands for all three."""
    numbers: list[Any] = list(values) if isinstance(values, list | tuple) else [values]
    numbers = numbers * 3 if len(numbers) == 1 else numbers
    if len(numbers) != 3 or not all(map(_is_number, numbers)):
        raise ArgumentError(f"{name}: expected one or three numbers, got {values!r}")
    return (float(numbers[0]), float(numbers[1]), float(numbers[2]))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _times(values: Triple, factor: float) -> Triple:
    return (values[0] * factor, values[1] * factor, values[2] * factor)
