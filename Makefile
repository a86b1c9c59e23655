# The front door. `make demo` and `make test` need a clone, Python 3.11+ and a package index: nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Test files side by side, one a core, each file in one process.
BESIDE := -n auto --maxprocesses 8 --dist loadfile

.PHONY: help setup demo test test-slow test-slurm test-all faults lint format lock clean

help:            ## what can be made
	@grep -hE '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1|/' | column -t -s '|'

setup: $(STAMP)  ## create .venv with the pinned dependencies

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("fanin needs Python 3.11 or later, found " + sys.version.split()[0] + "; say which to use: make PYTHON=python3.12 ...")'
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) || { echo "No venv module: apt install python3-venv"; exit 1; }
	$(BIN)/pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/pip install --quiet --no-deps --editable . --config-settings editable_mode=compat
	@touch $@

demo: $(STAMP)   ## the main job: a grid on real digits, each layer against He and Glorot (under 3 minutes)
	$(BIN)/python -m experiments.run -m sweep=he_vs_glorot
	$(BIN)/python -m analysis.check he_vs_glorot --workers 2 || test $$? -eq 1
	$(BIN)/python -m analysis.figures he_vs_glorot

test: $(STAMP)   ## the fast tests (13 CPU-minutes on two cores of an AMD EPYC)
	$(BIN)/python -m pytest $(BESIDE) -m "not slow and not slurm"

test-slow: $(STAMP)  ## the long tests, which `make test` leaves out (12 CPU-minutes)
	$(BIN)/python -m pytest $(BESIDE) -m "slow and not slurm"

# In the order of their names, so that the longest files (chaos, docs) begin first.
test-slurm: $(STAMP) ## the tests on a real Slurm cluster, which they start on this machine (root)
	$(PYTHON) slurm/testcluster install
	$(BIN)/python -m pytest -m slurm -n 3 --dist loadfile --no-loadscope-reorder --basetemp /tmp/fanin-slurm --durations 10

test-all: $(STAMP)  ## every test, the long ones too, with coverage
	$(BIN)/python -m coverage erase
	$(BIN)/python -m coverage run -m pytest
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report --fail-under=90

faults: $(STAMP) ## plant faults in the code, and tell which of them the tests catch (about an hour)
	$(BIN)/python -m tests.faults.record_coverage
	$(BIN)/python -m tests.faults.run

lint: $(STAMP)   ## ruff, ruff format, mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)  ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: $(STAMP)   ## write requirements.lock from what .venv holds
	{ echo '# What CI runs, exactly: `make setup` installs this. Made by `make lock`.'; \
	  $(BIN)/pip freeze --exclude-editable | sed 's/+cpu$$//'; } > requirements.lock

clean:           ## remove .venv and caches, never results
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache *.egg-info
