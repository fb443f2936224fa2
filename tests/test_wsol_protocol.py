from __future__ import annotations

import re
import subprocess
import sys

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapcam.metrics import wsol
from gapcam.types import ArgumentError

# --- thresholds --------------------------------------------------------------------------------


def test_the_protocols_thresholds_are_255_levels():
    assert len(wsol.THRESHOLDS) == 1000
    levels = wsol.level_of(wsol.THRESHOLDS)
    assert levels.tolist() == [int(t * 255) for t in np.arange(0, 1, 0.001).tolist()]
    assert set(levels.tolist()) == set(range(wsol.LEVELS))


@pytest.mark.parametrize("peak", [0, 1, 7, 100, 200, 254, 255])
def test_levels_are_truncated_as_python_does(peak):
    hundredths = [k / 100 for k in range(100)]
    for thresholds in (wsol.THRESHOLDS.tolist(), hundredths, [0.29, 0.57, 0.58]):
        expected = [int(t * np.uint8(peak)) for t in thresholds]
        assert wsol.level_of(thresholds, peak).tolist() == expected


def test_levels_of_several_peaks():
    levels = wsol.level_of([[0.5], [0.9]], [255, 100, 0])
    assert levels.tolist() == [[127, 50, 0], [229, 90, 0]]
    assert int(wsol.level_of(0.2)) == 51


# --- maps --------------------------------------------------------------------------------------


def normalized(raw: np.ndarray) -> np.ndarray:
    large = cv2.resize(raw, (224, 224), interpolation=cv2.INTER_CUBIC).astype(np.float64)
    return (large - large.min()) / (large - large.min()).max()


@pytest.mark.parametrize("size_hw", [(7, 7), (14, 9), (1, 3), (224, 224), (300, 250)])
def test_maps_are_resampled_and_stretched(size_hw):
    maps = np.random.default_rng(0).normal(size=(3, *size_hw)).astype(np.float32)
    scores = wsol.score_maps(maps)
    assert scores.dtype == np.float64
    for score, raw in zip(scores, maps, strict=True):
        np.testing.assert_array_equal(score, normalized(raw))
        assert (score.min(), score.max()) == (0, 1)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, np.longdouble])
def test_maps_of_any_precision_are_resampled(kind):
    maps = np.random.default_rng(0).normal(size=(1, 7, 7)).astype(kind)
    near = normalized(maps[0].astype(np.float64))
    np.testing.assert_allclose(wsol.score_maps(maps)[0], near, atol=1e-6)


def test_maps_without_a_shape_become_zeros():
    maps = np.random.default_rng(0).normal(size=(5, 7, 7)).astype(np.float32)
    maps[0] = 3.5
    maps[1, 2, 3] = np.nan
    maps[2, 2, 3] = np.inf
    maps[3, 0, 0] = -np.inf
    scores = wsol.score_maps(maps)
    assert not scores[:4].any()
    assert not wsol.score_maps(np.full((1, 7, 7), 0.1, np.float32)).any()
    np.testing.assert_array_equal(scores[4], normalized(maps[4]))


def test_maps_are_left_as_they_are():
    maps = np.random.default_rng(0).normal(size=(1, 224, 224))
    before = maps.copy()
    wsol.score_maps(maps)
    np.testing.assert_array_equal(maps, before)


def test_gray_is_truncated():
    scores = np.array([[[0, 0.5, 0.999, 1, 1 / 255, np.nextafter(1 / 255, 0)]]])
    assert wsol.quantize(scores).tolist() == [[[0, 127, 254, 255, 1, 0]]]
    assert wsol.quantize(scores.astype(np.float32)).dtype == np.uint8


# --- boxes -------------------------------------------------------------------------------------


