# Every task of the project; `make` alone lists them. Written for GNU make 3.81 and later.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check install --quiet

# An environment is made once per set of requirements: the stamp's name is their checksum.
sum     = $(shell cat pyproject.toml $(1) | cksum | cut -d ' ' -f 1)
RUNTIME := $(VENV)/runtime-$(call sum,requirements-local.txt)
DEV     := $(VENV)/dev-$(call sum,requirements-local.txt requirements-dev.txt)

.DEFAULT_GOAL := help
.PHONY: help setup demo up down check format test acceptance types soak chaos bench bench-quick profile test-compose lock

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(RUNTIME) ## Make .venv with the pinned dependencies, their hashes checked

demo: $(RUNTIME) ## Run the whole synchronisation once on real parts, and prove it
	@$(BIN)/deltasync demo

up: $(RUNTIME) ## Start the stack and an applier in the background, and print the addresses
	@$(BIN)/deltasync local up

down: $(RUNTIME) ## Stop them and remove their data
	@$(BIN)/deltasync local down

check: $(DEV) ## Format, lint, types, import direction, tidy
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy service tests bench
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/pytest tests/tidy

format: $(DEV) ## Put the code into the project's format
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .

# Servers that live for minutes never earn back what Java's second compiler takes: 22 s of CPU to start a stack, not 13.
test: $(DEV) ## Run the suite on a real embedded stack (up to 10 minutes)
	@JAVA_TOOL_OPTIONS=-XX:TieredStopAtLevel=1 $(BIN)/pytest -n 2 --dist loadgroup --ignore=tests/acceptance --ignore=tests/compose

acceptance: $(DEV) ## Kill real processes and work off big backlogs (up to 30 minutes)
	@$(BIN)/pytest tests/acceptance

SEED  ?= 2000
SEEDS ?= 10000
soak: $(DEV) ## Run SEEDS=n seeds of the simulator from SEED=first on (100 a second)
	@$(BIN)/python -m tests.property.soak $(SEED) $(SEEDS)

MINUTES    ?= 10
CHAOS_SEED ?= 1
chaos: $(DEV) ## Load and faults of every kind for MINUTES=n; what is left must be equal (CHAOS_SEED=n: in another order)
	@DELTASYNC_TEST_CHAOS_MINUTES=$(MINUTES) DELTASYNC_TEST_CHAOS_SEED=$(CHAOS_SEED) $(BIN)/pytest -s tests/acceptance/test_chaos.py

# Works and options, as in BENCH="backlog latency --rounds 1 --stage DIR"; BENCH=--help tells all.
BENCH ?=
bench: $(RUNTIME) ## Compare with the JDBC sink and logical replication: BENCH="WORK... OPTIONS" (all of it: hours)
	@$(BIN)/python -m bench $(BENCH)

bench-quick: $(RUNTIME) ## A small version of it: backlog, changes and latency (up to 5 minutes)
	@$(BIN)/python -m bench --quick $(BENCH)

profile: $(RUNTIME) ## Where the time of a change goes, stage by stage: PROFILE="--scale 0.2" is smaller
	@$(BIN)/python -m bench.profile $(PROFILE)

types: $(DEV) ## Write docs/TYPES.md anew, from the matrix that make acceptance proves
	@DELTASYNC_TEST_WRITE_TYPES=1 $(BIN)/pytest tests/acceptance/test_types.py -k documented

test-compose: $(DEV) ## Run docker-compose.yml from up to equal databases, and tests on containers (up to 8 minutes)
	@.ci/engine
	@DELTASYNC_TEST_ENGINE=containers $(BIN)/pytest --timeout=300 tests/compose tests/integration/test_slice.py

# Constrained by the first file, all files pin the same versions.
COMPILE = $(BIN)/uv pip compile --quiet --generate-hashes --universal --no-header --no-annotate --python-version 3.11
lock: $(DEV) ## Pin the dependencies anew, after a change of pyproject.toml
	@$(COMPILE) --extra local --group dev pyproject.toml -o requirements-dev.txt
	@$(COMPILE) -c requirements-dev.txt --extra local --group build pyproject.toml -o requirements-local.txt
	@$(COMPILE) -c requirements-dev.txt pyproject.toml -o requirements.txt
	@$(COMPILE) -c requirements-dev.txt --group build -o requirements-build.txt

$(RUNTIME):
	@$(PYTHON) -c 'import sys; sys.version_info < (3, 11) and sys.exit("deltasync needs Python 3.11 or later: make PYTHON=python3.12 ...")'
	@echo "Installing the pinned dependencies into $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) --require-hashes -r requirements-local.txt
	@$(PIP) --no-build-isolation --no-deps -e .
	@rm -f $(VENV)/runtime-*
	@touch $@

$(DEV): $(RUNTIME)
	@echo "Installing the development tools into $(VENV) ..."
	@$(PIP) --require-hashes -r requirements-dev.txt
	@rm -f $(VENV)/dev-*
	@touch $@
