"""Where thresholds come from, and that those who saw the scored pictures are marked."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pytest

import gapcam
from gapcam.evaluate import evaluate
from gapcam.types import DataError

IOUS = (0.3, 0.5, 0.7)


def test_a_threshold_chosen_on_other_pictures_is_reported(quick, boxed):
    one = dataclasses.replace(boxed, name="one", examples=boxed.examples[::2])
    other = dataclasses.replace(boxed, name="other", examples=boxed.examples[1::2])
    done = evaluate(quick, other, select_on=one).result
    curves = evaluate(quick, one).result["curves"]
    mean = np.mean([curves["single"][str(delta)] for delta in IOUS], axis=0)
    assert done["threshold"] == curves["thresholds"][int(mean.argmax())]
    assert done["threshold_source"] == "selection"
    assert [row["source"] for row in done["thresholds"]] == [
        "recipe",
        "selection",
        "otsu",
        "oracle",
    ]
    assert [row["headline"] for row in done["thresholds"]] == [False, True, False, False]
    headline = done["thresholds"][1]
    assert not headline["upper_bound"]
    assert headline["gt_known"] == done["gt_known"]
    assert headline["threshold"] == done["threshold"]
    assert done["selection"]["n"] == 4
    assert done["selection"]["shared"] == 0
    assert done["selection"]["name"] == "one"
    assert not done["baselines"]["centred_box"]["upper_bound"]
    assert set(done["upper_bounds"]) == {"max_box_acc", "max_box_acc_v2", "thresholds.oracle"}


def test_choosing_on_the_scored_pictures_is_marked_everywhere(quick, boxed):
    some = dataclasses.replace(boxed, name="some", examples=boxed.examples[:3])
    done = evaluate(quick, boxed, select_on=some).result
    assert done["selection"]["shared"] == 3
    row = done["thresholds"][1]
    assert row["upper_bound"]
    assert "chosen on some (3 pictures, 3 of them scored as well: an upper bound)" in row["words"]
    assert {"thresholds.selection", "baselines.centred_box"} <= set(done["upper_bounds"])


def test_copies_of_the_scored_pictures_are_found_in_the_selection(quick, boxed, tmp_path):
    shutil.copytree(boxed.examples[0].path.parent.parent, tmp_path / "copies")
    examples = tuple(
        dataclasses.replace(example, path=tmp_path / "copies" / example.name)
        for example in boxed.examples[:2]
    )
    copies = dataclasses.replace(boxed, name="copies", examples=examples)
    done = evaluate(quick, boxed, select_on=copies).result
    assert done["selection"]["shared"] == 2
    assert done["thresholds"][1]["upper_bound"]


def test_a_recipe_scored_on_the_pictures_it_was_chosen_on_is_an_upper_bound(quick, boxed):
    name = "ILSVRC2012_val_00000556.JPEG"
    seen = dataclasses.replace(boxed.examples[0], name=name)
    dataset = dataclasses.replace(boxed, examples=(seen, *boxed.examples[1:]))
    done = evaluate(quick, dataset).result
    row = done["thresholds"][0]
    assert row["upper_bound"]
    assert row["headline"]
    assert "630 ILSVRC validation pictures" in row["words"]
    assert "1 of those are scored here: an upper bound" in row["words"]
    assert "thresholds.recipe" in done["upper_bounds"]
    paper = evaluate(gapcam.load(recipe="paper", threads=1), dataset).result
    assert not paper["thresholds"][0]["upper_bound"]


def test_boxes_do_not_choose_for_masks(quick, boxed, masked):
    with pytest.raises(DataError, match=r"expected masks to choose a threshold for .* got boxes"):
        evaluate(quick, masked, select_on=boxed)


def test_a_threshold_for_masks_is_chosen_by_pixel_iou(quick, masked):
    one = dataclasses.replace(masked, name="one", examples=masked.examples[::2])
    other = dataclasses.replace(masked, name="other", examples=masked.examples[1::2])
    done = evaluate(quick, other, select_on=one).result
    own = evaluate(quick, one).result
    assert done["threshold"] == own["thresholds"][-1]["threshold"]
    assert done["threshold_source"] == "selection"
    assert "pixel IoU" in done["thresholds"][1]["words"]
