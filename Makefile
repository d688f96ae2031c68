# caa_bench: `make` alone prints the targets. Variables: BEHAVIOR MODEL RECIPE SET OUTPUT DRY_RUN SAVE TORCH PYTHON WORKERS
PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV ?= .venv
BEHAVIOR ?=
MODEL ?=
RECIPE ?=
SET ?=
OUTPUT ?=
RUN ?=
SAVE ?=
DRY_RUN ?=
WORKERS ?= 2

BIN := $(VENV)/bin
# So that Python in the folder above, where the checkout's own name is that of the package, finds the package.
EDITABLE := --config-settings editable_mode=compat
STAMP := $(VENV)/.installed
CHOSEN := $(if $(BEHAVIOR),behavior=$(BEHAVIOR)) $(if $(MODEL),model=$(MODEL))
# SET and TORCH may hold spaces, quotes and <, so they travel in the environment, not in the command line.
export SET TORCH
OPTIONS = --set "$$SET" $(if $(RECIPE),--recipe $(RECIPE)) $(if $(OUTPUT),--output $(OUTPUT)) $(if $(DRY_RUN),--dry-run)

.DEFAULT_GOAL := help
.PHONY: help install compare compare-all sweep tune fit report check data list test test-slow quality format docs bench simulate tiny clean

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'
	@echo
	@echo '  example: make compare BEHAVIOR=refusal MODEL=llama2-7b-chat SET="caa.layers=[10,13,16] seed=1"'

install: $(STAMP) ## a virtual environment in .venv with pinned versions; TORCH=... chooses another build

$(STAMP): setup.cfg pyproject.toml constraints.txt
	@echo "installing into $(VENV): about 2.5 GB on a CPU, several minutes; nothing is printed meanwhile"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check $$TORCH -c constraints.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -e ".[dev]" -c constraints.txt $(EDITABLE)
	@touch $(STAMP)

compare: $(STAMP) ## the main job: how CAA stacks on system prompts and LoRA (BEHAVIOR, MODEL, RECIPE, SET, DRY_RUN=1)
	@$(BIN)/caa-bench compare $(OPTIONS) $(CHOSEN)

compare-all: ## the main job on every behavior there is
	@$(MAKE) --no-print-directory compare BEHAVIOR=all

sweep: $(STAMP) ## every layer on the selection split
	@$(BIN)/caa-bench sweep $(OPTIONS) $(CHOSEN)

tune: $(STAMP) ## find each vector's layer and dose on the selection split; SAVE=name keeps them as MODEL=name
	@$(BIN)/caa-bench tune $(if $(SAVE),--save $(SAVE)) $(OPTIONS) $(CHOSEN)

fit: $(STAMP) ## fit the interventions and keep their artifacts
	@$(BIN)/caa-bench fit $(OPTIONS) $(CHOSEN)

report: $(STAMP) ## rebuild the tables of the newest run, or of RUN=folder; needs no model
	@$(BIN)/caa-bench report $(RUN)

check: $(STAMP) ## check a recipe without loading the model
	@$(BIN)/caa-bench check $(OPTIONS) $(CHOSEN)

data: $(STAMP) ## fetch the paper's data (about 4 MB) into the user's cache, for data=caa and recipes/paper.yaml
	@$(BIN)/caa-bench data download

list: $(STAMP) ## behaviors, models, recipes, interventions, evaluators and runs
	@$(BIN)/caa-bench list

# Where PYTHONDONTWRITEBYTECODE is set, each of its many processes would compile everything anew.
test: $(STAMP) ## the test suite; WORKERS=4 for more than two at once
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

test-slow: $(STAMP) ## the tests that take longer than a minute; says first how many there are
	@$(BIN)/python -m pytest -m slow --collect-only -q | tail -n 1
	$(BIN)/python -m pytest -m slow

quality: $(STAMP) ## format, lint and types, as CI checks them
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(STAMP) ## format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(STAMP) ## the documentation as a site, in site/; fails at the first warning
	@$(BIN)/python -c "import mkdocs, mkdocstrings" 2>/dev/null || $(BIN)/pip install --quiet --disable-pip-version-check -e ".[docs]" -c constraints.txt
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "open site/index.html"

bench: $(STAMP) ## how fast the engine is beside the usual loops; writes BENCHMARKS.md
	$(BIN)/python -m benchmarks.bench

simulate: $(STAMP) ## do intervals, placebos and power hold at the rate they state? a table in docs/numbers.md (a minute)
	$(BIN)/python -m benchmarks.simulate

tiny: $(STAMP) ## rebuild the embedded model from its seed and measure it (about an hour on 2 cores)
	$(BIN)/python -m caa_bench.tiny.build
	$(BIN)/python -m benchmarks.measure_tiny

clean: ## remove the environment and caches, keep runs/
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
