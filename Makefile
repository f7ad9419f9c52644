VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin

.PHONY: install demo test test-slow lint bench bench-gpu cost clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

demo: install
	$(BIN)/probediff fit --config configs/patches.yaml

test: install lint
	$(BIN)/python -m pytest

test-slow: install
	$(BIN)/python -m pytest -m slow

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(VENV)/.bench: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,bench]'
	touch $@

bench: $(VENV)/.bench
	$(BIN)/python -m tests.benchmarks --json build/benchmarks/cpu.json --page build/benchmarks/cpu.md

bench-gpu: $(VENV)/.bench
	$(BIN)/python -m tests.benchmarks --device cuda --json build/benchmarks/gpu.json --page build/benchmarks/gpu.md

cost: install
	$(BIN)/python -m tests.benchmarks.bench_costs --config configs/imagenet64.yaml

clean:
	rm -rf $(VENV) build *.egg-info
