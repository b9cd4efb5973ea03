"""Pieces of the round loop."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedsyn.core.payload import nbytes
from fedsyn.data import federated
from fedsyn.engine import local
from fedsyn.engine.clients import FILE, ClientRows
from fedsyn.engine.devices import HOST, Inline
from fedsyn.engine.federation import federation, round_half_up, sampled
from fedsyn.synthesis import generators


@given(st.integers(1, 200), st.floats(0.01, 1.0), st.integers(0, 5), st.integers(1, 9))
def test_sampling_takes_the_share_of_clients_in_order(clients, fraction, seed, round):
    ids = sampled(clients, fraction, seed, round)
    assert len(ids) == max(1, round_half_up(fraction * clients))
    assert list(ids) == sorted(set(ids))
    assert all(0 <= client < clients for client in ids)


def test_rounds_sample_different_clients():
    drawn = {sampled(50, 0.1, 0, round) for round in range(1, 20)}
    assert len(drawn) > 10


def begun(settings, folder):
    """A federation in its first state, on this machine's processor."""
    fed = federation(settings, federated.load(settings), HOST)
    rows = ClientRows(len(fed.silos), folder, settings.engine.memory << 20, HOST)
    return fed, local.begin(fed, rows), Inline(settings, HOST)


def test_bytes_are_what_the_payloads_weigh(make, tmp_path):
    fed, state, device = begun(make("run.fraction=0.3", "synthesis.enabled=false"), tmp_path)
    row = local.step(fed, state, device)
    assert row["bytes_up"] == row["bytes_down"] == 3 * 4 * fed.problem.net.layout.size


def test_what_never_changes_is_sent_once(make, tmp_path):
    fed, state, device = begun(make("synthesis.gate=false"), tmp_path)
    first, second = (local.step(fed, state, device)["bytes_up"] for _ in range(2))
    rows = state.clients.take(state.clients.known.tolist())
    assert first - second == nbytes(generators.introduction(rows, fed.config.synthesis))
    each = 10 * 4 * fed.problem.net.layout.size
    assert second == each + nbytes(generators.upload(rows, fed.config.synthesis))


def test_generators_rest_outside_their_rounds(make, tmp_path):
    settings = make("synthesis.first_round=2", "synthesis.last_round=2", "synthesis.gate=false")
    fed, state, device = begun(settings, tmp_path)
    rows = [local.step(fed, state, device) for _ in range(3)]
    assert ["generator" in row["losses"] for row in rows] == [False, True, False]
    assert [row["server"]["candidates"] for row in rows] == [0, 128, 128]
    assert rows[0]["bytes_up"] == rows[2]["bytes_up"] < rows[1]["bytes_up"]


def test_a_frozen_encoder_is_the_first_model_received(make, tmp_path):
    fed, state, device = begun(make("synthesis.encoder=frozen", "run.fraction=0.5"), tmp_path)
    received = {}
    for _ in range(3):
        model = state.server["model"][0].clone()
        for client in local.step(fed, state, device)["clients"]:
            received.setdefault(client, model)
    for client, model in received.items():
        assert torch.equal(state.clients.take([client])["frozen"][0], model)


@pytest.mark.parametrize("memory", [0, 1024])
@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_private_networks_stay_on_their_clients(make, tmp_path, fraction, memory):
    settings = make(f"run.fraction={fraction}", f"engine.memory={memory}")
    fed, state, device = begun(settings, tmp_path)
    start = state.server["model"].clone()
    row = local.step(fed, state, device)
    known = state.clients.known.tolist()
    assert known == row["clients"]
    assert (state.clients.take(known)["private"] != start).any(-1).all()
    assert (tmp_path / FILE).exists() == (memory == 0)


def test_the_panel_is_everybody_or_as_many_as_a_round_samples(make, tmp_path):
    for fraction, size in ((1.0, 10), (0.3, 3)):
        fed, _, _ = begun(make(f"run.fraction={fraction}"), tmp_path)
        assert len(fed.panel) == len(set(fed.panel)) == size
