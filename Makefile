# Steerscope on a bare machine: needs make and Python 3.11 or newer, nothing else.
#   make app    installs, builds the embedded setup's store (first time), serves the app on localhost
#   make test   installs test tools too, runs the whole test suite
#   make check  formatting, lint and types
#   make soak   half an hour of kills, fuzzed inputs, sessions side by side, and a look at memory
# PYTHON=/path/to/python chooses the interpreter; TORCH_INDEX=URL a package index to take torch from (a CPU build).

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help app test check soak
.DELETE_ON_ERROR:

help:
	@sed -n '2,6s/^# *//p' Makefile

app: $(VENV)/installed
	$(BIN)/python -m core build smollm2
	$(BIN)/python -m streamlit run app.py

test: $(VENV)/installed-dev
	$(BIN)/python -m pytest -n 2 --dist loadfile

check: $(VENV)/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

soak: $(VENV)/installed-dev
	$(BIN)/python -m tests.soak --minutes 30

# The two stamps: reinstalled when a requirements file is newer, otherwise instant.
$(VENV)/installed: requirements.txt requirements-embedded.txt | $(BIN)/python
	@echo "Installing requirements.txt into $(VENV): about 2.5 GB and a few minutes, once."
	$(if $(TORCH_INDEX),$(PIP) --index-url $(TORCH_INDEX) $$(grep ^torch== $<))
	$(PIP) -r $<
	$(PIP) --no-deps -r requirements-embedded.txt
	@touch $@

$(VENV)/installed-dev: requirements-dev.txt requirements-ray.txt $(VENV)/installed
	$(PIP) -r $<
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
		|| { echo "'$(PYTHON)' is not Python 3.11 or newer; name one: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV) \
		|| { rm -rf $(VENV); echo "'$(PYTHON)' cannot make a virtual environment; on Debian: apt-get install python3-venv" >&2; exit 2; }
