# Kweek. `make run` grows the model of the built-in recipe, `make test` runs the tests.
#
# Variables: PYTHON (python3)  VENV (.venv)  RECIPE (laptop)  ARGS (more words for `kweek run`)
#            NAME=AREA/NAME and QUICK=1 for `make evidence`
#
# pip takes torch from whatever index it is set up to use. On Linux the package index of Python carries torch with
# the CUDA libraries (about 3 GB). On a machine without a GPU, point pip at an index with torch's CPU build first
# (PIP_EXTRA_INDEX_URL; see "Start locally" on pytorch.org), which is about 0.2 GB; both serve.

PYTHON ?= python3
VENV ?= .venv
RECIPE ?= laptop
ARGS ?=

BIN := $(VENV)/bin
SOURCES := src tests evidence

.PHONY: help run test test-all lint evidence clean

help:
	@echo "make run       install into $(VENV), show the plan, grow the model of the recipe $(RECIPE)"
	@echo "make test      install the test extras, then ruff, mypy, import-linter and the quick tests"
	@echo "make test-all  the same with every test"
	@echo "make evidence  measure every claim (NAME=AREA/NAME one, QUICK=1 in minutes), write docs/evidence.md"
	@echo "make clean     remove $(VENV), caches and builds; runs/ stays"

run: $(VENV)/.installed
	@$(BIN)/kweek run $(RECIPE) $(ARGS)

test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

test-all: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(VENV)/.installed-test
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports

evidence: $(VENV)/.installed-test
	$(BIN)/python evidence/run.py $(NAME) $(if $(QUICK),--quick)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("Kweek needs Python 3.11 or newer, and $(PYTHON) is " + sys.version.split()[0] + "; try make PYTHON=python3.12") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	@echo "First time: pip downloads torch and the other libraries from the package index: about 0.4 GB where that"
	@echo "gives torch's CPU build, about 3 GB where it gives the CUDA build (see the top of the Makefile). At"
	@echo "10 MB/s that takes 1 to 5 minutes. The run itself downloads nothing and takes about 10 minutes on two cores."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/.installed-test: pyproject.toml | $(VENV)/.installed
	@echo "For the tests: pip downloads another 0.1 GB (transformers, mypy, ruff, pytest, ...)."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	@touch $@

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +
