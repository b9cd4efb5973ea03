"""Moments of pairs: sums over a client's rows, in float64, whatever their number."""

import numpy as np
import torch

from fedsyn.data import moments
from fedsyn.data.moments import moments_like, pair_moments

FEATURES = torch.randn(40, 3, generator=torch.Generator().manual_seed(0)) + 100


def test_moments_are_the_sums_of_a_clients_rows(monkeypatch):
    monkeypatch.setattr(moments, "CHUNK", 7)
    clients = [np.arange(5, 30), np.array([], dtype=int), np.array([39])]
    found = list(pair_moments(FEATURES, clients))
    for rows, one in zip(clients, found, strict=True):
        mine = FEATURES[torch.from_numpy(rows)].double()
        assert one["count"] == len(rows)
        torch.testing.assert_close(one["sum"], mine.sum(0))
        second = (mine.T @ mine)[[0, 0, 0, 1, 1, 2], [0, 1, 2, 1, 2, 2]]
        torch.testing.assert_close(one["second"], second)
        assert {value.dtype for value in one.values()} == {torch.float64}


def test_their_form_is_that_of_a_client_without_pairs():
    like, (one,) = moments_like(3), pair_moments(FEATURES, [np.arange(4)])
    assert like.keys() == one.keys()
    for name, value in like.items():
        assert (value.shape, value.dtype) == (one[name].shape, one[name].dtype)
        assert not value.any()
