# Every target sets up what it needs in .venv, once, from the lock in requirements/. `make setup` with PYTHON=INTERPRETER,
# LOCK=FOLDER or LOCK= (the newest versions that pyproject.toml allows) makes it anew; the choice is kept.
PYTHON ?= python3
VENV   := .venv
RUN    := $(VENV)/bin/python
EXTRAS ?=
ALL_EXTRAS := dashboard lightning metrics robustness slurm transformers
PROFILE ?= headline
ARGS   ?=

.DEFAULT_GOAL := help
.PHONY: help setup lock reproduce report test coverage test-slow slurm test-slurm test-gpu kills bench bench-gpu lint imports docs format dashboard page clean

help:                 ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

ifneq ($(words $(VENV)),1)
$(error VENV=$(VENV): name a folder without spaces)
endif
ifneq ($(origin LOCK),command line)
LOCK := $(if $(wildcard $(VENV)/.lock),$(shell cat $(VENV)/.lock),requirements)
else ifneq ($(wildcard $(VENV)/.lock),)
ifneq ($(MAKECMDGOALS),setup)
$(error LOCK is chosen by make setup LOCK=$(LOCK), which makes $(VENV) anew)
endif
endif
# Whether `make setup` has to make the environment anew.
ANEW := $(filter command,$(firstword $(origin LOCK)) $(firstword $(origin PYTHON)))

setup:                ## make .venv and install equisep in it (LOCK= for the newest versions, EXTRAS="slurm robustness")
	$(if $(ANEW),@rm -rf $(VENV).before; test ! -f $(VENV)/pyvenv.cfg || mv $(VENV) $(VENV).before)
	@$(MAKE) --no-print-directory $(VENV)/.runtime $(EXTRAS:%=$(VENV)/.%) || { \
	  test ! -d $(VENV).before || { rm -rf $(VENV); mv $(VENV).before $(VENV); echo "$(VENV) is as it was"; }; exit 1; }
	@rm -rf $(VENV).before

lock: $(VENV)/.python  ## resolve the newest versions and write requirements/ (ARGS="--upgrade-package torch" for one)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check uv
	$(RUN) requirements/lock.py $(or $(ARGS),--upgrade)

reproduce: $(VENV)/.runtime $(if $(filter-out headline,$(PROFILE)),$(VENV)/.robustness)  ## train, measure, draw and judge a profile: PROFILE=headline, cpu, reference or paper (ARGS="seed=1 …")
	$(RUN) -m reproduce $(PROFILE) $(ARGS)

report: $(VENV)/.runtime  ## write all results on one page, results/report.html
	$(RUN) -m reproduce.report $(ARGS)

test: $(VENV)/.development  ## run the fast tests
	$(RUN) -m pytest

coverage: $(VENV)/.development  ## run the fast tests on all cores and print the lines and branches that they leave out
	$(RUN) -m pytest --cov -n auto --dist loadfile

test-slow: $(VENV)/.development  ## run the slow tests on all cores: the wheel, every experiment, the README's commands
	$(RUN) -m pytest -m slow -n auto --dist loadfile

