"""The values that cross module borders, and the conventions they keep.

Conventions, stated once for the whole package:

- Boxes are `box_xyxy`: floats `(x0, y0, x1, y1)` in the pixels of the original picture after EXIF
  rotation, half-open: a box around one pixel has area 1, the whole picture is `(0, 0, W, H)`.
- Pixel centres lie at +0.5. Every resize is `align_corners=False`: a coordinate scales, it never
  shifts.
- Sizes say their order: `size_hw` or `size_wh`.
- Pictures are `uint8` RGB `[H, W, 3]`; maps are `float32` `[h, w]`, signed and in logit units
  until someone asks to normalize them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from PIL import Image

FloatArray: TypeAlias = npt.NDArray[np.float32]
ByteArray: TypeAlias = npt.NDArray[np.uint8]
BoolArray: TypeAlias = npt.NDArray[np.bool_]
IntArray: TypeAlias = npt.NDArray[np.int64]
Box: TypeAlias = tuple[float, float, float, float]
Point: TypeAlias = tuple[float, float]
SizeHW: TypeAlias = tuple[int, int]
PictureSource: TypeAlias = "str | Path | bytes | Image.Image | ByteArray"


PICTURE_SUFFIXES = frozenset(
    {
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".gif", ".bmp", ".webp", ".avif"),
        *(".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"),
    }
)
"""What picture files in a folder are called, lower case; other files are left alone."""


class GapcamError(Exception):
    """Anything a user can mend; the message names the thing, what came and what to do."""

    kind: ClassVar[str] = "error"


class ArgumentError(GapcamError):
    """A wrong argument: an unknown class, recipe or model name, a value out of range."""

    kind = "argument"


class PictureError(GapcamError):
    """A picture that cannot be read."""

    kind = "picture"


class ModelError(GapcamError):
    """A model that cannot be loaded, built or trusted."""

    kind = "model"


class DataError(GapcamError):
    """A data set that cannot be read as one."""

    kind = "data"


class OutputError(GapcamError):
    """A result that cannot be written."""

    kind = "output"


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A decoded picture.

    Attributes:
        name: The path as it was given, or `<bytes>`, `<image>`, `<array>`.
        pixels: `uint8` RGB `[h, w, 3]`, upright; may hold fewer pixels than the original when a
            smaller decode was asked for, and always shows the whole picture.
        size_hw: Height and width of the original after EXIF rotation, pixels.
        notes: What the reader chose for the user, in words (first frame of an animation, ...).
        evidence_pixels: The same picture at the size of the recipe's second pass, if it has one.
    """

    name: str
    pixels: ByteArray
    size_hw: SizeHW
    notes: tuple[str, ...] = ()
    evidence_pixels: ByteArray | None = None


_RECIPE_CHOICES: Mapping[str, tuple[str, ...]] = {
    "resize": ("squash",),
    "refine": ("none", "affinity"),
    "upsample": ("bilinear", "bicubic"),
    "normalize": ("max", "minmax", "ivr"),
    "components": ("largest", "all", "instances", "released"),
}


