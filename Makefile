# One word a job, the same on a desk and in CI. The first call of any of them makes .venv and installs the package into
# it; later calls start at once. Another Python: make demo PYTHON=python3.12

VENV := .venv
BIN := $(VENV)/bin
NATIVE := internimage/ops/native
KERNEL := $(NATIVE)/_kernels.so
INSTALL_SOURCES := pyproject.toml setup.py internimage/_version.py $(wildcard $(NATIVE)/*.cpp $(NATIVE)/*.h)
WORKERS ?= 2

# The first Python that is new enough and can make virtual environments.
FITS := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))
CANDIDATES := python3 python3.14 python3.13 python3.12 python3.11 python3.10 python
PYTHON ?= $(firstword $(foreach python,$(CANDIDATES),$(shell $(python) -c '$(FITS)' 2>/dev/null && echo $(python))))

# Results of the stages on a card, and a folder of unpacked packages of others to time beside ours (may be empty).
GPU_RESULTS ?= benchmarks/results
PEERS ?=
GPU_STAGES := gpu-test gpu-bench-op gpu-bench-model

.PHONY: help demo test test-slow check bench gpu $(GPU_STAGES) sanitize wheel clean

help:  ## list these targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' Makefile | expand -t 22

demo: $(VENV)/.installed  ## classify real pictures with the embedded model; results in demo_output/
	@$(MENTION_MISSING_KERNEL)
	@$(BIN)/python -m internimage.demo

test: $(VENV)/.installed-dev  ## the tests, some minutes
	@$(MENTION_MISSING_KERNEL)
	$(BIN)/python -m pytest -m "not slow" -n $(WORKERS) --dist loadfile

test-slow: $(VENV)/.installed-dev  ## the slow tests, and the kernels under the sanitizers
	@$(MENTION_MISSING_KERNEL)
	$(BIN)/python -m pytest -m slow -n $(WORKERS) --dist loadfile
	@$(MAKE) --no-print-directory sanitize

check: $(VENV)/.installed-dev  ## lint, formatting, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.installed-dev  ## how long, how much memory, against what
	@$(MENTION_MISSING_KERNEL)
	@$(BIN)/python -m internimage bench

# These run as they are on a machine with a card that has torch, Triton, timm and pytest: nothing is installed, no .venv.
gpu:  ## all three stages on a card: make gpu PYTHON=python3; call again to go on
	@$(PYTHON) -c 'import importlib.util, sys; importlib.util.find_spec("torch") or sys.exit("make gpu: $(PYTHON) has no" \
		" torch; name a Python that has: make gpu PYTHON=/path/to/python3"); \
		import torch; torch.cuda.is_available() or sys.exit("make gpu: torch " + torch.__version__ + \
		" of $(PYTHON) finds no CUDA card here; nothing was run")'
	@failed=0; for stage in $(GPU_STAGES); do $(MAKE) --no-print-directory $$stage || failed=1; done; exit $$failed

gpu-test:  ## on a card: is everything right? under nine minutes
	@$(PYTHON) -m tests.gpu $(GPU_RESULTS)

gpu-bench-op:  ## on a card: how fast are the operators? under nine minutes
	@$(PYTHON) -m internimage.bench.stage op $(GPU_RESULTS) $(if $(PEERS),--peers-from $(PEERS))

gpu-bench-model:  ## on a card: how fast are the networks? under nine minutes
	@$(PYTHON) -m internimage.bench.stage model $(GPU_RESULTS)

SANITIZE := -std=c++17 -O1 -g -pthread -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all
sanitize: build/sanitize/driver  ## run the C++ kernels under AddressSanitizer and UBSan
	build/sanitize/driver

build/sanitize/driver: tests/native/driver.cpp $(wildcard $(NATIVE)/*.cpp $(NATIVE)/*.h)
	@mkdir -p $(@D)
	$(CXX) $(SANITIZE) -I$(NATIVE) $< -o $@

wheel: $(VENV)/.created  ## build dist/internimage_torch-*-py3-none-*.whl
	@rm -rf build/lib build/bdist.*
	$(BIN)/python -m pip wheel . --no-deps --wheel-dir dist

clean:  ## remove what was built; what .venv downloaded stays
	rm -rf build dist demo_output *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -f $(KERNEL) $(VENV)/.installed $(VENV)/.installed-dev

define MENTION_MISSING_KERNEL
test -e $(KERNEL) || echo "The native CPU kernel is not built (no C++ compiler?): everything works, but slower. \
With a compiler in place: make clean, then again."
endef

$(VENV)/.created:
	@test -n "$(PYTHON)" || { echo "No Python >= 3.10 that can make virtual environments was found (on Debian and" \
		"Ubuntu: apt install python3-venv); name one: make PYTHON=/path/to/python3"; exit 1; }
	@echo "Making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: $(INSTALL_SOURCES) | $(VENV)/.created
	@echo "Installing into $(VENV); the first time this downloads PyTorch, which takes some minutes"
	@$(BIN)/python -m pip install --editable .
	@touch $@

$(VENV)/.installed-dev: $(INSTALL_SOURCES) | $(VENV)/.created
	@echo "Installing into $(VENV) with the development tools; the first time this downloads PyTorch, some minutes"
	@$(BIN)/python -m pip install --editable '.[dev]'
	@touch $(VENV)/.installed $@
