# Every target sets up what it needs in .venv; `make train` and `make test` are the two to know.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# What the last benchmarks found: docs/benchmarks.md is written from it.
RESULTS := benchmarks/results

# What is about NDArrays alone says the same in both modes.
ND_TESTS := tests/compiler tests/runtime tests/ndarray tests/jit tests/program tests/inspection

# A process per core, which hand each other tests: most of the work is Python's.
PYTEST := $(BIN)/python -m pytest -n auto --dist worksteal

.PHONY: help train test tiny parity fuzz lint types docs bench bench-arrays bench-page bench-text \
        check-python clean

help:
	@echo "make train   train a network on handwritten digits (a few seconds)"
	@echo "make test    the whole test-suite, on native arrays and on NumPy's"
	@echo "make tiny    one test of everything, in seconds"
	@echo "make parity  compare with PyTorch (installs torch==2.13.0)"
	@echo "make fuzz    a thousand fresh random programs, eager against compiled and lazy: ten minutes"
	@echo "             FUZZ_EXAMPLES=20000 for longer; FUZZ_SEED=17 FUZZ_EXAMPLES=1 for that one again"
	@echo "make lint    ruff;  make types: mypy"
	@echo "make docs    build the site into site/"
	@echo "make bench   training steps, kernels and arrays against PyTorch, JAX and NumPy"
	@echo "make bench-arrays   arrays and eager steps alone;  make bench-page: docs/benchmarks.md"
	@echo "make bench-text TEXT=FILE   a GPT and an LSTM trained as PyTorch trains them: losses"
	@echo "make clean   remove .venv and what was built"

train: $(VENV)/.has-demo
	$(BIN)/needle train $(ARGS)

test: $(VENV)/.has-test
	NEEDLE_BACKEND=nd $(PYTEST) --ignore=tests/parity $(ARGS)
	NEEDLE_BACKEND=np $(PYTEST) --ignore=tests/parity $(ND_TESTS:%=--ignore=%) $(ARGS)

tiny: $(VENV)/.has-test
	$(BIN)/python -m pytest tests/test_tiny.py $(ARGS)

parity: $(VENV)/.has-test $(VENV)/.has-torch
	NEEDLE_BACKEND=nd $(PYTEST) tests/parity $(ARGS)
	NEEDLE_BACKEND=np $(PYTEST) tests/parity $(ARGS)

fuzz: $(VENV)/.has-test
	@export FUZZ_SEED=$${FUZZ_SEED:-$$(date +%s)} FUZZ_EXAMPLES=$${FUZZ_EXAMPLES:-1000}; \
	  echo "FUZZ_SEED=$$FUZZ_SEED FUZZ_EXAMPLES=$$FUZZ_EXAMPLES"; \
	  $(PYTEST) tests/fuzz $(ARGS)

lint: $(VENV)/.has-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.has-lint
	$(BIN)/mypy

docs: $(VENV)/.has-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(VENV)/.has-demo $(VENV)/.has-torch $(VENV)/.has-jax bench-arrays
	$(BIN)/python benchmarks/compiled_networks.py --json $(RESULTS)/networks.json $(ARGS)
	$(BIN)/python benchmarks/single_kernels.py --json $(RESULTS)/kernels.json $(ARGS)
	$(BIN)/python benchmarks/compile_time.py --json $(RESULTS)/compile_time.json
	$(BIN)/python benchmarks/peak_memory.py --json $(RESULTS)/memory.json
	$(MAKE) bench-page

bench-arrays: $(VENV)/.has-demo $(VENV)/.has-torch
	$(BIN)/python benchmarks/matmul.py $(ARGS)
	$(BIN)/python benchmarks/array_ops.py $(ARGS)
	$(BIN)/python benchmarks/op_overhead.py $(ARGS)
	$(BIN)/python benchmarks/two_layer_step.py $(ARGS)
	$(BIN)/python benchmarks/first_use.py

bench-page: $(VENV)/.has-demo
	$(BIN)/python benchmarks/results_page.py

bench-text: $(VENV)/.has-demo $(VENV)/.has-torch
	@test -n "$(TEXT)" || { echo "Say which text: make bench-text TEXT=input.txt"; exit 1; }
	$(BIN)/python benchmarks/text_training.py $(TEXT) --json $(RESULTS)/text.json $(ARGS)
	$(MAKE) bench-page

clean:
	rm -rf $(VENV) build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis

# .venv and the extras in it. A stamp per extra, renewed when pyproject.toml changes.

check-python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "Needle needs Python 3.10 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1)."; \
	    echo "Name another one: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
	  { echo "This Python lacks its venv module. On Debian and Ubuntu: sudo apt install python3-venv"; \
	    echo "On Fedora: sudo dnf install python3-pip. Then run make again."; exit 1; }

$(BIN)/python: | check-python
	@echo "Setting up $(VENV), once ..."
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/.has-demo: pyproject.toml | $(BIN)/python
	@echo "Installing Needle and what the demonstration needs ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[demo]'
	@touch $@

$(VENV)/.has-test: pyproject.toml | $(BIN)/python
	@echo "Installing Needle and what its tests need ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[demo,test]'
	@touch $@

$(VENV)/.has-lint: pyproject.toml | $(BIN)/python
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[lint]'
	@touch $@

$(VENV)/.has-docs: pyproject.toml | $(BIN)/python
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	@touch $@

$(VENV)/.has-torch: pyproject.toml | $(BIN)/python
	@echo "Installing PyTorch, to compare with ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	@touch $@

$(VENV)/.has-jax: pyproject.toml | $(BIN)/python
	@echo "Installing JAX, to compare with ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check jax==0.10.2 || \
	  echo "It does not go with this Python: benchmarks do without it."
	@touch $@