@given(
    st.lists(
        st.tuples(*[st.integers(0, 2000)] * 4).map(
            lambda s: (min(s[0], s[2]), min(s[1], s[3]), max(s[0], s[2]), max(s[1], s[3]))
        ),
        max_size=4,
    ),
    st.tuples(st.integers(1, 2000), st.integers(1, 2000)),
)
def test_true_boxes_are_scaled_and_truncated(boxes, size_wh):
    expected = [
        [int(x * 224.0 / side) for x, side in zip(box, size_wh * 2, strict=True)] for box in boxes
    ]
    found = wsol.truncated_boxes(np.array(boxes).reshape(-1, 4), size_wh)
    assert found.tolist() == expected
    sizes = np.tile(size_wh, (len(boxes), 1))
    each = wsol.truncated_boxes(np.array(boxes).reshape(-1, 4), sizes)
    assert each.tolist() == expected


def pixels(box: tuple[int, ...]) -> set[tuple[int, int]]:
    return {(x, y) for x in range(box[0], box[2] + 1) for y in range(box[1], box[3] + 1)}


sides = st.integers(-3, 9)
boxes = st.tuples(sides, sides, sides, sides).map(
    lambda s: (min(s[0], s[2]), min(s[1], s[3]), max(s[0], s[2]), max(s[1], s[3]))
)


@given(boxes, boxes)
def test_inclusive_iou_counts_pixels(a, b):
    expected = len(pixels(a) & pixels(b)) / len(pixels(a) | pixels(b))
    assert wsol.inclusive_iou([a], [b]).tolist() == [[expected]]


def test_inclusive_iou_is_a_table():
    table = wsol.inclusive_iou([(0, 0, 1, 1), (5, 5, 5, 5)], [(1, 1, 2, 2), (0, 0, 1, 1)])
    np.testing.assert_array_equal(table, [[1 / 7, 1], [0, 0]])


# --- how it runs -------------------------------------------------------------------------------


WITHOUT = """
import sys
import numpy as np
from gapcam.metrics import wsol
assert "numba" not in sys.modules
sys.modules["numba"] = None  # as where it is not installed
gray = np.random.default_rng(0).integers(0, 5, (9, 12, 10)).astype(np.uint8) * 60
truths = [np.array([[i % 3, 1, 5, 4 + i], [6, 2, 9, 9]]) for i in range(9)]
found = wsol.level_ious(gray, truths, workers=2)
np.save(sys.stdout.buffer, np.concatenate([found.single, found.multi]))
np.save(sys.stdout.buffer, wsol.level_boxes(gray))
"""


def test_without_numba_the_numbers_are_the_same(tmp_path):
    pytest.importorskip("numba")
    run = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, check=True)
    (tmp_path / "found.npy").write_bytes(run.stdout)
    with (tmp_path / "found.npy").open("rb") as file:
        ious, boxes = np.load(file), np.load(file)
    gray = np.random.default_rng(0).integers(0, 5, (9, 12, 10)).astype(np.uint8) * 60
    truths = [np.array([[i % 3, 1, 5, 4 + i], [6, 2, 9, 9]]) for i in range(9)]
    np.testing.assert_array_equal(np.concatenate(wsol.level_ious(gray, truths)), ious)
    np.testing.assert_array_equal(wsol.level_boxes(gray), boxes)


def test_a_kernel_that_cannot_be_kept_is_compiled_all_the_same():
    pytest.importorskip("numba")
    from gapcam.metrics.level_sets_numba import kernel

    found: dict[str, object] = {}
    exec("def double(x): return 2 * x", found)  # in no file, so beside no file it can be kept
    assert kernel(found["double"])(21) == 42


def test_a_kernel_is_made_anew_when_a_part_of_it_changes(tmp_path, monkeypatch):
    pytest.importorskip("numba")
    import importlib

    from gapcam.metrics.level_sets_numba import fingerprint

    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "some_part.py").write_text("A = 1\n")
    module = importlib.import_module("some_part")
    first = fingerprint(module)
    assert fingerprint(module) == first
    (tmp_path / "some_part.py").write_text("A = 1  # but otherwise\n")
    assert fingerprint(module) != first


# --- what cannot be meant ----------------------------------------------------------------------