slurm:                ## fetch SLURM's programs for its tests: apt-get, as root
	@command -v slurmctld >/dev/null || [ -x /usr/sbin/slurmctld ] || { \
	  [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null || { \
	    echo "no SLURM here, and only root can fetch it: apt-get install slurmctld slurmd slurm-client munge"; exit 1; }; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
	    slurmctld slurmd slurm-client munge >/dev/null; }

test-slurm: slurm $(VENV)/.development  ## run the tests on a throwaway SLURM of this machine
	$(RUN) -m pytest -m slurm -rs

test-gpu: $(VENV)/.development  ## run the tests on an NVIDIA GPU: every engine and D against the CPU, resume, memory, arithmetic
	$(RUN) -m pytest -m gpu -rs

kills: $(VENV)/.development  ## kill a sweep at fifty random moments and compare how it ends (ARGS="--kills 200 --seed 1")
	$(RUN) -m benchmarks.kills $(ARGS)

bench: $(VENV)/.runtime  ## measure speed on this machine: training steps, their operations, D; results/bench/
	$(RUN) -m benchmarks.steps
	$(RUN) -m benchmarks.convolutions
	$(RUN) -m benchmarks.operations
	$(RUN) -m benchmarks.fuzziness

bench-gpu: $(VENV)/.runtime  ## measure training steps on an NVIDIA GPU: populations, convolutional networks; results/bench/
	$(RUN) -m benchmarks.gpu $(ARGS)

lint: $(VENV)/.development  ## check format, lint, types and the order of imports
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-logo

imports: $(VENV)/.development  ## print the levels of the package and the imports between its subpackages
	$(RUN) docs/imports.py

docs: $(VENV)/.runtime  ## write the generated parts of docs/: tables, functions
	$(RUN) -m docs.pages

format: $(VENV)/.development  ## put the code into the project's format
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

dashboard: $(VENV)/.runtime  ## look at the local runs in a terminal (wandb leet)
	$(VENV)/bin/wandb leet $(or $(EQUISEP_RESULTS),results)/wandb

page: $(VENV)/.runtime  ## write all runs in one file for the browser, results/page.html
	$(RUN) -m equisep page $(ARGS)

clean:                ## remove .venv and caches; results and data stay
	test ! -f $(VENV)/pyvenv.cfg || rm -rf $(VENV)
	rm -rf .coverage .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis dist build

# What the lock was resolved for (pyproject.toml, tool.uv).
FITS := sys.version_info < (3, 15) and (sys.platform, platform.machine()) in \
  (("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64"))

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "equisep needs Python 3.11 or newer; name one: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "this Python has no venv module: apt-get install python3-venv"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { \
	  echo "$(VENV) cannot be made here; name a folder that can be written to: make VENV=FOLDER"; exit 1; }
	@touch $@

$(VENV)/.lock: | $(VENV)/.python
	@test -z "$(LOCK)" || test -f "$(LOCK)/runtime.txt" || { \
	  echo "LOCK=$(LOCK): no file $(LOCK)/runtime.txt; name a folder like requirements/, or LOCK= for the newest"; exit 1; }
	@test -z "$(LOCK)" || $(RUN) -c 'import platform, sys; sys.exit(not ($(FITS)))' || { \
	  echo "the lock is for Python 3.11 to 3.14 on Linux and macOS (arm64): name such a Python, make setup PYTHON=python3.12," \
	    "or take the newest versions, make setup LOCK="; exit 1; }
	@echo "$(LOCK)" > $@

# $(call install,SET,EXTRA): a set of the lock, or an extra of pyproject.toml.
define install
@$(if $(LOCK),$(VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps -r $(LOCK)/$(1).txt,\
  $(VENV)/bin/pip install --quiet --disable-pip-version-check --upgrade -e ".$(2)") || { \
  echo "the packages of $(1) could not be installed, for the reason above; without a network, set up on a machine that has one"; exit 1; }
endef

$(VENV)/.runtime: pyproject.toml $(wildcard $(LOCK)/runtime.txt) | $(VENV)/.lock
	$(call install,runtime)
	$(if $(LOCK),$(call install,build))
	$(if $(LOCK),@$(VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .)
	@touch $@

# A target for each extra of pyproject.toml.
define extra
$(VENV)/.$(1): $(wildcard $(LOCK)/$(1).txt) $(VENV)/.runtime
	$$(call install,$(1),[$(1)])
	@touch $$@
endef
$(foreach name,$(ALL_EXTRAS),$(eval $(call extra,$(name))))

$(VENV)/.development: $(wildcard $(LOCK)/development.txt) $(ALL_EXTRAS:%=$(VENV)/.%)
	$(call install,development,[dev])
	@touch $@
