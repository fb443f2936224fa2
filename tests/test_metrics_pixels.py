from __future__ import annotations

import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gapcam.metrics.pixels import PixelCurve, count_pixels, mask_iou, wsol_mask
from gapcam.types import ArgumentError

GOLDEN = Path(__file__).parent / "golden" / "wsol_masks.npz"
GRID = np.arange(0, 1, 0.001)  # as the protocol makes its thresholds
EDGES = np.append(GRID, [1.0, 2.0, 3.0])
# Everything that rounding could put on the wrong side of a threshold.
NEAR_EDGES = np.unique(
    np.clip(
        [np.nextafter(edge, way) for edge in (*GRID, 1.0) for way in (-1, edge, 2)]
        + [np.float64(np.float32(edge)) for edge in (*GRID, 1.0)]
        + [k / 1000 for k in range(1001)],
        0,
        1,
    )
)
Pictures = list[tuple[np.ndarray, np.ndarray, np.ndarray]]


def protocol_counts(pictures: Pictures) -> np.ndarray:
    """Histograms `[n, 2, 1002]` of foreground and background, with the protocol's edges."""
    return np.array(
        [
            [np.histogram(scores[mask & ~ignore], EDGES)[0] for mask in (truth, ~truth)]
            for scores, truth, ignore in pictures
        ]
    )


def average_precision(true: np.ndarray, false: np.ndarray) -> float:
    """The definition: precision times the growth of recall, added up from the top."""
    area = hits = found = last_recall = 0.0
    for t, f in zip(true[::-1], false[::-1], strict=True):
        hits, found = hits + t, found + t + f
        recall = hits / true.sum()
        if found:
            area += hits / found * (recall - last_recall)
        last_recall = recall
    return area


def protocol_pxap(pictures: Pictures) -> float:
    return average_precision(*protocol_counts(pictures).sum(0))


def counted(pictures: Pictures, threshold: float, strict: bool) -> tuple[float, float, float]:
    """Precision, recall and IoU of all pixels put in one row."""
    scores, truth = (
        np.concatenate([picture[k][~picture[2]] for picture in pictures]) for k in (0, 1)
    )
    found = scores.astype(float) > threshold if strict else scores.astype(float) >= threshold
    both, either = (found & truth).sum(), (found | truth).sum()
    precision = both / found.sum() if found.any() else np.nan
    return precision, both / truth.sum(), both / either


def curve_of(pictures: Pictures, **options) -> PixelCurve:
    curve = PixelCurve(**options)
    for picture in pictures:
        curve.add(*picture)
    return curve


