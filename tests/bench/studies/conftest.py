"""What the tests of the studies share."""

import pytest


@pytest.fixture
def facts():
    """When, on what and by which program a study was measured."""
    return {
        "date": "2026-01-01", "machine": "m", "device": "cpu", "code": "abc",
        "versions": {"fedsyn": "0", "torch": "2"},
    }  # fmt: skip
