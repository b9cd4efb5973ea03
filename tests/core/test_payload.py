"""Payloads: how much they weigh on the wire."""

import torch

from fedsyn.core import payload


def test_bytes_are_those_of_the_tensors():
    assert payload.nbytes({"a": torch.zeros(3, 2), "b": torch.zeros(5).long()}) == 24 + 40
