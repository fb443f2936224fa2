from __future__ import annotations

from itertools import pairwise, product
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gapcam.metrics import wsol

GOLDEN = Path(__file__).parent / "golden" / "wsol_boxes.npz"
KINDS = ("single", "multi")


# --- the protocol, slowly ----------------------------------------------------------------------


def iou(a: tuple[int, ...], b: tuple[int, ...]) -> float:
    """Inclusive, by counting the pixels of both boxes."""
    cells = [{(x, y) for x in range(c[0], c[2] + 1) for y in range(c[1], c[3] + 1)} for c in (a, b)]
    return len(cells[0] & cells[1]) / len(cells[0] | cells[1])


def fast_iou(a: np.ndarray, b: np.ndarray) -> float:
    width = max(0, min(a[2], b[2]) - max(a[0], b[0]) + 1)
    height = max(0, min(a[3], b[3]) - max(a[1], b[1]) + 1)
    areas = [(c[2] - c[0] + 1) * (c[3] - c[1] + 1) for c in (a, b)]
    return width * height / (areas[0] + areas[1] - width * height)


def traced(gray: np.ndarray, truths: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Single, multi and box at all 255 levels; contours are traced once for each mask."""
    single, multi, largest = np.zeros(255), np.zeros(255), np.zeros((255, 4), int)
    height, width = gray.shape
    starts = sorted({0, *(int(v) for v in gray.ravel() if v < 255)})
    for start, end in pairwise([*starts, 255]):
        mask = (gray > start).astype(np.uint8) * 255
        contours, _ = cv2.findContours(mask, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
        boxes = []
        for x, y, w, h in map(cv2.boundingRect, contours):
            boxes.append((x, y, min(x + w, width - 1), min(y + h, height - 1)))
        fits = [max(fast_iou(box, truth) for truth in truths.tolist()) for box in boxes]
        areas = [cv2.contourArea(contour) for contour in contours]
        if not boxes:
            boxes = [(0, 0, 0, 0)]
            fits, areas = [max(fast_iou(boxes[0], truth) for truth in truths.tolist())], [0.0]
        first = max(range(len(boxes)), key=lambda i: areas[i])
        single[start:end], multi[start:end] = fits[first], max(fits)
        largest[start:end] = boxes[first]
    return single, multi, largest


def random_truths(random: np.random.Generator, size_hw: tuple[int, int]) -> np.ndarray:
    """One to three boxes, some a little outside of the map."""
    corners = random.integers(0, (size_hw[1] + 1, size_hw[0] + 1), (random.integers(1, 4), 2, 2))
    return np.sort(corners, axis=1).reshape(-1, 4)


def check(grays: np.ndarray, seed: int = 0) -> None:
    """Every level of every map is as it is traced."""
    random = np.random.default_rng(seed)
    truths = [random_truths(random, grays.shape[1:]) for _ in grays]
    found = wsol.level_ious(grays, truths)
    boxes = wsol.level_boxes(grays)
    for i, gray in enumerate(grays):
        single, multi, largest = traced(gray, truths[i])
        same = np.array_equal(boxes[i], largest)
        same &= np.array_equal(found.single[i], single) & np.array_equal(found.multi[i], multi)
        assert same, f"map {i}:\n{gray}\ntruths {truths[i].tolist()}"


# --- the reference's own numbers ---------------------------------------------------------------


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN) as file:
        return dict(file)


@pytest.fixture(scope="module")
def grays(golden) -> np.ndarray:
    return wsol.quantize(wsol.score_maps(golden["maps"]))


@pytest.fixture(scope="module")
def truths(golden) -> list[np.ndarray]:
    owners, boxes = golden["box_image_index"], golden["boxes_xyxy"]
    return [
        wsol.truncated_boxes(boxes[owners == i], size_wh)
        for i, size_wh in enumerate(golden["image_size_wh"])
    ]


@pytest.fixture(scope="module")
def ious(grays, truths) -> wsol.LevelIous:
    return wsol.level_ious(grays, truths)


def accuracy(ious: wsol.LevelIous, kind: str, delta: int) -> np.ndarray:
    """Percent at each of the protocol's thresholds."""
    hits = (getattr(ious, kind) >= delta / 100).sum(axis=0)
    return (hits * 100.0 / len(ious.single))[wsol.level_of(wsol.THRESHOLDS)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("delta", [30, 50, 70])
def test_accuracy_is_the_references_at_every_threshold(ious, golden, kind, delta):
    expected = golden[f"{kind}_acc_{delta}"]
    assert len(expected) == 1000
    np.testing.assert_array_equal(accuracy(ious, kind, delta), expected)


def test_the_scores_are_the_references(ious):
    assert accuracy(ious, "single", 50).max() == pytest.approx(68.254, abs=5e-4)
    best = [accuracy(ious, "multi", delta).max() for delta in (30, 50, 70)]
    assert np.mean(best) == pytest.approx(65.503, abs=5e-4)


def test_real_maps_are_as_traced(grays):
    check(grays[::90])


def test_threads_change_nothing(grays, truths, ious):
    for workers in (1, 3, None):
        again = wsol.level_ious(grays[:70], truths[:70], workers)
        np.testing.assert_array_equal(again.single, ious.single[:70])
        np.testing.assert_array_equal(again.multi, ious.multi[:70])
    np.testing.assert_array_equal(
        wsol.level_boxes(grays[:70], 1), wsol.level_boxes(grays[:70], workers=3)
    )


# --- every kind of shape -----------------------------------------------------------------------


@pytest.mark.parametrize("size_hw", [(3, 4), (2, 5), (1, 9)])
def test_every_small_mask(size_hw):
    patterns = np.array(list(product((0, 200), repeat=size_hw[0] * size_hw[1])), np.uint8)
    check(patterns.reshape(-1, *size_hw))


@pytest.mark.parametrize("levels", [2, 3, 5, 256])
@pytest.mark.parametrize(
    "size_hw", [(1, 1), (1, 7), (7, 1), (2, 2), (4, 4), (5, 5), (6, 9), (8, 5), (11, 12)]
)
def test_random_plateaus(size_hw, levels):
    random = np.random.default_rng(levels)
    values = np.sort(random.choice(256, (80, levels)), axis=1).astype(np.uint8)
    picked = random.integers(0, levels, (80, *size_hw))
    check(np.array([v[p] for v, p in zip(values, picked, strict=True)]))


DRAWN = {
    "nested rings, an island in a hole in an island": """
        3333333333333
        3...........3
        3.222222222.3
        3.2.......2.3
        3.2.11111.2.3
        3.2.1...1.2.3
        3.2.1.4.1.2.3
        3.2.1...1.2.3
        3.2.11111.2.3
        3.2.......2.3
        3.222222222.3
        3...........3
        3333333333333""",
    "a spiral": """
        999999999
        9.......9
        9.77777.9
        9.7...7.9
        9.7.5.7.9
        9.7.555.9
        9.7.....9
        9.7777777
        9........
        999999999""",
    "a volcano, its peak above its rim": """
        .........
        .6666666.
        .6222226.
        .6299926.
        .6291926.
        .6299926.
        .6222226.
        .6666666.
        .........""",
    "holes that touch at corners": """
        555555555
        5.5.555.5
        55.55.5.5
        5.5.555.5
        555555555""",
    "rings joined at corners": """
        .44......
        4..4.22..
        4..42..2.
        .44.2..2.
        ...4.22..
        ..4.4....
        ...4.....""",
    "a hole that opens in steps": """
        666666666
        6.111.1.6
        6.1.1.1.4
        6.111.1.6
        666266666
        ...3.....""",
    "lines and dots, all of area 0": """
        5.5.5.5.5
        .........
        555..5...
        ......5..
        5..3...5.
        5.3.3...5
        5...3.555""",
    "two as large, one with a whisker": """
        .....55..
        .55..55..
        .55......
        ...5.....
        ....5....
        .33.33.33
        .33.33.33""",
    "along the frame": """
        9.4.4.4.9
        .........
        7.......7
        7..222..7
        7..2.2..7
        7..222..7
        .........
        9.4.4.4.9""",
    "flat": """
        777
        777""",
    "empty": """
        ...
        ...""",
}


def drawn(rows: str) -> np.ndarray:
    """Digits are heights from 1 to 9, a dot is 0."""
    return np.array(
        [[0 if c == "." else int(c) * 28 for c in row] for row in rows.split()], np.uint8
    )


@pytest.mark.parametrize("name", DRAWN)
def test_drawn_shapes(name):
    gray = drawn(DRAWN[name])
    # All ways to turn it and to mirror it, upside down in height too: peaks become holes.
    for turned in (gray, np.rot90(gray), np.rot90(gray, 2), np.rot90(gray, 3)):
        versions = [turned, turned[:, ::-1], 252 - turned, turned[::-1] // 28, turned | 3]
        check(np.array(versions), seed=len(name))


def waves(size_hw: tuple[int, int], random: np.random.Generator, blur: float) -> np.ndarray:
    """A smooth map with about 200 grays."""
    noise = cv2.GaussianBlur(random.random(size_hw), (0, 0), blur)
    return (200 * (noise - noise.min()) / np.ptp(noise)).astype(np.uint8)


@pytest.mark.parametrize("blur", [0.5, 1.5, 4.0])
def test_smooth_maps_from_rough_to_calm(blur):
    random = np.random.default_rng(3)
    check(np.array([waves((40, 33), random, blur) for _ in range(25)]))


def test_checkerboards_and_stripes():
    y, x = np.mgrid[:17, :14]
    boards = [
        (x + y) % 2 * 255,
        (x // 2 + y // 3) % 2 * 99,
        x % 2 * 255,
        y % 3 * 60,
        x * y % 5 * 50,
    ]
    ramps = [x * 17, 255 - y * 15, (x + y) * 8, np.abs(x - 7) * 30, (x - 7) ** 2 + (y - 8) ** 2]
    check(np.array(boards + ramps).astype(np.uint8))


def test_noise_of_the_protocols_size():
    noise = np.random.default_rng(0).integers(0, 12, (2, 224, 224))
    check((noise * 20).astype(np.uint8))


@given(
    st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(
        lambda hw: arrays(np.uint8, hw, elements=st.sampled_from([0, 1, 2, 128, 253, 254, 255]))
    ),
    st.integers(0, 99),
)
def test_any_map(gray, seed):
    check(gray[np.newaxis], seed)


def test_the_largest_of_equals_is_the_one_that_starts_last():
    dots = drawn("5.5 ... 5..")
    assert wsol.level_boxes(dots[np.newaxis])[0, 0].tolist() == [0, 2, 1, 2]


def test_a_hole_fits_where_the_object_does_not():
    ring = drawn("99999 9...9 9...9 9...9 99999")[np.newaxis]
    inner = np.array([[0, 0, 4, 4]])  # contours of holes run on the pixels around them
    assert wsol.level_ious(ring, [inner]).multi[0, 0] == 1
    island = drawn("99999999 9......9 9.99...9 9......9 99999999")[np.newaxis]
    found = wsol.level_ious(island, [np.array([[2, 2, 4, 3]])])  # x + w, y + h: a pixel too wide
    assert found.multi[0, 0] == 1
    assert found.single[0, 0] == pytest.approx(6 / 40)


def test_levels_from_the_peak_on_have_the_first_pixel_for_a_box():
    gray = np.full((1, 4, 6), 100, np.uint8)
    found = wsol.level_ious(gray, [np.array([[0, 0, 1, 0], [3, 3, 4, 4]])])
    boxes = wsol.level_boxes(gray)[0]
    assert (boxes[:100] == [0, 0, 5, 3]).all()
    assert (boxes[100:] == 0).all()
    np.testing.assert_array_equal(found.single[0, 100:], 0.5)
    np.testing.assert_array_equal(found.multi, found.single)


def test_no_maps_at_all():
    nothing = wsol.level_ious(np.zeros((0, 5, 5), np.uint8), [])
    assert nothing.single.shape == nothing.multi.shape == (0, 255)
    assert wsol.level_boxes(np.zeros((0, 5, 5), np.uint8)).shape == (0, 255, 4)
