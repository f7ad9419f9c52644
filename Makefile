VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
OUT ?= build/gpu-proof
MINUTES ?= 9

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow lint format bench bench-gpu gpu-proof cost clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(VENV)/.installed ## everything into .venv (PYTHON=python3.12 chooses another Python)

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

demo: install ## train and probe a small model on patches of two photographs
	$(BIN)/probediff fit --config configs/patches.yaml

test: install lint ## style, types, import contracts and tests
	$(BIN)/python -m pytest

test-slow: install ## the tests that take longer
	$(BIN)/python -m pytest -m slow

lint: install ## style, types and import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install ## put the code into shape, and mend what ruff can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(VENV)/.bench: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,bench]'
	touch $@

bench: $(VENV)/.bench ## speed and growth beside peers and the limits of the machine
	$(BIN)/python -m tests.benchmarks --json build/benchmarks/cpu.json --page build/benchmarks/cpu.md

bench-gpu: $(VENV)/.bench ## the same on a GPU
	$(BIN)/python -m tests.benchmarks --device cuda --json build/benchmarks/gpu.json --page build/benchmarks/gpu.md

gpu-proof: ## what only a GPU can show, within MINUTES, into the folder OUT (DEVICE=cpu: a miniature of it)
	$(PYTHON) -m tests.gpu.proof --out $(OUT) --minutes $(MINUTES) $(if $(WHEELS),--wheels $(WHEELS)) $(if $(filter cpu,$(DEVICE)),--device cpu --miniature)

cost: install ## what P1's ImageNet-64 run costs on this machine
	$(BIN)/python -m tests.benchmarks.bench_costs --config configs/imagenet64.yaml

clean: ## remove .venv and build
	rm -rf $(VENV) build *.egg-info
