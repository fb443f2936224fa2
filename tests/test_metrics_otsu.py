from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gapcam.metrics import otsu
from gapcam.metrics.otsu import otsu_thresholds
from gapcam.types import ArgumentError

planes = arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)))


def between_class_variance(levels: np.ndarray, level: int) -> float:
    """Otsu 1979, eq. 14: w0 w1 (mu1 - mu0)^2 with the two classes of cells spelled out."""
    low, high = levels[levels <= level], levels[levels > level]
    if not low.size or not high.size:
        return 0.0
    return low.size * high.size / levels.size**2 * (high.mean() - low.mean()) ** 2


def blobs(seed: int, side: int = 40) -> np.ndarray:
    random = np.random.default_rng(seed)
    heat = cv2.GaussianBlur(random.random((side, side)), (0, 0), 4)
    return (heat - heat.min()) / np.ptp(heat)


@given(planes)
@example(np.array([[0, 0], [0, 0]], np.uint8))
@example(np.array([[255, 255]], np.uint8))
@example(np.array([[7, 7, 200]], np.uint8))
def test_bytes_are_separated_as_opencv_does(plane: np.ndarray):
    _, expected = cv2.threshold(plane, 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    heat = plane / 255
    hot = heat > otsu_thresholds(heat[None])[0]
    if not np.array_equal(hot, expected == 1):
        # Two cuts can be equally good; OpenCV's then depends on its rounding.
        variances = [
            between_class_variance(plane.astype(float), int(plane[~cut].max(initial=0)))
            for cut in (hot, expected == 1)
        ]
        assert variances[0] == pytest.approx(variances[1], rel=1e-6)


def test_real_maps_are_separated_as_opencv_does():
    maps = np.stack([np.rint(blobs(seed) * 255) for seed in range(30)])
    thresholds = otsu_thresholds(maps / 255)
    for plane, threshold in zip(maps.astype(np.uint8), thresholds, strict=True):
        level, expected = cv2.threshold(plane, 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
        np.testing.assert_array_equal(plane / 255 > threshold, expected == 1)
        assert threshold == pytest.approx((level + 0.5) / 255)


@given(arrays(np.float64, (4, 5), elements=st.floats(0, 1)))
def test_no_other_level_separates_better(heat: np.ndarray):
    (threshold,) = otsu_thresholds(heat[None])
    chosen = round(threshold * 255 - 0.5)
    borders = (np.arange(255) + 0.5) / 255
    levels = np.searchsorted(borders, heat)  # a border belongs below
    np.testing.assert_array_equal(heat > threshold, levels > chosen)
    variances = [between_class_variance(levels.astype(float), k) for k in range(256)]
    assert variances[chosen] == pytest.approx(max(variances))


def test_each_map_is_cut_on_its_own():
    maps = (
        np.stack([blobs(seed) for seed in range(5)])
        * np.array([1, 0.5, 0.1, 0, 0.9])[:, None, None]
    )
    together = otsu_thresholds(maps)
    assert together.shape == (5,)
    assert together.tolist() == [float(otsu_thresholds(m[None])[0]) for m in maps]
    assert together.tolist() == otsu_thresholds(maps.astype(np.float32)).tolist()


def test_many_maps_are_cut_in_blocks(monkeypatch: pytest.MonkeyPatch):
    maps = np.stack([blobs(seed, 10) for seed in range(7)])
    whole = otsu_thresholds(maps)
    for cells in (1, 250):
        monkeypatch.setattr(otsu, "CELLS_AT_ONCE", cells)
        np.testing.assert_array_equal(otsu_thresholds(maps), whole)


def test_two_flat_regions_are_cut_just_above_the_lower():
    heat = np.where(np.arange(100).reshape(1, 10, 10) < 70, 51 / 255, 204 / 255)
    assert otsu_thresholds(heat)[0] == pytest.approx(51.5 / 255)


@pytest.mark.parametrize(("value", "hot"), [(0.0, False), (0.3, True), (1.0, True)])
def test_a_flat_map_is_hot_everywhere_or_nowhere(value: float, hot: bool):
    heat = np.full((1, 4, 4), value)
    assert otsu_thresholds(heat)[0] == 0.5 / 255
    assert (heat > 0.5 / 255).all() == hot


def test_no_maps_have_no_thresholds():
    assert otsu_thresholds(np.zeros((0, 7, 7))).shape == (0,)


@pytest.mark.parametrize(
    ("heat", "message"),
    [
        (np.zeros((7, 7)), r"heat: expected \[n, h, w\], got \[7, 7\]"),
        (np.zeros((2, 0, 7)), r"heat: expected \[n, h, w\], got \[2, 0, 7\]"),
        (np.full((1, 2, 2), 1.25), r"heat: expected 0..1, got 1.25 to 1.25"),
        (np.full((1, 2, 2), -0.25), r"heat: expected 0..1, got -0.25 to -0.25"),
        (np.full((1, 2, 2), np.nan), r"heat: expected 0..1, got nan"),
    ],
)
def test_what_is_no_heat_is_refused(heat, message):
    with pytest.raises(ArgumentError, match=message):
        otsu_thresholds(heat)
