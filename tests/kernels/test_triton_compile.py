"""What the compiler says about the Triton kernels for Hopper, without a GPU.

The launch functions run on CPU tensors with a stand-in for the CUDA driver and with launches that
stop after compilation, so what is compiled is what they would launch.
"""

import importlib
import os
import re
import subprocess
from collections import Counter

import pytest
import torch

if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("the interpreter compiles nothing", allow_module_level=True)
triton = pytest.importorskip("triton")
tl = importlib.import_module("triton.language")

# Triton 3.6 spills up to four registers: where info_nce's guard rarely goes, and in kmeans' sums.
SPILLED = 0 if tuple(map(int, triton.__version__.split(".")[:2])) >= (3, 9) else 16  # bytes
SHARED_MEMORY = 227 * 1024  # of a Hopper multiprocessor, less a reserved kilobyte
FLOAT32, BFLOAT16 = torch.float32, torch.bfloat16


class Hopper:
    """As much of a driver as compilation asks for; its device number is no real device's."""

    def get_current_target(self):
        return triton.backends.compiler.GPUTarget("cuda", 90, 32)

    def get_current_device(self):
        return -1

    def get_current_stream(self, device):
        return 0


@pytest.fixture
def compiled(monkeypatch):
    """The kernels launched so far: name → compiled kernel, each of its last launch."""
    launched = {}
    run = triton.runtime.jit.JITFunction.run

    def compile_only(self, *args, grid, warmup, **options):
        launched[self.__name__] = run(self, *args, grid=grid, warmup=True, **options)
        return launched[self.__name__]

    monkeypatch.setattr(triton.runtime.jit.JITFunction, "run", compile_only)
    monkeypatch.setattr(triton.runtime.driver, "_active", Hopper())
    return launched


@pytest.fixture
def kernels():
    return lambda name: importlib.import_module(f"fedsyn.kernels.{name}.triton")


def cuobjdump(kernel, tmp_path, *options):
    cubin = tmp_path / "kernel.cubin"
    cubin.write_bytes(kernel.asm["cubin"])
    command = [triton.knobs.nvidia.cuobjdump.path, *options, cubin]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def check_resources(compiled, tmp_path):
    for name, kernel in compiled.items():
        usage = cuobjdump(kernel, tmp_path, "--dump-resource-usage")
        (stack,) = re.findall(r"STACK:(\d+)", usage)
        assert int(stack) <= SPILLED, f"{name} spills registers: {usage}"
        assert kernel.metadata.shared <= SHARED_MEMORY, name


def instructions(kernel, tmp_path):
    """How often each instruction occurs, e.g. ``{"MUFU.LG2": 64}``."""
    sass = cuobjdump(kernel, tmp_path, "-sass")
    found = re.findall(
        r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?([A-Z0-9]+(?:\.[A-Z0-9]+)?)", sass, re.M
    )
    assert found
    return Counter(found)


def large(kernels, name, *shape, dtype, **sizes):
    """The tile that the operator chooses for operands of that shape."""
    return kernels(name)._tile(torch.empty(shape, dtype=dtype, device="meta"), **sizes)


@pytest.mark.parametrize(
    ("shape", "dtype", "masked"),
    [
        ((1, 32768, 512), BFLOAT16, False),
        ((1, 32768, 512), BFLOAT16, True),
        ((1, 32768, 256), BFLOAT16, False),
        ((100, 64, 128), BFLOAT16, True),
        ((1, 32768, 512), FLOAT32, True),
    ],
    ids=str,
)
def test_info_nce(compiled, kernels, tmp_path, shape, dtype, masked):
    tile = large(kernels, "info_nce", *shape, dtype=dtype, n=shape[1])
    assert (tile.m, tile.n) != (64, 64) or shape[1] == 64
    x, scale = torch.zeros(2, 300, shape[2], dtype=dtype), torch.ones(2)
    valid = torch.ones(2, 300, dtype=torch.bool) if masked else None
    sums = kernels("info_nce").lse(x, x, scale, valid, valid, tile=tile)
    kernels("info_nce").gradients(scale, x, x, scale, valid, valid, *sums, 0, tile=tile)
    assert compiled.keys() == {"_lse_tile", "_merge", "_logit_gradients", "_inner_block"}
    check_resources(compiled, tmp_path)
    operand = ".f32.bf16.bf16" if dtype == BFLOAT16 else ".f32.tf32.tf32"
    for name in ("_lse_tile", "_logit_gradients"):
        ptx = compiled[name].asm["ptx"]
        assert re.search(rf"wgmma\.mma_async\.sync\.aligned\.m64n\d+k\d+{operand}", ptx)
        assert "cp.async.bulk.tensor" in ptx
    # One exponential a pair, but for the tiles where the guard asks for two.
    pairs = tile.m * tile.n // (32 * tile.warps)
    assert instructions(compiled["_lse_tile"], tmp_path)["MUFU.EX2"] == 3 * pairs


