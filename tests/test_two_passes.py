from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import gapcam
from gapcam.boxes import find_regions, scale_box
from gapcam.images import load_picture, resize_picture
from gapcam.localizer import to_heat
from gapcam.maps import class_maps
from gapcam.recipes import BEST, DEFAULT
from gapcam.refine import affinity, fuse
from gapcam.types import ArgumentError


@pytest.fixture(scope="module")
def best() -> gapcam.Localizer:
    return gapcam.load(recipe="best", threads=1)


def test_two_passes_give_what_their_formula_gives_step_by_step(best: gapcam.Localizer, cat: Path):
    decoded = load_picture(cat, at_least_hw=(896, 896)).pixels
    coarse, fine = (
        best.engine.run(resize_picture(decoded, (side, side))[np.newaxis]) for side in (224, 448)
    )
    ids = np.array([[285, 281]])
    weights = best.engine.head.weights
    first = class_maps(coarse.features, weights, ids)
    second = class_maps(fine.features, weights, ids)
    evidence = fuse(
        affinity(first, coarse.fine_features, 0.25), affinity(second, coarse.fine_features, 0.25)
    )
    heat = to_heat(evidence, first, BEST)[0]
    for k, found in enumerate(best(cat, classes=[285, 281]).detections):
        np.testing.assert_allclose(found.heat, heat[k], atol=1e-5)
        np.testing.assert_allclose(found.map, first[0, k], atol=1e-5)
        box = scale_box(find_regions(heat[k], BEST)[0].box_xyxy, (56, 56), found.size_hw)
        np.testing.assert_allclose(found.box_xyxy, box, atol=1e-2)


def test_scores_and_raw_maps_are_those_of_the_first_pass(best: gapcam.Localizer, cat: Path):
    # The same decode, so that the first pass sees the same pixels.
    pixels = np.asarray(load_picture(cat).pixels)
    one, two = gapcam.Localizer(best.engine, best.card, DEFAULT)(pixels), best(pixels)
    for single, double in zip(one.detections, two.detections, strict=True):
        assert (single.class_id, single.score) == (double.class_id, double.score)
        np.testing.assert_array_equal(single.map, double.map)
        assert single.heat.shape == double.heat.shape == (56, 56)
        assert np.abs(single.heat - double.heat).max() > 0.02


def test_a_batch_gives_what_its_pictures_give_alone(best: gapcam.Localizer):
    paths = gapcam.sample_pictures()
    together = list(best(paths, top=2))
    for path, found in zip(paths, together, strict=True):
        for one, other in zip(best(path, top=2).detections, found.detections, strict=True):
            assert one.label == other.label
            np.testing.assert_allclose(one.box_xyxy, other.box_xyxy, atol=0.1)


def test_a_class_without_positive_evidence_in_the_first_pass_has_no_box(
    best: gapcam.Localizer, cat: Path
):
    found = best(cat, top=1000)
    none = [d for d in found.detections if d.box_xyxy is None]
    assert none
    assert all(d.map.max() <= 0 for d in none)
    assert all(d.heat.max() == 0 for d in none)


def test_both_passes_must_fit_the_network(best: gapcam.Localizer):
    odd = replace(BEST, evidence_size_hw=(448, 450))
    with pytest.raises(ArgumentError, match=r"multiples of 32 for .*, got 448 x 450"):
        gapcam.Localizer(best.engine, best.card, odd)


def test_pictures_of_another_recipe_are_refused_not_run_in_one_pass(
    best: gapcam.Localizer, cat: Path
):
    single = gapcam.Localizer(best.engine, best.card, DEFAULT)
    with pytest.raises(ArgumentError, match="takes two passes: expected pictures that this"):
        best.localize([best.read(cat), single.read(cat)], [cat, cat], 1)
    of_two = single.localize([best.read(cat)], [cat], 1)[0]
    assert of_two.recipe == "default"
    # Read at twice the size, so that it may differ by a hair from the picture's own reading.
    box = single(cat).detections[0].box_xyxy
    np.testing.assert_allclose(of_two.detections[0].box_xyxy, box, atol=3)
