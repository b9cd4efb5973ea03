"""What all tests share."""

import os
import sys

import pytest
import torch
from hypothesis import HealthCheck, settings

from fedsyn import cli
from fedsyn.ops import backends

PATIENCE = 1800  # seconds for tests that compile kernels or start processes

# Other machines, and this one while it is busy, are slower than any deadline.
settings.register_profile("default", deadline=None)
# The same examples every time: what is refused was broken by the change at hand.
settings.register_profile(
    "ci",
    deadline=None,
    derandomize=True,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.hookimpl(trylast=True)  # after Hypothesis has marked its own
def pytest_collection_modifyitems(items):
    """Skip the tests that need a GPU where there is none, and say how long the others may take."""
    absent = pytest.mark.skip(reason="no NVIDIA GPU, or the CUDA kernels were not built")
    without_gpu = "cuda" not in backends()
    for item in items:
        if without_gpu and "gpu" in item.keywords:
            item.add_marker(absent)
        if item.get_closest_marker("timeout"):
            continue
        if any(map(item.get_closest_marker, ("slow", "flower", "gpu"))):
            item.add_marker(pytest.mark.timeout(PATIENCE))
        elif item.get_closest_marker("hypothesis"):
            # Hypothesis takes the failure for one of its example and tries that again, without an
            # end; the other method ends the session, after it has said where it was.
            item.add_marker(pytest.mark.timeout(method="thread"))


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
