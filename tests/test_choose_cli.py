"""`gapcam choose` as users meet it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import gapcam
import gapcam.cli.choose
from gapcam.cli import app
from gapcam.recipes import DEFAULT, FAST

SAMPLES = [str(path) for path in gapcam.sample_pictures()]


@pytest.fixture(autouse=True, scope="module")
def built(localizer: gapcam.Localizer) -> None:
    """So that no test sees the word that a model is being built."""


def choose(*arguments: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["choose", *map(str, arguments)])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout, done.stderr


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, str, str, dict]:
    file = tmp_path_factory.mktemp("choose") / "numbers.json"
    ended = choose(*SAMPLES, "-r", "fast", "-r", "default", "--json", file)
    return (*ended, json.loads(file.read_text("utf-8")))


def test_the_table_has_a_row_a_recipe_and_a_recommendation(run: tuple):
    code, out, err, _ = run
    assert code == 0
    assert err == ""
    lines = out.splitlines()
    assert lines[0] == f"{len(SAMPLES)} pictures"
    headings = ("recipe", "threshold", "agreement", "right boxes", "box share", "cost")
    assert lines[1].split() == " ".join(headings).split()
    assert lines[2].startswith("fast")
    assert lines[3].startswith("default")
    assert f"{DEFAULT.threshold:g}" in lines[3]
    assert "Recipe default:" in out
    assert "Keep the recipe's threshold" in out
    assert f"Only {len(SAMPLES)} pictures could be used" in out


def test_json_holds_the_numbers_of_the_table(run: tuple):
    numbers = run[3]
    assert numbers["pick"] == {"recipe": "default", "threshold": DEFAULT.threshold}
    assert [r["recipe"] for r in numbers["recipes"]] == ["fast", "default"]
    assert [p["path"] for p in numbers["pictures"]] == SAMPLES
    assert numbers["failures"] == []
    for row in numbers["recipes"]:
        assert 0 < row["agreement"] <= 1
        assert 0 <= row["expected_right"][0] <= row["expected_right"][1] <= 1
        assert row["threshold"] == row["kept_threshold"]
    mean = sum(p["agreement"] for p in numbers["pictures"]) / len(SAMPLES)
    assert numbers["recipes"][1]["agreement"] == pytest.approx(mean)


def test_unreadable_pictures_are_named_counted_and_end_with_1(tmp_path: Path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    code, out, err = choose(SAMPLES[0], broken, "-r", "fast")
    assert code == 1
    assert str(broken) in err
    assert "1 path left out." in err
    assert out.startswith("1 picture\n")


def test_the_class_and_the_object_size_can_be_said(tmp_path: Path):
    file = tmp_path / "numbers.json"
    code, out, _ = choose(
        SAMPLES[0], "-r", "fast", "-c", "281", "--object-share", "0.05", "--json", file
    )
    assert code == 0
    numbers = json.loads(file.read_text("utf-8"))
    assert "tabby" in numbers["pictures"][0]["label"]
    assert numbers["pick"]["threshold"] > FAST.threshold
    assert "half way from the recipe's" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-r", "nonsense"], "recipe 'nonsense' is unknown"),
        (["--object-share", "20"], "object share: expected a share of the picture"),
        (["-c", "no such class"], "no such class"),
    ],
    ids=["recipe", "share", "class"],
)
def test_wrong_usage_is_one_line_and_2(arguments: list[str], said: str):
    code, out, err = choose(SAMPLES[0], *arguments)
    assert code == 2
    assert out == ""
    assert said in err
    assert len(err.splitlines()) == 1


def test_no_readable_picture_is_wrong_usage(tmp_path: Path):
    code, out, err = choose(tmp_path / "missing.jpg")
    assert (code, out) == (2, "")
    assert "no picture to choose on: 1 unreadable" in err
    empty = tmp_path / "empty"
    empty.mkdir()
    assert choose(empty)[0] == 2


def test_help_names_the_options():
    code, out, _ = choose("--help")
    assert code == 0
    page = " ".join(out.split())
    for option in ("model", "recipe", "class", "object-share", "json"):
        assert f"--{option}" in page
    assert max(map(len, out.splitlines())) <= 80
