"""What is kept of every scored picture: a few numbers and bits, whatever its size."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from gapcam.evaluate.measure import Measured, Task
from gapcam.metrics.hits import HitTable
from gapcam.metrics.pixels import PixelCurve
from gapcam.types import BoolArray, IntArray

Numbers = npt.NDArray[np.float64]

IOUS = HitTable.IOUS


class Table:
    """Scores of (picture, class) pairs, collected as they come.

    Args:
        thresholds: How many thresholds the curves have.
        kept: At which of them the IoU itself is kept, besides Otsu's.
    """

    def __init__(self, thresholds: int, kept: Sequence[int]) -> None:
        self.tasks: list[Task] = []
        self.single, self.multi = HitTable(thresholds), HitTable(thresholds)
        self.pixels = PixelCurve()
        self.otsu_pixels = np.zeros(3, np.int64)
        self._iou_sums = np.zeros(thresholds)
        self._kept = list(kept)
        self._pictures, self._class_ids, self._ranks = array("i"), array("i"), array("i")
        self._boxed, self._pointing, self._pointing_15px = array("b"), array("b"), array("b")
        self._centre = array("b")
        self._energy, self._area = array("f"), array("f")
        self._ious, self._otsu = array("d"), array("d")  # compared with .5 and the like: exact
        self._objects = array("i")

    def add(self, task: Task, measured: Sequence[Measured]) -> None:
        """Keep what was measured of one picture."""
        for target, one in zip(task.example.targets, measured, strict=True):
            self._pictures.append(len(self.tasks))
            self._class_ids.append(one.class_id)
            self._ranks.append(one.rank)
            self._pointing.append(one.pointing[0])
            self._pointing_15px.append(one.pointing[1])
            self._centre.append(one.centre)
            self._energy.append(one.energy)
            self._objects.append(len(target.boxes))
            self._boxed.append(one.single is not None)
            self._area.append(_largest_share(task.example.size_wh, target.boxes))
            self._otsu.append(one.otsu_iou)
            if one.single is None or one.multi is None:
                self._ious.extend([0.0] * len(self._kept))
            else:
                self._ious.extend(one.single[self._kept].tolist())
                self.single.add(one.single[np.newaxis])
                self.multi.add(one.multi[np.newaxis])
                self._iou_sums += one.single
        counts = [one.pixels for one in measured if one.pixels is not None]
        if counts:  # a picture is what the interval of PxAP resamples
            self.pixels.add_counts(np.sum(counts, axis=0))
        for one in measured:
            if one.otsu_pixels is not None:
                self.otsu_pixels += one.otsu_pixels
        self.tasks.append(task)

    def __len__(self) -> int:
        """How many (picture, class) pairs there are."""
        return len(self._ranks)

    @property
    def has_pixels(self) -> bool:
        """Whether any pair has a mask."""
        return self.pixels.pictures > 0

    @property
    def pictures(self) -> IntArray:
        """Which picture each pair is of, `[n]`."""
        return np.asarray(self._pictures, np.int64)

    @property
    def class_ids(self) -> IntArray:
        """The class of each pair, `[n]`."""
        return np.asarray(self._class_ids, np.int64)

    @property
    def ranks(self) -> IntArray:
        """How many classes the model puts before each pair's, `[n]`."""
        return np.asarray(self._ranks, np.int64)

    @property
    def boxed(self) -> BoolArray:
        """Whether each pair has true boxes, `[n]`."""
        return np.asarray(self._boxed, np.bool_)

    @property
    def pointing(self) -> BoolArray:
        """Whether each peak lies on the object, `[n, 2]`; the second with tolerance."""
        return np.stack([self._pointing, self._pointing_15px], axis=1).astype(np.bool_)

    @property
    def centre(self) -> BoolArray:
        """Whether the centre of each picture lies on the object, `[n]`."""
        return np.asarray(self._centre, np.bool_)

    @property
    def energy(self) -> Numbers:
        """The share of heat on the object, `[n]`."""
        return np.asarray(self._energy, np.float64)

    @property
    def objects(self) -> IntArray:
        """How many true boxes each pair has, `[n]`."""
        return np.asarray(self._objects, np.int64)

    @property
    def area(self) -> Numbers:
        """The share of the picture that the largest true box covers, `[n]`."""
        return np.asarray(self._area, np.float64)

    @property
    def ious(self) -> Numbers:
        """IoU of the one box at the kept thresholds, `[n, kept]`; 0 for pairs without boxes."""
        return np.asarray(self._ious, np.float64).reshape(-1, len(self._kept))

    @property
    def otsu_ious(self) -> Numbers:
        """IoU of the one box at Otsu's threshold, `[n]`; 0 for pairs without boxes."""
        return np.asarray(self._otsu, np.float64)

    @property
    def mean_ious(self) -> Numbers:
        """The mean IoU of the one box at every threshold of the curves, `[T]`."""
        return self._iou_sums / max(1, int(self.boxed.sum()))


def _largest_share(
    size_wh: tuple[int, int], boxes: Sequence[tuple[float, float, float, float]]
) -> float:
    areas = [(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in boxes]
    return max(areas, default=0.0) / (size_wh[0] * size_wh[1])
