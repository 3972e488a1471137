# Two commands do everything from a fresh clone, on a machine with Python >= 3.11 and nothing else:
#   make demo    creates .venv, trains three networks of 164 layers on embedded data, writes demo/report.html
#   make test    creates .venv, runs the checks and the whole test suite
#
# VENV=path     another environment, for example a conda one: make test VENV=$CONDA_PREFIX (its own versions are kept)
# PYTHON=path   the interpreter that .venv is made from

SHELL := /bin/sh
PYTHON ?= python3
VENV := .venv
DEMO := demo
BIN = $(VENV)/bin
# The versions that were tried together hold in .venv; an environment of the user's keeps its own.
CONSTRAINTS = $(if $(filter .venv,$(VENV)),-c constraints.txt)
PIP = $(BIN)/python -m pip --disable-pip-version-check install --quiet $(CONSTRAINTS)
TORCH := $(shell sed -n 's/^torch==//p' constraints.txt)

.PHONY: demo test clean
.DELETE_ON_ERROR:

demo: $(VENV)/.deepprobe-core
	$(BIN)/deepprobe train plainnet164 resnet164 resnext164 --data digits --epochs 8 --lr 0.02 --seeds 0 1 2 \
	  --probe-every 2ep --probe-samples 128 --replay 32 --out $(DEMO)
	$(BIN)/deepprobe report $(DEMO) --html $(DEMO)/report.html
	@echo "The report is at $(abspath $(DEMO))/report.html"

test: $(VENV)/.deepprobe-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m mypy
	$(BIN)/python -m pytest -n 2 --dist loadfile --cov --cov-report=term:skip-covered --cov-fail-under=90

# The stamps make the second call install nothing: they are older than pyproject.toml only when it has changed.
$(VENV)/.deepprobe-core: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(call install,.)
	@touch $@

$(VENV)/.deepprobe-dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(call install,.[dev])
	@touch $(VENV)/.deepprobe-core $@

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "deepprobe needs Python 3.11 or newer; '$(PYTHON)' is not one. Name another: make $(MAKECMDGOALS) PYTHON=/path/to/python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# Without a GPU the CPU build is asked for first: the general Linux build brings gigabytes of CUDA libraries.
define install
	@if [ -n "$(CONSTRAINTS)" ] && ! nvidia-smi >/dev/null 2>&1 && ! $(BIN)/python -c 'import torch' 2>/dev/null; then \
	  echo "Installing torch $(TORCH), CPU build"; \
	  $(PIP) 'torch==$(TORCH)+cpu' 2>/dev/null || \
	  echo "No separate CPU build at the indexes that pip knows (README: PIP_EXTRA_INDEX_URL); taking the general one"; fi
	$(PIP) --editable '$(1)'
endef

clean:
	rm -rf .venv $(DEMO)
