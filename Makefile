# Every target sets up what it needs in .venv, once. PYTHON names the interpreter to build it with.
PYTHON ?= python3
VENV   := .venv
RUN    := $(VENV)/bin/python
PROFILE ?= headline
ARGS   ?=

.DEFAULT_GOAL := help
.PHONY: help setup reproduce report test coverage test-slow slurm test-slurm bench lint imports readme format dashboard page clean

help:                 ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(VENV)/.runtime  ## make .venv and install equisep in it

reproduce: $(VENV)/.runtime  ## train, measure, draw and judge a profile: PROFILE=headline, cpu or paper (ARGS="seed=1 …")
	$(RUN) -m reproduce $(PROFILE) $(ARGS)

report: $(VENV)/.runtime  ## write all results on one page, results/report.html
	$(RUN) -m reproduce.report $(ARGS)

test: $(VENV)/.development  ## run the fast tests
	$(RUN) -m pytest

coverage: $(VENV)/.development  ## run the fast tests and print the lines and branches that they leave out
	$(VENV)/bin/coverage run -m pytest
	$(VENV)/bin/coverage report

test-slow: $(VENV)/.development  ## run the slow tests on all cores: the wheel, every experiment, the README's commands
	$(RUN) -m pytest -m slow -n auto --dist worksteal

slurm:                ## fetch SLURM's programs for its tests: apt-get, as root
	@command -v slurmctld >/dev/null || [ -x /usr/sbin/slurmctld ] || { \
	  [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null || { \
	    echo "no SLURM here, and only root can fetch it: apt-get install slurmctld slurmd slurm-client munge"; exit 1; }; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
	    slurmctld slurmd slurm-client munge >/dev/null; }

test-slurm: slurm $(VENV)/.development  ## run the tests on a throwaway SLURM of this machine
	$(RUN) -m pytest -m slurm -rs

bench: $(VENV)/.runtime  ## measure speed on this machine: steps, populations, D; results/bench/
	$(RUN) -m benchmarks.steps
	$(RUN) -m benchmarks.fuzziness

lint: $(VENV)/.development  ## check format, lint, types and the order of imports
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-logo

imports: $(VENV)/.development  ## print the levels of the package and the imports between its subpackages
	$(RUN) docs/imports.py

readme: $(VENV)/.runtime  ## write the tables of the README from their data
	$(RUN) -m reproduce.readme

format: $(VENV)/.development  ## put the code into the project's format
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

dashboard: $(VENV)/.runtime  ## look at the local runs in a terminal (wandb leet)
	$(VENV)/bin/wandb leet $(or $(EQUISEP_RESULTS),results)/wandb

page: $(VENV)/.dashboard  ## look at the newest runs in the browser, on this machine alone (ARGS="port=8808")
	$(RUN) -m equisep page $(ARGS)

clean:                ## remove .venv and caches; results and data stay
	rm -rf $(VENV) .coverage .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis dist build

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "equisep needs Python 3.10 or newer; name one: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "this Python has no venv module: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.runtime: pyproject.toml | $(VENV)/.python
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/.dashboard: pyproject.toml | $(VENV)/.runtime
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -e ".[dashboard]"
	@touch $@

$(VENV)/.development: pyproject.toml | $(VENV)/.runtime
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -e ".[dev]"
	@touch $@