@dataclass(frozen=True, slots=True)
class Recipe:
    """A named, frozen set of choices that turns class maps into boxes.

    Attributes:
        name: What users type.
        input_size_hw: The size pictures are resized to, pixels. Scores and raw maps come from it.
        evidence_size_hw: The size of a second pass, whose maps are refined with the first pass's
            features and averaged with the first's; None for one pass.
        resize: How: `squash` shows the whole picture and ignores its aspect.
        refine: `none`, or `affinity` (see `gapcam.refine`).
        centring: With `affinity`: the share of their spatial mean that features lose, 0..1.
        upsample: How the map is resampled before it is cut: `bilinear` or `bicubic`.
        normalize: `max`, `minmax` or `ivr` (see `gapcam.maps`).
        ivr_percentile: The fraction subtracted by `ivr`, 0..1.
        threshold: The cut, as a fraction of the normalized map, 0..1, exclusive.
        components: `largest` gives one box, `all` a box for every component large enough,
            `instances` also splits components that hold several objects (`gapcam.instances`),
            `released` is the rule of the paper's code (`gapcam.dt_box`).
        min_area_share: With `all` and `instances`: components below this share of the total area
            are left out.
        prominence: With `instances`: how far a peak must rise above the saddle to a higher one to
            be an object of its own, as a fraction of the normalized map, 0..1.
        top: How many of the best classes are localized.
        cost: Time to localize five classes over the time of a plain forward pass at 224, measured
            (`benchmarks/speed.py`, one core, batch 16); 0 when unknown.
        source: Where the rule comes from.
        chosen_on: The pictures its free choices were made on, or why there are none.
        chosen_score: Its score on those, in words.
        version: Raised when a named recipe changes what it gives.
    """

    name: str
    input_size_hw: SizeHW
    threshold: float
    source: str
    chosen_on: str
    evidence_size_hw: SizeHW | None = None
    resize: Literal["squash"] = "squash"
    refine: Literal["none", "affinity"] = "none"
    centring: float = 1.0
    upsample: Literal["bilinear", "bicubic"] = "bicubic"
    normalize: Literal["max", "minmax", "ivr"] = "max"
    ivr_percentile: float = 0.45
    components: Literal["largest", "all", "instances", "released"] = "largest"
    min_area_share: float = 0.1
    prominence: float = 0.325
    top: int = 5
    cost: float = 0.0
    chosen_score: str = ""
    version: int = 1

    def __post_init__(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            ArgumentError: A field has a value that is not one of its choices or out of range.
        """
        for name, choices in _RECIPE_CHOICES.items():
            if getattr(self, name) not in choices:
                self._refuse(name, " or ".join(map(repr, choices)))
        for name in ("threshold", "ivr_percentile", "min_area_share", "prominence"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 <= value < 1:
                self._refuse(name, "a number from 0 up to 1")
        centring: Any = self.centring  # Any: a file's metadata may hold anything
        if not isinstance(centring, int | float) or not 0 <= centring <= 1:
            self._refuse("centring", "a number from 0 to 1")
        self._check_size("input_size_hw")
        if self.evidence_size_hw is not None:
            self._check_size("evidence_size_hw")
        self._check_words()
        top: Any = self.top
        if not isinstance(top, int) or top < 1:
            self._refuse("top", "a number of classes")

    def _check_words(self) -> None:
        cost: Any = self.cost
        version: Any = self.version
        if not isinstance(cost, int | float) or not 0 <= cost < np.inf:
            self._refuse("cost", "a ratio from 0")
        if not isinstance(version, int):
            self._refuse("version", "a whole number")
        for name in ("name", "source", "chosen_on", "chosen_score"):
            if not isinstance(getattr(self, name), str):
                self._refuse(name, "words")

    def _check_size(self, name: str) -> None:
        sides: Any = getattr(self, name)
        pair = isinstance(sides, tuple) and len(sides) == 2
        if not pair or not all(isinstance(side, int) and side > 0 for side in sides):
            self._refuse(name, "two sides in pixels")

    def _refuse(self, name: str, expected: str) -> None:
        raise ArgumentError(
            f"recipe {self.name!r}: {name}: expected {expected}, got {getattr(self, name)!r}"
        )


@dataclass(frozen=True, slots=True, eq=False)
class Detection:
    """One class, found at one place.

    Attributes:
        label: The class name.
        class_id: Its index in the model's labels.
        score: Probability, 0..1: softmax, or sigmoid where a picture may show several classes.
        box_xyxy: The box in original pixels, or None when the class has no positive evidence.
        peak_xy: Where the heat is highest, in original pixels; None with no positive evidence.
        map: The raw class map `[h, w]`, signed, logit units: `mean(map) + bias = logit`.
        heat: The map that was cut, `[H, W]` on the recipe's grid, refined and normalized to 0..1;
            all zero with no positive evidence.
        threshold: Where `heat` was cut to get the box and the mask.
        size_hw: Size of the original picture.
        cut_mask: Makes the mask when asked.
    """

    label: str
    class_id: int
    score: float
    box_xyxy: Box | None
    peak_xy: Point | None
    map: FloatArray
    heat: FloatArray
    threshold: float
    size_hw: SizeHW
    cut_mask: Callable[[], BoolArray] = field(repr=False)

    @property
    def mask(self) -> BoolArray:
        """The region inside the box, `bool [H, W]` at the size of the original picture."""
        return self.cut_mask()


@dataclass(frozen=True, slots=True, eq=False)
class Localization:
    """What was found in one picture.

    Attributes:
        name: The picture's path as it was given, or `<bytes>`, `<image>`, `<array>`.
        size_hw: Height and width of the original picture after EXIF rotation, pixels.
        detections: Best class first; a class can have several boxes.
        model: The model's name.
        recipe: The recipe's name.
        notes: What the reader chose for the user, in words.
        source: What the picture was read from, so that it can be drawn.
    """

    name: str
    size_hw: SizeHW
    detections: tuple[Detection, ...]
    model: str
    recipe: str
    notes: tuple[str, ...]
    source: PictureSource = field(repr=False)

    def draw(self, **options: Any) -> Image.Image:
        """Draw the picture with its heat and boxes; options: `gapcam.draw.draw_localization`."""
        from gapcam.draw import draw_localization  # a convenience: only `draw` knows how

        return draw_localization(self, **options)


@dataclass(frozen=True, slots=True)
class Failure:
    """A picture that could not be localized, and why."""

    name: str
    error: GapcamError


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """What a network expects of a picture: `(pixels - mean) / scale` of values 0..255.

    Attributes:
        size_hw: The size that it was trained on, pixels.
        mean: Subtracted from each channel.
        scale: Divides the result.
        channels: Their order.
    """

    size_hw: SizeHW
    mean: tuple[float, float, float]
    scale: tuple[float, float, float]
    channels: Literal["rgb", "bgr"] = "rgb"


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What a model says of itself (kept in the model file's metadata).

    Attributes:
        name: The model's name.
        labels: One unique name a class, in the order of the logits.
        aliases: Other names of each class (synonyms, WordNet id), for looking one up.
        head: How features become logits (`gapcam.models.trace.HeadKind`).
        map_stride: Input pixels between map cells; cell i is centred at (i + 1/2) stride.
        size_multiple: Input sides must be multiples of this for the network to be exact.
        recipe: The recipe that is used when none is named.
        sources: Where network and weights come from.
        version: The gapcam version that built the file.
        features_at: Where the features are taken and what follows them, in words.
        fixed_hw: The only input size that the network takes; None: any.
        fixed_batch: The only batch that it takes; None: any.
        fine_features: Whether it has features at half the map's stride, to refine maps with.
        scores: How logits become scores: `softmax`, or `sigmoid` where a picture may show several
            classes.
        placeless: The classes that mean that nothing is there ("normal"): they get no box.
    """

    name: str
    labels: tuple[str, ...]
    aliases: tuple[tuple[str, ...], ...]
    head: str
    map_stride: float
    size_multiple: int
    recipe: Recipe
    sources: Mapping[str, str]
    version: str
    features_at: str = ""
    fixed_hw: SizeHW | None = None
    fixed_batch: int | None = None
    fine_features: bool = True
    scores: Literal["softmax", "sigmoid"] = "softmax"
    placeless: tuple[int, ...] = ()
