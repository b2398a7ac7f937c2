# `make` alone shows what there is. Everything runs in .venv, made here from exact pins.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# The interpreter that makes .venv; `make setup PYTHON=/path/to/python3.12` chooses another.
PYTHON ?= $(shell python3.11 -c 'import sys; print(sys.executable)' 2>/dev/null || echo python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

AZURITE := $(VENV)/node/azurite-3.37.0
BENCH := .venv-bench

# Two workers: the tests wait on sockets and disks as much as they compute. Tests of one file stay together, and so do all that start Ray.
PYTEST := $(BIN)/python -m pytest
PARALLEL ?= -n 2 --dist loadgroup --no-loadscope-reorder

.PHONY: help setup run test test-slow bench-env azurite lint format docs clean check-python check-npm check-postgres check-prometheus \
  check-chromium check-systemd

help: ## show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## make .venv and install kdpipe with all it needs, at the pinned versions

run: check-npm $(STAMP) ## run the spam recipe to the end: teacher, students, gate, rollout to three devices
	$(BIN)/kdpipe run spam

test: check-postgres check-prometheus check-chromium check-systemd lint azurite ## check style, types and layers, and run every test that is not slow
	$(PYTEST) -m "not slow" $(PARALLEL)

test-slow: check-postgres check-prometheus check-chromium check-systemd $(STAMP) azurite ## run the slow tests
	$(PYTEST) -m slow

azurite: $(AZURITE) ## install the Azure Blob server that tests talk to, in .venv

lint: $(STAMP) ## check style, types and layers only
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP) ## sort imports and lay the code out
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench-env: $(BENCH)/.installed ## make .venv-bench: what `python -m tests.bench reader` is measured against

docs: $(STAMP) ## write the pages that are made from the code
	$(BIN)/python -m tests.kit.run_file_page

clean: ## delete .venv, caches and builds; runs (runs/) stay
	rm -rf $(VENV) $(BENCH) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# torch goes first and alone: with a torch of the pinned version in place, nothing that follows can bring another build.
# torchdistill, which tests hold our losses to, and timm, whose nets they teach, come without torchvision, which would bring another torch.
$(STAMP): pyproject.toml constraints.txt | check-python
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps torchdistill==1.1.5 timm==1.0.31
	touch $@

# Without what they depend on for other things: torchvision and azure clients, and an older numpy than ours. boto3 wants an older dateutil
# than constraints.txt has, which pip would look for through all of its versions.
$(BENCH)/.installed: pyproject.toml constraints.txt | check-python
	test -x $(BENCH)/bin/python || $(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[cluster]'
	$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
	  mosaicml-streaming==0.13.0 litdata==0.2.76 lightning-utilities==0.15.3 datasets==5.2.0 \
	  boto3==1.44.8 botocore==1.44.8 s3transfer==0.19.3 jmespath==1.1.0
	$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
	  brotli catalogue dill httpx huggingface_hub matplotlib multiprocess pandas paramiko python-snappy tqdm xxhash zstd
	touch $@

$(AZURITE): | check-npm $(STAMP)
	npm install --silent --no-audit --no-fund --prefix $(VENV)/node azurite@3.37.0
	touch $@

check-python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "kdpipe needs Python 3.11 or newer; found: $$($(PYTHON) --version 2>&1 || true)." >&2; \
	  echo "Install one (Debian: apt-get install python3 python3-venv), or say where it is: make setup PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "$(PYTHON) cannot make virtual environments. Debian: apt-get install python3-venv" >&2; exit 1; }

check-npm:
	@command -v npm >/dev/null || { \
	  echo "the spam recipe fetches its e-mails with npm, tests their Azure server, and there is no npm on PATH. Debian: apt-get install npm" >&2; exit 1; }

check-prometheus:
	@for tool in prometheus promtool; do command -v $$tool >/dev/null || { \
	  echo "tests let a real Prometheus scrape a run, and there is no $$tool on PATH. Debian: apt-get install --no-install-recommends prometheus" >&2; exit 1; }; done

check-chromium:
	@for tool in chromium chromedriver; do command -v $$tool >/dev/null || { \
	  echo "tests look at a run's report in a real browser, and there is no $$tool on PATH. Debian: apt-get install --no-install-recommends chromium chromium-driver" >&2; exit 1; }; done

check-systemd:
	@command -v systemd-analyze >/dev/null || { \
	  echo "tests let systemd check the agent's unit, and there is no systemd-analyze on PATH. Debian: apt-get install --no-install-recommends systemd" >&2; exit 1; }

check-postgres:
	@compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || command -v initdb >/dev/null || { \
	  echo "tests run the orchestrator on a real PostgreSQL, and there is none. Debian: apt-get install --no-install-recommends postgresql" >&2; exit 1; }
