"""What can be known of the CUDA kernels without a GPU."""

import ctypes
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from fedsyn.ops.backends import native

ROOT = Path(__file__).parents[2]
nvcc = shutil.which("nvcc")
compiled = native() is not None and native().cuda_compiled()


@pytest.mark.skipif(nvcc is None, reason="nvcc is absent")
def test_the_kernels_compile_for_hopper_without_spills(tmp_path):
    done = subprocess.run(
        [
            *(nvcc, "-std=c++20", "-O3", "-I", ROOT, "-cubin", "-Xptxas", "-v"),
            *("-gencode=arch=compute_90a,code=sm_90a", "-o", tmp_path / "kernel.cubin"),
            ROOT / "kernels" / "js_divergence" / "cuda.cu",
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    report = re.findall(
        r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", done.stderr
    )
    assert len(report) == 16, done.stderr  # 2 passes x 2 types x short, long x packed, single
    assert set(report) == {("0", "0", "0")}, done.stderr


@pytest.fixture
def library():
    if not compiled:
        pytest.skip("the CUDA kernels were not built")
    loaded = ctypes.CDLL(str(next(Path(native().__file__).parent.glob("libfedsyn_cuda.*"))))
    loaded.fedsyn_cuda_error_string.restype = ctypes.c_char_p
    address, size = ctypes.c_void_p, ctypes.c_int64
    loaded.fedsyn_js_divergence_f32.argtypes = [address] * 3 + [size] * 2 + [address]
    return loaded


def test_the_library_loads_from_plain_c(library):
    assert library.fedsyn_cuda_error_string(0) == b"no error"
    assert library.fedsyn_js_divergence_f32(None, None, None, 0, 4, None) == 0  # nothing to do


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_launch_without_a_gpu_is_a_clean_error(library):
    code = library.fedsyn_js_divergence_f32(64, 64, 64, 1, 4, None)
    assert code != 0
    assert library.fedsyn_cuda_error_string(code) != b"unrecognized error code"
    with pytest.raises(RuntimeError, match=rf"js_divergence could not be launched: .*{code}"):
        native().js_divergence_cuda_float32(64, 64, 64, 1, 4, 0)
