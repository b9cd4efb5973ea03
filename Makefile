# Everything a newcomer needs: `make run` and `make test` on a machine with python3, make and a C++
# compiler. All Python packages go into .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SIMULATORS := $(VENV)/simulator-peers
# torch is pinned here, not in the package: a plain `torch` brings gigabytes of CUDA to a machine
# that has no GPU.
TORCH := $(if $(shell command -v nvidia-smi),torch,torch==2.13.0)
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
NATIVE := CMakeLists.txt pyproject.toml $(wildcard csrc/* kernels/*/*.cpp kernels/*/*.h kernels/*/*.cu kernels/*/*.cuh)

.PHONY: run test test-slow lint cuda-check bench bench-simulator evidence clean

run: $(VENV)/installed
	$(BIN)/fedsyn run

test: $(VENV)/installed
	$(BIN)/python -m pytest -q -m "not slow"

test-slow: $(VENV)/installed
	$(BIN)/python -m pytest -q -m slow

lint: $(VENV)/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy fedsyn
	$(BIN)/clang-format --dry-run --Werror $$(git ls-files '*.cpp' '*.h' '*.cu' '*.cuh')

# Compiles the GPU kernels for three architectures and looks at what the compilers say of registers,
# spills and instructions; skips where nvcc or Triton is absent.
cuda-check: $(VENV)/installed
	$(BIN)/python -m pytest -q tests/kernels/test_cuda_compile.py tests/kernels/test_triton_compile.py

# Every operator against its peers: a table of ratios and peak memory, and JSON.
bench: $(VENV)/peers
	$(BIN)/python -m pytest -q bench --benchmark-quiet --benchmark-json=bench/results/operators.json
	$(BIN)/python bench/table.py bench/results/operators.json

# Without their dependencies, which would bring another torch.
$(VENV)/peers: $(VENV)/installed
	$(PIP) --no-deps open_clip_torch inf-cl liger-kernel
	touch $@

# The same federated rounds in fedsyn, a plain loop, pfl-research and Flower (docs/simulator.md);
# `make bench-simulator ARGS=--quick` tries all of them in a minute and keeps nothing.
bench-simulator: $(SIMULATORS)/installed
	PYTHONPATH=bench $(BIN)/python -m simulator --peers $(SIMULATORS)/bin/python $(ARGS)

# An environment of their own, because they pin typer, rich and packaging below what .venv has. It
# finds torch and the rest in .venv; neither framework asks for torch itself.
$(SIMULATORS)/installed: $(VENV)/installed
	$(BIN)/python -m venv --clear $(SIMULATORS)
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
		> "$$($(SIMULATORS)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/shared.pth"
	$(SIMULATORS)/bin/python -m pip install --quiet --disable-pip-version-check \
		pfl==0.6.0 "flwr[simulation]==1.41.0"
	touch $@

# Whether synthesis helps (docs/evidence.md): baselines, ablations and federations on real data, in
# less than two hours on two cores; interrupted, it goes on. `make evidence ARGS=--quick` tries all of
# it and keeps nothing.
evidence: $(VENV)/installed
	PYTHONPATH=bench $(BIN)/python -m evidence $(ARGS)

clean:
	rm -rf $(VENV) build

# An editable installation; the compiled module is rebuilt when its sources change.
$(VENV)/installed: $(NATIVE)
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(PIP) "$(TORCH)"
	$(PIP) scikit-build-core pybind11 cmake ninja
	$(PIP) --no-build-isolation --editable ".[test,bench,dev]"
	touch $@
