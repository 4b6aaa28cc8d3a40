# The verbs of this project. `make` alone lists them.
#
#   make PYTHON=/path/to/python3 …   another interpreter than `python3`
#   make unit ARGS='-k rcpt -x'      arguments for pytest

PYTHON ?= python3
ARGS ?=
TARGET ?= filter
SECONDS ?= 60
export PYTHON
# Tests start hundreds of Python processes: each would compile all of its modules anew.
unexport PYTHONDONTWRITEBYTECODE

BIN := .venv/bin
# Each process begins with a stretch of its own, so that tests that share a mail server are mostly in
# one of them, and takes over half of what is left to another one when it has nothing more to do.
PYTEST := $(BIN)/pytest --numprocesses=auto --dist=worksteal
# From nothing: what is left of an older build can hide a link that is broken by now.
SPHINX := --quiet --fail-on-warning --keep-going --doctree-dir docs/_build/doctrees

.DEFAULT_GOAL := help
# The order of `make test` is its point: quick checks first.
.NOTPARALLEL:
.PHONY: help bench demo dist test lint types format unit integration mta captures fidelity docs docs-serve fuzz lock record clean env test-deps check

help:  ## List the verbs
	@awk -F ':.*  ## ' '/^[a-z-]+:.*  ## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

demo:  ## Run a milter on a real socket and feed it a message (needs python3 only)
	@tools/check-python.sh
	@PYTHONPATH=src $(PYTHON) examples/demo.py

test: test-deps env lint types docs check  ## Run every check and every test; installs what they need

lint: env  ## Check style and layers
	@echo '== ruff'
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@echo '== import-linter'
	@PYTHONPATH=src $(BIN)/lint-imports --no-logo

types: env  ## Check types with mypy and basedpyright
	@echo '== mypy'
	@$(BIN)/mypy
	@echo '== basedpyright'
	@$(BIN)/basedpyright --pythonpath $(BIN)/python

format: env  ## Rewrite the sources in the project's format
	@$(BIN)/ruff check --fix-only
	@$(BIN)/ruff format

unit: env  ## Run the tests that need neither a mail server nor libmilter
	@$(PYTEST) --ignore=tests/integration --ignore=tests/libmilter $(ARGS)

integration: test-deps env  ## Run the tests against a real Postfix and libmilter
	@$(PYTEST) tests/integration tests/libmilter $(ARGS)

mta: test-deps env  ## Run all cases with a real Postfix and Sendmail, and load; print the table
	@$(PYTEST) --results tests/integration/test_cases.py tests/integration/test_load.py $(ARGS)

captures: test-deps env  ## Record the packets of all cases anew, into tests/captures
	@$(PYTEST) --record-captures tests/integration/test_cases.py $(ARGS)

fidelity: test-deps env  ## Compare 200,000 generated sessions with libmilter (some minutes)
	@$(BIN)/python -m tests.libmilter.fidelity $(ARGS)

docs: env  ## Build the documentation into docs/_build, and manual pages; warnings are errors
	@echo '== sphinx'
	@$(BIN)/sphinx-build $(SPHINX) --fresh-env --builder html docs docs/_build/html
	@$(BIN)/sphinx-build $(SPHINX) --builder man docs docs/_build/man
	@$(BIN)/python tools/check-site.py

docs-serve: docs  ## Show the documentation on a local port
	@$(BIN)/python -m http.server --bind 127.0.0.1 --directory docs/_build/html 8000

fuzz: env  ## Fuzz the core: TARGET=author, filter or wire; SECONDS=60
	@fuzz/make-env.sh
	@fuzz/.work/venv/bin/python fuzz/run.py $(TARGET) --seconds $(SECONDS) $(ARGS)

bench: test-deps env  ## Compare with other milter libraries (half an hour; QUICK=1: two); ARGS for bench.compare
	@bench/make-env.sh
	@$(BIN)/python -m bench.compare $(if $(QUICK),--quick) $(ARGS)
	@$(BIN)/python tools/readme-figures.py

dist: env  ## Build wheel and sdist into dist/, the same bytes each time, and check them
	@tools/make-dist.sh

lock: env  ## Resolve the development dependencies anew (UPGRADE=1: to their newest releases)
	@tools/lock.sh

record: test-deps env  ## Record the sessions of tests/conformance/catalogue on libmilter anew
	@$(BIN)/python -m tests.libmilter.record

clean:  ## Remove all that these verbs have made
	@rm -rf .venv .nox .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache \
	    .import_linter_cache .hypothesis docs/_build fuzz/.work bench/.work build dist .sendmail .sendmail.new
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

env:
	@tools/make-env.sh

test-deps:
	@tools/install-test-deps.sh

check:
	@echo '== pytest'
	@$(PYTEST) --cov --cov-report=term --cov-fail-under=95 $(ARGS)
	@tools/check-coverage.sh
