import subprocess
import sys
import threading

import pytest
import torch

from fedsyn import ops
from fedsyn.ops.backends import BACKENDS, VARIABLE, choose, forced, inherit

HALF = torch.full((2,), 0.5)


@pytest.fixture(autouse=True)
def nothing_forced(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)


def test_backends_are_known_names_in_order_with_the_reference_first():
    assert ops.backends()[0] == "reference"
    assert list(ops.backends()) == [name for name in BACKENDS if name in ops.backends()]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu_backend_without_a_gpu():
    assert not {"cuda", "triton"} & set(ops.backends())


def test_the_context_forces_one_and_restores_what_was():
    assert forced() is None
    with ops.backend("reference"):
        assert forced() == "reference"
        with inherit(None):
            assert forced() is None
        assert forced() == "reference"
    assert forced() is None


def test_the_environment_forces_one_and_the_context_goes_before_it(monkeypatch):
    monkeypatch.setenv(VARIABLE, "reference")
    assert choose("op", ("cpu", "reference"), "cpu") == "reference"
    if "cpu" in ops.backends():
        with ops.backend("cpu"):
            assert choose("op", ("cpu", "reference"), "cpu") == "cpu"


def test_an_empty_variable_forces_nothing(monkeypatch):
    monkeypatch.setenv(VARIABLE, "")
    assert forced() is None


def test_other_threads_are_not_forced():
    seen = []
    with ops.backend("reference"):
        thread = threading.Thread(target=lambda: seen.append(forced()))
        thread.start()
        thread.join()
    assert seen == [None]


def test_unforced_the_best_that_can_run_is_chosen():
    assert choose("op", ("cuda", "reference"), "cuda") in ("cuda", "reference")
    assert choose("op", ("reference",), "cpu") == "reference"


def test_unknown_names_are_refused(monkeypatch):
    with pytest.raises(ValueError, match="backend: unknown backend 'gpu', expected one of"):
        ops.backend("gpu").__enter__()
    monkeypatch.setenv(VARIABLE, "gpu")
    with pytest.raises(ValueError, match=f"{VARIABLE}: unknown backend 'gpu'"):
        ops.js_divergence(HALF, HALF)


@pytest.mark.skipif("cuda" in ops.backends(), reason="cuda can run here")
def test_unavailable_names_are_refused():
    with pytest.raises(ValueError, match="'cuda' cannot run here, available are"):
        ops.backend("cuda").__enter__()


def test_a_forced_backend_that_the_operator_lacks_is_refused():
    with ops.backend("reference"), pytest.raises(ValueError, match="op: backend 'reference' is"):
        choose("op", ("cuda",), "cuda")


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)


def test_importing_the_operators_imports_no_triton():
    assert run("import sys, fedsyn.ops; assert 'triton' not in sys.modules").stdout == ""


def test_without_the_compiled_module_one_message_and_the_reference():
    done = run(
        "import sys\n"
        "sys.modules['fedsyn._C'] = None\n"
        "import torch\n"
        "from fedsyn import ops\n"
        "half = torch.full((2,), 0.5)\n"
        "assert 'cpu' not in ops.backends()\n"
        "assert ops.js_divergence(half, half) == 0 == ops.js_divergence(half, half)\n"
    )
    assert done.stderr.count("the compiled kernels are absent") == 1
