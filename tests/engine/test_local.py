"""Pieces of the round loop."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedsyn.data import federated
from fedsyn.engine import local
from fedsyn.engine.federation import federation
from fedsyn.metrics.timing import Stopwatch


@given(st.integers(1, 200), st.floats(0.01, 1.0), st.integers(0, 5), st.integers(1, 9))
def test_sampling_takes_the_share_of_clients_in_order(clients, fraction, seed, round):
    ids = local.sampled(clients, fraction, seed, round)
    assert len(ids) == max(1, local.round_half_up(fraction * clients))
    assert list(ids) == sorted(set(ids))
    assert all(0 <= client < clients for client in ids)


def test_rounds_sample_different_clients():
    drawn = {local.sampled(50, 0.1, 0, round) for round in range(1, 20)}
    assert len(drawn) > 10


def test_bytes_are_what_the_payloads_weigh(make):
    settings = make("run.fraction=0.3", "synthesis.enabled=false")
    fed = federation(settings, federated.load(settings), torch.device("cpu"))
    row = local.step(fed, local.begin(fed), Stopwatch())
    assert row["bytes_up"] == row["bytes_down"] == 3 * 4 * fed.problem.net.layout.size


@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_private_networks_stay_on_their_clients(make, fraction):
    settings = make(f"run.fraction={fraction}")
    fed = federation(settings, federated.load(settings), torch.device("cpu"))
    state = local.begin(fed)
    row = local.step(fed, state, Stopwatch())
    moved = (state.clients["private"] != local.begin(fed).server["model"]).any(-1)
    assert moved.nonzero().squeeze(-1).tolist() == row["clients"]
