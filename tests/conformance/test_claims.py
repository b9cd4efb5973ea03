"""How a suite looks whether numbers are the same."""

import pytest
import torch

from fedsyn.conformance.claims import Claims
from fedsyn.errors import PluginError

CLAIMS = Claims("method 'mine'")
NAN, INF = torch.nan, torch.inf


@pytest.mark.parametrize("found", [[1.0, 2.0], [NAN, 2.0], [INF, 2.0], [1.0, 2.001], []])
def test_the_same_numbers_are_close_missing_ones_included(found):
    expected = [value if value != 2.001 else 2.0 for value in found]
    CLAIMS.close("a sum", torch.tensor(found), torch.tensor(expected), "alone")


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([1.0, 2.0], [1.0, 2.1]),
        ([NAN, 2.0], [NAN, 3.0]),  # a missing number hides no other
        ([NAN, 2.0], [1.0, 2.0]),
        ([1.0, 2.0], [NAN, 2.0]),
        ([INF, 2.0], [-INF, 2.0]),
        ([INF, 2.0], [INF, 3.0]),
    ],
)
def test_others_are_told(found, expected):
    with pytest.raises(PluginError, match=r"^method 'mine': a sum differs by .* alone$"):
        CLAIMS.close("a sum", torch.tensor(found), torch.tensor(expected), "alone")
