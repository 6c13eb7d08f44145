# Doors: `make demo` shows masks on real images, `make label` serves them in MONAI Label, `make test` checks everything.
# Each makes its own virtual environment (.venv) if there is none, installs into it, and runs.

PYTHON ?= python3
VENV ?= .venv
# MONAI Label wants other versions than the rest.
LABEL_VENV ?= .venv-label
DEMO_ARGS ?=
LABEL_ARGS ?=
PACS_ARGS ?=
# Two workers with one thread each are as fast as the suite gets on a small machine, and stay polite on a large one.
PYTEST_ARGS ?= -n 2

BIN := $(VENV)/bin
PACKAGING := setup.cfg pyproject.toml

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo label label-pacs label-programs test test-label nightly lint format clean

help:
	@echo "make demo    masks on real images that come with packages, written to demo_output/"
	@echo "make label   MONAI Label with the bundle: make label STUDIES=FOLDER"
	@echo "make label-pacs  an Orthanc and MONAI Label in a network of their own: make label-pacs [SERIES=FOLDER]"
	@echo "make test    ruff, mypy and pytest"
	@echo "make test-label  the tests of MONAI Label, PACS and viewer, in an environment of their own"
	@echo "make nightly  both"
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

$(LABEL_VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 13) and "MONAI Label needs Python 3.10 to 3.12: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(LABEL_VENV)

$(LABEL_VENV)/.installed-%: $(PACKAGING) | $(LABEL_VENV)/bin/python
	$(LABEL_VENV)/bin/python -m pip install --editable '.[$*]'
	@touch $@

demo: $(VENV)/.installed-demo
	$(BIN)/python examples/demo.py $(DEMO_ARGS)

label: $(LABEL_VENV)/.installed-label
	@test -n "$(STUDIES)" || { echo "name the studies: make label STUDIES=FOLDER"; exit 2; }
	$(LABEL_VENV)/bin/esp-medsam label $(STUDIES) $(LABEL_ARGS)

label-pacs: $(LABEL_VENV)/.installed-label
	$(LABEL_VENV)/bin/python -m examples.pacs $(if $(SERIES),--series $(SERIES)) $(PACS_ARGS)

# Debian's programs for the tests. Who may not install them gets the tests without, each with its reason.
label-programs:
	@{ command -v Orthanc && command -v chromium; } > /dev/null \
	    || { test "$$(id -u)" = 0 && apt-get update -q \
	        && apt-get install -q -y --no-install-recommends orthanc orthanc-dicomweb chromium \
	        && { systemctl disable --now orthanc 2> /dev/null || true; }; } \
	    || echo "PACS and viewer are not tested; as root: apt-get install orthanc orthanc-dicomweb chromium"

test-label: label-programs $(LABEL_VENV)/.installed-label-test
	OMP_NUM_THREADS=1 $(LABEL_VENV)/bin/python -m pytest $(PYTEST_ARGS) --dist loadfile tests/label tests/test_architecture.py

# What .ci/run has no time for, too.
nightly: test test-label

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
	rm -rf $(VENV) $(LABEL_VENV) build dist demo_output .mypy_cache .pytest_cache .ruff_cache
