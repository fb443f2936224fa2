"""Choices for people who have pictures and no boxes: what to keep, what to trust. Ours.

The threshold that comes with a recipe is kept, because no rule that reads one off unlabelled
pictures beat it (`gapcam.agreement`); it moves only where the objects' size is known. How well
views of a picture agree says how far to trust its box.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

from gapcam.agreement import (
    MODEL,
    STUDIES,
    Study,
    agreement,
    box_shares,
    boxes_at,
    expected_accuracy,
    pooled_otsu,
    threshold_for_share,
)
from gapcam.labels import ClassName
from gapcam.localizer import BATCH_SIZE, Localizer
from gapcam.maps import top_classes
from gapcam.metrics.boxes import box_areas
from gapcam.recipes import BEST, DEFAULT, FAST, RECIPES
from gapcam.types import (
    ArgumentError,
    Failure,
    FloatArray,
    IntArray,
    Picture,
    PictureSource,
    Recipe,
    SizeHW,
)

FEW_PICTURES = 20
"""Below this a choice is noise: the mean of 20 right-or-wrong boxes is off by 20 points."""

CANDIDATES = (FAST, DEFAULT, BEST)
OTHER_SIZES = (10 / 7, 2.0)
"""The other input sizes, as multiples of the recipe's: 320 and 448 for 224."""


@dataclass(frozen=True, slots=True)
class RecipeChoice:
    """What unlabelled pictures say of one recipe.

    Attributes:
        recipe: The recipe with the threshold that is picked.
        kept: The threshold that the recipe came with.
        otsu: Otsu's threshold of all heat pooled: a second opinion without labels.
        box_share: Mean share of the picture that a box covers at the picked threshold.
        agreements: Of each picture, 0..1, in the order of `Choice.names`, at the kept threshold.
        expected: Between which shares of boxes are right (IoU >= .5, class right), by the two
            measured sets; None for a recipe, a threshold or a model that was not measured.
    """

    recipe: Recipe
    kept: float
    otsu: float
    box_share: float
    agreements: tuple[float, ...]
    expected: tuple[float, float] | None

    @property
    def agreement(self) -> float:
        """The mean over the pictures."""
        return float(np.mean(self.agreements))


@dataclass(frozen=True, slots=True)
class Choice:
    """What to use on a set of pictures without boxes, and how much to trust it.

    Attributes:
        names: The pictures that were read.
        labels: The class that was looked for in each.
        failures: Those that could not be read, with the reason.
        recipes: Every candidate.
        pick: The recommended one of them.
        advice: The recommendation and its limits, a sentence each.
    """

    names: tuple[str, ...]
    labels: tuple[str, ...]
    failures: tuple[Failure, ...]
    recipes: tuple[RecipeChoice, ...]
    pick: RecipeChoice
    advice: tuple[str, ...]

    def doubtful(self) -> tuple[str, ...]:
        """The pictures to look at first: least agreeing quarter of the measured pictures."""
        study = _study(self.pick.recipe)
        limit = study.quarters[0] if study is not None else 0.0
        pairs = sorted(zip(self.pick.agreements, self.names, strict=True))
        return tuple(name for agrees, name in pairs if agrees < limit)


def choose(
    localizer: Localizer,
    sources: Iterable[PictureSource],
    *,
    recipes: Sequence[Recipe] = CANDIDATES,
    classes: Sequence[ClassName] | None = None,
    object_share: float | None = None,
    on_picture: Callable[[], None] = lambda: None,
) -> Choice:
    """Look at pictures without boxes and say which recipe and threshold to use.

    Every picture is seen by every recipe as it is, mirrored, and at two larger sizes: real
    forward passes, 25 to 30 times the time of one.

    Args:
        localizer: Its model is used; its recipe says only at which size classes are told.
        sources: Pictures, read a batch at a time. Those that cannot be read are left out.
        recipes: The candidates.
        classes: The class to look for: of these the likeliest; of all when None.
        object_share: The objects' mean share of the picture, 0..1, if known.
        on_picture: Called after each picture.

    Raises:
        ArgumentError: No recipe, no picture that can be read, an unknown class, or an
            impossible share.
    """
    names = [recipe.name for recipe in recipes]
    if not names or len(set(names)) < len(names):
        raise ArgumentError(f"recipes: expected at least one, each of its own name, got {names}")
    if isinstance(sources, str | Path | bytes):
        raise ArgumentError(f"choose: expected a list of pictures, got one: {sources!r:.80}")
    if object_share is not None:
        threshold_for_share([0.0], 0.0, object_share)  # refused now, not after minutes
    looker = _Looker(localizer, recipes, localizer.wanted(classes) if classes is not None else 1)
    remaining = iter(sources)
    while batch := list(islice(remaining, BATCH_SIZE)):
        looker.look(batch)
        for _ in batch:
            on_picture()
    if not looker.names:
        reason = f"; the first: {looker.failures[0].error}" if looker.failures else ""
        raise ArgumentError(f"no picture to choose on: {len(looker.failures)} unreadable{reason}")
    measured = localizer.card.name == MODEL
    rows = tuple(_row(looker, recipe, object_share, measured) for recipe in recipes)
    pick = max(rows, key=lambda row: _measured_score(row.recipe))
    return Choice(
        names=tuple(looker.names),
        labels=tuple(localizer.card.labels[i] for i in looker.classes),
        failures=tuple(looker.failures),
        recipes=rows,
        pick=pick,
        advice=tuple(_advice(rows, pick, len(looker.names), object_share, measured)),
    )


