"""A round of clients of this process."""

import pytest
import torch

from fedsyn.core.payload import nbytes
from fedsyn.data import federated
from fedsyn.federation import records, rounds
from fedsyn.federation.config import data_settings
from fedsyn.federation.devices import HOST, Inline
from fedsyn.federation.federation import federation
from fedsyn.federation.local import LocalFleet
from fedsyn.federation.store import ClientStore
from fedsyn.synthesis.sources import GIVEN


def begun(settings, folder):
    """A federation after its start, on this machine's processor, and its clients."""
    fed = federation(settings, federated.load(data_settings(settings)), HOST)
    budget = settings.engine.memory << 20
    clients = ClientStore(len(fed.silos), folder / records.CLIENTS, budget, HOST)
    state = rounds.begin(fed, rounds.memory(fed, folder))
    fleet = LocalFleet(fed, Inline(fed.plan, HOST), clients)
    rounds.start(fed, state, fleet)
    return fed, state, fleet


def step(fed, state, fleet):
    """One round."""
    return rounds.conclude(fed, state, fleet, rounds.listen(fed, state, fleet))


def model_bytes(fed):
    return 4 * fed.problem.net.layout.size


# What a client says of its round weighs: two numbers of rows, and losses; of a model that it
# judges: what it thinks of it, how many partners it has found, and its number of rows.
SIZES, LOSS, VERDICT = 2 * 8, 4, 3 * 8
OWN = ["synthesis.clusters=own", "synthesis.directions=own"]
TAKEN = "synthesis.line_search=[1.0]"  # nobody is asked


def test_bytes_are_what_the_payloads_weigh(make, tmp_path):
    fed, state, fleet = begun(make("run.fraction=0.3", "synthesis.enabled=false"), tmp_path)
    row = step(fed, state, fleet)
    # Of those that judge the round's model, who does the next round is sent it in any case.
    others = set(fed.validators) - set(rounds.chosen(fed, state))
    assert row["bytes_up"] == 3 * (model_bytes(fed) + 8 + SIZES + LOSS + VERDICT)
    assert row["bytes_down"] == (3 + len(others)) * model_bytes(fed)


def test_of_representations_the_bytes_are_those_of_the_public_pairs(make, tmp_path):
    fed, state, fleet = begun(make("method=creamfl", "run.fraction=0.3"), tmp_path)
    row, public = step(fed, state, fleet), len(fed.data.public)
    assert row["bytes_down"] == 3 * 2 * public * 8 * 4
    # And what each counts for; the four sums have a weight.
    assert row["bytes_up"] == 3 * (2 * public * (8 + 1) * 4 + 4 * 8 + SIZES + LOSS)


def test_what_never_changes_is_sent_once(make, tmp_path):
    fed, state, fleet = begun(make(*OWN, TAKEN), tmp_path)
    one, two = (step(fed, state, fleet) for _ in range(2))
    library = state.received["synthesis"].library
    introduction = nbytes(library.take(range(10), GIVEN))
    assert one["bytes_up"] - two["bytes_up"] == introduction > 0
    each = model_bytes(fed) + 8 + SIZES + (len(two["losses"]) - 1) * LOSS + VERDICT
    assert two["bytes_up"] == 10 * each + nbytes(library.take(range(10))) - introduction


def test_the_line_search_sends_both_models_and_is_told_of_each_share(make, tmp_path):
    rows = {}
    for shares in ("[1.0]", "[0.0, 0.25, 1.0]"):
        fed, state, fleet = begun(make(f"synthesis.line_search={shares}"), tmp_path / shares)
        rows[len(rows)] = step(fed, state, fleet)
    more = {name: rows[1][name] - rows[0][name] for name in ("bytes_up", "bytes_down")}
    # (Whoever judges the round's model, all of whom do the next round, is not sent it for that.)
    assert more == {"bytes_up": 10 * 2 * 2 * 8, "bytes_down": 10 * 2 * model_bytes(fed)}


@pytest.mark.parametrize("clusters", ["own", "all"])
def test_generators_rest_outside_their_rounds(make, tmp_path, clusters):
    turn = "synthesis.first_round=2", "synthesis.last_round=2"
    fed, state, fleet = begun(make(*turn, TAKEN, f"synthesis.clusters={clusters}"), tmp_path)
    rows = [step(fed, state, fleet) for _ in range(3)]
    assert ["generator" in row["losses"] for row in rows] == [False, True, False]
    assert [row["server"]["candidates"] for row in rows] == [0, 128, 128]
    assert rows[0]["bytes_up"] == rows[2]["bytes_up"] < rows[1]["bytes_up"]


def test_a_frozen_encoder_is_the_first_model_received(make, tmp_path):
    fed, state, fleet = begun(make("synthesis.encoder=frozen", "run.fraction=0.5"), tmp_path)
    received = {}
    for _ in range(3):
        model = state.server["model"][0].clone()
        for client in step(fed, state, fleet)["clients"]:
            received.setdefault(client, model)
    for client, model in received.items():
        assert torch.equal(fleet.clients.take([client])["synthesis/frozen"][0], model)