def some_pictures(count: int, seed: int = 0, dtype: str = "float64", side: int = 12) -> Pictures:
    """Blurred discs of chance size, maps that rise towards them, a strip ignored in some."""
    random = np.random.default_rng(seed)
    pictures = []
    for i in range(count):
        height, width = random.integers(side // 2, side, 2)
        y, x = np.ogrid[:height, :width]
        away = np.hypot(y - random.uniform(0, height), x - random.uniform(0, width))
        truth = away < random.uniform(2, side / 2)
        scores = np.exp(-away / side) + random.normal(0, 0.3, truth.shape)
        scores = (scores - scores.min()) / np.ptp(scores)
        ignore = np.zeros_like(truth)
        ignore[:, : width // 4 * (i % 2)] = True
        pictures.append((scores.astype(dtype), truth, ignore))
    return pictures


def test_pxap_is_the_number_of_the_protocols_own_evaluator():
    """From the counts of each bin in its run over 98 masks (see the golden README)."""
    golden = np.load(GOLDEN)
    curve = PixelCurve(replicates=0)
    for name, offset in (("foreground", 0.0), ("background", 0.0005)):
        counts = golden[name]
        inside = np.append(GRID + offset, 1.0)  # nothing lies in the bin above 1
        assert counts[1001:].tolist() == [0]
        scores = np.repeat(inside, counts[:1001])[np.newaxis]
        curve.add(scores, np.full(scores.shape, name == "foreground"))
    assert 100 * curve.pxap == pytest.approx(float(golden["pxap"]), abs=1e-9)
    assert 100 * curve.pxap == pytest.approx(41.7451808, abs=1e-6)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_pxap_pools_the_pixels_of_all_pictures(dtype: str):
    pictures = some_pictures(20, dtype=dtype)
    assert curve_of(pictures).pxap == pytest.approx(protocol_pxap(pictures), rel=1e-12)


def test_scores_at_and_beside_thresholds_are_counted_where_a_search_puts_them():
    truth = np.random.default_rng(1).random(NEAR_EDGES.shape) < 0.4
    for dtype in (np.float64, np.float32):
        scores = NEAR_EDGES.astype(dtype)
        pictures = [(scores[None], truth[None], np.zeros_like(truth[None]))]
        curve = curve_of(pictures)
        np.testing.assert_array_equal(curve.thresholds[:-1], GRID)
        for k in (0, 1, 3, 57, 290, 511, 580, 997, 999):
            loose = curve.precision[k], curve.recall[k], curve.iou[k]
            assert loose == pytest.approx(counted(pictures, GRID[k], strict=False), rel=1e-14)
            assert curve.at(GRID[k]) == pytest.approx(counted(pictures, GRID[k], strict=True))
        assert curve.pxap == pytest.approx(protocol_pxap(pictures), rel=1e-12)


@given(
    arrays(np.float64, (3, 5), elements=st.sampled_from(NEAR_EDGES.tolist())),
    arrays(np.bool_, (3, 5)),
    arrays(np.bool_, (3, 5)),
)
@settings(deadline=None)
def test_any_scores_give_the_definitions_numbers(scores, truth, ignore):
    truth[0, 0], ignore[0, 0] = True, False
    pictures = [(scores, truth, ignore)]
    curve = curve_of(pictures, replicates=0)
    assert curve.pxap == pytest.approx(protocol_pxap(pictures), rel=1e-12)
    for cut in (0.0, 0.21, 0.5, 1.0):
        expected = counted(pictures, cut, strict=True)
        assert curve.at(cut) == pytest.approx(expected, nan_ok=True)


def test_the_curve_by_hand():
    """Scores 1 (object), .5 (not), .5 (object), 0 (not): P, R = 1, 1/2 then 2/3, 1 then 1/2, 1."""
    curve = PixelCurve()
    curve.add(np.array([[1, 0.5], [0.5, 0]]), np.array([[True, False], [True, False]]))
    assert curve.thresholds[[0, 500, 1000]].tolist() == [0, 0.5, 1]
    assert curve.precision[[1000, 501, 500, 1, 0]] == pytest.approx([1, 1, 2 / 3, 2 / 3, 1 / 2])
    assert curve.recall[[1000, 501, 500, 1, 0]].tolist() == [0.5, 0.5, 1, 1, 1]
    assert curve.iou[[1000, 500, 0]] == pytest.approx([1 / 2, 2 / 3, 1 / 2])
    assert curve.pxap == pytest.approx(1 * 1 / 2 + 2 / 3 * 1 / 2)
    assert curve.at(0.5) == (1, 0.5, 0.5)
    precision, recall, iou = curve.at(1.0)
    assert np.isnan(precision)
    assert (recall, iou) == (0, 0)
    assert curve.pictures == 1


def test_the_sum_over_the_curve_is_pxap():
    curve = curve_of(some_pictures(5))
    steps = curve.recall - np.append(curve.recall[1:], 0)
    assert np.nansum(curve.precision * steps) == pytest.approx(curve.pxap)


def test_precision_is_unknown_where_no_pixel_is_found():
    curve = PixelCurve()
    curve.add(np.array([[0.25, 0.125]]), np.array([[True, False]]))
    assert np.isnan(curve.precision[251:]).all()
    assert (curve.precision[126:251] == 1).all()
    assert curve.pxap == 1


def test_ignored_pixels_count_neither_way():
    (scores, truth, _), *_ = some_pictures(1)
    ignore = np.random.default_rng(2).random(truth.shape) < 0.5
    changed = np.where(ignore, 1 - scores, scores)
    first, second = (
        curve_of([(scores, truth, ignore)]),
        curve_of([(changed, ~ignore & truth, ignore)]),
    )
    np.testing.assert_array_equal(first.precision, second.precision)
    assert first.at(0.3) == second.at(0.3)


def test_views_and_large_maps_are_read_in_place():
    scores = np.random.default_rng(3).random((300, 400))
    truth = scores + np.random.default_rng(4).normal(0, 0.2, scores.shape) > 0.7
    ignore = np.zeros_like(truth)
    whole, turned = (scores, truth, ignore), (scores.T[::-1], truth.T[::-1], ignore.T)
    assert curve_of([whole]).pxap == pytest.approx(protocol_pxap([whole]), rel=1e-12)
    assert curve_of([turned]).pxap == curve_of([whole]).pxap


def test_the_interval_is_that_of_resampled_pictures():
    pictures = some_pictures(60)
    curve = curve_of(pictures, replicates=1000)
    random = np.random.default_rng(5)
    counts = protocol_counts(pictures)
    again = [average_precision(*counts[random.integers(0, 60, 60)].sum(0)) for _ in range(400)]
    low, high = np.quantile(again, (0.025, 0.975))
    assert curve.pxap_ci95 == pytest.approx((low, high), abs=0.15 * (high - low))
    assert low < curve.pxap < high


def test_the_interval_depends_on_seed_and_order_alone():
    pictures = some_pictures(150)
    curve = curve_of(pictures[:70])
    curve.pxap_ci95  # noqa: B018  a look between changes nothing
    for picture in pictures[70:]:
        curve.add(*picture)
    assert curve.pxap_ci95 == curve_of(pictures).pxap_ci95
    assert curve.pxap_ci95 != curve_of(pictures, seed=1).pxap_ci95


def test_the_interval_of_one_picture_has_no_width():
    pictures = some_pictures(1)
    curve = curve_of(pictures)
    assert curve.pxap_ci95 == pytest.approx((curve.pxap, curve.pxap))
    assert np.isnan(curve_of(pictures, replicates=0).pxap_ci95).all()
    assert np.isnan(curve_of(pictures, replicates=1, seed=3).pxap_ci95).sum() in (0, 2)


def test_memory_does_not_grow_with_the_pictures():
    pictures = some_pictures(64)
    curve = PixelCurve()
    held = []
    tracemalloc.start()
    for rounds in (1, 9):
        for _ in range(rounds):
            for picture in pictures:
                curve.add(*picture)
        held.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert curve.pictures == 640
    assert held[1] - held[0] < 20_000


@pytest.mark.parametrize(
    ("scores", "truth", "ignore", "message"),
    [
        ((2, 3), (3, 2), None, r"truth: expected bool \[2, 3\], got bool \[3, 2\]"),
        ((2, 3), (2, 3), (2, 2), r"ignore: expected bool \[2, 3\], got bool \[2, 2\]"),
        ((6,), (6,), None, r"score_map: expected \[H, W\], got \[6\]"),
        ((0, 4), (0, 4), None, r"score_map: expected \[H, W\], got \[0, 4\]"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(scores, truth, ignore, message):
    with pytest.raises(ArgumentError, match=message):
        PixelCurve().add(
            np.zeros(scores),
            np.zeros(truth, bool),
            None if ignore is None else np.zeros(ignore, bool),
        )


@pytest.mark.parametrize(
    ("value", "shown"), [(1.5, "0 to 1.5"), (-0.1, "-0.1 to 0"), (np.nan, "nan")]
)
def test_scores_outside_0_to_1_are_refused(value, shown):
    scores = np.zeros((3, 4))
    scores[1, 2] = value
    curve = PixelCurve()
    with pytest.raises(ArgumentError, match=rf"score_map: expected scores in 0..1, got {shown}"):
        curve.add(scores, np.ones((3, 4), bool))
    assert curve.pictures == 0


def test_a_mask_of_bytes_is_refused_not_guessed():
    with pytest.raises(ArgumentError, match=r"truth: expected bool \[2, 2\], got uint8 \[2, 2\]"):
        PixelCurve().add(np.zeros((2, 2)), np.full((2, 2), 255, np.uint8))


@pytest.mark.parametrize("score", ["precision", "recall", "iou", "pxap", "pxap_ci95"])
def test_a_set_without_foreground_has_no_score(score: str):
    curve = PixelCurve()
    truth = np.ones((3, 4), bool)
    curve.add(np.zeros((3, 4)), ~truth)
    curve.add(np.zeros((3, 4)), truth, truth)
    with pytest.raises(ArgumentError, match="masks: expected foreground, got none in 2 pictures"):
        getattr(curve, score)
    with pytest.raises(ArgumentError, match="check which value of the masks is the object"):
        curve.at(0.5)


def test_thresholds_that_were_not_counted_are_refused():
    pictures = [(np.array([[0.6102, 0.7]]), np.array([[True, True]]), np.zeros((1, 2), bool))]
    curve = curve_of(pictures)
    assert curve.at(0.61).recall == 1
    with pytest.raises(ArgumentError, match=r"expected a multiple of 0.001.*got 0.6104; round it"):
        curve.at(0.6104)
    with pytest.raises(ArgumentError, match=r"threshold: expected 0..1, got 1.2"):
        curve.at(1.2)
    with pytest.raises(ArgumentError, match="replicates: expected 0 or more, got -1"):
        PixelCurve(replicates=-1)


def test_the_iou_of_masks():
    found = np.array([[1, 1, 0], [1, 0, 0]], bool)
    truth = np.array([[1, 0, 0], [1, 1, 0]], bool)
    ignore = np.array([[0, 1, 0], [0, 0, 1]], bool)
    assert mask_iou(found, truth) == 2 / 4
    assert mask_iou(found, truth, ignore) == 2 / 3
    assert mask_iou(found, found) == 1
    assert mask_iou(found & ~found, truth & ~truth) == 0
    assert mask_iou(found, truth, np.ones_like(truth)) == 0
    with pytest.raises(
        ArgumentError, match=r"predicted: expected bool \[2, 3\], got bool \[3, 2\]"
    ):
        mask_iou(found.T, truth)
    with pytest.raises(ArgumentError, match=r"truth: expected bool \[2, 3\], got uint8"):
        mask_iou(found, truth.astype(np.uint8))
    with pytest.raises(ArgumentError, match="ignore: expected bool"):
        mask_iou(found, truth, ignore.T)


def test_masks_are_squashed_as_opencv_does_by_nearest():
    random = np.random.default_rng(6)
    for side in (224, 7, 100):
        for size in [
            (1, 1),
            (224, 224),
            (223, 225),
            (227, 608),
            (375, 500),
            (2000, 3),
            (113, 1999),
        ]:
            grey = random.integers(0, 256, size).astype(np.uint8)
            resized = cv2.resize(grey, (side, side), interpolation=cv2.INTER_NEAREST)
            found, ignore = wsol_mask([grey], side=side)
            np.testing.assert_array_equal(found, resized > 127)
            assert not ignore.any()


def test_every_length_is_read_as_opencv_reads_it():
    for n in range(1, 1500):
        grey = (
            (np.arange(n) // 256).astype(np.uint8)[None],
            (np.arange(n) % 256).astype(np.uint8)[None],
        )
        for row in grey:
            seen = cv2.resize(row, (224, 1), interpolation=cv2.INTER_NEAREST)[0] > 127
            np.testing.assert_array_equal(wsol_mask([row])[0][0], seen)


def test_instances_are_united_and_win_over_what_is_ignored():
    first, second, ignored = (np.zeros((4, 4), np.uint8) for _ in range(3))
    first[0, 0], second[3, 3], ignored[0], ignored[1, 1] = 255, 128, 255, 127
    truth, ignore = wsol_mask([first, second > 127], [ignored], side=4)
    assert np.argwhere(truth).tolist() == [[0, 0], [3, 3]]
    assert np.argwhere(ignore).tolist() == [[0, 1], [0, 2], [0, 3]]


@pytest.mark.parametrize(
    ("mask", "shown"),
    [
        (np.zeros((2, 2)), r"float64 \[2, 2\]"),
        (np.zeros((2, 2, 3), np.uint8), r"uint8 \[2, 2, 3\]"),
        (np.zeros((0, 2), bool), r"bool \[0, 2\]"),
    ],
)
def test_what_is_no_mask_is_refused(mask, shown):
    with pytest.raises(ArgumentError, match=rf"mask: expected bool or uint8 \[H, W\], got {shown}"):
        wsol_mask([mask])
    with pytest.raises(ArgumentError, match="mask: expected bool or uint8"):
        wsol_mask([np.zeros((2, 2), bool)], [mask])
    with pytest.raises(
        ArgumentError, match="truth_masks: expected a mask for each instance, got none"
    ):
        wsol_mask([])


def test_counts_of_several_maps_make_one_picture():
    first, second = some_pictures(2)
    together, apart = PixelCurve(), PixelCurve()
    together.add_counts(count_pixels(*first) + count_pixels(*second))
    for picture in (first, second):
        apart.add(*picture)
    assert (together.pictures, apart.pictures) == (1, 2)
    assert together.pxap == apart.pxap
    assert together.at(0.5) == apart.at(0.5)
    assert np.ptp(together.pxap_ci95) == pytest.approx(0, abs=1e-12)
    assert np.ptp(apart.pxap_ci95) > 0
