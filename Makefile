# make demo       train 2 norms x 2 batches x 2 clip lengths on generated videos, and show the table (4 to 5 minutes, 2 cores)
# make check      lint, types and the fast tests: for who changes a line (a minute and a half)
# make test       all that must hold, but for what takes minutes each (10 to 13 minutes); says in the end what was not shown
# make suite      make test without lint: for other versions of the packages
# make docs       the documentation as a site, in site/index.html
# make results    the published studies, what each takes; STUDY=NAME FOLDER=PLACE makes one again there (hours)
# make test-long  the rest: dozens of kills of running jobs, soaks of the loader, fuzzing of the decoders
.PHONY: setup demo test check suite docs results test-long lint format bench clean

PYTHON ?= python3
# The versions to install: constraints.txt, constraints-lowest.txt, or /dev/null for the newest.
CONSTRAINTS ?= constraints.txt
BIN := .venv/bin
# Where `make results` has its data and runs.
FOLDER ?= .
# Two tests at a time, one thread each: what a run computes does not depend on it.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

setup: .venv/stamp

.venv/stamp: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c $(CONSTRAINTS) -e '.[dev]'
	touch $@

demo: setup
	$(BIN)/vidgn train sweep=demo

check: lint
	$(PYTEST) -n 2 -m "not long and not slow"

test: lint suite

suite: setup
	$(PYTEST) -n 2 -m "not long"

docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

results: setup
	$(BIN)/python results/studies.py $(STUDY) --folder '$(FOLDER)'

test-long: setup
	$(PYTEST) -m long

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell $$(git ls-files 2>/dev/null || echo .)
	$(BIN)/pyright
	if [ -x $(BIN)/hadolint ]; then $(BIN)/hadolint Dockerfile; fi

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv runs data build dist site .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
