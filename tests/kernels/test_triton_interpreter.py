"""test_triton.py in Triton's interpreter: the kernels' arithmetic and indexing without a GPU."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.timeout(900)  # hundreds of tests, interpreted
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is absent")
@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="this is the interpreter")
def test_the_kernels_are_right_in_the_interpreter():
    # In a process of its own, because importing triton decides whether it interprets.
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
            *("-W", "ignore::RuntimeWarning:triton.*"),  # numpy's, of log2(0) and exp2(-inf)
            Path(__file__).with_name("test_triton.py"),
        ],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed and int(passed[1]) > 50, done.stdout
