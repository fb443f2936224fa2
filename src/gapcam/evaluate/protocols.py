"""The protocols: how a map becomes boxes, and when a box counts. Named, frozen, and said in full.

Whatever a protocol's own convention is (inclusive pixels, truncated to 224 x 224), it is brought to
half-open boxes in the protocol's *frame* here, so that one IoU serves all: an inclusive box
(first pixel, last pixel) has the side lengths of the half-open box that ends one later.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from gapcam.boxes import find_all_regions, scale_box
from gapcam.evaluate.statements import BOUNDS, COMPONENTS, CUTS, EXACT, HOTTER, refined, sizes
from gapcam.metrics import wsol
from gapcam.metrics.boxes import box_iou
from gapcam.metrics.otsu import otsu_thresholds
from gapcam.metrics.pixels import wsol_mask
from gapcam.types import ArgumentError, BoolArray, Box, FloatArray, Recipe

Numbers: TypeAlias = npt.NDArray[np.float64]
Maps: TypeAlias = npt.NDArray[np.floating[Any]]
SizeWH: TypeAlias = tuple[int, int]

NO_BOX = (0.0, 0.0, 0.0, 0.0)
"""What stands for no box at all: its IoU with anything is 0."""

LAST_PIXEL = np.array([0, 0, 1, 1])
"""Inclusive to half-open."""

SELECTION_RULE = "the highest mean accuracy over IoU .3, .5, .7 (one box)"
PIXEL_SELECTION_RULE = "the highest pixel IoU, pooled"


class Sweep(NamedTuple):
    """The best IoU of n maps at T thresholds.

    Attributes:
        single: `[n, T]`, of the one box that a user would get.
        multi: `[n, T]`, of whichever box of the map fits best.
    """

    single: Numbers
    multi: Numbers


class Protocol(ABC):
    """How maps are cut and boxes are compared.

    Args:
        recipe: How maps are made.
        inclusive_ends: Whether the true boxes are as written in a data set whose x1 and y1 are the
            last pixels (`gapcam.data.Dataset.inclusive_ends`).

    Attributes:
        name: What users type.
        source: Where it comes from.
        thresholds: `[T]`, those of the curves and of the oracle.
    """

    name: ClassVar[str]
    source: ClassVar[str]
    thresholds: Numbers

    def __init__(self, recipe: Recipe, *, inclusive_ends: bool = False) -> None:
        self.recipe = recipe
        self.inclusive_ends = inclusive_ends

    @abstractmethod
    def statements(self) -> Mapping[str, str]:
        """The protocol in words, aspect by aspect."""

    def notes(self) -> list[str]:
        """What is unusual about the recipe under this protocol, in words."""
        return []

    @abstractmethod
    def frame_wh(self, size_wh: SizeWH) -> SizeWH:
        """The size of the frame in which boxes are compared."""

    @abstractmethod
    def truths(self, boxes: Sequence[Box], size_wh: SizeWH) -> Numbers:
        """True boxes `[m, 4]` in the frame, half-open."""

    @abstractmethod
    def maps(self, evidence: FloatArray, heat: FloatArray) -> Maps:
        """What is cut, `[n, H, W]` in 0..1, of evidence `[n, h, w]` and heat `[n, H, W]`."""

    @abstractmethod
    def boxes(self, maps: Maps, thresholds: Numbers, sizes_wh: Sequence[SizeWH]) -> Numbers:
        """The one box `[n, 4]` of each map at its threshold `[n]`, in the frame; or `NO_BOX`."""

    @abstractmethod
    def sweep(
        self,
        maps: Maps,
        truths: Sequence[Numbers],
        sizes_wh: Sequence[SizeWH],
    ) -> Sweep:
        """The best IoU of each map with its truths at every threshold."""

    @abstractmethod
    def index_of(self, threshold: float) -> int:
        """Where a recipe's threshold lies in `thresholds`."""

    def otsu(self, maps: Maps) -> Numbers:
        """The label-free threshold `[n]` of each map (Otsu, 1979)."""
        return otsu_thresholds(maps)

    def otsu_ious(
        self,
        maps: Maps,
        truths: Sequence[Numbers],
        sizes_wh: Sequence[SizeWH],
        swept: Sweep,  # noqa: ARG002
    ) -> Numbers:
        """The IoU `[n]` of each map's one box when Otsu's rule (1979) chooses its threshold."""
        boxes = self.boxes(maps, self.otsu(maps), sizes_wh)
        return np.array([box_iou([box], of).max() for box, of in zip(boxes, truths, strict=True)])

    def pixel_truth(self, mask: BoolArray, ignore: BoolArray | None) -> tuple[BoolArray, BoolArray]:
        """Mask and ignored pixels on the grid where pixels are scored."""
        return mask, np.zeros_like(mask) if ignore is None else ignore

    def pixel_map(self, one: Maps, size_wh: SizeWH) -> FloatArray:
        """One map on the grid where pixels are scored."""
        large = cv2.resize(one.astype(np.float32), size_wh, interpolation=cv2.INTER_LINEAR)
        return np.asarray(large, np.float32)