def heat_of(localizer: Localizer, pictures: Sequence[Picture], classes: IntArray) -> FloatArray:
    """Heat `[n, h, w]` of one class a picture, `classes` being `[n, 1]`."""
    return localizer.see(pictures, classes).heat[:, 0]


def mirrored(picture: Picture) -> Picture:
    """The picture, left and right exchanged, at every size it is held in."""
    finer = picture.evidence_pixels
    return replace(
        picture,
        pixels=np.ascontiguousarray(picture.pixels[:, ::-1]),
        evidence_pixels=None if finer is None else np.ascontiguousarray(finer[:, ::-1]),
    )


def other_sizes(recipe: Recipe, multiple: int) -> tuple[Recipe, ...]:
    """The recipe in one pass at the other sizes, rounded to multiples that the network takes."""
    return tuple(
        replace(
            recipe,
            input_size_hw=_scaled(recipe.input_size_hw, by, multiple),
            evidence_size_hw=None,
        )
        for by in OTHER_SIZES
    )


def _scaled(size_hw: SizeHW, by: float, multiple: int) -> SizeHW:
    height, width = (max(1, round(side * by / multiple)) * multiple for side in size_hw)
    return height, width


class _Looker:
    """Gathers the heat of every recipe and view, a batch of pictures at a time."""

    def __init__(
        self, localizer: Localizer, recipes: Sequence[Recipe], wanted: IntArray | int
    ) -> None:
        self.names: list[str] = []
        self.classes: list[int] = []
        self.failures: list[Failure] = []
        self.heat: dict[str, list[list[FloatArray]]] = {r.name: [] for r in recipes}
        self._wanted = wanted
        self._localizer = localizer
        multiple = localizer.card.size_multiple
        self._views = {
            r.name: [_with(localizer, view) for view in (r, *other_sizes(r, multiple))]
            for r in recipes
        }

    def look(self, batch: Sequence[PictureSource]) -> None:
        read = [self._localizer.read_or_fail(source) for source in batch]
        self.failures += [item for item in read if isinstance(item, Failure)]
        good = [item for item in read if isinstance(item, Picture)]
        if not good:
            return
        readable = [s for s, item in zip(batch, read, strict=True) if isinstance(item, Picture)]
        classes = self._best_classes(good)
        self.names += [picture.name for picture in good]
        self.classes += classes[:, 0].tolist()
        for name, views in self._views.items():
            self.heat[name].append(list(look_at(views, readable, classes)))

    def _best_classes(self, pictures: Sequence[Picture]) -> IntArray:
        """The likeliest class of each picture, `[n, 1]`: of those asked for, or of all."""
        pixels = np.stack([picture.pixels for picture in pictures])
        logits = self._localizer.engine.run(pixels).logits
        ids = self._wanted
        if isinstance(ids, int):
            return top_classes(logits, ids)
        best: IntArray = ids[logits[:, ids].argmax(1)][:, np.newaxis]
        return best

    def views_of(self, name: str) -> list[FloatArray]:
        """The heat `[n, h, w]` of all pictures: the recipe's own, mirrored, other sizes."""
        return [np.concatenate(parts) for parts in zip(*self.heat[name], strict=True)]


def _with(localizer: Localizer, recipe: Recipe) -> Localizer:
    return Localizer(localizer.engine, localizer.card, recipe)