@pytest.mark.parametrize("memory", [0, 1024])
@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_private_networks_stay_on_their_clients(make, tmp_path, fraction, memory):
    settings = make(f"run.fraction={fraction}", f"engine.memory={memory}")
    fed, state, fleet = begun(settings, tmp_path)
    start = state.server["model"].clone()
    row = step(fed, state, fleet)
    known = fleet.clients.known.tolist()
    assert known == row["clients"]
    assert (fleet.clients.take(known)["synthesis/private"] != start).any(-1).all()
    assert "private" not in state.received["synthesis"].library.names
    assert (tmp_path / records.CLIENTS).exists() == (memory == 0)


def test_validators_are_everybody_or_as_many_as_a_round_samples(make, tmp_path):
    for fraction, size in ((1.0, 10), (0.3, 3)):
        fed, _, _ = begun(make(f"run.fraction={fraction}"), tmp_path)
        assert len(fed.validators) == len(set(fed.validators)) == size


SHARING = ["synthesis.share=clients", "synthesis.shared=40", "synthesis.shared_batch=5"]


def test_pairs_are_shared_from_the_second_round_on_and_counted(make, tmp_path):
    found = {}
    for share in ("server", "clients"):
        config = make(*SHARING, f"synthesis.share={share}", "run.fraction=0.3")
        fed, state, fleet = begun(config, tmp_path / share)
        found[share] = [step(fed, state, fleet) for _ in range(2)]
        assert ("pairs" in state.extensions["synthesis"]) == (share == "clients")
    first, second = zip(found["server"], found["clients"], strict=True)
    assert first[0] == first[1]
    assert second[1]["bytes_down"] - second[0]["bytes_down"] == 3 * 40 * 16 * 4
    assert second[1]["bytes_up"] == second[0]["bytes_up"]
    assert second[1]["losses"]["local"] != second[0]["losses"]["local"]


def test_what_is_shared_passed_the_filter(make, tmp_path):
    config = make(*SHARING, "synthesis.candidates=64", "synthesis.keep=0.5")
    fed, state, fleet = begun(config, tmp_path)
    row = step(fed, state, fleet)
    pairs = state.extensions["synthesis"]["pairs"]
    assert len(pairs) == min(40, row["server"]["kept"]) == 32
    assert len(pairs.unique(dim=0)) == 32


def test_private_networks_and_generators_see_real_pairs_alone(make, tmp_path):
    kept, names = [], [f"synthesis/{name}" for name in ("private", "generator", "critic")]
    for name, keys in (("off", []), ("on", [*SHARING, "synthesis.complete=true"])):
        fed, state, fleet = begun(make(*keys, "partition.missing_text=0.4"), tmp_path / name)
        for _ in range(2):
            step(fed, state, fleet)
        kept.append(fleet.clients.take(range(10), names))
    assert all(torch.equal(off, on) for off, on in zip(*(k.values() for k in kept), strict=True))


COMPLETING = [*SHARING, "synthesis.complete=true", "partition.single_modality=0.4"]


def test_clients_without_pairs_take_part_from_the_second_round_on(make, tmp_path):
    fed, state, fleet = begun(make(*COMPLETING), tmp_path)
    reports = []
    for _ in range(2):
        answers = rounds.listen(fed, state, fleet)
        reports.append(answers.report)
        rounds.conclude(fed, state, fleet, answers)
    first, second = (report.sizes for report in reports)
    pairs = [len(silo.pairs) for silo in fed.silos]
    assert all(report.pairs.tolist() == pairs for report in reports)
    assert first.tolist() == pairs
    lost = torch.tensor([len(silo.images) + len(silo.texts) for silo in fed.silos])
    assert (first == 0).sum() == 4
    assert torch.equal(second, first + lost)


def test_the_hidden_halves_change_nothing(make, tmp_path):
    models = []
    for hidden in (False, True):
        overlay = "partition.missing_image=0.2", "partition.missing_text=0.2"
        fed, state, fleet = begun(make(*COMPLETING, *overlay), tmp_path / str(hidden))
        if hidden:
            features, image_dim = fed.problem.features, fed.data.image_dim
            for silo in fed.silos:
                features[torch.from_numpy(silo.images), image_dim:] = torch.nan
                features[torch.from_numpy(silo.texts), :image_dim] = torch.nan
        for _ in range(3):
            step(fed, state, fleet)
        models.append(state.server["model"])
    assert models[0].isfinite().all()
    assert torch.equal(*models)


def test_fedftg_moves_the_model_by_the_models_of_the_round(make, tmp_path):
    config = make("synthesis.server=fedftg", TAKEN, "run.fraction=0.5")
    fed, state, fleet = begun(config, tmp_path / "on")
    row = step(fed, state, fleet)
    plain, other, rest = begun(
        make("synthesis.enabled=false", "run.fraction=0.5"), tmp_path / "off"
    )
    step(plain, other, rest)
    assert row["server"]["loss"] > 0 and "candidates" not in row["server"]
    assert not torch.equal(state.server["model"], other.server["model"])
