"""A round of clients of this process."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedsyn.core.payload import nbytes
from fedsyn.data import federated
from fedsyn.federation import rounds
from fedsyn.federation.devices import HOST, Inline
from fedsyn.federation.federation import federation, round_half_up, sampled
from fedsyn.federation.local import Here
from fedsyn.federation.store import FILE, ClientRows
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
    return fed, rounds.begin(fed, rows), Inline(settings, HOST)


def step(fed, state, device):
    """One round."""
    fleet = Here(fed, device)
    return rounds.conclude(fed, state, fleet, rounds.listen(fed, state, fleet))


def test_bytes_are_what_the_payloads_weigh(make, tmp_path):
    fed, state, device = begun(make("run.fraction=0.3", "synthesis.enabled=false"), tmp_path)
    row = step(fed, state, device)
    assert row["bytes_up"] == row["bytes_down"] == 3 * 4 * fed.problem.net.layout.size


def test_of_representations_the_bytes_are_those_of_the_public_pairs(make, tmp_path):
    fed, state, device = begun(make("method=creamfl", "run.fraction=0.3"), tmp_path)
    row, public = step(fed, state, device), len(fed.data.public)
    assert row["bytes_down"] == 3 * 2 * public * 8 * 4
    assert row["bytes_up"] == 3 * 2 * public * (8 + 1) * 4  # and what each counts for


def test_what_never_changes_is_sent_once(make, tmp_path):
    fed, state, device = begun(make("synthesis.gate=false"), tmp_path)
    first, second = (step(fed, state, device)["bytes_up"] for _ in range(2))
    rows = state.clients.take(state.clients.known.tolist())
    assert first - second == nbytes(generators.introduction(rows, fed.config.synthesis))
    each = 10 * 4 * fed.problem.net.layout.size
    assert second == each + nbytes(generators.upload(rows, fed.config.synthesis))


def test_generators_rest_outside_their_rounds(make, tmp_path):
    settings = make("synthesis.first_round=2", "synthesis.last_round=2", "synthesis.gate=false")
    fed, state, device = begun(settings, tmp_path)
    rows = [step(fed, state, device) for _ in range(3)]
    assert ["generator" in row["losses"] for row in rows] == [False, True, False]
    assert [row["server"]["candidates"] for row in rows] == [0, 128, 128]
    assert rows[0]["bytes_up"] == rows[2]["bytes_up"] < rows[1]["bytes_up"]


def test_a_frozen_encoder_is_the_first_model_received(make, tmp_path):
    fed, state, device = begun(make("synthesis.encoder=frozen", "run.fraction=0.5"), tmp_path)
    received = {}
    for _ in range(3):
        model = state.server["model"][0].clone()
        for client in step(fed, state, device)["clients"]:
            received.setdefault(client, model)
    for client, model in received.items():
        assert torch.equal(state.clients.take([client])["frozen"][0], model)


@pytest.mark.parametrize("memory", [0, 1024])
@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_private_networks_stay_on_their_clients(make, tmp_path, fraction, memory):
    settings = make(f"run.fraction={fraction}", f"engine.memory={memory}")
    fed, state, device = begun(settings, tmp_path)
    start = state.server["model"].clone()
    row = step(fed, state, device)
    known = state.clients.known.tolist()
    assert known == row["clients"]
    assert (state.clients.take(known)["private"] != start).any(-1).all()
    assert (tmp_path / FILE).exists() == (memory == 0)


def test_the_panel_is_everybody_or_as_many_as_a_round_samples(make, tmp_path):
    for fraction, size in ((1.0, 10), (0.3, 3)):
        fed, _, _ = begun(make(f"run.fraction={fraction}"), tmp_path)
        assert len(fed.panel) == len(set(fed.panel)) == size


SHARING = ["synthesis.share=clients", "synthesis.shared=40", "synthesis.shared_batch=5"]


def test_pairs_are_shared_from_the_second_round_on_and_counted(make, tmp_path):
    found = {}
    for share in ("server", "clients"):
        config = make(*SHARING, f"synthesis.share={share}", "run.fraction=0.3")
        fed, state, device = begun(config, tmp_path / share)
        found[share] = [step(fed, state, device) for _ in range(2)]
        assert ("pairs" in state.shared) == (share == "clients")
    first, second = zip(found["server"], found["clients"], strict=True)
    assert first[0] == first[1]
    assert second[1]["bytes_down"] - second[0]["bytes_down"] == 3 * 40 * 16 * 4
    assert second[1]["bytes_up"] == second[0]["bytes_up"]
    assert second[1]["losses"]["local"] != second[0]["losses"]["local"]


def test_what_is_shared_passed_the_filter(make, tmp_path):
    config = make(*SHARING, "synthesis.candidates=64", "synthesis.keep=0.5")
    fed, state, device = begun(config, tmp_path)
    row = step(fed, state, device)
    assert len(state.shared["pairs"]) == min(40, row["server"]["kept"]) == 32
    assert len(state.shared["pairs"].unique(dim=0)) == 32


def test_private_networks_and_generators_see_real_pairs_alone(make, tmp_path):
    kept = []
    for name, keys in (("off", []), ("on", [*SHARING, "synthesis.complete=true"])):
        fed, state, device = begun(make(*keys, "partition.missing_text=0.4"), tmp_path / name)
        for _ in range(2):
            step(fed, state, device)
        kept.append(state.clients.take(range(10), ("private", "generator", "critic")))
    assert all(torch.equal(off, on) for off, on in zip(*(k.values() for k in kept), strict=True))


COMPLETING = [*SHARING, "synthesis.complete=true", "partition.single_modality=0.4"]


def test_clients_without_pairs_take_part_from_the_second_round_on(make, tmp_path):
    fed, state, device = begun(make(*COMPLETING), tmp_path)
    heard = []

    def hear(sums, ids, payload, sizes, config):
        heard.append(sizes)
        return fed.method.hear(sums, ids, payload, sizes, config)

    watched = replace(fed, method=replace(fed.method, hear=hear))
    for _ in range(2):
        step(watched, state, device)
    half = len(heard) // 2
    first, second = torch.cat(heard[:half]), torch.cat(heard[half:])
    assert first.tolist() == [len(silo.pairs) for silo in fed.silos]
    lost = torch.tensor([len(silo.images) + len(silo.texts) for silo in fed.silos])
    assert (first == 0).sum() == 4
    assert torch.equal(second, first + lost)


def test_the_hidden_halves_change_nothing(make, tmp_path):
    models = []
    for hidden in (False, True):
        overlay = "partition.missing_image=0.2", "partition.missing_text=0.2"
        fed, state, device = begun(make(*COMPLETING, *overlay), tmp_path / str(hidden))
        if hidden:
            features, image_dim = fed.problem.features, fed.data.image_dim
            for silo in fed.silos:
                features[torch.from_numpy(silo.images), image_dim:] = torch.nan
                features[torch.from_numpy(silo.texts), :image_dim] = torch.nan
        for _ in range(3):
            step(fed, state, device)
        models.append(state.server["model"])
    assert models[0].isfinite().all()
    assert torch.equal(*models)


def test_fedftg_moves_the_model_by_the_models_of_the_round(make, tmp_path):
    config = make("synthesis.server=fedftg", "synthesis.gate=false", "run.fraction=0.5")
    fed, state, device = begun(config, tmp_path / "on")
    row = step(fed, state, device)
    plain, other, _ = begun(make("synthesis.enabled=false", "run.fraction=0.5"), tmp_path / "off")
    step(plain, other, device)
    assert row["server"]["loss"] > 0 and "candidates" not in row["server"]
    assert not torch.equal(state.server["model"], other.server["model"])
