from __future__ import annotations

from dataclasses import FrozenInstanceError, fields, replace

import pytest

import gapcam
from gapcam.recipes import BEST, DEFAULT, FAST, PAPER, RECIPES, RELEASED, recipe_named
from gapcam.types import ArgumentError, GapcamError


def test_the_recipes_are_found_under_their_names():
    assert list(RECIPES) == ["default", "fast", "best", "paper", "released"]
    assert [recipe.name for recipe in RECIPES.values()] == list(RECIPES)
    assert list(RECIPES.values()) == [DEFAULT, FAST, BEST, PAPER, RELEASED]
    assert gapcam.RECIPES is RECIPES


@pytest.mark.parametrize("name", list(RECIPES))
def test_a_recipe_is_found_by_its_name(name: str):
    assert recipe_named(name) is RECIPES[name]


@pytest.mark.parametrize("name", ["Paper", "", "paper ", "deafult"])
def test_an_unknown_name_is_refused_and_the_names_are_listed(name: str):
    with pytest.raises(ArgumentError) as caught:
        recipe_named(name)
    expected = f"recipe {name!r} is unknown: expected one of default, fast, best, paper, released"
    assert str(caught.value) == expected
    assert isinstance(caught.value, GapcamError)
    assert caught.value.kind == "argument"


@pytest.mark.parametrize("field", [field.name for field in fields(PAPER)])
def test_no_field_of_a_recipe_can_be_changed(field: str):
    with pytest.raises(FrozenInstanceError):
        setattr(PAPER, field, getattr(DEFAULT, field))


def test_the_table_of_recipes_cannot_be_changed():
    with pytest.raises(TypeError):
        RECIPES["paper"] = DEFAULT  # type: ignore[index]
    with pytest.raises(TypeError):
        del RECIPES["paper"]  # type: ignore[attr-defined]


def test_a_changed_copy_leaves_the_recipe_as_it_was():
    assert replace(PAPER, threshold=0.5) != PAPER
    assert PAPER.threshold == 0.2


def test_the_paper_recipe_is_what_the_paper_prints():
    # Section 3.2: segment the regions above 20 % of the max value of the CAM, take the box of the
    # largest connected component, for each of the top 5 classes; pictures are 224 x 224 (section 3)
    assert PAPER.threshold == 0.2
    assert PAPER.normalize == "max"
    assert PAPER.components == "largest"
    assert PAPER.top == 5
    assert PAPER.input_size_hw == (224, 224)
    assert PAPER.refine == "none"
    assert PAPER.upsample == "bilinear"
    assert PAPER.resize == "squash"
    assert "Zhou" in PAPER.source
    assert "3.2" in PAPER.source


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=lambda recipe: recipe.name)
def test_every_recipe_is_usable_and_says_where_it_comes_from(recipe: gapcam.Recipe):
    assert 0 < recipe.threshold < 1
    assert 0 <= recipe.min_area_share <= 1
    assert 0 <= recipe.ivr_percentile < 1
    assert recipe.top >= 1
    assert all(side % 32 == 0 for side in recipe.input_size_hw)
    assert recipe.source
    assert recipe.chosen_on


def test_ours_differ_in_sizes_threshold_and_what_is_known_of_them_only():
    own = {"name", "threshold", "cost", "chosen_score"}
    for recipe, more in ((FAST, {"input_size_hw"}), (BEST, {"evidence_size_hw", "components"})):
        changed = {
            f.name for f in fields(recipe) if getattr(recipe, f.name) != getattr(DEFAULT, f.name)
        }
        assert changed == own | more


def test_released_is_the_papers_map_with_the_box_rule_of_the_papers_code():
    assert RELEASED.threshold == 20 / 255
    assert RELEASED.components == "released"
    assert (RELEASED.refine, RELEASED.normalize, RELEASED.upsample) == ("none", "max", "bicubic")


def test_every_recipe_stays_within_the_cost_that_its_name_promises():
    assert FAST.cost <= 1.1
    assert DEFAULT.cost <= 2.5
    assert BEST.cost <= 6


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("threshold", 1, "a number from 0 up to 1, got 1"),
        ("threshold", "0.4", "a number from 0 up to 1, got '0.4'"),
        ("ivr_percentile", -0.1, "a number from 0 up to 1"),
        ("normalize", "softmax", "'max' or 'minmax' or 'ivr', got 'softmax'"),
        ("components", "some", "'largest' or 'all' or 'instances' or 'released'"),
        ("centring", 1.1, "a number from 0 to 1, got 1.1"),
        ("prominence", 1, "a number from 0 up to 1, got 1"),
        ("evidence_size_hw", (448,), "two sides in pixels"),
        ("cost", float("nan"), "a ratio from 0, got nan"),
        ("cost", "x", "a ratio from 0, got 'x'"),
        ("version", "a", "a whole number, got 'a'"),
        ("chosen_score", 3, "words, got 3"),
        ("evidence_size_hw", "448", "two sides in pixels"),
        ("input_size_hw", (224,), "two sides in pixels"),
        ("input_size_hw", (224, 0), "two sides in pixels"),
        ("top", 0, "a number of classes, got 0"),
    ],
)
def test_a_recipe_refuses_what_cannot_be_meant(field: str, value: object, words: str):
    with pytest.raises(ArgumentError, match=rf"recipe 'paper': {field}: expected .*{words}"):
        replace(RECIPES["paper"], **{field: value})
