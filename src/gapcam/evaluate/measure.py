"""One chunk of pictures, measured: what the model ranks where, and how well its maps fit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gapcam.data import Example, load_mask
from gapcam.evaluate.protocols import Maps, Numbers, Protocol, SizeWH
from gapcam.localizer import Localizer
from gapcam.metrics.pixels import count_pixels
from gapcam.metrics.pointing import (
    POINTING_TOLERANCE,
    energy_inside,
    energy_inside_mask,
    pointing_hit,
    pointing_hit_mask,
)
from gapcam.types import BoolArray, Failure, FloatArray, GapcamError, IntArray, Picture, Point

TOLERANCES = (0.0, POINTING_TOLERANCE)

Ids = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Task:
    """One picture to score: what is in it and, in the same order, the model's ids of that."""

    example: Example
    class_ids: Ids


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """One (picture, class) pair, measured.

    Attributes:
        class_id: Of the model.
        rank: How many classes have a higher score; 0 is the model's answer.
        otsu_iou: IoU of the one box that Otsu's threshold gives; 0 without true boxes.
        single: `[T]`, best IoU of the one box at every threshold; None without boxes.
        multi: `[T]`, of any box.
        pointing: Whether the peak lies on the object; the second with a tolerance of 15 pixels.
        centre: Whether the centre of the picture lies on the object.
        energy: The share of the heat that lies on the object.
        pixels: What pixel scores need, `[2, 2001]`; None without a mask.
        otsu_pixels: Pixels above Otsu's threshold that are the object's, all above it, and all of
            the object, `[3]`; None without a mask.
    """

    class_id: int
    rank: int
    otsu_iou: float
    single: Numbers | None
    multi: Numbers | None
    pointing: tuple[bool, bool]
    centre: bool
    energy: float
    pixels: IntArray | None = None
    otsu_pixels: IntArray | None = None


def measure(
    localizer: Localizer, protocol: Protocol, tasks: Sequence[Task]
) -> list[tuple[Measured, ...] | Failure]:
    """Score a chunk of pictures; what cannot be read is a `Failure` in its place.

    Args:
        localizer: The model, with the recipe that makes the maps.
        protocol: How maps are cut and compared.
        tasks: The pictures.
    """
    read = [_read(localizer, task) for task in tasks]
    good = [(task, one) for task, one in zip(tasks, read, strict=True) if isinstance(one, Picture)]
    measured = iter(_measure_read(localizer, protocol, good))
    return [one if isinstance(one, Failure) else next(measured) for one in read]


def _read(localizer: Localizer, task: Task) -> Picture | Failure:
    try:
        return localizer.read(task.example.path)
    except GapcamError as error:
        return Failure(task.example.name, error)


def _measure_read(
    localizer: Localizer,
    protocol: Protocol,
    good: Sequence[tuple[Task, Picture]],
) -> Iterator[tuple[Measured, ...] | Failure]:
    if not good:
        return
    tasks = [task for task, _ in good]
    wanted, counts = _padded_ids(tasks)
    seen = localizer.see([picture for _, picture in good], wanted)
    keep = np.arange(wanted.shape[1]) < counts[:, np.newaxis]
    maps = protocol.maps(seen.evidence[keep], seen.heat[keep])
    ranks = _ranks(seen.logits, wanted)
    cut = _cut_all(protocol, maps, tasks)
    start = 0
    for task, row in zip(tasks, ranks, strict=True):
        end = start + len(task.class_ids)
        try:
            yield tuple(
                _one(protocol, task, k, int(row[k]), maps[start + k], cut[start + k])
                for k in range(end - start)
            )
        except GapcamError as error:  # a mask that cannot be read
            yield Failure(task.example.name, error)
        start = end


def _padded_ids(tasks: Sequence[Task]) -> tuple[IntArray, IntArray]:
    """Class ids `[B, n]`, the first repeated where a picture has fewer, and how many are real."""
    counts = np.array([len(task.class_ids) for task in tasks])
    ids = np.array(
        [
            task.class_ids + task.class_ids[:1] * (counts.max() - len(task.class_ids))
            for task in tasks
        ]
    )
    return ids, counts