@pytest.mark.parametrize(
    ("shape", "k", "dtype"),
    [
        ((100, 2000, 128), 10, BFLOAT16),
        ((100, 2000, 128), 100, BFLOAT16),
        ((100, 200, 128), 250, BFLOAT16),
        ((100, 200, 128), 1000, BFLOAT16),
        ((100, 200, 128), 100, FLOAT32),
    ],
    ids=str,
)
def test_prototype_nce(compiled, kernels, tmp_path, shape, k, dtype):
    tile = large(kernels, "prototype_nce", *shape, dtype=dtype, k=k)
    x, prototypes = (torch.zeros(2, n, shape[2], dtype=dtype) for n in (shape[1], k))
    target, scale = torch.zeros(2, shape[1], dtype=torch.int64), torch.ones(2)
    valid = torch.ones(2, k, dtype=torch.bool)
    kernels("prototype_nce").loss_and_gradients(
        x, prototypes, target, scale, valid, True, True, tile=tile
    )
    check_resources(compiled, tmp_path)
    assert "wgmma.mma_async" in compiled["_contrast"].asm["ptx"]


@triton.jit
def _library_log2(x, y):
    tl.store(y, tl.log2(tl.load(x)))


@pytest.fixture
def polynomial(compiled):
    _library_log2[(1,)](torch.ones(1), torch.ones(1), enable_fp_fusion=True)
    kernel = compiled.pop("_library_log2")
    assert "lg2.approx" not in kernel.asm["ptx"] and len(constants(kernel)) > 10
    return kernel


def constants(kernel):
    return set(re.findall("0f[0-9A-F]{8}", kernel.asm["ptx"]))


def check_logarithms(kernel, polynomial, count, tmp_path):
    """By the special-function unit, not by the polynomial that `tl.log2` is."""
    assert kernel.asm["ptx"].count("lg2.approx.ftz.f32") == count
    assert instructions(kernel, tmp_path)["MUFU.LG2"] == count
    assert len(constants(polynomial) & constants(kernel)) < len(constants(polynomial)) / 2


@pytest.mark.parametrize("dtype", [BFLOAT16, FLOAT32], ids=str)
@pytest.mark.parametrize("k", [10, 100, 1000])
def test_js_assign_and_filter(compiled, kernels, polynomial, tmp_path, k, dtype):
    x, p = torch.zeros(200, 128, dtype=dtype), torch.zeros(3, k, 128, dtype=dtype)
    valid = torch.ones(3, k, dtype=torch.bool)
    kernels("js_divergence").filter(x, x, p, p, torch.ones(1), valid)
    check_resources(compiled, tmp_path)
    kernel = compiled["_least_divergence"]
    tile = kernels("js_divergence")._tile(x, k)
    assert "wgmma.mma_async" in kernel.asm["ptx"]
    # Two logarithms a pair of probabilities, in however many lanes its tile takes.
    lanes = max(tile.m * tile.n // (32 * tile.warps), 1)
    check_logarithms(kernel, polynomial, 2 * lanes, tmp_path)


@pytest.mark.parametrize("k", [30, 1000])
def test_js_nearest(compiled, kernels, polynomial, tmp_path, k):
    kernels("js_divergence").nearest(torch.zeros(200, k), torch.zeros(100, k))
    assert compiled.keys() == {"_bounds", "_nearest_row"}
    check_resources(compiled, tmp_path)
    assert "wgmma.mma_async" in compiled["_bounds"].asm["ptx"]
    # Twice in the kernel: for the first client, and for the others.
    lanes = max(32, min(1 << (k - 1).bit_length(), 512)) // 32
    check_logarithms(compiled["_nearest_row"], polynomial, 2 * 2 * lanes, tmp_path)


@pytest.mark.parametrize(
    ("k", "depth", "dtype"), [(10, 128, BFLOAT16), (1000, 128, BFLOAT16), (100, 77, FLOAT32)]
)
def test_kmeans(compiled, kernels, tmp_path, k, depth, dtype):
    x, centroids = (torch.zeros(2, n, depth, dtype=dtype) for n in (1000, k))
    rows = torch.tensor([1000, 10])
    assignment = torch.zeros(2, 1000, dtype=torch.int64)
    kernels("kmeans").assign(x, centroids, rows)
    kernels("kmeans").update(x, assignment, k, torch.ones(2, 1000), rows)
    assert compiled.keys() == {"_assign_rows", "_add_rows", "_add_pieces"}
    check_resources(compiled, tmp_path)
    assert "wgmma.mma_async" in compiled["_assign_rows"].asm["ptx"]
    assert not any("atom." in kernel.asm["ptx"] for kernel in compiled.values())
