from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from gapcam.draw import INK, PAPER
from gapcam.report import GalleryItem, comparison_image
from gapcam.report.gallery import TRUTH, gallery_groups
from gapcam.types import ArgumentError

COLD = np.zeros((7, 7), np.float32)
WIDTH = 240  # lines are 2 pixels wide


def photograph(height=180, width=240):
    return np.random.default_rng(0).integers(60, 160, (height, width, 3), np.uint8)


def compared(pixels, *, heat=COLD, predicted=None, truths=(), mask=None, width=WIDTH, size_hw=None):
    size_hw = size_hw or pixels.shape[:2]
    return np.asarray(comparison_image(pixels, heat, size_hw, predicted, truths, mask, width))


def is_colour(image, colour):
    return (image == colour).all(axis=2)


def item(group, name="a.jpg", image=None, **changes):
    image = image or Image.new("RGB", (40, 30), (200, 30, 30))
    facts = {"truth_label": "cat", "predicted_label": "dog", "predicted_score": 0.5, "iou": 0.25}
    return GalleryItem(group, name, image, **facts | changes)


def test_without_anything_it_is_the_photograph():
    pixels = photograph()
    before = pixels.copy()
    assert np.array_equal(compared(pixels), pixels)
    compared(pixels, heat=np.ones((3, 3), np.float32), predicted=(1, 1, 99, 99))
    assert np.array_equal(pixels, before)


def test_the_prediction_is_a_solid_white_frame_with_a_dark_halo():
    image = compared(photograph(), predicted=(40, 30, 200, 150))
    white = is_colour(image, PAPER)
    expected = np.zeros(white.shape, bool)
    expected[30:150, 40:200] = True
    expected[32:148, 42:198] = False
    assert np.array_equal(white, expected)
    halo = is_colour(image, INK)
    assert halo[29, 39:201].all()
    assert halo[32, 42:198].all()


def test_the_truth_is_dashed_and_blue_from_corner_to_corner():
    image = compared(photograph(), truths=[(40, 30, 200, 150)])
    blue = is_colour(image, TRUTH)
    assert blue.any(axis=0).nonzero()[0][[0, -1]].tolist() == [40, 199]
    assert blue.any(axis=1).nonzero()[0][[0, -1]].tolist() == [30, 149]
    top = blue[30, 40:200]
    assert top[0]
    assert top[-1]
    assert 0.5 < top.mean() < 0.75
    starts = int(np.diff(top.astype(int)).clip(0).sum())
    assert starts > 5
    assert is_colour(image, INK).any()


def test_both_are_seen_where_they_coincide():
    box = (40, 30, 200, 150)
    top = compared(photograph(), predicted=box, truths=[box])[30, 40:200][None]
    assert is_colour(top, TRUTH).mean() > 0.5
    assert is_colour(top, PAPER).mean() > 0.1


def test_boxes_are_in_pixels_of_the_original():
    small = photograph(90, 120)
    image = compared(small, predicted=(400, 300, 2000, 1500), size_hw=(1800, 2400))
    rows, columns = is_colour(image, PAPER).nonzero()
    assert image.shape == (180, 240, 3)
    assert (columns.min(), rows.min(), columns.max(), rows.max()) == (40, 30, 199, 149)


@given(
    st.lists(st.floats(-50, 400, allow_nan=False), min_size=4, max_size=4),
    st.integers(16, 400),
)
def test_any_box_can_be_drawn(corners, width):
    x0, y0, x1, y1 = corners
    box = (min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))
    image = compared(photograph(), predicted=box, truths=[box], width=width)
    assert image.shape[1] == width
    assert is_colour(image, TRUTH).any()


def test_the_mask_is_an_outline_inside_the_object():
    mask = np.zeros((180, 240), bool)
    mask[60:120, 80:160] = True
    image = compared(photograph(), mask=mask)
    blue = is_colour(image, TRUTH)
    assert not (blue & ~mask).any()
    assert blue[60, 85:155].all()
    assert not blue[70:110, 90:150].any()
    assert is_colour(image, INK)[59, 85:155].all()


def test_a_mask_at_the_border_is_outlined_there():
    mask = np.ones((180, 240), bool)
    blue = is_colour(compared(photograph(), mask=mask), TRUTH)
    assert blue[0].all()
    assert blue[-1].all()
    assert blue[:, 0].all()
    assert not blue[10:-10, 10:-10].any()


def test_a_thin_object_is_still_outlined_when_shrunk():
    mask = np.zeros((1800, 2400), bool)
    mask[:, 1200] = True
    image = compared(photograph(), mask=mask, size_hw=(1800, 2400))
    assert is_colour(image, TRUTH)[:, 119:122].any(axis=1).all()


def test_heat_is_laid_over_the_photograph():
    heat = COLD.copy()
    heat[:, 5:] = 1
    pixels = photograph()
    image = compared(pixels, heat=heat)
    assert np.array_equal(image[:, :120], pixels[:, :120])
    assert (image[:, 220:] != pixels[:, 220:]).any(axis=2).mean() > 0.95


@pytest.mark.parametrize(
    ("size_hw", "shown_hw"),
    [((300, 200), (480, 320)), ((4000, 1000), (640, 160)), ((10, 4000), (1, 320))],
)
def test_the_width_is_kept_unless_it_were_too_high(size_hw, shown_hw):
    pixels = photograph(*[max(1, side // 10) for side in size_hw])
    image = comparison_image(pixels, COLD, size_hw, None, [], None)
    assert image.size == shown_hw[::-1]


def test_what_cannot_be_meant_is_refused():
    with pytest.raises(ArgumentError, match=r"width: expected at least 16, got 3"):
        compared(photograph(), width=3)
    with pytest.raises(
        ArgumentError, match=r"expected the picture's size \(180, 240\), got \(9, 9\)"
    ):
        compared(photograph(), mask=np.zeros((9, 9), bool))


def test_groups_come_in_order_and_empty_ones_are_left_out():
    groups = gallery_groups([item("random", "r"), item("best", "b"), item("random", "s")])
    assert [group.key for group in groups] == ["best", "random"]
    assert [view["item"].name for view in groups[1].items] == ["r", "s"]


def test_pictures_are_embedded_as_jpeg():
    (group,) = gallery_groups([item("best", image=Image.new("RGBA", (40, 30), (200, 30, 30, 255)))])
    (view,) = group.items
    head, data = view["source"].split(",")
    assert head == "data:image/jpeg;base64"
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert (image.format, image.size) == ("JPEG", (40, 30))
    assert (view["width"], view["height"]) == (40, 30)
    assert np.abs(np.asarray(image).astype(int) - (200, 30, 30)).max() <= 6
