"""What can be known of the CUDA kernels without a GPU."""

import importlib.util
import re
import shutil
import subprocess
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
ARCHITECTURES = ("80", "90a", "100")
nvcc = shutil.which("nvcc")


def disassembler():
    """``cuobjdump``: on the path, beside nvcc, or the one that Triton brings."""
    places = [Path(tool).resolve().parent for tool in (nvcc,) if tool]
    triton = importlib.util.find_spec("triton")
    if triton is not None:
        places.append(Path(triton.origin).parent / "backends" / "nvidia" / "bin")
    found = (shutil.which("cuobjdump", path=str(place)) for place in places)
    return shutil.which("cuobjdump") or next(filter(None, found), None)


class Compiled:
    """A source file for all architectures: what ptxas says, and the machine code."""

    def __init__(self, source, folder):
        self.fatbin = folder / f"{source.parent.name}_{source.stem}.fatbin"
        targets = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in ARCHITECTURES]
        done = subprocess.run(
            [
                *(nvcc, "-std=c++20", "-O3", "-I", ROOT, "-fatbin", "-Xptxas", "-v"),
                *(*targets, "-o", self.fatbin, source),
            ],
            capture_output=True,
            text=True,
        )
        self.succeeded, self.report = done.returncode == 0, done.stderr

    def instructions(self, architecture):
        """Count the opcodes of each kernel, by its mangled name."""
        listing = subprocess.run(
            [disassembler(), "-sass", "-arch", f"sm_{architecture}", self.fatbin],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        bodies = re.split(r"Function : (\S+)", listing)[1:]
        opcode = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z0-9_.]+)")
        return {
            name: Counter(opcode.findall(body))
            for name, body in zip(bodies[::2], bodies[1::2], strict=True)
        }


SOURCES = sorted(ROOT.glob("kernels/*/*.cu"))


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    if nvcc is None:
        pytest.skip("nvcc is absent")
    folder = tmp_path_factory.mktemp("cuda")
    with ThreadPoolExecutor(2) as pool:
        return dict(
            zip(SOURCES, pool.map(lambda source: Compiled(source, folder), SOURCES), strict=True)
        )


def of(kernels, room, stem="cuda"):
    return kernels[ROOT / "kernels" / room / f"{stem}.cu"]


def count(opcodes, prefix):
    """Count the opcodes that begin like this."""
    return sum(n for opcode, n in opcodes.items() if opcode.startswith(prefix))


def test_there_are_kernels():
    assert len(SOURCES) >= 7


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_the_kernels_compile_without_spills(kernels, source):
    compiled = kernels[source]
    assert compiled.succeeded, compiled.report
    assert "warning" not in compiled.report, compiled.report
    entries = compiled.report.count("Compiling entry function")
    spills = re.findall(
        r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads",
        compiled.report,
    )
    assert len(spills) >= entries
    assert set(spills) <= {("0", "0", "0")}, compiled.report
    if "__global__" in source.read_text():
        assert entries > 0 and entries % len(ARCHITECTURES) == 0


@pytest.fixture
def sass(kernels):
    if disassembler() is None:
        pytest.skip("cuobjdump is absent")
    return lambda architecture, *where: of(kernels, *where).instructions(architecture)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_divergences_take_their_logarithms_from_the_special_function_unit(sass, architecture):
    """Two logarithms and a reciprocal a bin; library logarithms are polynomials in FFMA."""
    rows = sass(architecture, "js_divergence")
    single = {name: ops for name, ops in rows.items() if "kernelIf" in name}
    assert len(single) == 8 and len(rows) == 16  # 2 passes x short, long x packed, single; 2 dtypes
    for name, ops in {**single, **sass(architecture, "js_divergence", "nearest")}.items():
        assert count(ops, "MUFU.LG2") == 2 * count(ops, "MUFU.RCP") > 0, (name, ops)
    for name, ops in single.items():
        # The series and the sum of the two logarithms' products; scaling by ln 2 may be fused.
        assert count(ops, "FFMA") <= 6 * count(ops, "MUFU.RCP"), (name, ops)
    for name, ops in sass(architecture, "js_divergence", "assign").items():
        # 32 pairs of probabilities a thread, two logarithms and two powers each.
        assert count(ops, "MUFU.LG2") == 64, (name, ops)
        assert count(ops, "MUFU.EX2") >= 64, (name, ops)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_products_of_bfloat16_run_on_the_tensor_cores(sass, architecture):
    products = {
        name: ops
        for name, ops in sass(architecture, "prototype_nce").items()
        if re.search("(similarity|dx|dp)_kernel", name)
    }
    assert len(products) == 12  # 3 products x 2 dtypes x packed, single
    for name, ops in products.items():
        assert (count(ops, "HMMA.16816.F32.BF16") > 0) == ("bfloat16" in name), (name, ops)


# ---- The library, called from plain C ---------------------------------------------------------

