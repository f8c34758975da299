# make demo   train 2 norms x 2 batches x 2 clip lengths on generated videos, and show the table (4 to 5 minutes, 2 cores)
# make test   everything that must hold, but for what takes long
# make check  make test without lint
.PHONY: setup demo test check test-long lint format bench clean

PYTHON ?= python3
# The versions to install: constraints.txt, constraints-lowest.txt, or /dev/null for the newest.
CONSTRAINTS ?= constraints.txt
BIN := .venv/bin
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

test: lint check

check: setup
	$(PYTEST) -n 2 --dist loadgroup -m "not long"

test-long: setup
	$(PYTEST) -m long

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell $$(git ls-files 2>/dev/null || echo .)
	$(BIN)/pyright

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv runs data build dist .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
