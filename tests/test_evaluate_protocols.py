"""How each protocol cuts and compares, against its rule written out."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gapcam.boxes import find_regions, scale_box
from gapcam.evaluate.protocols import PROTOCOLS, Ilsvrc, Original, Wsol, protocol_named
from gapcam.metrics.boxes import box_iou
from gapcam.recipes import DEFAULT, PAPER
from gapcam.types import ArgumentError

SIZE = (200, 120)
TRUTHS = [(10.5, 20.25, 90.0, 100.75), (120, 5, 199, 60)]


def some_heat(count, seed=0):
    """Blobs, as heat maps have."""
    random = np.random.default_rng(seed)
    small = random.normal(size=(count, 7, 7)).astype(np.float32)
    large = np.stack([cv2.resize(m, (56, 56), interpolation=cv2.INTER_CUBIC) for m in small])
    low, high = large.min((1, 2), keepdims=True), large.max((1, 2), keepdims=True)
    return (large - low) / (high - low)


def inclusive_iou(a, b):
    """The devkit's: sides are x1 - x0 + 1."""
    width = min(a[2], b[2]) - max(a[0], b[0]) + 1
    height = min(a[3], b[3]) - max(a[1], b[1]) + 1
    if width <= 0 or height <= 0:
        return 0.0
    area = [(c[2] - c[0] + 1) * (c[3] - c[1] + 1) for c in (a, b)]
    return width * height / (sum(area) - width * height)


def test_the_names_and_their_words():
    assert list(PROTOCOLS) == ["original", "wsol", "ilsvrc"]
    for name, kind in PROTOCOLS.items():
        protocol = protocol_named(name, DEFAULT)
        assert type(protocol) is kind
        said = protocol.statements()
        assert {"geometry", "map", "threshold", "components", "boxes", "iou", "masks"} <= set(said)
        assert all(said.values())
    assert "refined (affinity)" in protocol_named("wsol", DEFAULT).statements()["map"]
    assert "refined" not in protocol_named("wsol", PAPER).statements()["map"]
    with pytest.raises(ArgumentError, match="protocol 'voc' is unknown: expected original, wsol"):
        protocol_named("voc", DEFAULT)


@pytest.mark.parametrize(
    ("kind", "inclusive"), [(Original, False), (Ilsvrc, True), (Ilsvrc, False)]
)
def test_sweeps_and_boxes_agree_with_the_devkits_or_the_plain_iou(kind, inclusive):
    protocol, heat = kind(DEFAULT, inclusive_ends=inclusive), some_heat(3)
    truths = [protocol.truths(TRUTHS, SIZE)] * 3
    swept = protocol.sweep(heat, truths, [SIZE] * 3)
    for t in (0, 37, 46, 99):
        threshold = protocol.thresholds[t]
        at = np.full(3, threshold)
        boxes = protocol.boxes(heat, at, [SIZE] * 3)
        every = dataclasses.replace(
            DEFAULT, threshold=float(threshold), components="all", min_area_share=0.0
        )
        for i in range(3):
            found = [
                scale_box(region.box_xyxy, (56, 56), SIZE[::-1])
                for region in find_regions(heat[i], every)
            ]
            if not inclusive:  # half-open on both sides: the devkit's formula is the plain one
                ious = [box_iou([box], TRUTHS).max() for box in found]
            else:  # our half-open end, taken back by a pixel
                shown = [(x0, y0, x1 - 1, y1 - 1) for x0, y0, x1, y1 in found]
                ious = [max(inclusive_iou(box, truth) for truth in TRUTHS) for box in shown]
            assert swept.single[i, t] == pytest.approx(ious[0])
            assert swept.multi[i, t] == pytest.approx(max(ious))
            assert tuple(boxes[i]) == pytest.approx(found[0])


def test_a_map_that_is_zero_has_no_box():
    protocol, heat = Original(DEFAULT), np.zeros((1, 56, 56), np.float32)
    truths = [protocol.truths([(0, 0, 200, 120)], SIZE)]
    swept = protocol.sweep(heat, truths, [SIZE])
    assert not swept.single.any()
    assert not swept.multi.any()
    assert not protocol.boxes(heat, np.array([0.0]), [SIZE]).any()
    assert protocol.otsu_ious(heat, truths, [SIZE], swept) == [0]


def test_a_recipes_threshold_is_on_the_grid():
    odd = dataclasses.replace(DEFAULT, threshold=0.4321)
    assert Original(odd).thresholds[Original(odd).index_of(0.4321)] == 0.4321
    assert len(Original(odd).thresholds) == 101
    assert len(Original(DEFAULT).thresholds) == 100