def _ranks(logits: FloatArray, classes: IntArray) -> IntArray:
    """How many classes come before each: higher logits, or as high with a lower id."""
    own = np.take_along_axis(logits, classes, axis=1)[..., np.newaxis]
    every = logits[:, np.newaxis]
    lower_id = np.arange(logits.shape[1]) < classes[..., np.newaxis]
    ranks: IntArray = ((every > own) | ((every == own) & lower_id)).sum(-1)
    return ranks


@dataclass(frozen=True, slots=True, eq=False)
class _Cut:
    """The box scores of one map."""

    otsu_iou: float
    single: Numbers | None
    multi: Numbers | None


def _cut_all(protocol: Protocol, maps: Maps, tasks: Sequence[Task]) -> list[_Cut]:
    pairs = [(target, task.example.size_wh) for task in tasks for target in task.example.targets]
    with_boxes = [i for i, (target, _) in enumerate(pairs) if target.boxes]
    cuts = [_Cut(0.0, None, None)] * len(pairs)
    if not with_boxes:
        return cuts
    sizes: list[SizeWH] = [pairs[i][1] for i in with_boxes]
    truths = [protocol.truths(pairs[i][0].boxes, pairs[i][1]) for i in with_boxes]
    boxed = maps[with_boxes]
    swept = protocol.sweep(boxed, truths, sizes)
    otsu = protocol.otsu_ious(boxed, truths, sizes, swept).tolist()
    for row, i in enumerate(with_boxes):
        cuts[i] = _Cut(otsu[row], swept.single[row], swept.multi[row])
    return cuts


def _one(
    protocol: Protocol, task: Task, k: int, rank: int, one: npt.NDArray[np.floating], cut: _Cut
) -> Measured:
    target, example = task.example.targets[k], task.example
    peak = _peak(one, example.size_wh)
    width, height = example.size_wh
    centre = (width / 2, height / 2)
    mask, pixels, otsu_pixels = None, None, None
    if target.mask_paths:
        mask, ignore = load_mask(target, example)
        pixels, otsu_pixels = _score_pixels(protocol, one, example.size_wh, mask, ignore)
    if target.boxes or mask is None:
        near = [pointing_hit(peak, target.boxes, tolerance) for tolerance in TOLERANCES]
        central = pointing_hit(centre, target.boxes)
        energy = energy_inside(one, target.boxes, (height, width))
    else:
        near = [pointing_hit_mask(peak, mask, tolerance) for tolerance in TOLERANCES]
        central = pointing_hit_mask(centre, mask)
        energy = energy_inside_mask(one, mask)
    return Measured(
        class_id=task.class_ids[k],
        rank=rank,
        otsu_iou=cut.otsu_iou,
        single=cut.single,
        multi=cut.multi,
        pointing=(near[0], near[1]),
        centre=central,
        energy=energy,
        pixels=pixels,
        otsu_pixels=otsu_pixels,
    )


def _score_pixels(
    protocol: Protocol, one: Maps, size_wh: SizeWH, mask: BoolArray, ignore: BoolArray | None
) -> tuple[IntArray, IntArray]:
    """`Measured.pixels` and `Measured.otsu_pixels` of a map."""
    truth, ignored = protocol.pixel_truth(mask, ignore)
    score_map = protocol.pixel_map(one, size_wh)
    above = (score_map > protocol.otsu(one[np.newaxis])[0]) & ~ignored
    otsu = np.array([(above & truth).sum(), above.sum(), (truth & ~ignored).sum()])
    return count_pixels(score_map, truth, ignored), otsu


def _peak(one: Maps, size_wh: SizeWH) -> Point | None:
    """Where the map is highest, in pixels of the picture; None where it is zero everywhere."""
    if not one.max() > 0:
        return None
    row, column = np.unravel_index(int(one.argmax()), one.shape)
    return (
        (float(column) + 0.5) * size_wh[0] / one.shape[1],
        (float(row) + 0.5) * size_wh[1] / one.shape[0],
    )