NOTHING_TO_DO = {
    "js_divergence_f32": (None, None, None, 0, 4),
    "js_assign_f32": (*[None] * 4, 1.0, *[None] * 3, 0, 4, 4),
    "js_filter_f32": (*[None] * 4, 1.0, *[None] * 4, 0, 2, 4, 4),
    "js_nearest_f32": (*[None] * 4, 0, 2, 4),
    "prototype_nce_f32": (*[None] * 4, 1.0, *[None] * 6, 0, 4, 4, 4),
    "prototype_nce_bf16": (*[None] * 4, 1.0, *[None] * 6, 0, 4, 4, 4),
    "gradient_penalty_rows_f32": (*[None] * 4, 0, 4, 4),
    "gradient_penalty_rows_bf16": (*[None] * 4, 2, 0, 4),
    "leaky_relu_mask_f32": (None, None, 0.2, None, None, 0, 4, 4),
    "leaky_relu_mask_bf16": (None, None, 0.2, None, None, 2, 0, 4),
    "mask_multiply_f32": (None, None, 0.2, None, 0, 4),
    "mask_multiply_bf16": (None, None, 0.2, None, 0, 4),
    "kmeans_assign_f32": (*[None] * 5, 2, 0, 4, 4),
    "kmeans_update_f32": (*[None] * 6, 0, 4, 4, 4),
}


@pytest.mark.parametrize("function", NOTHING_TO_DO)
def test_nothing_to_do_is_a_success(library, function):
    assert library.code(function, *NOTHING_TO_DO[function]) == 0


def test_errors_have_a_sentence(library):
    assert library.c.fedsyn_cuda_error_string(0) == b"no error"


@pytest.mark.parametrize("function", NOTHING_TO_DO)
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_launch_without_a_gpu_is_a_clean_error(library, function):
    # Something to do: no size is zero, and the addresses are never read.
    arguments = [1 if a == 0 and isinstance(a, int) else a for a in NOTHING_TO_DO[function]]
    code = library.code(function, *(64 if a is None else a for a in arguments))
    assert code != 0
    assert library.c.fedsyn_cuda_error_string(code) != b"unrecognized error code"


def test_prototype_nce_refuses_a_misaligned_workspace(library):
    arguments = list(NOTHING_TO_DO["prototype_nce_f32"])
    arguments[10:12] = 8, 1  # not a multiple of 16, and one client
    code = library.code("prototype_nce_f32", *arguments)
    assert library.c.fedsyn_cuda_error_string(code) == b"invalid argument"


def test_indices_that_would_not_fit_are_refused(library):
    arguments = list(NOTHING_TO_DO["kmeans_assign_f32"])
    arguments[7] = 2**31
    code = library.code("kmeans_assign_f32", *arguments)
    assert library.c.fedsyn_cuda_error_string(code) == b"invalid argument"


def test_the_workspace_holds_similarities_and_parts(library):
    workspace = library.prototype_nce_workspace
    assert workspace(0, 5, 5, 5) == 0
    # Clients x rows x (prototypes rounded up to 4, loss, dscale, a byte); a weight a client.
    assert workspace(2, 64, 5, 8) == 2 * 64 * (8 + 2) * 4 + 2 * 4 + 2 * 64
    # One tile of dP only: 1000 rows are split into 4 parts of 250 and more.
    assert workspace(1, 1000, 4, 8) == 1000 * (4 + 2) * 4 + 4 + 1000 + 4 * (4 * 8) * 4
    # 1024 tiles fill a GPU: no parts.
    assert workspace(4, 1000, 1024, 1024) == 4000 * (1024 + 2) * 4 + 4 * 4 + 4000


@pytest.mark.usefixtures("library")
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_module_names_the_operator_that_could_not_be_launched(check_refused):
    prototypes = (64, 64, 64, 0, 1.0, 0, 64, 0, 0, 0, 64, 1, 1, 1, 1, 0)
    calls = [
        ("js_divergence_cuda_float32", (64, 64, 64, 1, 4, 0), "js_divergence"),
        ("kmeans_assign_cuda_float32", (64, 64, 0, 64, 64, 1, 1, 1, 1, 0), "kmeans_assign"),
        ("mask_multiply_cuda_bfloat16", (64, 64, 0.2, 64, 1, 1, 0), "mask_multiply"),
        ("prototype_nce_cuda_bfloat16", prototypes, "prototype_nce"),
    ]
    check_refused(
        [
            (function, arguments, rf"{operator} could not be launched: .*CUDA error")
            for function, arguments, operator in calls
        ],
        RuntimeError,
    )


@pytest.mark.usefixtures("library")
def test_the_module_refuses_what_the_kernels_cannot_take(check_refused):
    check_refused(
        [
            ("kmeans_assign_cuda_float32", (0, 64, 0, 64, 64, 1, 1, 1, 1, 0), "an address is null"),
            ("kmeans_update_cuda_float32", (64, 0, 64, 64, 64, 64, 1, 1, 0, 1, 0), "count is 0"),
            ("gradient_penalty_rows_cuda_float32", (64, 64, 64, 0, 1, 0, 4, 0), "rows is 0"),
            ("prototype_nce_cuda_workspace", (1, 1, 1, 0), "width is 0"),
        ]
    )
