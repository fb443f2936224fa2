"""Choosing without boxes: agreement, sizes, and a whole choice on the shipped photographs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gapcam
from gapcam.agreement import (
    CUT_STEP,
    FACTOR,
    STUDIES,
    THRESHOLDS,
    agreement,
    box_shares,
    boxes_at,
    expected_accuracy,
    pooled_otsu,
    threshold_for_share,
)
from gapcam.label_free import CANDIDATES, FEW_PICTURES, choose, look_at, mirrored, other_sizes
from gapcam.metrics.boxes import box_iou, paired_iou
from gapcam.recipes import BEST, DEFAULT, FAST
from gapcam.types import ArgumentError

ROOT = Path(__file__).parent.parent


def hill(x: float, y: float, width: float, n: int = 1, side: int = 32) -> np.ndarray:
    """Heat `[n, side, side]`: a round hill at (x, y), fractions of the picture."""
    at = (np.arange(side) + 0.5) / side
    far = ((at[:, None] - y) ** 2 + (at[None] - x) ** 2) / width**2
    heat = np.exp(-far / 2)
    return np.repeat((heat / heat.max())[None], n, 0).astype(np.float32)


# --- boxes and agreement -------------------------------------------------------------------------


def test_boxes_are_fractions_of_the_picture_on_any_grid():
    coarse, fine = hill(0.4, 0.6, 0.15, side=32), hill(0.4, 0.6, 0.15, side=96)
    box = boxes_at(fine, DEFAULT, 0.5)[0]
    reach = 0.15 * np.sqrt(2 * np.log(2))  # where exp(-d^2 / 2 w^2) = 1 / 2
    assert box == pytest.approx([0.4 - reach, 0.6 - reach, 0.4 + reach, 0.6 + reach], abs=0.01)
    assert boxes_at(coarse, DEFAULT, 0.5)[0] == pytest.approx(box, abs=0.02)


def test_no_heat_has_no_box_and_agrees_with_nothing():
    nothing = np.zeros((1, 8, 8), np.float32)
    assert np.isnan(boxes_at(nothing, DEFAULT, 0.5)).all()
    assert agreement(nothing, [nothing], DEFAULT) == 0


corner = st.tuples(*[st.floats(0, 1)] * 4).map(
    lambda c: (min(c[0], c[2]), min(c[1], c[3]), max(c[0], c[2]), max(c[1], c[3]))
)


@given(st.lists(st.tuples(corner, corner), min_size=1, max_size=5))
def test_paired_iou_is_the_diagonal_of_all_pairs(pairs: list):
    a, b = (np.array(side) for side in zip(*pairs, strict=True))
    assert paired_iou(a, b) == pytest.approx(np.diag(box_iou(a, b)))


def test_agreement_is_the_mean_over_views_and_cuts():
    heat = np.concatenate([hill(0.5, 0.5, 0.2), hill(0.3, 0.3, 0.1)])
    views = [hill(0.55, 0.5, 0.2, n=2), np.concatenate([hill(0.5, 0.4, 0.25, side=48)] * 2)]
    slow = [
        np.mean(
            [
                box_iou(boxes_at(heat[i : i + 1], DEFAULT, t), boxes_at(v[i : i + 1], DEFAULT, t))
                for v in views
                for t in (DEFAULT.threshold - CUT_STEP, DEFAULT.threshold, DEFAULT.threshold + 0.08)
            ]
        )
        for i in range(2)
    ]
    assert agreement(heat, views, DEFAULT) == pytest.approx(slow)


def test_views_that_agree_are_one_and_moved_ones_less():
    heat = hill(0.5, 0.5, 0.15)
    near, far = hill(0.55, 0.5, 0.15), hill(0.7, 0.5, 0.15)
    same, close, apart = (agreement(heat, [v], DEFAULT)[0] for v in (heat, near, far))
    assert same == 1
    assert 1 > close > apart > 0


def test_agreement_needs_a_view():
    with pytest.raises(ArgumentError, match="at least one other view"):
        agreement(hill(0.5, 0.5, 0.1), [], DEFAULT)


def test_agreement_can_be_read_at_extreme_thresholds():
    heat = hill(0.5, 0.5, 0.2)
    for threshold in (0.0, 0.99):
        assert agreement(heat, [heat], replace(DEFAULT, threshold=threshold)) == 1


# --- thresholds ----------------------------------------------------------------------------------


def test_pooled_otsu_splits_two_levels():
    heat = np.zeros((3, 4, 4), np.float32)
    heat[:, 1:3, 1:3] = [[[0.8]], [[0.9]], [[1.0]]]
    heat[:, 0] = 0.1
    assert 0.1 < pooled_otsu(heat) < 0.8
    with pytest.raises(ArgumentError, match="n >= 1"):
        pooled_otsu(heat[:0])


def test_pooled_otsu_is_one_threshold_for_all_pictures():
    """One bright and one faint picture: each alone would be split elsewhere."""
    bright, faint = hill(0.5, 0.5, 0.3), hill(0.5, 0.5, 0.3) * np.float32(0.3)
    both = pooled_otsu(np.concatenate([bright, faint]))
    assert pooled_otsu(faint) < both <= pooled_otsu(bright)


def test_box_shares_fall_as_the_threshold_rises():
    shares = box_shares(np.concatenate([hill(0.5, 0.5, 0.2), hill(0.4, 0.4, 0.1)]), DEFAULT)
    assert shares.shape == (len(THRESHOLDS),)
    assert (np.diff(shares) < 0).all()


@given(st.floats(0.01, 1), st.floats(0.01, 1))
def test_smaller_objects_never_get_a_lower_threshold(one: float, other: float):
    shares = np.linspace(0.9, 0.02, len(THRESHOLDS))
    small, large = sorted((one, other))
    at = [threshold_for_share(shares, 0.46, share) for share in (small, large)]
    assert at[0] >= at[1]


def test_the_threshold_goes_half_way_to_where_sizes_fit():
    shares = np.linspace(0.9, 0.1, len(THRESHOLDS))
    there = THRESHOLDS.index(0.60)
    assert threshold_for_share(shares, 0.40, shares[there] / FACTOR) == pytest.approx(0.50)


@pytest.mark.parametrize("share", [0, -0.1, 1.5, 25, float("nan")])
def test_impossible_object_shares_are_refused(share: float):
    with pytest.raises(ArgumentError, match="share of the picture above 0 and up to 1"):
        threshold_for_share([0.5], 0.4, share)


# --- what was measured ---------------------------------------------------------------------------


def test_every_candidate_was_measured():
    for recipe in CANDIDATES:
        study = STUDIES[recipe.name]
        assert list(study.quarters) == sorted(study.quarters)
        assert all(len(right) == 4 for right in study.right)
        # Quarters of one set hold as many pictures each, so their mean is the set's own figure.
        assert np.mean(study.right[0]) == pytest.approx(study.gt_known, abs=0.005)
        low, mean, high = study.otsu_gap[1], study.otsu_gap[0], study.otsu_gap[2]
        assert low <= mean <= high


def test_expected_accuracy_is_that_of_the_quarters():
    study = replace(
        STUDIES["default"],
        quarters=(0.6, 0.7, 0.8),
        right=((0.5, 0.6, 0.7, 0.8), (0.3, 0.5, 0.8, 0.9)),
    )
    assert expected_accuracy([0.1], study) == (0.3, 0.5)
    assert expected_accuracy([0.8], study) == (0.8, 0.9)
    assert expected_accuracy([0.1, 0.65, 0.7, 0.95], study) == pytest.approx((0.625, 0.65))


# --- views ---------------------------------------------------------------------------------------


def test_other_sizes_are_one_pass_at_multiples_the_network_takes():
    assert [r.input_size_hw for r in other_sizes(DEFAULT, 32)] == [(320, 320), (448, 448)]
    assert [r.input_size_hw for r in other_sizes(FAST, 32)] == [(288, 288), (384, 384)]
    assert all(r.evidence_size_hw is None for r in other_sizes(BEST, 32))
    tall = replace(DEFAULT, input_size_hw=(64, 32))
    assert [r.input_size_hw for r in other_sizes(tall, 32)] == [(96, 32), (128, 64)]


def test_mirroring_turns_every_size_that_is_held(localizer: gapcam.Localizer, cat: Path):
    picture = gapcam.Localizer(localizer.engine, localizer.card, BEST).read(cat)
    turned = mirrored(picture)
    assert (turned.pixels == picture.pixels[:, ::-1]).all()
    assert (turned.evidence_pixels == picture.evidence_pixels[:, ::-1]).all()
    assert mirrored(localizer.read(cat)).evidence_pixels is None


def test_the_second_view_is_that_of_the_mirrored_picture(localizer: gapcam.Localizer, cat: Path):
    """A picture that is mirrored beforehand exchanges the first two views, up to a flip."""
    classes = np.array([[281]])
    pixels = localizer.read(cat).pixels  # already at the input size, so reading changes nothing
    own, flipped = look_at([localizer], [pixels], classes)
    turned, back = look_at([localizer], [np.ascontiguousarray(pixels[:, ::-1])], classes)
    assert flipped == pytest.approx(turned[..., ::-1], abs=1e-5)
    assert own == pytest.approx(back[..., ::-1], abs=1e-5)


# --- a whole choice ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chosen(localizer: gapcam.Localizer):
    return choose(localizer, gapcam.sample_pictures(), recipes=(FAST, DEFAULT))


def test_a_choice_keeps_the_best_measured_recipe_and_its_threshold(chosen):
    assert [row.recipe for row in chosen.recipes] == [FAST, DEFAULT]
    assert chosen.pick.recipe == DEFAULT
    assert len(chosen.names) == len(chosen.pick.agreements) == len(gapcam.sample_pictures())
    assert all(0 < a <= 1 for row in chosen.recipes for a in row.agreements)
    assert all(0 < row.box_share < 1 and 0 < row.otsu < 1 for row in chosen.recipes)


def test_a_choice_looks_for_the_model_s_best_class(chosen, localizer: gapcam.Localizer):
    best = [localizer(path, top=1).detections[0].label for path in gapcam.sample_pictures()]
    assert list(chosen.labels) == best


def test_advice_says_what_to_keep_what_to_expect_and_what_is_noisy(chosen):
    text = " ".join(chosen.advice)
    assert f"Only {len(chosen.names)} pictures could be used" in text
    assert f"below {FEW_PICTURES}" in text
    assert "Keep the recipe's threshold, 0.46" in text or f"{DEFAULT.threshold:g}" in text
    low, high = chosen.pick.expected
    assert f"Expect {low:.0%} to {high:.0%}" in text


def test_doubtful_pictures_are_the_least_agreeing(chosen):
    limit = STUDIES["default"].quarters[0]
    agrees = dict(zip(chosen.names, chosen.pick.agreements, strict=True))
    expected = sorted((a, n) for n, a in agrees.items() if a < limit)
    assert chosen.doubtful() == tuple(n for _, n in expected)


def test_small_objects_raise_the_threshold(localizer: gapcam.Localizer, cat: Path):
    found = choose(localizer, [cat], recipes=[DEFAULT], object_share=0.05)
    assert found.pick.recipe.threshold > DEFAULT.threshold == found.pick.kept
    assert "half way from the recipe's" in " ".join(found.advice)


def test_unreadable_pictures_are_named_and_left_out(
    localizer: gapcam.Localizer, cat: Path, tmp_path: Path
):
    missing = tmp_path / "missing.jpg"
    seen: list[int] = []
    found = choose(localizer, [missing, cat], recipes=[FAST], on_picture=lambda: seen.append(1))
    assert [f.name for f in found.failures] == [str(missing)]
    assert found.names == (str(cat),)
    assert len(seen) == 2
    with pytest.raises(ArgumentError, match=r"1 unreadable.*missing\.jpg"):
        choose(localizer, [missing])


def test_of_the_classes_asked_for_the_likeliest_is_taken(localizer: gapcam.Localizer, cat: Path):
    best = choose(localizer, [cat], recipes=[FAST], classes=["space shuttle", "tabby"])
    assert best.labels == (localizer.card.labels[localizer.class_id("tabby")],)


def test_nothing_to_choose_from_is_refused_at_once(localizer: gapcam.Localizer, cat: Path):
    with pytest.raises(ArgumentError, match="recipes: expected at least one"):
        choose(localizer, [cat], recipes=[])
    with pytest.raises(ArgumentError, match="object share"):
        choose(localizer, [cat], object_share=25)
    with pytest.raises(ArgumentError, match="no picture to choose on"):
        choose(localizer, [])


def test_recipes_and_models_that_were_not_measured_promise_nothing(
    localizer: gapcam.Localizer, cat: Path
):
    own = replace(FAST, name="own")
    found = choose(localizer, [cat], recipes=[own])
    assert found.pick.expected is None
    assert found.doubtful() == ()
    assert "was not measured" in " ".join(found.advice)
    other = gapcam.Localizer(localizer.engine, replace(localizer.card, name="other"), FAST)
    found = choose(other, [cat], recipes=[FAST])
    assert found.pick.expected is None
    assert "not with this model" in " ".join(found.advice)


def test_one_picture_and_recipes_of_one_name_are_refused(localizer):
    with pytest.raises(ArgumentError, match="expected a list of pictures, got one: 'cat"):
        choose(localizer, "cat.jpg")
    twice = [DEFAULT, replace(DEFAULT, input_size_hw=(320, 320))]
    with pytest.raises(ArgumentError, match="each of its own name, got"):
        choose(localizer, list(gapcam.sample_pictures()), recipes=twice)


@pytest.mark.parametrize("share", ["a", True, [0.1], float("nan")])
def test_a_share_that_is_no_number_is_refused(localizer, share):
    with pytest.raises(ArgumentError, match="object share: expected a share"):
        choose(localizer, list(gapcam.sample_pictures()), object_share=share)


def test_nothing_is_promised_for_a_threshold_that_was_not_measured(localizer):
    other = replace(FAST, threshold=0.1)
    assert (
        choose(localizer, list(gapcam.sample_pictures())[:1], recipes=[other]).pick.expected is None
    )
    moved = choose(
        localizer, list(gapcam.sample_pictures())[:1], recipes=[FAST], object_share=0.05
    ).pick
    assert moved.recipe.threshold > FAST.threshold
    assert moved.expected is None


def test_the_measured_figures_are_those_that_the_benchmark_stored():
    stored = json.loads((ROOT / "benchmarks" / "results" / "label_free.json").read_text("utf-8"))
    first, second = stored["ilsvrc-val-dev"], stored["imagenette-small/test"]
    for name, study in STUDIES.items():
        here, there = first[name]["trust"], second[name]["trust"]
        assert study.gt_known == pytest.approx(here["gt_known"], abs=6e-4)
        assert list(study.quarters) == here["quarters"]
        assert [list(right) for right in study.right] == [
            here["right by quarter"],
            there["right by quarter"],
        ]
        assert list(study.otsu_gap) == first[name]["thresholds"]["Otsu, pooled"]["gap"]
        aurocs = [of["auroc, agreement"][0] for of in (here, there)]
        assert study.auroc == pytest.approx(aurocs, abs=6e-3)