GRAY = np.zeros((2, 3, 4), np.uint8)
BOX = np.array([[0, 0, 1, 1]])
WRONG = {
    "thresholds: expected numbers from 0 up to 1, got 0.2 to 1": lambda: wsol.level_of([0.2, 1.0]),
    "thresholds: expected numbers from 0 up to 1, got -0.1 to -0.1": lambda: wsol.level_of(-0.1),
    "peak: expected grays 0..255, got 256 to 256": lambda: wsol.level_of(0.5, 256),
    "maps: expected float [n, h, w], got float64 [7, 7]": lambda: wsol.score_maps(np.ones((7, 7))),
    "maps: expected float [n, h, w], got int64 [1, 7, 7]": lambda: wsol.score_maps(
        np.ones((1, 7, 7), np.int64)
    ),
    "maps: expected float [n, h, w], got float32 [2, 0, 7]": lambda: wsol.score_maps(
        np.ones((2, 0, 7), np.float32)
    ),
    "score_maps: expected scores in 0..1, got 0 to 1.5": lambda: wsol.quantize(
        np.array([[[0, 1.5]]])
    ),
    "score_maps: expected scores in 0..1, got nan to nan": lambda: wsol.quantize(
        np.array([[[0, np.nan]]])
    ),
    "score_maps: expected float, got uint8 [2, 3, 4]": lambda: wsol.quantize(GRAY),
    "boxes_xyxy: expected finite numbers [m, 4], got float64 [4]": lambda: wsol.truncated_boxes(
        [0, 0, 1, 1], (5, 5)
    ),
    "boxes_xyxy: expected finite numbers [m, 4], got float64 [1, 4]": lambda: wsol.truncated_boxes(
        [[0, 0, 1, np.nan]], (5, 5)
    ),
    "boxes_xyxy: expected x0 <= x1 and y0 <= y1, got the box [3.0, 0.0, 1.0, 1.0]": (
        lambda: wsol.truncated_boxes([[0, 0, 1, 1], [3, 0, 1, 1]], (5, 5))
    ),
    "size_wh: expected width and height in pixels, got [5.0, 0.0]": lambda: wsol.truncated_boxes(
        BOX, (5, 0)
    ),
    "size_wh: expected width and height in pixels, got [5.0]": lambda: wsol.truncated_boxes(
        BOX, [5]
    ),
    "boxes: expected x0 <= x1 and y0 <= y1, got the box [1, 0, 0, 0]": lambda: wsol.inclusive_iou(
        [[1, 0, 0, 0]], BOX
    ),
    "others: expected x0 <= x1 and y0 <= y1, got the box [0, 5, 0, 4]": lambda: wsol.inclusive_iou(
        BOX, [[0, 5, 0, 4]]
    ),
    "gray: expected uint8 [n, H, W], got float64 [1, 3, 3]": lambda: wsol.level_boxes(
        np.zeros((1, 3, 3))
    ),
    "gray: expected uint8 [n, H, W], got uint8 [3, 4]": lambda: wsol.level_ious(GRAY[0], [BOX]),
    "gray: expected uint8 [n, H, W], got uint8 [2, 3, 0]": lambda: wsol.level_boxes(GRAY[..., :0]),
    "truths: expected true boxes for each of 2 maps, got 1": lambda: wsol.level_ious(GRAY, [BOX]),
    "truths[1]: expected whole numbers [m, 4], m >= 1, got int64 [0, 4]": lambda: wsol.level_ious(
        GRAY, [BOX, BOX[:0]]
    ),
    "truths[0]: expected whole numbers [m, 4], m >= 1, got float64 [1, 4]": (
        lambda: wsol.level_ious(GRAY, [BOX * 0.5, BOX])
    ),
    "truths[1]: expected x0 <= x1 and y0 <= y1, got the box [2, 0, 1, 1]": lambda: wsol.level_ious(
        GRAY, [BOX, np.array([[2, 0, 1, 1]])]
    ),
    "workers: expected at least 1, got 0": lambda: wsol.level_boxes(GRAY, workers=0),
}


@pytest.mark.parametrize("message", WRONG)
def test_what_cannot_be_meant_is_refused(message):
    with pytest.raises(ArgumentError, match=re.escape(message) + "$"):
        WRONG[message]()
