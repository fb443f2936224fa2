# `make demo` and `make test` are all a newcomer needs; both install into .venv first.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: demo test check setup format help-pages bench clean

demo: setup
	$(BIN)/gapcam localize src/gapcam/samples/cat.jpg --out demo-output
	@echo "Look at demo-output/overlays/cat_cam.jpg"

test: setup
	$(BIN)/python -m pytest --cov --cov-report=term

check: setup
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/mypy
	$(BIN)/python -m pytest

setup: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "gapcam needs Python 3.10 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $(INSTALLED)

format: setup
	$(BIN)/ruff format src tests benchmarks
	$(BIN)/ruff check --fix src tests benchmarks

help-pages: setup
	$(BIN)/python tests/help_pages.py

bench: setup
	$(BIN)/python benchmarks/localization.py
	$(BIN)/python benchmarks/recipes.py --dropped
	$(BIN)/python benchmarks/instances.py
	$(BIN)/python benchmarks/masks.py
	$(BIN)/python benchmarks/label_free.py
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/evaluation.py
	$(BIN)/python benchmarks/evaluator_speed.py

clean:
	rm -rf .venv .cache demo-output .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
