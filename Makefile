# make dev    sets everything up, then runs the relay (the next time it starts at once)
# make test   installs what the tests need and runs them all
# make check  ruff, format and mypy
# make bench  measures the relay against an empty server and writes docs/performance.md; bench-quick: the main figures
# make bench-peers  others beside the relay: Node, hookspool, Debian's webhook; fetched from their registries at first
# make profile  where the time goes under load (with py-spy where it is installed)
# Needs Python 3.11 or newer (with venv and pip), make and git. PYTHON=... names another interpreter.

VENV ?= .venv
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$python" && break; done)
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
RUN_STAMP := $(VENV)/.stamp-run
DEV_STAMP := $(VENV)/.stamp-dev
# What makes it necessary to install again: other dependencies, or other code to compile.
INSTALLED_FROM := pyproject.toml hatch_build.py $(wildcard relay/compiled/*.pyx)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help dev test check format bench bench-quick bench-peers profile clean

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

dev: $(RUN_STAMP)
	@exec $(BIN)/relay dev

test: $(DEV_STAMP)
	$(BIN)/python -m pytest -n auto $(TESTS)

check: $(DEV_STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(DEV_STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(DEV_STAMP)
	$(BIN)/python -m tests.bench --peers --write docs/performance.md

bench-quick: $(DEV_STAMP)
	$(BIN)/python -m tests.bench --quick

bench-peers: $(DEV_STAMP)
	$(BIN)/python -m tests.bench --peers --only peer

profile: $(DEV_STAMP)
	$(BIN)/python -m tests.bench.profiles

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis dist relay/compiled/*.so

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "relay needs Python 3.11 or newer: install it, or name it with make PYTHON=/path/to/python" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "relay needs Python 3.11 or newer, and $(PYTHON) is not: name another with make PYTHON=/path/to/python" >&2; exit 1; }
	@"$(PYTHON)" -m venv $(VENV) || { rm -rf $(VENV); \
		echo "the virtual environment could not be made: install Python's venv and pip (on Debian and Ubuntu: apt install python3-venv)" >&2; exit 1; }

# Installed again when one of these changes; otherwise there is nothing to do and nothing to wait for.
$(RUN_STAMP): $(INSTALLED_FROM) | $(BIN)/python
	@echo "installing the relay into $(VENV) ..."
	@$(PIP) --editable .
	@touch $@

$(DEV_STAMP): $(INSTALLED_FROM) | $(BIN)/python
	@echo "installing the relay and what its tests need into $(VENV) ..."
	@$(PIP) --editable ".[dev,oracles]"
	@touch $(RUN_STAMP) $@
