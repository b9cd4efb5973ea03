# Everything a newcomer needs: `make run` and `make test` on a machine with python3, make and a C++
# compiler. All Python packages go into .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SIMULATORS := $(VENV)/simulator-peers
FLOWER := $(VENV)/flower
CLIP := $(VENV)/clip
# torch is pinned here, not in the package: a plain `torch` brings gigabytes of CUDA to a machine
# that has no GPU.
TORCH := $(if $(shell command -v nvidia-smi),torch,torch==2.13.0)
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# A network with a loopback and nothing else, and processes that end with the command; where the
# system lets us make them.
ALONE := unshare --map-root-user --net --pid --fork --mount-proc --kill-child
LOOPBACK = $(if $(shell $(ALONE) ip link set lo up >/dev/null 2>&1 && echo yes),\
	$(ALONE) sh -c 'ip link set lo up; "$$0" "$$@"; exit $$?')
NATIVE := CMakeLists.txt pyproject.toml $(wildcard csrc/* kernels/*/*.cpp kernels/*/*.h kernels/*/*.cu kernels/*/*.cuh)

.PHONY: run test test-slow test-clip test-flower test-flower-short lint cuda-check bench bench-simulator \
	bench-flower evidence evidence-related clean

run: $(VENV)/installed
	$(BIN)/fedsyn run

# FEDSYN_DATA=DIR adds the tests of data sets that are not ours to copy: DIR/NAME/NAME.npz with NAME of
# emoji, wikipedia, uci_mfeat and flickr8k_1k. The others need nothing from outside.
test: $(VENV)/installed
	$(BIN)/python -m pytest -q -n auto -m "not slow"

test-slow: $(VENV)/installed
	$(BIN)/python -m pytest -q -m slow

# Real nodes, with real Flower processes on the loopback; and the command line under Flower's pins.
test-flower: $(FLOWER)/installed
	$(LOOPBACK) $(FLOWER)/bin/python -m pytest -q tests/deployment tests/cli

test-flower-short: $(FLOWER)/installed
	$(LOOPBACK) $(FLOWER)/bin/python -m pytest -q -m "flower and not slow" tests/deployment
	$(LOOPBACK) $(FLOWER)/bin/python -m pytest -q tests/cli

# Teachers by open_clip and transformers: tiny models with random weights, made on the spot.
test-clip: $(CLIP)/installed
	$(CLIP)/bin/python -m pytest -q tests/encoders

# What a round costs on real nodes (docs/flower.md).
bench-flower: $(FLOWER)/installed
	$(FLOWER)/bin/python bench/flower.py $(ARGS)

lint: $(VENV)/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy fedsyn bench
	$(BIN)/clang-format --dry-run --Werror $$(git ls-files '*.cpp' '*.h' '*.cu' '*.cuh')

# Compiles the GPU kernels for three architectures and looks at what the compilers say of registers,
# spills and instructions; skips where nvcc or Triton is absent.
cuda-check: $(VENV)/installed
	$(BIN)/python -m pytest -q tests/kernels/test_cuda_compile.py tests/kernels/test_triton_compile.py

# Every operator against its peers: a table of ratios and peak memory, and a result file.
bench: $(VENV)/peers
	$(BIN)/python -m pytest -q bench --benchmark-quiet --results=bench/results/operators.jsonl
	$(BIN)/python bench/table.py bench/results/operators.jsonl

# Without their dependencies, which would bring another torch.
$(VENV)/peers: $(VENV)/installed
	$(PIP) --no-deps open_clip_torch inf-cl liger-kernel
	touch $@

# The same federated rounds in fedsyn, a plain loop, pfl-research and Flower (docs/simulator.md);
# `make bench-simulator ARGS=--quick` tries all of them in a minute and keeps nothing.
bench-simulator: $(SIMULATORS)/installed
	PYTHONPATH=bench $(BIN)/python -m simulator --peers $(SIMULATORS)/bin/python $(ARGS)

# Environments of their own for what pins typer, rich, click or packaging otherwise than .venv. They
# find torch, fedsyn and the rest in .venv (addsitedir: an editable fedsyn is a .pth file there).
define over-venv
	$(BIN)/python -m venv --clear $(1)
	$(BIN)/python -c 'import sysconfig; print("import site; site.addsitedir(%r)" % sysconfig.get_path("purelib"))' \
		> "$$($(1)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/shared.pth"
	$(1)/bin/python -m pip install --quiet --disable-pip-version-check $(2)
endef

# Neither framework asks for torch itself.
$(SIMULATORS)/installed: $(VENV)/installed
	$(call over-venv,$(SIMULATORS),pfl==0.6.0 "flwr[simulation]==1.41.0")
	touch $@

# The `flower` extra of pyproject.toml, and Ray for Flower's simulation.
$(FLOWER)/installed: $(VENV)/installed
	$(call over-venv,$(FLOWER),"flwr[simulation]==1.41.0" "click<8.5")
	touch $@

# The `clip` extra, in two parts: what asks for torchvision would bring another torch.
$(CLIP)/installed: $(VENV)/installed
	$(call over-venv,$(CLIP),"transformers>=5" ftfy)
	$(CLIP)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
		"open_clip_torch>=3" timm torchvision==0.28.0
	touch $@

# Whether synthesis helps, and what it gives away (docs/evidence.md): baselines, the frontier of gain and leak,
# and small studies on real data in the folder DATA, in less than three hours on two cores; interrupted, it
# goes on. `make evidence ARGS=--quick` tries all of it on embedded data and keeps nothing.
evidence: $(VENV)/installed
	PYTHONPATH=bench $(BIN)/python -m studies.evidence $(if $(DATA),--data "$(DATA)") $(ARGS)

# The related methods, each in its own task, against baselines and ablations (docs/related-methods.md),
# in less than three hours on two cores; interrupted, it goes on. `ARGS=--quick` keeps nothing.
evidence-related: $(VENV)/installed
	PYTHONPATH=bench $(BIN)/python -m studies.related $(if $(DATA),--data "$(DATA)") $(ARGS)

clean:
	rm -rf $(VENV) build

# An editable installation; the compiled module is rebuilt when its sources change.
$(VENV)/installed: $(NATIVE)
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(PIP) "$(TORCH)"
	$(PIP) scikit-build-core pybind11 cmake ninja
	$(PIP) --no-build-isolation --editable ".[test,bench,dev]"
	touch $@
