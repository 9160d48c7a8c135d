# Two commands for ever: `make run` does the main job, `make test` passes every test.
# Each sets up what it needs first, in .venv.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

# Where the run goes: gs://my-bucket, s3://…, or a folder.
BUCKET ?= bucket
# A folder with the competition's own files (or gs://…); the project's own sample without it.
DATA   ?=
# As in config/: which task, model and trainer, which fold.
TASK    ?= tweet_sentiment
MODEL   ?= $(if $(DATA),minilm,tiny)
TRAINER ?= default
FOLD    ?= 0
# Any further overrides of the configuration: OVERRIDES="seed=7 trainer.epochs=3"
OVERRIDES ?=
# The versions that were tested together (`make lock` writes them); CONSTRAINTS= takes the newest.
CONSTRAINTS ?= infra/constraints.txt
# Installed before anything that needs it, so that nothing pulls another build.
TORCH   ?= torch==2.13.0

.DEFAULT_GOAL := help
.PHONY: help run ui test test-slow lint audit bench docs lock clean

help: ## Show what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(VENV)/.run ## Train a commit and log its run: make run [BUCKET=gs://…|s3://…] [DATA=folder] [MODEL=…]
	@$(BIN)/kaggleops run --bucket '$(BUCKET)' task=$(TASK) model=$(MODEL) trainer=$(TRAINER) \
		fold=$(FOLD) $(if $(DATA),data=folder data.dir='$(DATA_DIR)') $(OVERRIDES)

ui: $(VENV)/.run ## Open the MLflow UI over the bucket
	@$(BIN)/kaggleops ui $(if $(filter file,$(origin BUCKET)),,--bucket '$(BUCKET)')

test: $(VENV)/.dev ## Set up and pass every test
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(PYTEST)

test-slow: $(VENV)/.dev ## Pass every test, and those that repeat a thing hundreds of times: an hour and more
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m '' $(PYTEST)

lint: $(VENV)/.dev ## Check style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

audit: $(VENV)/.dev ## Look for known vulnerabilities in all that is installed (asks PyPI)
	$(PYTHON) -m venv $(VENV)/audit
	$(VENV)/audit/bin/python -m pip install --quiet pip-audit
	$(BIN)/python -m pip freeze --exclude-editable | sed 's/+[a-z0-9.]*$$//' >$(VENV)/audit/installed.txt
	$(VENV)/audit/bin/pip-audit --strict --no-deps --disable-pip -r $(VENV)/audit/installed.txt

bench: $(VENV)/.dev ## Measure against the peers and print the tables
	@for file in benchmarks/bench_*.py; do $(BIN)/python $$file || exit 1; done

docs: $(VENV)/.dev ## Write docs/commands.md, the commands' own help, and schema.sql, MLflow's tables
	PYTHONPATH=src $(BIN)/python infra/commands.py >docs/commands.md
	$(BIN)/python infra/schema.py >src/kaggleops/index/schema.sql

lock: $(VENV)/.dev ## Resolve the dependencies anew: what make run, make test, the server and the container install
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python infra/versions.py lock '$(TORCH)'

clean: ## Remove what was built and installed; the bucket stays
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

# -- setting up ---------------------------------------------------------------------------------

# A run starts in a fresh clone elsewhere: a relative folder would not be found there.
DATA_DIR = $(if $(findstring ://,$(DATA)),$(DATA),$(abspath $(DATA)))
# Twice as many as there are processors: half of the time a test waits for other processes.
WORKERS ?= $(shell expr 2 \* $$(getconf _NPROCESSORS_ONLN))

# Of the 20,000 modules that are installed few are ever imported: --no-compile leaves compiling one
# to whoever imports it first. Where that is forbidden, as containers like to, every process would
# compile them all anew.
unexport PYTHONDONTWRITEBYTECODE

PIP = $(BIN)/python -m pip install --quiet --no-compile $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS))
BUILD = $(if $(CONSTRAINTS),--build-constraint $(CONSTRAINTS))

$(VENV)/.base: $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is older than Python 3.11. Name a newer one: make run PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip
	$(PIP) '$(TORCH)'
	@touch $@

$(VENV)/.run: $(VENV)/.base pyproject.toml
	$(PIP) $(BUILD) --editable '.[s3,server,train,minilm]'
	@touch $@

$(VENV)/.dev: $(VENV)/.base pyproject.toml
	$(PIP) $(BUILD) --editable '.[dev]'
	@touch $@ $(VENV)/.run
