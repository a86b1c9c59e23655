# Main commands. `make demo` and `make test` need only a clone, Python 3.11+ and a package index.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SETUP_LOG := $(VENV)/setup.log
PIP := PYTHONUNBUFFERED=1 $(BIN)/pip install --disable-pip-version-check
N_PACKAGES = $$(grep -c == requirements.lock)
# Print a line for every 30 packages of pip's output, and one when it unpacks them.
SHOW_PROGRESS := /^(Collecting|Requirement already satisfied)/ \
	{ if (++n % 30 == 0 && n <= total) { print "  collected " n " of " total " packages"; fflush() } }; \
	/^Installing collected packages/ && !n_unpack++ { print "  unpacking the packages ..."; fflush() }
# Run test files in parallel, one process per core, each file in one process.
PARALLEL := -n auto --maxprocesses 8 --dist loadfile

.PHONY: help setup demo test test-slow test-slurm test-all faults lint format lock docs pages docs-status clean

help:            ## list the targets
	@grep -hE '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1|/' | column -t -s '|'

setup: $(STAMP)  ## create .venv with the pinned dependencies

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("fanin needs Python 3.11 or later, found " + sys.version.split()[0] + "; choose another: make PYTHON=python3.12 ...")'
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) || { echo "No venv module: apt install python3-venv"; exit 1; }
	@echo "Installing $(N_PACKAGES) packages into $(VENV) (takes minutes; log: $(SETUP_LOG)) ..."
	@rm -f $(VENV)/.failed
	@{ { $(PIP) --requirement requirements.lock && \
	     $(PIP) --no-deps --editable . --config-settings editable_mode=compat; } 2>&1 || touch $(VENV)/.failed; } \
	   | tee $(SETUP_LOG) | awk -v total=$(N_PACKAGES) '$(SHOW_PROGRESS)'
	@test ! -e $(VENV)/.failed || { tail -n 20 $(SETUP_LOG); exit 1; }
	@echo "Done. Type: source $(VENV)/bin/activate && fanin"
	@touch $@

demo: $(STAMP)   ## run a grid on real digits and compare each layer with He and Glorot (under 3 minutes)
	$(BIN)/fanin run -m sweep=he_vs_glorot
	$(BIN)/fanin check he_vs_glorot --workers 2 --margin 1.25 || test $$? -eq 1
	$(BIN)/fanin figures he_vs_glorot

test: $(STAMP)   ## run the fast tests (11 CPU-minutes on two cores of an AMD EPYC)
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow and not slurm"

test-slow: $(STAMP)  ## run the slow tests, which `make test` skips (12 CPU-minutes)
	$(BIN)/python -m pytest $(PARALLEL) -m "slow and not slurm"

# In alphabetical order, so that the longest files (chaos, docs) start first.
test-slurm: $(STAMP) ## run the Slurm tests on a cluster that they start on this machine (needs root)
	$(PYTHON) slurm/testcluster install
	$(BIN)/python -m pytest -m slurm -n 4 --dist loadfile --no-loadscope-reorder --basetemp /tmp/fanin-slurm --durations 10

test-all: $(STAMP)  ## run all tests with coverage
	$(BIN)/python -m coverage erase
	$(BIN)/python -m coverage run -m pytest
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report --fail-under=90

faults: $(STAMP) ## plant faults in the code and check that tests catch them (about an hour)
	$(BIN)/python -m tests.faults.record_coverage
	$(BIN)/python -m tests.faults.run

lint: $(STAMP)   ## run ruff, ruff format and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)  ## fix lint errors and format the code with ruff
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: $(STAMP)   ## write requirements.lock from the packages in .venv
	{ echo '# Exact versions for CI, installed by `make setup`. Written by `make lock`.'; \
	  $(BIN)/pip freeze --exclude-editable | sed 's/+cpu$$//'; } > requirements.lock

docs: $(STAMP)   ## build the documentation as a website, site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "Done. Open site/index.html; its search needs a server: python3 -m http.server --directory site"

pages: $(STAMP)  ## write the pages of publications and questions and their figures from docs/summaries/
	$(BIN)/python -m analysis.studies.reproductions --write docs/reproductions.md
	$(BIN)/python -m analysis.studies.questions --write docs

docs-status: $(STAMP) ## list generated blocks of docs/ whose inputs changed since
	$(BIN)/python -m analysis.studies.docs_status

clean:           ## remove .venv and caches, but not results
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache *.egg-info site
