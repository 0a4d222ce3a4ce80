# `make` lists the targets. Python 3.11 or newer, a C++ compiler and make are all that must be there beforehand.

SHELL := bash
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
TORCH := $(shell grep '^torch==' constraints.txt)
CODE := $(wildcard service/legato clients/python tests examples benchmarks scripts setup.py)
NATIVE := $(shell find csrc -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')
TOOLKIT := setup.py scripts/cuda_toolkit.py csrc/cuda/budget.toml

INPUT ?=
PYTEST_ARGS ?=

# A stamp in the environment for each step of setup: a second `make setup` does nothing, and a changed pin or kernel
# repeats only its own step.
TORCH_READY := $(VENV)/.legato-torch
PACKAGES_READY := $(VENV)/.legato-packages
EXTENSION_READY := $(VENV)/.legato-extension

.DEFAULT_GOAL := help
.PHONY: help setup demo test check format bench wheel proto clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

setup: $(EXTENSION_READY) ## environment in .venv, both packages in it, the extension built

demo: setup ## serve the default model, stream a clip through it, write out/demo; INPUT=clip.mp4 takes your own
	$(BIN)/python examples/demo.py $(if $(INPUT),--input "$(INPUT)")

test: setup ## everything that must hold: `make check`, then all tests; PYTEST_ARGS are passed on
	$(MAKE) --no-print-directory check
	$(BIN)/python -m pytest $(PYTEST_ARGS)

check: setup ## format, lint, types, CUDA kernels within budget.toml; what pre-commit and CI call clean
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(if $(NATIVE),$(BIN)/clang-format --dry-run -Werror $(NATIVE))
	$(BIN)/mypy $(CODE)
	$(BIN)/python scripts/check_cuda.py

format: setup ## rewrite the code as `make check` wants it
	$(BIN)/ruff check --fix-only $(CODE)
	$(BIN)/ruff format $(CODE)
	$(if $(NATIVE),$(BIN)/clang-format -i $(NATIVE))

bench: setup ## measure ops, engine and server, up to two hours; the results go to benchmarks/results
	$(BIN)/legato bench ops --nets heads-128 config-f-256 --batches 1 8 --minutes 90 \
		--json benchmarks/results/ops.json --picture benchmarks/results/ops.png
	$(BIN)/legato bench engine --json benchmarks/results/engine.json --picture benchmarks/results/engine.png
	$(BIN)/legato bench server --json benchmarks/results/server.json --picture benchmarks/results/server.png

wheel: setup ## wheels of both packages in dist; scripts/check_wheel.py tries them where there is only torch
	rm -rf build/lib*
	PATH="$(CURDIR)/$(BIN):$$PATH" $(PIP) wheel --no-build-isolation --no-deps --wheel-dir dist . clients/python

proto: setup ## regenerate the stubs in clients/python/legato_pb from protos
	$(BIN)/python scripts/generate_stubs.py

clean: ## remove what was built and written; the environment stays
	rm -rf build dist out .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -f service/legato/*.so $(EXTENSION_READY)
	find $(CODE) -name __pycache__ -prune -exec rm -rf {} +

# torch first and alone: any other package that asks for it would bring a CUDA build of several GB.
$(TORCH_READY): constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install $(TORCH)
	touch $@

# No build isolation: an isolated build would download a torch of its own. The extension is the next step's.
$(PACKAGES_READY): $(TORCH_READY) pyproject.toml clients/python/pyproject.toml
	$(PIP) install -c constraints.txt setuptools wheel ninja numpy
	LEGATO_EXTENSION=0 $(PIP) install -c constraints.txt --no-build-isolation -e "clients/python[face-cascade,video]" -e ".[bench,video,dev]"
	touch $@

# Of each compiler's command only the file is shown; errors are shown whole.
$(EXTENSION_READY): $(PACKAGES_READY) $(TOOLKIT) $(NATIVE)
	set -o pipefail; PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python setup.py --quiet build_ext --inplace 2>&1 \
		| sed -uE 's,^(\[[0-9]+/[0-9]+\]) .* -c .*/(csrc/[^ ]+) -o .*,\1 \2,'
	touch $@
