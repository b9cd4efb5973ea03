"""What all tests share."""

import sys

import pytest
import torch

from fedsyn import cli
from fedsyn.ops import backends


def pytest_collection_modifyitems(items):
    """Skip the tests that need a GPU where there is none."""
    if "cuda" in backends():
        return
    absent = pytest.mark.skip(reason="no NVIDIA GPU, or the CUDA kernels were not built")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(absent)


@pytest.fixture(autouse=True)
def one_thread():
    """Small products are faster on one thread, and results do not depend on the machine's cores."""
    torch.set_num_threads(1)


@pytest.fixture
def fedsyn(capsys, monkeypatch, tmp_path):
    """``fedsyn("run", ...)``: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["fedsyn", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out, err = capsys.readouterr()
        return caught.value.code or 0, out, err

    return call
