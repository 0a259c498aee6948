# make demo: see it work. make test: every check, as CI runs it. Both need Python >= 3.11, git and make, nothing else.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet -c constraints.txt
CHECKED := autoseg planners trainers tests benchmarks setup.py
# setup.py lays autoseg, planners and trainers out as they are imported; mypy reads that tree.
BUILT := build/typecheck

.PHONY: demo test lint typecheck unittest test-faults test-fuzz clean

demo: $(VENV)/installed
	$(BIN)/autoseg demo --workspace demo
	@echo "The demo's dataset lies in demo/dataset, everything made from it in demo/workspace."

test: lint typecheck unittest

lint: $(VENV)/installed-dev
	$(BIN)/ruff check $(wildcard $(CHECKED))
	$(BIN)/ruff format --check $(wildcard $(CHECKED))
	$(BIN)/codespell

typecheck: $(VENV)/installed-dev
	rm -rf $(BUILT)
	$(BIN)/python setup.py --quiet build --build-base $(BUILT) --build-lib $(BUILT)/lib
	cd $(BUILT)/lib && $(CURDIR)/$(BIN)/mypy --strict --config-file $(CURDIR)/pyproject.toml \
		--cache-dir $(CURDIR)/.mypy_cache -p autoseg

# One process per core, each with one thread: threads of several processes would wait for each other's.
unittest: $(VENV)/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist loadscope
	$(BIN)/pytest --doctest-modules --doctest-glob='*.md' --pyargs autoseg autoseg.planners autoseg.trainers docs

# Hundreds of kills, full disks, damaged files; about 20 minutes. FAULTS="--kills 400 --seed 1" for others.
test-faults: $(VENV)/installed-dev
	$(BIN)/python tests/faults/campaign.py $(FAULTS)

# The same laws with forty times as many inputs, other ones each time; a matter of minutes to tens of minutes.
test-fuzz: $(VENV)/installed-dev
	$(BIN)/pytest tests/fuzz --hypothesis-profile long

clean:
	rm -rf $(VENV) build dist autoseg.egg-info demo .mypy_cache .pytest_cache .ruff_cache .hypothesis

# Installed again only when the dependencies changed: the package itself is linked, not copied.
$(VENV)/installed: setup.py pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) -e .
	@touch $@

$(VENV)/installed-dev: setup.py pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) -e '.[dev]'
	@touch $@ $(VENV)/installed

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "autoseg needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>/dev/null || echo missing)." \
			"Name another one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