class Original(Protocol):
    """Our boxes, in pixels of the original picture, half-open."""

    name = "original"
    source = "gapcam"

    def __init__(self, recipe: Recipe, *, inclusive_ends: bool = False) -> None:
        super().__init__(recipe, inclusive_ends=inclusive_ends)
        self.thresholds = np.union1d(np.arange(100) / 100, recipe.threshold)
        self.every_box = replace(recipe, min_area_share=0.0)
        if recipe.components == "largest":
            self.every_box = replace(self.every_box, components="all")

    def statements(self) -> Mapping[str, str]:
        """The protocol in words, aspect by aspect."""
        recipe = self.recipe
        return {
            "geometry": f"the whole picture squashed to {sizes(recipe)}; boxes compared in "
            "pixels of the original picture",
            "map": f"the true class's map{refined(recipe)}, {recipe.upsample} to a quarter of the "
            f"input, normalized by {recipe.normalize}",
            "threshold": f"{CUTS.get(recipe.components, HOTTER)}; curves and oracle "
            "over 0, .01, ... .99 and the recipe's own",
            "components": COMPONENTS[recipe.components],
            "boxes": BOUNDS.get(recipe.components, EXACT),
            "iou": "half-open boxes; a hit is IoU >= .5 with any true box of the class",
            "top5_loc": "best of the five highest classes, each with its one box",
            "masks": "heat bilinearly enlarged to the picture's size; pixels pooled over the set, "
            "so that larger pictures weigh more",
        }

    def frame_wh(self, size_wh: SizeWH) -> SizeWH:
        """The picture itself."""
        return size_wh

    def truths(self, boxes: Sequence[Box], size_wh: SizeWH) -> Numbers:  # noqa: ARG002
        """As they are."""
        return np.array(boxes, np.float64).reshape(-1, 4)

    def index_of(self, threshold: float) -> int:
        """Where it lies in `thresholds`."""
        return int(np.abs(self.thresholds - threshold).argmin())

    def maps(self, evidence: FloatArray, heat: FloatArray) -> FloatArray:  # noqa: ARG002
        """The recipe's heat."""
        return heat

    def boxes(self, maps: Maps, thresholds: Numbers, sizes_wh: Sequence[SizeWH]) -> Numbers:
        """The recipe's box; see the base class."""
        out = np.tile(NO_BOX, (len(maps), 1))
        for threshold in np.unique(thresholds):
            at = np.flatnonzero(thresholds == threshold).tolist()
            cut = replace(self.recipe, threshold=float(threshold))
            for i, regions in zip(at, find_all_regions(maps[at], cut), strict=True):
                if regions:
                    out[i] = self._to_frame([regions[0].box_xyxy], maps, sizes_wh[i])[0]
        return out

    def sweep(
        self,
        maps: Maps,
        truths: Sequence[Numbers],
        sizes_wh: Sequence[SizeWH],
    ) -> Sweep:
        """Cut at every threshold; see the base class."""
        found: list[list[tuple[int, list[Box]]]] = [[] for _ in maps]
        for t, threshold in enumerate(self.thresholds.tolist()):
            cut = replace(self.every_box, threshold=threshold)
            for i, regions in enumerate(find_all_regions(maps, cut)):
                if regions:
                    found[i].append((t, [region.box_xyxy for region in regions]))
        single, multi = np.zeros((2, len(maps), len(self.thresholds)))
        for i, cuts in enumerate(found):
            boxes = [box for _, of in cuts for box in of]
            if not boxes or not len(truths[i]):
                continue
            ious = box_iou(self._to_frame(boxes, maps, sizes_wh[i]), truths[i]).max(1)
            at = np.cumsum([0, *(len(of) for _, of in cuts)])[:-1]
            rows = [t for t, _ in cuts]
            single[i, rows] = ious[at]
            multi[i, rows] = np.maximum.reduceat(ious, at)
        return Sweep(single, multi)

    def _to_frame(self, boxes: Sequence[Box], maps: Maps, size_wh: SizeWH) -> Numbers:
        grid_hw = (maps.shape[1], maps.shape[2])
        size_hw = (size_wh[1], size_wh[0])
        return np.array([scale_box(box, grid_hw, size_hw) for box in boxes])


