# `make reproduce` and `make test` work on a fresh machine: they make .venv and install what they need.
PYTHON ?= python3
BIN := .venv/bin
# uv installs several times faster than pip, but reads its own variable for local wheels.
INSTALL = UV_FIND_LINKS="$(PIP_FIND_LINKS)" UV_COMPILE_BYTECODE=1 $(BIN)/uv pip install --quiet --python $(BIN)/python --constraints constraints.txt
THREADS := OMP_NUM_THREADS=1

.PHONY: bench docs notebooks release reproduce test test-browser test-fast test-extended test-cluster test-all lint format clean

reproduce: .venv/repro
	$(BIN)/iterconv reproduce fig1 fig2 fig3 fig4 fig7 fig8 fig12 --scale quick  # fig13 needs MNIST

PYTEST = $(THREADS) $(BIN)/pytest -n 2 --dist worksteal

test: .venv/dev lint  # minutes: what CI runs
	$(PYTEST) -m "not slow and not extended and not browser"

test-fast: .venv/dev  # the inner loop: no processes, no libraries of models
	$(PYTEST) -m "not slow and not extended and not browser and not medium"

test-extended: .venv/dev lint  # what `make test` leaves out, as it is rarely broken
	$(PYTEST) -m "extended and not browser"

# Real clusters on this machine: SLURM's daemons (apt-get install slurm-wlm munge slurmdbd mariadb-server) need root.
test-cluster: .venv/cluster
	$(THREADS) $(BIN)/pytest tests/cluster

# Reports in a real browser: Chromium (apt-get install chromium) and npm have to be there.
test-browser: .venv/browser
	$(THREADS) $(BIN)/pytest -m browser tests/browser

test-all: .venv/dev lint  # hours: every family of the libraries of models too
	$(PYTEST)

# Ratios of speed, each against another way to do the same work: make bench NAMES="indices coupling".
bench: .venv/dev
	$(BIN)/python benchmarks $(NAMES)

docs: .venv/dev  # site/index.html; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

notebooks: .venv/dev  # executes them anew, and keeps what they show
	$(THREADS) $(BIN)/python docs/site/notebooks.py

.venv/browser: pyproject.toml .venv/dev
	$(INSTALL) --editable '.[browser]'
	npm install --silent --no-save --prefix .venv/axe axe-core@4.14.1
	@touch $@

.venv/cluster: pyproject.toml .venv/dev
	$(INSTALL) --editable '.[ray,slurm]'
	@touch $@

# Builds and checks everything that is published: dist/. Nothing is uploaded.
release: .venv/release test test-extended
	rm -rf dist
	UV_FIND_LINKS="$(PIP_FIND_LINKS)" $(BIN)/uv build --out-dir dist
	$(BIN)/twine check --strict dist/*

.venv/release: pyproject.toml .venv/dev
	$(INSTALL) --editable '.[release]'
	@touch $@

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: .venv/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv

.venv/bin/uv:
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check uv

# torch first and pinned, so that nothing else chooses its build.
.venv/torch: constraints.txt | .venv/bin/uv
	$(INSTALL) torch==2.13.0
	@touch $@

# The zoo is for the README's commands, which run in this environment.
.venv/repro: pyproject.toml .venv/torch
	$(INSTALL) --editable '.[repro,zoo]'
	@touch $@

.venv/dev: pyproject.toml .venv/torch
	$(INSTALL) --editable '.[repro,zoo,dev]'
	@touch $@ .venv/repro
