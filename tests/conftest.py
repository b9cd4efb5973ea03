"""What all tests share: those that need a GPU are skipped where there is none."""

import pytest

from fedsyn.ops import backends


def pytest_collection_modifyitems(items):
    if "cuda" in backends():
        return
    absent = pytest.mark.skip(reason="no NVIDIA GPU, or the CUDA kernels were not built")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(absent)