class Ilsvrc(Original):
    """The ILSVRC devkit's rule: boxes count their last pixel in."""

    name = "ilsvrc"
    source = "ILSVRC CLS-LOC development kit (Russakovsky et al., IJCV 2015, section 4.2)"

    def statements(self) -> Mapping[str, str]:
        """The protocol in words, aspect by aspect."""
        ends = (
            "the data set's x1 and y1, as written, are last pixels"
            if self.inclusive_ends
            else "this data set's boxes are half-open, so their last pixel is one before the end"
        )
        return {
            **super().statements(),
            "iou": f"inclusive: sides are x1 - x0 + 1 between first and last pixel ({ends}); a hit "
            "is IoU >= .5 with any true box of the class",
            "top5_loc": "best of at most five guesses, the five highest classes with one box each",
        }

    def truths(self, boxes: Sequence[Box], size_wh: SizeWH) -> Numbers:
        """Ending after their last pixel."""
        written = super().truths(boxes, size_wh)
        ends: Numbers = written + LAST_PIXEL if self.inclusive_ends else written
        return ends


class Wsol(Protocol):
    """Choe et al.'s rules, quirks included."""

    name = "wsol"
    source = (
        "Choe et al., Evaluating Weakly Supervised Object Localization Methods Right, CVPR 2020"
    )

    def __init__(self, recipe: Recipe, *, inclusive_ends: bool = False) -> None:
        super().__init__(recipe, inclusive_ends=inclusive_ends)
        self.thresholds = _lowest_of_each_level()

    def statements(self) -> Mapping[str, str]:
        """The protocol in words, aspect by aspect."""
        recipe = self.recipe
        return {
            "geometry": f"the whole picture squashed to {sizes(recipe)}; boxes compared in "
            f"{wsol.SIDE} x {wsol.SIDE}, true boxes scaled there and truncated to whole numbers",
            "map": f"the true class's map without bias{refined(recipe)}, bicubic to {wsol.SIDE} x "
            f"{wsol.SIDE}, min-max, times 255, truncated to 8 bits",
            "threshold": "level > int(threshold * 255); the reference's 1,000 thresholds are these "
            "255 levels",
            "components": "OpenCV contours (RETR_TREE); one box: the contour of the largest area; "
            "multi: every contour, those of holes included",
            "boxes": "x, y, x + width, y + height, clipped to 223: a pixel too wide inside; no "
            "contour: (0, 0, 0, 0)",
            "iou": "inclusive (sides + 1); a hit is IoU >= .5 with any true box of the class",
            "max_box_acc": "MaxBoxAcc: one box, best threshold on the scored pictures, each IoU",
            "max_box_acc_v2": "MaxBoxAccV2: every contour, best threshold on the scored pictures "
            "for each of IoU .3, .5, .7, then the mean",
            "masks": f"masks nearest to {wsol.SIDE} x {wsol.SIDE}; ignored pixels left out; pixels "
            "pooled over the set, every picture alike",
        }

    def notes(self) -> list[str]:
        """Whether the maps are those that the published numbers are about."""
        notes = []
        if self.recipe.refine != "none":
            notes.append(
                f"recipe {self.recipe.name!r} refines the maps; published numbers of this protocol "
                "are about plain class maps (recipe 'paper')"
            )
        if self.recipe.components in ("instances", "released"):
            notes.append(
                f"this protocol cuts boxes by its own rule: the box rule of recipe "
                f"{self.recipe.name!r} ({self.recipe.components}) is not used"
            )
        return notes

    def frame_wh(self, size_wh: SizeWH) -> SizeWH:  # noqa: ARG002
        """224 x 224."""
        return wsol.SIDE, wsol.SIDE

    def truths(self, boxes: Sequence[Box], size_wh: SizeWH) -> Numbers:
        """Truncated into 224 x 224, the last pixel counted in."""
        inclusive = wsol.truncated_boxes(np.array(boxes).reshape(-1, 4), size_wh)
        return np.asarray(inclusive + LAST_PIXEL, np.float64)

    def index_of(self, threshold: float) -> int:
        """The level it is cut at."""
        return int(wsol.level_of(np.array([threshold]))[0])

    def maps(self, evidence: FloatArray, heat: FloatArray) -> Numbers:  # noqa: ARG002
        """The evidence at 224 x 224, min-max normalized."""
        return wsol.score_maps(evidence)

    def boxes(
        self,
        maps: Maps,
        thresholds: Numbers,
        sizes_wh: Sequence[SizeWH],  # noqa: ARG002
    ) -> Numbers:
        """The largest contour's box; see the base class."""
        gray = wsol.quantize(maps)
        levels = wsol.level_of(thresholds)
        boxes = wsol.level_boxes(gray)[np.arange(len(gray)), levels]
        return np.asarray(boxes + LAST_PIXEL, np.float64)

    def sweep(
        self,
        maps: Maps,
        truths: Sequence[Numbers],
        sizes_wh: Sequence[SizeWH],  # noqa: ARG002
    ) -> Sweep:
        """Every level in one pass; see the base class."""
        inclusive = [(boxes - LAST_PIXEL).astype(np.int64) for boxes in truths]
        ious = wsol.level_ious(wsol.quantize(maps), inclusive, workers=1)
        return Sweep(ious.single, ious.multi)

    def otsu(self, maps: Maps) -> Numbers:
        """Of the 8-bit map that is cut."""
        return otsu_thresholds(wsol.quantize(maps) / 255.0)

    def otsu_ious(
        self,
        maps: Maps,
        truths: Sequence[Numbers],  # noqa: ARG002
        sizes_wh: Sequence[SizeWH],  # noqa: ARG002
        swept: Sweep,
    ) -> Numbers:
        """Every level was swept already; see the base class."""
        levels = wsol.level_of(self.otsu(maps))
        return swept.single[np.arange(len(swept.single)), levels]

    def pixel_truth(self, mask: BoolArray, ignore: BoolArray | None) -> tuple[BoolArray, BoolArray]:
        """Nearest to 224 x 224."""
        return wsol_mask([mask], [] if ignore is None else [ignore])

    def pixel_map(self, one: Maps, size_wh: SizeWH) -> FloatArray:  # noqa: ARG002
        """As it is."""
        return np.asarray(one)


def _lowest_of_each_level() -> Numbers:
    """The lowest threshold that each level stands for: k / 255, or the next number above it."""
    lowest = np.arange(wsol.LEVELS) / wsol.LEVELS
    rounded_down = wsol.level_of(lowest) < np.arange(wsol.LEVELS)
    chosen: Numbers = np.where(rounded_down, np.nextafter(lowest, 1), lowest)
    return chosen


PROTOCOLS: Mapping[str, type[Protocol]] = {kind.name: kind for kind in (Original, Wsol, Ilsvrc)}


def protocol_named(name: str, recipe: Recipe, *, inclusive_ends: bool = False) -> Protocol:
    """The protocol of that name, for a recipe and a data set's boxes; see `Protocol`.

    Raises:
        ArgumentError: There is none.
    """
    if name not in PROTOCOLS:
        raise ArgumentError(f"protocol {name!r} is unknown: expected {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name](recipe, inclusive_ends=inclusive_ends)
