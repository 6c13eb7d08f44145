# Two doors: `make demo` shows masks on real images, `make test` checks everything.
# Each makes its own virtual environment (.venv) if there is none, installs into it, and runs.

PYTHON ?= python3
VENV ?= .venv
DEMO_ARGS ?=
# Two workers with one thread each are as fast as the suite gets on a small machine, and stay polite on a large one.
PYTEST_ARGS ?= -n 2

BIN := $(VENV)/bin
PACKAGING := setup.cfg pyproject.toml

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo test lint format clean

help:
	@echo "make demo    masks on real images that come with packages, written to demo_output/"
	@echo "make test    ruff, mypy and pytest"
	@echo "make lint    ruff and mypy alone"
	@echo "make format  let ruff lay out the code"
	@echo "make clean   remove the virtual environment and what the tools left"

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

# A stamp says: this extra was installed for this setup.cfg. Editable, so that a change of code needs no reinstall.
$(VENV)/.installed-%: $(PACKAGING) | $(BIN)/python
	$(BIN)/python -m pip install --editable '.[$*]'
	@touch $@

demo: $(VENV)/.installed-demo
	$(BIN)/python examples/demo.py $(DEMO_ARGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST_ARGS)

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist demo_output .mypy_cache .pytest_cache .ruff_cache
