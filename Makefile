# `make` alone explains itself: the words after ## are what `make help` prints.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.PHONY: help setup demo up down status logs reset test check format generate chaos bench bench-metering bench-ledger test-containers

PYTHON3 ?= python3
UV_VERSION := 0.13.8
UV := .local/tools/uv/bin/uv
PYTHON := .venv/bin/python
STAMP := .venv/.installed
MIGRATIONS = $(wildcard services/*/migrations/*.sql libs/*/migrations/*.sql)

# A test has servers of its own: in a shell that has read .local/env it runs without those variables.
STACK_VARIABLES = $(shell env | sed -n 's/^\(\(SLUICE\|STRIPE\)_[A-Z0-9_]*\)=.*/\1/p' | grep -vE '^(SLUICE_(TEST|CHAOS|BENCH)|STRIPE_TEST)')
WITHOUT_STACK = env $(STACK_VARIABLES:%=-u %)
# Stopping and looking must not install anything: the code that runs is the code that is there.
IF_INSTALLED = if [[ ! -x $(PYTHON) ]]; then echo "Nothing is installed, so nothing runs. Begin with: make up"; exit $(1); fi

help: ## Show what can be run
	@echo "Sluice: multi-tenant billing on Kafka and Postgres. What you can run:"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | awk -F'\t' '{ printf "  make %-16s %s\n", $$1, $$2 }'

setup: $(STAMP) ## Install everything (uv from pip, one lock file)
	@echo "Everything is installed. Next: make demo"

$(UV):
	@$(PYTHON3) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Sluice needs Python 3.11 or newer; this is $$($(PYTHON3) -V 2>&1). Name another: make PYTHON3=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON3) -m pip --version >/dev/null 2>&1 \
	  || { echo "$(PYTHON3) has no pip. Install it (on Debian: apt-get install python3-pip)." >&2; exit 1; }
	PIP_USER=0 $(PYTHON3) -m pip install --quiet --disable-pip-version-check --root-user-action=ignore \
	  --target .local/tools/uv uv==$(UV_VERSION)

$(STAMP): pyproject.toml uv.lock | $(UV)
	UV_PYTHON_DOWNLOADS=never $(UV) sync --python "$$(command -v $(PYTHON3))" --frozen --all-extras \
	  $$([[ -t 2 ]] || echo --quiet)
	@touch $@

demo: $(STAMP) ## Start everything and play a tenant's story, from sign-up to the balanced ledger
	@$(PYTHON) -m cli.main demo

up: $(STAMP) ## Start everything and wait until it is ready
	@$(PYTHON) -m cli.main up

down: ## Stop everything; data stays
	@$(call IF_INSTALLED,0); $(PYTHON) -m cli.main down

status: ## Show what runs and what waits
	@$(call IF_INSTALLED,1); $(PYTHON) -m cli.main status

logs: ## Follow the programs' logs
	@$(call IF_INSTALLED,1); $(PYTHON) -m cli.main logs --follow

reset: ## Stop everything and delete data, logs and secrets (downloads are kept)
	@$(call IF_INSTALLED,0); $(PYTHON) -m cli.main reset --yes

test: $(STAMP) ## Run every test, on ports and data of their own (also while the demo is up)
	@$(PYTHON) -m deploy.local.jars
	@$(WITHOUT_STACK) $(PYTHON) -m tests.side_by_side -m "not bench"

check: $(STAMP) ## Format, lint, types, imports, migrations, deployment files, generated files
	$(PYTHON) -m ruff format --check
	$(PYTHON) -m ruff check
	$(PYTHON) -m mypy
	.venv/bin/lint-imports
	$(if $(MIGRATIONS),.venv/bin/squawk $(MIGRATIONS))
	$(if $(wildcard compose.yaml),.venv/bin/check-jsonschema --builtin-schema vendor.compose-spec compose.yaml)
	$(if $(wildcard deploy/Dockerfile),.venv/bin/hadolint deploy/Dockerfile)
	$(if $(wildcard cli/generate.py),$(PYTHON) -m cli.generate --check)

format: $(STAMP) ## Format the code and mend what can be mended by itself
	$(PYTHON) -m ruff check --fix-only
	$(PYTHON) -m ruff format

generate: $(STAMP) ## Write every generated file anew (OpenAPI, AsyncAPI, schemas, tables in docs)
	$(PYTHON) -m cli.generate

chaos: $(STAMP) ## Kill programs at random moments of the story, then prove that nothing is lost or doubled
	@$(WITHOUT_STACK) SLUICE_CHAOS=long $(PYTHON) -m pytest -o faulthandler_timeout=0 tests/chaos

bench: $(STAMP) ## Measure throughput, latency and footprint
	@$(WITHOUT_STACK) $(PYTHON) -m pytest -o faulthandler_timeout=0 -rP tests/bench

bench-metering: $(STAMP) ## Measure how fast usage is accepted and counted, against Kafka and Postgres themselves
	@$(WITHOUT_STACK) $(PYTHON) -m pytest -o faulthandler_timeout=0 -rP tests/bench/test_metering_counting.py \
	  tests/bench/test_metering_http.py

bench-ledger: $(STAMP) ## Measure the ledger: posting against COPY of the same rows, reads, verifying; plant mistakes in it
	@$(WITHOUT_STACK) SLUICE_BENCH_ROUNDS=5 SLUICE_BENCH_BATCHES=5 SLUICE_BENCH_ACCOUNTS=10000 SLUICE_BENCH_POSTINGS=1000000 \
	  $(PYTHON) -m pytest -o faulthandler_timeout=0 -rP tests/bench/test_ledger.py tests/bench/test_ledger_api.py tests/bench/test_reconciling.py
	@$(WITHOUT_STACK) $(PYTHON) -m pytest tests/services/ledger/test_model.py

test-containers: $(STAMP) ## Run the tests that need a container engine (skipped with a reason without one)
	@$(WITHOUT_STACK) SLUICE_TEST_CONTAINERS=1 $(PYTHON) -m pytest -m containers
