# `make demo` and `make test` are all a newcomer needs; both install into .venv first.
# `make test-zoo` and `make bench` also use .venv-zoo: other libraries' networks and the peers.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
ZOO_BIN := .venv-zoo/bin
ZOO_INSTALLED := .venv-zoo/.installed
WEB := tests/web
TESTED := .cache/.tested
FILES := Makefile pyproject.toml README.md CHANGELOG.md $(shell find src tests benchmarks docs \
	-name node_modules -prune -o -name __pycache__ -prune -o -type f -print | grep -v ' ')
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check

.PHONY: demo test coverage check setup setup-web setup-zoo test-zoo format help-pages bench bench-peers clean

demo: $(INSTALLED)
	$(BIN)/gapcam localize src/gapcam/samples/cat.jpg --out demo-output
	@echo "Look at demo-output/overlays/cat_cam.jpg"

# A worker a core, each on one thread; the model is built first, or every worker would build it.
# Workers that are done take tests from the others, so that all end together.
test: setup
	GAPCAM_CACHE=.cache $(BIN)/gapcam models --check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal $(PYTEST_OPTIONS)
	@touch $(TESTED)

# Apart from `test`, because counting lines doubles the time.
coverage:
	@$(MAKE) --no-print-directory test PYTEST_OPTIONS="--cov --cov-report=term"

check: setup
	$(BIN)/ruff format --check src tests benchmarks docs/examples
	$(BIN)/ruff check src tests benchmarks docs/examples
	$(BIN)/mypy
	@$(MAKE) --no-print-directory $(TESTED)

# The tests, documentation and examples included, unless these very files have passed them.
$(TESTED): $(FILES)
	@$(MAKE) --no-print-directory test

setup: $(INSTALLED) setup-web

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "gapcam needs Python 3.10 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python $(PIP_INSTALL) --constraint constraints.txt --editable '.[dev]'
	touch $(INSTALLED)

# What the tests of the page in a browser run. Without npm they say what they need.
setup-web:
	@if [ ! -f $(WEB)/package-lock.json ]; then \
		echo "setup: no $(WEB)/package-lock.json, so no web packages are installed"; \
	elif ! command -v npm > /dev/null; then \
		echo "setup: no npm, so the web packages of $(WEB) are not installed"; \
	elif [ ! $(WEB)/node_modules/.installed -nt $(WEB)/package-lock.json ]; then \
		npm ci --prefix $(WEB) --ignore-scripts --no-audit --no-fund && touch $(WEB)/node_modules/.installed; \
	fi

# About 7 GB: torchvision works only beside the torch build that it was made for.
setup-zoo: $(ZOO_INSTALLED)

$(ZOO_INSTALLED): pyproject.toml constraints-zoo.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "the zoo needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv .venv-zoo
	$(ZOO_BIN)/python $(PIP_INSTALL) --constraint constraints-zoo.txt --editable '.[zoo,bench,dev]'
	touch $(ZOO_INSTALLED)

# Writes docs/architectures.md and benchmarks/results/architectures.json when all of it has run.
test-zoo: setup-zoo
	OMP_NUM_THREADS=1 $(ZOO_BIN)/python -m pytest tests/zoo -n 2 --show-capture=no

format: setup
	$(BIN)/ruff format src tests benchmarks
	$(BIN)/ruff check --fix src tests benchmarks

help-pages: setup
	$(BIN)/python tests/help_pages.py

bench: setup bench-peers
	$(BIN)/python benchmarks/localization.py
	$(BIN)/python benchmarks/recipes.py --dropped
	$(BIN)/python benchmarks/recipes_elsewhere.py
	$(BIN)/python benchmarks/instances.py
	$(BIN)/python benchmarks/masks.py
	$(BIN)/python benchmarks/label_free.py
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/evaluation.py
	$(BIN)/python benchmarks/evaluator_speed.py
	$(BIN)/python benchmarks/int8.py --tune
	$(BIN)/python benchmarks/training_quick.py
	$(BIN)/python benchmarks/training_imagenette.py
	$(BIN)/python benchmarks/training_tiles.py

bench-peers: setup-zoo
	$(ZOO_BIN)/python benchmarks/peers.py

clean:
	rm -rf .venv .venv-zoo $(WEB)/node_modules .cache demo-output
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