def look_at(
    views: Sequence[Localizer], sources: Sequence[PictureSource], classes: IntArray
) -> Iterator[FloatArray]:
    """The heat `[n, h, w]` of pictures in every view.

    First the first localizer's, of the pictures as they are and mirrored (and mirrored back), then
    the other localizers'.

    Args:
        views: The recipe's own localizer, then those at other sizes.
        sources: Pictures, all readable.
        classes: The class to look for in each, `[n, 1]`.
    """
    for i, localizer in enumerate(views):
        pictures = [localizer.read(source) for source in sources]
        yield heat_of(localizer, pictures, classes)
        if i == 0:
            flipped = [mirrored(picture) for picture in pictures]
            yield heat_of(localizer, flipped, classes)[..., ::-1]


def _row(
    looker: _Looker, recipe: Recipe, object_share: float | None, measured: bool
) -> RecipeChoice:
    heat, *views = looker.views_of(recipe.name)
    picked = recipe
    if object_share is not None:
        threshold = threshold_for_share(box_shares(heat, recipe), recipe.threshold, object_share)
        picked = replace(recipe, threshold=threshold)
    agrees = agreement(heat, views, recipe)
    moved = picked.threshold != recipe.threshold
    as_named = not moved and recipe == RECIPES.get(recipe.name)
    study = _study(recipe) if measured and as_named else None
    return RecipeChoice(
        recipe=picked,
        kept=recipe.threshold,
        otsu=pooled_otsu(heat),
        box_share=float(box_areas(np.nan_to_num(boxes_at(heat, picked, picked.threshold))).mean()),
        agreements=tuple(agrees.tolist()),
        expected=None if study is None else expected_accuracy(agrees, study),
    )


def _measured_score(recipe: Recipe) -> float:
    """Share of right boxes where boxes are known; a recipe that was not measured comes last."""
    study = _study(recipe)
    return -1.0 if study is None else study.gt_known


def _study(recipe: Recipe) -> Study | None:
    """What was measured of it, if it is one of the named recipes as they are but for the cut."""
    known = RECIPES.get(recipe.name)
    same = known is not None and replace(recipe, threshold=known.threshold) == known
    return STUDIES.get(recipe.name) if same else None


def _advice(
    rows: Sequence[RecipeChoice],
    pick: RecipeChoice,
    pictures: int,
    object_share: float | None,
    measured: bool,
) -> Iterator[str]:
    """The recommendation and its limits."""
    recipe, study = pick.recipe, _study(pick.recipe)
    if pictures < FEW_PICTURES:
        yield (f"Only {pictures} pictures could be used: the choice is noisy below {FEW_PICTURES}.")
    if not measured:
        yield f"All figures were measured with {MODEL}, not with this model: take them as hints."
    if study is None:
        yield f"Recipe {recipe.name} was not measured: nothing says how good its boxes are."
    elif len(rows) > 1:
        yield (
            f"Recipe {recipe.name}: of these it had the most right boxes where boxes are known "
            f"({study.gt_known:.0%}). Agreement between views does not rank recipes better than "
            "that."
        )
    yield _threshold_advice(pick, object_share)
    if study is not None and pick.expected is not None:
        low, high = pick.expected
        yield (
            f"Expect {low:.0%} to {high:.0%} of the boxes to be right (IoU at least .5) where the "
            f"class is right: views of these pictures agree {pick.agreement:.2f} on average. "
            "Agreement sorts pictures, not sets: check the least agreeing ones first "
            f"(a right box agrees better than a wrong one {study.auroc[0]:.0%} to "
            f"{study.auroc[1]:.0%} of the time)."
        )


def _threshold_advice(pick: RecipeChoice, object_share: float | None) -> str:
    threshold, study = pick.recipe.threshold, _study(pick.recipe)
    if object_share is not None:
        return (
            f"Threshold {threshold:g}: half way from the recipe's {pick.kept:g} to where boxes "
            f"fit objects that cover {object_share:.0%} of the picture. Where all objects had "
            "about one size this gained 4 to 6 points; where sizes were mixed it gained nothing, "
            "and a figure half too high cost up to 5."
        )
    text = (
        f"Keep the recipe's threshold, {threshold:g}: no rule that reads one off pictures without "
        "boxes beat it beyond its interval on both measured sets."
    )
    if study is not None:
        gap, low, high = study.otsu_gap
        text += (
            f" Otsu's, here {pick.otsu:.2f}, changed the measured score by {gap:+.1f} points "
            f"({low:+.1f} to {high:+.1f})."
        )
    return f"{text} Say how large the objects are, if you know, and it is adapted."
