"""What all tests share."""

import pytest
import torch

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
