"""Random changes against slow oracles of their definitions, and what they must keep."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from gapcam.images import resize_picture
from gapcam.training.augment import (
    CROP_AREA,
    CROP_ASPECT,
    augment_picture,
    change_colour,
    crop_and_resize,
    cut_mix,
    hide_cells,
    mean_colour,
    random_box,
    random_crop,
)
from picture_files import smooth_pixels

FILL = (120, 110, 100)
ALL = ("crop", "flip", "colour", "hide-and-seek")
seeds = st.integers(0, 2**32 - 1)
sides = st.integers(1, 300)


def chance(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@given(sides, sides, seeds)
def test_a_crop_lies_in_the_picture_and_keeps_area_and_aspect(height: int, width: int, seed: int):
    x0, y0, x1, y1 = random_crop((height, width), chance(seed))
    assert 0 <= x0 < x1 <= width
    assert 0 <= y0 < y1 <= height
    share_x, share_y = (x1 - x0) / width, (y1 - y0) / height
    assert CROP_AREA[0] - 1e-9 <= share_x * share_y <= CROP_AREA[1]
    assert CROP_ASPECT[0] - 1e-9 <= share_x / share_y <= CROP_ASPECT[1] + 1e-9


def test_crops_reach_every_size_and_side():
    crops = np.array([random_crop((100, 100), chance(seed)) for seed in range(500)])
    areas = (crops[:, 2] - crops[:, 0]) * (crops[:, 3] - crops[:, 1]) / 1e4
    assert areas.min() < 0.37
    assert areas.max() > 0.9
    assert crops[:, :2].min() < 1
    assert crops[:, 2:].max() > 99


def test_a_crop_shows_its_box_antialiased():
    pixels = smooth_pixels(60, 80)
    box = (20.0, 10.0, 60.0, 50.0)
    part = Image.fromarray(pixels[10:50, 20:60])
    expected = np.asarray(part.resize((10, 20), Image.Resampling.BILINEAR))
    found = crop_and_resize(pixels, box, (20, 10))
    inside = np.s_[2:-2, 2:-2]  # at its edges the crop's filter also sees what lies beyond
    assert np.abs(found.astype(int) - expected)[inside].max() <= 1
    np.testing.assert_array_equal(
        crop_and_resize(pixels, (0, 0, 80, 60), (20, 10)), resize_picture(pixels, (20, 10))
    )


@given(seeds, st.floats(0.6, 1.4), st.floats(0.6, 1.4), st.floats(0.6, 1.4))
def test_colour_changes_as_three_steps_do(seed: int, saturation: float, contrast: float, by: float):
    pixels = chance(seed).integers(60, 120, (7, 9, 3), np.uint8)  # nothing is cut off
    values = pixels.astype(float)
    grey = values @ [0.299, 0.587, 0.114]
    values = saturation * values + (1 - saturation) * grey[..., None]
    mean = (values @ [0.299, 0.587, 0.114]).mean()
    values = (contrast * values + (1 - contrast) * mean) * by
    found = change_colour(pixels, saturation, contrast, by)
    assert np.abs(found - values).max() <= 0.501


def test_colours_are_cut_not_wrapped():
    white = np.full((4, 4, 3), 250, np.uint8)
    assert change_colour(white, 1, 1, 1.4).min() == 255
    assert change_colour(white, 1, 1, 0).max() == 0


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 12), seeds)
def test_cells_are_hidden_whole_or_not_at_all(height: int, width: int, cell: int, seed: int):
    pixels = np.full((height, width, 3), 7, np.uint8)
    found = hide_cells(pixels, cell, FILL, chance(seed))
    assert (pixels == 7).all()
    for y in range(0, height, cell):
        for x in range(0, width, cell):
            colours = np.unique(found[y : y + cell, x : x + cell].reshape(-1, 3), axis=0)
            assert len(colours) == 1
            assert tuple(colours[0]) in (FILL, (7, 7, 7))


def test_half_of_the_cells_are_hidden_on_average():
    pixels = np.zeros((64, 64, 3), np.uint8)
    shares = [(hide_cells(pixels, 8, FILL, chance(i)) == FILL).all(-1).mean() for i in range(100)]
    assert np.mean(shares) == pytest.approx(0.5, abs=0.02)
    assert hide_cells(pixels, 0, FILL, chance()) is pixels


@given(st.integers(1, 50), st.integers(1, 50), seeds)
def test_the_cut_mix_box_lies_in_the_picture(height: int, width: int, seed: int):
    x0, y0, x1, y1 = random_box((height, width), chance(seed))
    assert 0 <= x0 <= x1 <= width
    assert 0 <= y0 <= y1 <= height


def test_the_cut_mix_box_before_it_is_cut_has_a_uniform_area():
    # A box around the middle is not cut off: area 1 - lambda, lambda ~ Beta(1, 1) = uniform.
    areas = []
    for seed in range(4000):
        x0, y0, x1, y1 = random_box((1000, 1000), chance(seed))
        if x0 > 0 and y0 > 0 and x1 < 1000 and y1 < 1000:
            areas.append(((x1 - x0) * (y1 - y0)) / 1e6)
    sides = np.sqrt(areas)
    # P(uncut | side s) = (1 - s)^2 and the side's density is 2s: mean side of the uncut is 2/5
    assert sides.mean() == pytest.approx(0.4, abs=0.02)


@given(seeds, st.integers(1, 6))
def test_cut_mix_mixes_labels_by_the_pixels_that_show_them(seed: int, count: int):
    pixels = np.broadcast_to(
        np.arange(count, dtype=np.uint8)[:, None, None, None], (count, 9, 7, 3)
    )
    targets = np.eye(count, dtype=np.float32)
    mixed, labels = cut_mix(pixels, targets, chance(seed))
    assert labels.dtype == np.float32
    for picture, label in zip(mixed[..., 0], labels, strict=True):
        shown = np.bincount(picture.ravel(), minlength=count) / picture.size
        np.testing.assert_allclose(label, shown, atol=1e-6)


def test_cut_mix_of_several_classes_stays_between_the_two():
    targets = np.array([[1, 1, 0], [0, 1, 1]], np.float32)
    found = [cut_mix(np.zeros((2, 8, 8, 3), np.uint8), targets, chance(s))[1] for s in range(20)]
    assert all((labels[:, 1] == pytest.approx(1)) for labels in found)
    assert any(0 < labels[0, 0] < 1 for labels in found)
    assert all(labels.sum() == pytest.approx(4) for labels in found)


@given(st.integers(5, 60), st.integers(5, 60), st.sets(st.sampled_from(ALL)), seeds)
def test_a_picture_depends_on_its_generator_alone(height: int, width: int, names: set, seed: int):
    pixels = smooth_pixels(height, width, 3)
    before = pixels.copy()
    one, other = (augment_picture(pixels, (16, 24), names, FILL, chance(seed)) for _ in range(2))
    np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(pixels, before)
    assert (one.shape, one.dtype) == ((16, 24, 3), np.uint8)
    assert one.flags.c_contiguous


def test_without_changes_a_picture_is_squashed_as_the_localizer_does():
    pixels = smooth_pixels(50, 70)
    same = augment_picture(pixels, (16, 24), (), FILL, chance())
    np.testing.assert_array_equal(same, resize_picture(pixels, (16, 24)))


def test_half_are_flipped():
    pixels = smooth_pixels(16, 24)
    shown = [augment_picture(pixels, (16, 24), ("flip",), FILL, chance(s)) for s in range(200)]
    flipped = [np.array_equal(picture, pixels[:, ::-1]) for picture in shown]
    assert all(f or np.array_equal(p, pixels) for f, p in zip(flipped, shown, strict=True))
    assert 70 < sum(flipped) < 130


def test_the_fill_is_the_networks_mean_in_rgb():
    assert mean_colour((123.7, 116.3, 103.5), "rgb") == (124, 116, 104)
    assert mean_colour((103.9, 116.8, 123.7), "bgr") == (124, 117, 104)
    assert mean_colour((0.0, 0.0, 0.0), "rgb") == (127, 127, 127)
