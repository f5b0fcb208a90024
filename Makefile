# BitByLaw from the command line. Needs Python 3.11 to 3.13; `make up` and `make test` also need
# Java 17 or newer and Maven, for a real Kafka.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VENV := .venv
BIN := $(VENV)/bin
BENCH := .venv-bench
MUTATION := .venv-mutation
STAMP := $(VENV)/.installed
PROJECTS := $(wildcard libs/*/pyproject.toml services/*/pyproject.toml tools/*/pyproject.toml)
CODE := libs services tools tests benchmarks .ci
ARGS ?=

.PHONY: help up demo test scenarios sim mutation fire kills bench check lock clean install needs fetch \
	check-format check-lint check-types check-imports check-locks check-tests

help: ## Show what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

up: needs ## Install what is missing and run the whole system (ARGS="..." go to bbl up)
	@$(MAKE) $(STAMP)
	@exec $(BIN)/bbl up $(ARGS)

demo: needs ## Show what it does, in a few minutes (ARGS="..." go to bbl demo)
	@$(MAKE) $(STAMP)
	@exec $(BIN)/bbl demo $(ARGS)

test: needs ## Run all tests
	@$(MAKE) fetch
	$(BIN)/pytest -q -n 2 -m "not kafka" --durations=5 $(ARGS)
	$(BIN)/pytest -m kafka --ignore=tests/fire --durations=5 $(ARGS)
	$(BIN)/pytest -m kafka tests/fire --records 1500 --durations=5 $(ARGS)

scenarios: $(STAMP) ## Print which test shows which scenario, and what is missing (ARGS=--gaps)
	@$(BIN)/python .ci/scenarios.py $(ARGS)

sim: $(STAMP) ## Live through worlds made by seeds (ARGS="--worlds 5000 --from-seed 20000")
	$(BIN)/pytest -q -n 2 tests/sim/test_document_worlds.py --worlds 5000 $(ARGS)

mutation: $(STAMP) ## Change the document sync's core; its tests must notice (ARGS="domain/planner.py")
	@$(MAKE) $(MUTATION)/.installed
	$(BIN)/python .ci/mutation.py run $(ARGS)

fire: needs ## Kill, freeze and cut off processes at full size (ARGS="--seeds 10 --records 100000")
	@$(MAKE) fetch
	$(BIN)/pytest -s tests/fire $(ARGS)

kills: needs ## Kill document-sync in the middle of its effects, at full size (ARGS="-k 11")
	@$(MAKE) fetch
	$(BIN)/pytest -s tests/e2e/test_document_kills.py --full-kills $(ARGS)

bench: needs ## Measure the runtime beside its references (ARGS="lanes --repeats 5"; none: all rows)
	@$(MAKE) fetch
	@$(MAKE) $(BENCH)/.installed || echo "The peers of $(BENCH) are left out, and the plot"
	@exec $(BIN)/python -m benchmarks $(ARGS)

check: $(STAMP) ## Formats, lint, types, imports, locks, unit and sim tests (below 90 s)
	@$(MAKE) -j 2 -k --output-sync=target \
		check-types check-tests check-lint check-format check-imports check-locks

lock: $(STAMP) ## Write the lock files anew, keeping pins that still fit (ARGS=--upgrade: none)
	$(BIN)/python .ci/lock.py write $(ARGS)

clean: ## Remove the environment, the caches and the local state; downloads stay
	rm -rf $(VENV) $(BENCH) $(MUTATION) .mutation .devstack .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find libs services tools tests -name __pycache__ -type d -prune -exec rm -rf {} +

# -- the parts of check; each prints only what it is about

check-format: $(STAMP)
	$(BIN)/ruff format --check --quiet $(CODE)
	$(BIN)/python .ci/hygiene.py

check-lint: $(STAMP)
	$(BIN)/ruff check --quiet $(CODE)

check-types: $(STAMP)
	$(BIN)/mypy $(CODE)

check-imports: $(STAMP)
	$(BIN)/lint-imports

check-locks: $(STAMP)
	$(BIN)/python .ci/lock.py check

check-tests: $(STAMP)
	$(BIN)/pytest -q -n 2 -m "not kafka and not slow" tests/unit tests/sim

# -- installation

install: $(STAMP)

# The first Python that really runs: a pyenv shim may exist and refuse.
FITS := -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 14))'
ifndef PYTHON
PYTHON = $(eval PYTHON := $(shell for python in python3.13 python3.12 python3.11 python3; do \
	if $$python $(FITS) >/dev/null 2>&1; then echo $$python; break; fi; done))$(PYTHON)
endif
FIT_PYTHON = if ! $(or $(PYTHON),false) $(FITS) >/dev/null 2>&1; then \
	echo "Python 3.11, 3.12 or 3.13 with venv and pip is needed: install one" \
		"(apt-get install python3 python3-venv), or name one: make PYTHON=/path/to/python3" >&2; \
	exit 1; fi

# What must be on the machine is named before minutes are spent on the rest.
needs:
	@$(FIT_PYTHON)
	@PYTHONPATH=tools/devstack/src $(PYTHON) -B -m bitbylaw_devstack --check

fetch: $(STAMP)
	@$(BIN)/python -m bitbylaw_devstack --fetch

# pip brings uv by its hash, uv brings the locked rest, then ours are linked in. An environment whose
# Python is gone, of another version than asked for, or half made, is made anew.
$(STAMP): requirements.lock requirements-uv.lock $(PROJECTS)
	@$(FIT_PYTHON)
	@version='import sys; print(sys.version_info[:3])'; \
	if [ "$$($(PYTHON) -c "$$version")" != "$$($(BIN)/python -c "$$version" 2>&1)" ]; then \
		echo "Making $(VENV) with $$($(PYTHON) --version)"; \
		rm -rf $(VENV); $(PYTHON) -m venv $(VENV); fi
	@echo "Installing what requirements.lock names"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-uv.lock
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --require-hashes -r requirements.lock
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --no-deps --no-build-isolation \
		$(foreach project,$(PROJECTS),-e $(dir $(project)))
	@touch $@

# The peers of the benchmarks and what draws the plot, apart from everything that is ours.
$(BENCH)/.installed: benchmarks/requirements.lock | $(STAMP)
	@echo "Installing what benchmarks/requirements.lock names"
	@rm -rf $(BENCH)
	@$(BIN)/uv venv --quiet --python $(BIN)/python $(BENCH)
	@VIRTUAL_ENV=$(BENCH) $(BIN)/uv pip install --quiet --require-hashes -r benchmarks/requirements.lock
	@touch $@

# mutmut beside all that the tests import; the code itself comes from a copy.
$(MUTATION)/.installed: mutation/requirements.lock requirements.lock | $(STAMP)
	@echo "Installing what mutation/requirements.lock names"
	@rm -rf $(MUTATION)
	@$(BIN)/uv venv --quiet --python $(BIN)/python $(MUTATION)
	@VIRTUAL_ENV=$(MUTATION) $(BIN)/uv pip install --quiet --require-hashes \
		-r requirements.lock -r mutation/requirements.lock
	@touch $@
