"""What either side holds the other's arrays to."""

import re

import pytest
import torch

from fedsyn.deployment.validation import RefusedError, check, check_counts

LIKE = {"a": torch.zeros(2, 3), "n": torch.zeros(2, dtype=torch.long)}
GOOD = {"a": torch.ones(2, 3), "n": torch.ones(2, dtype=torch.long)}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"b": torch.zeros(1)}, "it holds ['a', 'b', 'n']; expected ['a', 'n']"),
        ({"a": torch.zeros(3, 2)}, "it has a of torch.float32 [3, 2]; expected torch.float32 [2"),
        ({"a": torch.zeros(6)}, "it has a of torch.float32 [6]"),
        ({"n": torch.zeros(2)}, "it has n of torch.float32 [2]; expected torch.int64 [2]"),
        ({"a": torch.full((2, 3), torch.nan)}, "it has a with values that are not finite"),
        ({"a": torch.zeros(1, 3)}, "it has a of torch.float32 [1, 3]"),
    ],
)
def test_names_types_shapes_and_numbers_are_those_expected(changes, words):
    with pytest.raises(RefusedError, match=re.escape(words)):
        check("it", GOOD | changes, LIKE)


def test_what_is_as_expected_is_given_back():
    assert check("it", GOOD, LIKE) is GOOD
    with pytest.raises(RefusedError, match=re.escape("it holds ['a']")):
        check("it", {"a": GOOD["a"]}, LIKE)


def test_where_less_is_allowed_more_is_not():
    shorter = GOOD | {"a": torch.ones(1, 3)}
    assert check("it", shorter, LIKE, smaller=True) is shorter
    for shape in ((3, 3), (2, 4), (2,)):
        with pytest.raises(RefusedError, match="it has a of"):
            check("it", GOOD | {"a": torch.ones(shape)}, LIKE, smaller=True)


def test_numbers_of_rows_are_not_below_zero():
    check_counts("it", {"n": torch.tensor([0, 3])})
    with pytest.raises(RefusedError, match="it has n below 0"):
        check_counts("it", {"n": torch.tensor([0, -3])})
