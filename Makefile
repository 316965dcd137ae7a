# Two commands do everything:
#   make verify   set up, and settle every claim of the embedded catalog
#   make test     set up, and run lint, types and the whole suite

PYTHON ?= python3
VENV ?= .venv
REPORT ?= build/report
WORKERS ?= auto
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

.PHONY: verify test lint types suite tier1 catalog constraints perf clean

verify: $(VENV)/.ready
	$(BIN)/forgekit verify --all --catalog _cache --html $(REPORT) --title "forgekit: the embedded catalog"

test: lint types suite

lint: $(VENV)/.ready-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.ready-dev
	$(BIN)/mypy

suite: $(VENV)/.ready-dev
	$(BIN)/pytest -n $(WORKERS) --dist loadgroup

tier1: $(VENV)/.ready-dev
	$(BIN)/pytest -m tier1

# Remake _cache/ from its seeds; `git diff --exit-code _cache` then says whether it is still the same bytes.
catalog: $(VENV)/.ready-dev
	$(BIN)/python -m tests.support.embedded _cache
	$(BIN)/python -m tests.support.forged _cache

# Ratios against named peers on this machine; see perf/README.md.
perf: $(VENV)/.ready-dev
	$(BIN)/python perf/run.py

# Resolve the newest versions that pyproject.toml allows, and pin them all.
constraints:
	rm -rf build/resolve && $(PYTHON) -m venv build/resolve
	build/resolve/bin/python -m pip --disable-pip-version-check install --quiet '.[dev]'
	build/resolve/bin/python -m pip freeze --exclude forgekit > constraints.txt

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable '.[score]'
	touch $@

$(VENV)/.ready-dev: $(VENV)/.ready
	$(PIP) --editable '.[dev]'
	touch $@

clean:
	rm -rf build $(VENV)
