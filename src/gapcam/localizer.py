"""THE pipeline: pictures to pixels to features to class maps to boxes. The only orchestrator."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
from PIL import Image

from gapcam.boxes import Region, find_all_regions, region_mask, scale_box, scale_point
from gapcam.engines import Engine
from gapcam.images import DEFAULT_LIMITS, Limits, load_picture, name_of, resize_picture
from gapcam.labels import ClassName, class_id
from gapcam.maps import class_scores, map_gap
from gapcam.products import span
from gapcam.proof import Proof
from gapcam.recipes import check_fits
from gapcam.samples import sample_pictures
from gapcam.seeing import Seen, see, to_heat
from gapcam.types import (
    ArgumentError,
    BoolArray,
    Detection,
    Failure,
    FloatArray,
    GapcamError,
    IntArray,
    Localization,
    ModelCard,
    ModelError,
    Picture,
    PictureSource,
    Recipe,
    SizeHW,
)

DECODE_MARGIN = 2
"""JPEGs are decoded at no less than this many times the input size, so that the resize to the
input, and not the decoder, decides what the network sees."""

BATCH_SIZE = 16

__all__ = ["Localizer", "Seen", "to_heat"]

MOST_CHECKED = 64
"""How many of the best classes `check` looks at where every class costs a pass through the head."""


class Localizer:
    """A network, its labels and a recipe: call it with a picture, get what is where.

    Args:
        engine: What runs the network.
        card: What the model says of itself.
        recipe: How maps become boxes; the model's own when None.

    Raises:
        ModelError: Labels and logits differ in number.
        ArgumentError: The recipe's input size does not fit the network.
    """

    def __init__(self, engine: Engine, card: ModelCard, recipe: Recipe | None = None) -> None:
        self.engine = engine
        self.card = card
        self.recipe = recipe or card.recipe
        count = len(engine.bias)
        if len(card.labels) != count:
            raise ModelError(
                f"{card.name}: expected a label for each of {count} logits, got "
                f"{len(card.labels)}. Build the model file again."
            )
        check_fits(self.recipe, card)

    @overload  # a str is one picture, though it also is an iterable of str
    def __call__(  # type: ignore[overload-overlap]
        self,
        source: PictureSource,
        *,
        classes: Iterable[ClassName] | None = ...,
        top: int | None = ...,
        on_error: Literal["raise", "yield"] = ...,
    ) -> Localization: ...

    @overload
    def __call__(
        self,
        source: Iterable[PictureSource],
        *,
        classes: Iterable[ClassName] | None = ...,
        top: int | None = ...,
        on_error: Literal["raise"] = ...,
    ) -> Iterator[Localization]: ...

    @overload
    def __call__(
        self,
        source: Iterable[PictureSource],
        *,
        classes: Iterable[ClassName] | None = ...,
        top: int | None = ...,
        on_error: Literal["yield"],
    ) -> Iterator[Localization | Failure]: ...

    def __call__(
        self,
        source: PictureSource | Iterable[PictureSource],
        *,
        classes: Iterable[ClassName] | None = None,
        top: int | None = None,
        on_error: Literal["raise", "yield"] = "raise",
    ) -> Localization | Iterator[Localization] | Iterator[Localization | Failure]:
        """Localize one picture, or stream over many.

        Args:
            source: A path, bytes, PIL image or `uint8` RGB `[H, W, 3]` array; or an iterable of
                them, which is read lazily, a batch at a time.
            classes: Where are these classes (names or ids), whatever their rank? Default: the best.
            top: How many of the best classes; the recipe's number when None.
            on_error: In a stream, a picture that cannot be read is raised in its turn, or yielded
                as a `gapcam.types.Failure` and the stream goes on.

        Raises:
            ArgumentError: An unknown class, `top` out of range, or not a picture.
            PictureError: A picture cannot be read.
        """
        wanted = self.wanted(classes, top)
        if isinstance(source, str | Path | bytes | Image.Image | np.ndarray):
            return self.localize([self.read(source)], [source], wanted)[0]
        if on_error not in ("raise", "yield"):
            raise ArgumentError(f"on_error: expected 'raise' or 'yield', got {on_error!r}")
        if not isinstance(source, Iterable):
            raise ArgumentError(
                "expected a path, bytes, PIL image, array or an iterable of them, got "
                f"{type(source).__name__}"
            )
        return self._stream(iter(source), wanted, on_error)

    def _stream(
        self, sources: Iterator[PictureSource], wanted: IntArray | int, on_error: str
    ) -> Iterator[Any]:
        while batch := list(islice(sources, BATCH_SIZE)):
            for result in self.localize_readable(batch, wanted):
                if isinstance(result, Failure) and on_error == "raise":
                    raise result.error
                yield result

    def localize_readable(
        self, sources: Sequence[PictureSource], wanted: IntArray | int
    ) -> list[Localization | Failure]:
        """Read and localize a batch, in order; what cannot be read is a `Failure` in its place."""
        read = [self.read_or_fail(source) for source in sources]
        good = [
            (item, source)
            for item, source in zip(read, sources, strict=True)
            if isinstance(item, Picture)
        ]
        found = iter(self.localize([p for p, _ in good], [s for _, s in good], wanted))
        return [item if isinstance(item, Failure) else next(found) for item in read]

    def read_or_fail(self, source: PictureSource) -> Picture | Failure:
        """`read`, with a `Failure` for what cannot be read."""
        try:
            return self.read(source)
        except GapcamError as error:
            return Failure(name_of(source), error)

    def wanted(
        self, classes: Iterable[ClassName] | None = None, top: int | None = None
    ) -> IntArray | int:
        """The ids `[n]` of the classes asked for, or how many of the best to take.

        Raises:
            ArgumentError: An unknown class, or `top` out of range, or both given.
        """
        if classes is not None:
            if top is not None:
                raise ArgumentError("give either classes or top, not both")
            if isinstance(classes, str) or not isinstance(classes, Iterable):
                raise ArgumentError(f"classes: expected a list of names or ids, got {classes!r}")
            ids = list(dict.fromkeys(self.class_id(name) for name in classes))
            if not ids:
                raise ArgumentError("classes: expected a list of names or ids, got an empty one")
            return np.array(ids)
        limit = len(self.card.labels)
        if top is None:
            return min(self.recipe.top, limit)
        number: Any = top  # Any: callers may give anything
        whole = isinstance(number, int | np.integer) and not isinstance(number, bool)
        if not whole or not 1 <= number <= limit:
            raise ArgumentError(f"top: expected 1 to {limit} (the model's classes), got {top}")
        return int(top)

    def read(self, source: PictureSource, limits: Limits = DEFAULT_LIMITS) -> Picture:
        """Read a picture and squash it to the recipe's input sizes; safe to call from threads.

        Args:
            source: As in `__call__`.
            limits: What is refused as too large, before it is decoded.

        Raises:
            PictureError: It cannot be read, or is too large.
        """
        size_hw, finer_hw = self.recipe.input_size_hw, self.recipe.evidence_size_hw
        largest = np.max([size_hw, finer_hw or size_hw], axis=0).tolist()
        at_least = (largest[0] * DECODE_MARGIN, largest[1] * DECODE_MARGIN)
        picture = load_picture(source, at_least_hw=at_least, limits=limits)
        return Picture(
            name=picture.name,
            pixels=resize_picture(picture.pixels, size_hw),
            size_hw=picture.size_hw,
            notes=picture.notes,
            evidence_pixels=resize_picture(picture.pixels, finer_hw) if finer_hw else None,
        )

    def localize(
        self,
        pictures: Sequence[Picture],
        sources: Sequence[PictureSource],
        wanted: IntArray | int,
    ) -> list[Localization]:
        """Localize a batch of pictures that `read` made.

        Args:
            pictures: At the recipe's sizes.
            sources: What each was read from, kept in its result.
            wanted: As `wanted` gives it; or ids `[B, n]`, other classes for each picture.
        """
        if not pictures:
            return []
        return self.cut(self.see(pictures, wanted), pictures, sources)

    def cut(
        self, seen: Seen, pictures: Sequence[Picture], sources: Sequence[PictureSource]
    ) -> list[Localization]:
        """Cut boxes: what `see` said of a batch of pictures, as results.

        Args:
            seen: What `see` gave for these pictures.
            pictures: In the same order.
            sources: What each was read from, kept in its result.
        """
        heat, classes = seen.heat, seen.classes
        scores = np.take_along_axis(class_scores(seen.logits, self.card.scores), classes, axis=1)
        regions = find_all_regions(heat.reshape(-1, *heat.shape[2:]), self.recipe)
        count = classes.shape[1]
        return [
            Localization(
                name=picture.name,
                size_hw=picture.size_hw,
                detections=tuple(
                    detection
                    for found in zip(
                        classes[i].tolist(),
                        scores[i].tolist(),
                        seen.maps[i],
                        heat[i],
                        regions[i * count : (i + 1) * count],
                        strict=True,
                    )
                    for detection in self._detections(picture.size_hw, *found)
                ),
                model=self.card.name,
                recipe=self.recipe.name,
                notes=picture.notes,
                source=source,
            )
            for i, (picture, source) in enumerate(zip(pictures, sources, strict=True))
        ]

    def see(
        self, pictures: Sequence[Picture], wanted: IntArray | int, *, every: bool = False
    ) -> Seen:
        """Run a batch of pictures (at least one) as far as the heat, before any box is cut.

        Args:
            pictures: At the recipe's sizes, as `read` gives them.
            wanted: As in `localize`.
            every: Give the raw maps of every class too, from the same forward pass.

        Raises:
            ArgumentError: The recipe takes two passes and a picture was read for one; or `every`,
                and the head is not linear.
        """
        return see(self.engine, self.card, self.recipe, pictures, wanted, every=every)

    def _detections(
        self,
        size_hw: SizeHW,
        class_id: int,
        score: float,
        raw: FloatArray,
        heat: FloatArray,
        regions: tuple[Region, ...],
    ) -> Iterator[Detection]:
        """One class of one picture: a detection a region, or one that says there is none."""
        grid_hw = (heat.shape[0], heat.shape[1])
        make = partial(
            Detection,
            label=self.card.labels[class_id],
            class_id=class_id,
            score=score,
            map=raw,
            heat=heat,
            threshold=self.recipe.threshold,
            size_hw=size_hw,
        )
        for region in regions:
            yield make(
                box_xyxy=scale_box(region.box_xyxy, grid_hw, size_hw),
                peak_xy=scale_point(region.peak_xy, grid_hw, size_hw),
                cut_mask=partial(region_mask, heat, self.recipe, region.peak_xy, size_hw),
            )
        if not regions:
            yield make(box_xyxy=None, peak_xy=None, cut_mask=partial(_empty_mask, size_hw))

    def class_id(self, name: ClassName) -> int:
        """The id of a class, given by id, label, synonym or WordNet id; case does not matter.

        Raises:
            ArgumentError: No class, or more than one, has that name; close names are suggested.
        """
        return class_id(self.card, name)

    def check(self, sources: Iterable[PictureSource] | None = None) -> Proof:
        """Prove the maps on real pictures: every class of each is compared with its score.

        Where the head is not linear, the 64 best classes of each.

        Args:
            sources: Pictures to prove it on; the photographs shipped with gapcam when None.

        Raises:
            ArgumentError: Not a list of pictures, or an empty one.
            PictureError: A picture cannot be read.
        """
        if isinstance(sources, str | Path | bytes):
            raise ArgumentError(f"check: expected a list of pictures, got one: {sources!r:.80}")
        largest, low, high, pictures = 0.0, np.inf, -np.inf, 0
        count = len(self.card.labels)
        checked = count if self.engine.head is not None else min(count, MOST_CHECKED)
        for source in sample_pictures() if sources is None else sources:
            out = self.engine.run_maps(self.read(source).pixels[np.newaxis], checked)
            gap = map_gap(out.maps, out.classes, self.engine.bias, out.logits)
            largest, pictures = float(np.maximum(largest, gap)), pictures + 1  # keeps a NaN
            low, high = np.minimum(low, out.logits.min()), np.maximum(high, out.logits.max())
        if not pictures:
            raise ArgumentError("check: expected at least one picture, got none")
        return Proof(
            model=self.card.name,
            pictures=pictures,
            classes=checked,
            largest_gap=largest,
            logit_range=span(np.array([low, high])),
            head=self.card.head,
            features_at=self.card.features_at,
            engine=self.engine.name,
        )


def _empty_mask(size_hw: SizeHW) -> BoolArray:
    return np.zeros(size_hw, np.bool_)
