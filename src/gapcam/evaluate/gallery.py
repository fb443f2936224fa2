"""The pictures that a report shows: best, worst and some at random, drawn with the truth."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from gapcam.boxes import scale_box
from gapcam.data import load_mask
from gapcam.evaluate.measure import Task
from gapcam.evaluate.run import Evaluation
from gapcam.images import load_picture
from gapcam.localizer import Localizer
from gapcam.maps import class_scores
from gapcam.report import GalleryItem, Group, comparison_image
from gapcam.types import Box, GapcamError, IntArray

Numbers: TypeAlias = npt.NDArray[np.float64]

PER_GROUP = 12
WIDTH = 640


def gallery(
    localizer: Localizer, evaluation: Evaluation, per_group: int = PER_GROUP, seed: int = 0
) -> Iterator[GalleryItem]:
    """Draw the pairs of highest and lowest IoU at the headline threshold, and some at random.

    With masks only, the share of the heat on the object takes the place of the IoU. No pair is
    shown twice. A picture that can no longer be read is left out: it was scored, and only the
    drawing is lost.

    Args:
        localizer: The one that was evaluated.
        evaluation: What came of it.
        per_group: The most pictures of each group.
        seed: Of the random ones.
    """
    table = evaluation.table
    owners = [(task, k) for task in table.tasks for k in range(len(task.class_ids))]
    for group, index in chosen_pairs(_goodness(evaluation), per_group, seed):
        task, k = owners[index]
        iou = float(table.ious[index, -1]) if table.boxed[index] else None
        try:
            yield _item(localizer, evaluation, group, task, k, iou)
        except GapcamError:
            continue


def _goodness(evaluation: Evaluation) -> Numbers:
    table = evaluation.table
    return table.ious[:, -1] if table.boxed.any() else table.energy


def chosen_pairs(goodness: Numbers, per_group: int, seed: int) -> Iterator[tuple[Group, int]]:
    """Which pairs to show, by their goodness `[n]`: the group and the index of each."""
    random = np.random.default_rng(seed)
    shuffled = random.permutation(len(goodness))  # of equals, any
    order: IntArray = shuffled[np.argsort(-goodness[shuffled], kind="stable")]
    count = min(per_group, len(order) // 3)
    groups: tuple[tuple[Group, IntArray], ...] = (
        ("best", order[:count]),
        ("worst", order[len(order) - count :][::-1]),
        ("random", random.permutation(order[count : len(order) - count])[:per_group]),
    )
    for group, indices in groups:
        for index in indices.tolist():
            yield group, index


def _item(
    localizer: Localizer,
    evaluation: Evaluation,
    group: Group,
    task: Task,
    k: int,
    iou: float | None,
) -> GalleryItem:
    example, protocol = task.example, evaluation.protocol
    target, class_id = example.targets[k], task.class_ids[k]
    seen = localizer.see([localizer.read(example.path)], np.array([[class_id]]))
    maps = protocol.maps(seen.evidence[0], seen.heat[0])
    threshold = evaluation.headline.threshold
    width, height = example.size_wh
    picture = load_picture(example.path, at_least_hw=_shown_hw(width, height))
    top = int(seen.logits[0].argmax())
    box = protocol.boxes(maps, np.array([threshold], np.float64), [example.size_wh])[0]
    image = comparison_image(
        picture.pixels,
        maps[0].astype(np.float32),
        (height, width),
        _in_picture(box, protocol.frame_wh(example.size_wh), example.size_wh),
        target.boxes,
        load_mask(target, example)[0] if target.mask_paths else None,
        width=WIDTH,
    )
    return GalleryItem(
        group=group,
        name=example.name,
        image=image,
        truth_label=localizer.card.labels[class_id],
        predicted_label=localizer.card.labels[top],
        predicted_score=float(class_scores(seen.logits, localizer.card.scores)[0, top]),
        iou=iou,
    )


def _shown_hw(width: int, height: int) -> tuple[int, int]:
    """The size at which a picture is shown, so that it need not be decoded larger."""
    return max(1, round(height * WIDTH / width)), WIDTH


def _in_picture(box: Numbers, frame_wh: tuple[int, int], size_wh: tuple[int, int]) -> Box | None:
    """A box of the protocol's frame in pixels of the picture; None where there is none."""
    if not (box[2] > box[0] and box[3] > box[1]):
        return None
    x0, y0, x1, y1 = box.tolist()
    return scale_box((x0, y0, x1, y1), frame_wh[::-1], size_wh[::-1])
