"""What the documentation says runs, and says what is so."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from gapcam.cli import app
from gapcam.recipes import RECIPES
from help_pages import PAGE, help_pages

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / "README.md",
    *sorted(p for p in (ROOT / "docs").rglob("*.md") if "node_modules" not in p.parts),
]
EXAMPLES = [
    pytest.param(code, id=f"{page.name}-{i}")
    for page in PAGES
    for i, code in enumerate(re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.S))
]
COMMANDS = [
    line.strip().split("  #")[0]
    for page in PAGES
    for line in page.read_text("utf-8").splitlines()
    if line.startswith("    gapcam ")
]


@pytest.mark.parametrize("code", EXAMPLES)
def test_examples_run(code: str, tmp_path: Path):
    (tmp_path / "src").symlink_to(ROOT / "src")
    (tmp_path / "demo-output").mkdir()
    shown = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=tmp_path,
        env=os.environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout


def test_there_are_examples():
    assert len(EXAMPLES) >= 4
    assert len(COMMANDS) >= 6


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_use_options_that_exist(line: str):
    command = typer.main.get_command(app)
    name, *words = line.split()[1:]
    assert hasattr(command, "commands")
    known = {o for p in command.commands[name].params for o in (*p.opts, *p.secondary_opts)}
    assert {word for word in words if word.startswith("-") and word != "-"} <= known


def test_the_help_pages_are_those_of_the_commands():
    assert PAGE.read_text(encoding="utf-8") == help_pages(), "run: make help-pages"


def test_every_recipe_is_in_the_guide():
    guide = (ROOT / "docs" / "guide.md").read_text("utf-8")
    for recipe in RECIPES.values():
        assert f"| `{recipe.name}` | {recipe.input_size_hw[0]} |" in guide
        assert f"{recipe.threshold:.0%}".replace("%", " %") in guide


def test_nothing_is_left_to_fill_in():
    for page in PAGES:
        assert not re.search(r"FIGURES|TODO|XXX", page.read_text("utf-8")), page.name


def test_links_in_the_documentation_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_scripts_and_tests_that_are_named_are_there():
    for page in PAGES:
        for name in re.findall(r"\b((?:tests|benchmarks)/\w+\.py)", page.read_text("utf-8")):
            assert (ROOT / name).is_file(), f"{page.name}: {name}"