def test_every_level_has_a_threshold_that_stands_for_it():
    protocol = Wsol(PAPER)
    assert [protocol.index_of(t) for t in protocol.thresholds.tolist()] == list(range(255))
    assert [int(t * 255) for t in protocol.thresholds.tolist()] == list(range(255))
    assert protocol.thresholds == pytest.approx(np.arange(255) / 255, abs=1e-12)
    assert protocol.index_of(0.2) == 51
    assert protocol.index_of(0.999) == 254


@given(st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=10)
def test_wsol_against_opencvs_contours(seed):
    protocol, random = Wsol(PAPER), np.random.default_rng(seed)
    evidence = random.normal(size=(2, 7, 7)).astype(np.float32)
    maps = protocol.maps(evidence, np.zeros((2, 56, 56), np.float32))
    truths = [protocol.truths(TRUTHS, SIZE)] * 2
    swept = protocol.sweep(maps, truths, [SIZE] * 2)
    for i in range(2):
        large = cv2.resize(evidence[i], (224, 224), interpolation=cv2.INTER_CUBIC).astype(float)
        gray = ((large - large.min()) / (large.max() - large.min()) * 255).astype(np.uint8)
        whole = [[int(v) for v in np.multiply(box, (1.12, 224 / 120) * 2)] for box in TRUTHS]
        for level in (0, 100, 200, 254):
            found = cv2.findContours(
                (gray > level).astype(np.uint8), cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE
            )[0]
            boxes = []
            for contour in sorted(found, key=cv2.contourArea, reverse=True):
                x, y, w, h = cv2.boundingRect(contour)
                boxes.append((x, y, min(x + w, 223), min(y + h, 223)))
            ious = [max(inclusive_iou(box, truth) for truth in whole) for box in boxes]
            assert swept.single[i, level] == pytest.approx(ious[0])
            assert swept.multi[i, level] == pytest.approx(max(ious))
            cut = protocol.boxes(maps[i : i + 1], protocol.thresholds[[level]], [SIZE])[0]
            assert tuple(cut - (0, 0, 1, 1)) == boxes[0]


def test_wsol_takes_otsu_of_the_map_that_it_cuts():
    protocol, maps = Wsol(PAPER), some_heat(6, seed=5).astype(np.float64)
    gray = (maps * 255).astype(np.uint8)
    for level, plane in zip(protocol.otsu(maps) * 255, gray, strict=True):
        cut, _ = cv2.threshold(plane, 0, 255, cv2.THRESH_OTSU)
        assert np.array_equal(plane > int(level), plane > cut)


def test_wsol_says_when_the_maps_are_not_plain():
    assert Wsol(PAPER).notes() == []
    assert "refines the maps" in Wsol(DEFAULT).notes()[0]
    assert Original(DEFAULT).notes() == []


def test_wsol_scores_pixels_at_224_by_nearest_neighbour():
    protocol, mask = Wsol(PAPER), np.zeros((120, 200), bool)
    mask[30:70, 50:90] = True
    ignore = np.zeros_like(mask)
    ignore[:, :70] = True
    truth, ignored = protocol.pixel_truth(mask, ignore)
    near = cv2.resize(mask.astype(np.uint8), (224, 224), interpolation=cv2.INTER_NEAREST) > 0
    assert np.array_equal(truth, near)
    assert not (truth & ignored).any()
    shape = protocol.pixel_map(np.zeros((224, 224)), SIZE).shape
    assert shape == truth.shape == ignored.shape == (224, 224)
    plain = Original(DEFAULT)
    truth, ignored = plain.pixel_truth(mask, None)
    assert truth is mask
    assert not ignored.any()
    assert plain.pixel_map(some_heat(1)[0], SIZE).shape == mask.shape


def test_the_frame_of_each_protocol():
    assert Original(DEFAULT).frame_wh(SIZE) == SIZE
    assert Wsol(PAPER).frame_wh(SIZE) == (224, 224)
    assert Original(DEFAULT).truths([(1, 2, 3, 4)], SIZE).tolist() == [[1, 2, 3, 4]]
    assert Ilsvrc(DEFAULT).truths([(1, 2, 3, 4)], SIZE).tolist() == [[1, 2, 3, 4]]
    written = Ilsvrc(DEFAULT, inclusive_ends=True)
    assert written.truths([(1, 2, 3, 4)], SIZE).tolist() == [[1, 2, 4, 5]]
    assert "as written, are last pixels" in written.statements()["iou"]
    # 10.5 * 1.12 = 11.76, 90 * 1.12 = 100.8; 20.25 * 224 / 120 = 37.8, 100.75 * ... = 188.07
    assert Wsol(PAPER).truths(TRUTHS[:1], SIZE).tolist() == [[11, 37, 101, 189]]
