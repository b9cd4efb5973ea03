"""The start: sums over all clients give models to begin with, of which validators choose."""

import json
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import normalize

from fedsyn.core.judgement import Judgement
from fedsyn.core.payload import nbytes
from fedsyn.data import federated
from fedsyn.data.moments import pair_moments
from fedsyn.errors import ConfigError
from fedsyn.federation import client, records, rounds
from fedsyn.federation.config import data_settings
from fedsyn.federation.devices import HOST, Inline
from fedsyn.federation.evaluation import held_out_losses
from fedsyn.federation.federation import federation
from fedsyn.federation.local import LocalFleet
from fedsyn.federation.runner import Silent, run
from fedsyn.federation.store import ClientStore
from fedsyn.tasks import retrieval

OFF = "synthesis.enabled=false"


def before(settings, folder):
    """A federation before its start, and its clients."""
    fed = federation(settings, federated.load(data_settings(settings)), HOST)
    clients = ClientStore(len(fed.silos), folder / records.CLIENTS, 1 << 20, HOST)
    state = rounds.begin(fed, rounds.memory(fed, folder))
    return fed, state, LocalFleet(fed, Inline(fed.plan, HOST), clients)


def lines(out):
    """The rows of a run without their times."""
    found = [json.loads(line) for line in (out / records.METRICS).read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in found]


@dataclass
class Opinionated:
    """Clients that like one of the models that they are asked about best, whatever it is."""

    fleet: LocalFleet
    liked: int
    late: bool = False
    asked: list = field(default_factory=list)

    def moments(self):
        return self.fleet.moments()

    def judge(self, models, ids, shares=()):
        self.asked.append((list(models), tuple(ids), tuple(shares)))
        losses = tuple((float(place != self.liked),) * len(ids) for place in range(len(models)))
        return Judgement(tuple(ids), losses, (1,) * len(ids), bytes_up=5, bytes_down=7)


@pytest.fixture(scope="module")
def aligned(tmp_path_factory):
    """Pairs whose halves have one width and are much the same."""
    draw = np.random.default_rng(0)
    image = draw.normal(size=(120, 6)) * [1, 2, 3, 4, 5, 6] + 2
    text = image + draw.normal(size=(120, 6))
    path = tmp_path_factory.mktemp("aligned") / "pairs.npz"
    split = np.where(np.arange(120) % 4 == 0, "test", "train")
    np.savez(path, image=image, text=text, label=np.arange(120) % 3, split=split)
    return path


# ---- Sums ----------------------------------------------------------------------------------------


def test_moments_of_clients_add_up_to_those_of_all_their_pairs(make, tmp_path):
    fed, _, fleet = before(make(OFF), tmp_path)
    found = fleet.moments()
    rows = np.concatenate([silo.pairs for silo in fed.silos])
    (pooled,) = pair_moments(fed.problem.features, [rows])
    held = fed.problem.features[rows].double()
    assert found.total.keys() == pooled.keys()
    for name, value in pooled.items():
        torch.testing.assert_close(found.total[name], value, rtol=1e-12, atol=1e-9)
    torch.testing.assert_close(pooled["sum"], held.sum(0))
    width = held.shape[1]
    upper = (held.T @ held)[tuple(torch.triu_indices(width, width))]
    torch.testing.assert_close(pooled["second"], upper)
    assert (found.bytes_up, found.bytes_down) == (10 * nbytes(pooled), 0)


def test_held_out_and_test_pairs_have_no_part_in_the_moments(make, tmp_path):
    fed, _, fleet = before(make(OFF), tmp_path)
    others = np.concatenate([fed.data.test, *(silo.holdout for silo in fed.silos)])
    expected = fleet.moments().total
    fed.problem.features[torch.from_numpy(others)] = torch.nan
    assert all(torch.equal(fleet.moments().total[name], expected[name]) for name in expected)


def test_sums_of_pairs_that_are_in_one_place_cost_nothing(make, tmp_path):
    _, _, fleet = before(make("method=centralised"), tmp_path)
    assert fleet.moments().bytes_up == 0


def test_nobody_is_asked_for_moments_that_nobody_wants(make, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(LocalFleet, "moments", lambda fleet: asked.append(1))
    for number, keys in enumerate((["model.start=random", OFF], ["method=local"],
                                   ["model.start=random", "synthesis.clusters=own"])):  # fmt: skip
        fed, state, fleet = before(make(*keys), tmp_path / str(number))
        row = rounds.start(fed, state, fleet)
        assert row["server"] == {} and not asked
        assert torch.equal(state.server["model"][0], client.initial_model(fed.problem.net, 0))


def test_an_extension_that_asks_has_them_whatever_the_model_starts_from(make, tmp_path):
    fed, state, fleet = before(make("model.start=random"), tmp_path)
    row = rounds.start(fed, state, fleet)
    assert {"centres", "basis"} <= state.extensions["synthesis"].keys()
    assert row["bytes_up"] > fleet.moments().bytes_up and row["server"] == {}


# ---- The choice ----------------------------------------------------------------------------------


@pytest.mark.parametrize("liked", [0, 2])
def test_the_model_that_validators_like_best_is_taken(make, tmp_path, liked):
    fed, state, fleet = before(make(OFF, "run.fraction=0.4"), tmp_path)
    asked = Opinionated(fleet, liked)
    row = rounds.start(fed, state, asked)
    candidates = fed.problem.starts(client.initial_model(fed.problem.net, 0), fleet.moments().total)
    ((models, ids, shares),) = asked.asked
    assert ids == fed.validators and len(ids) == 4 and shares == ()
    assert len(models) == len(candidates) > 2
    assert all(torch.equal(a[0], b.model) for a, b in zip(models, candidates, strict=True))
    assert torch.equal(state.server["model"][0], candidates[liked].model)
    assert row["server"] == {"start": candidates[liked].name}
    assert row["losses"] == {"holdout": 0} and (row["round"], row["clients"]) == (0, [])
    assert row["bytes_up"] == fleet.moments().bytes_up + 5 and row["bytes_down"] == 7
    assert state.round_number == 0


@pytest.mark.parametrize("bits", [0, 8])
def test_held_out_pairs_are_what_they_choose_by(make, tmp_path, bits):
    fed, state, fleet = before(make(OFF, f"model.bits={bits}"), tmp_path)
    row = rounds.start(fed, state, fleet)
    candidates = fed.problem.starts(client.initial_model(fed.problem.net, 0), fleet.moments().total)
    everybody = tuple(range(10))
    found = [
        held_out_losses(fed, [one.model[None]], everybody).mean(0, everybody) for one in candidates
    ]
    assert row["losses"]["holdout"] == min(found)
    assert row["server"]["start"] == candidates[found.index(min(found))].name
    rotated = [one for one in candidates if "rotated" in one.name]
    assert len(rotated) == (len(candidates) / 2 if bits else 0)


def test_of_one_model_nobody_is_asked_twice(make, aligned, tmp_path):
    keys = [OFF, f"data.path={aligned}", "model.dim=0", "model.start=identity"]
    fed, state, fleet = before(make(*keys), tmp_path)
    asked = Opinionated(fleet, 0)
    row = rounds.start(fed, state, asked)
    assert [len(models) for models, _, _ in asked.asked] == [1]
    assert row["server"] == {"start": "identity"}


def test_the_identity_embeds_features_as_they_were_given(make, aligned, tmp_path):
    fed, state, fleet = before(
        make(f"data.path={aligned}", "model.dim=0", "model.start=identity"), tmp_path
    )
    rounds.start(fed, state, fleet)
    rows = torch.from_numpy(fed.data.test)
    with np.load(aligned) as held:
        raw = [normalize(torch.from_numpy(held[name]), dim=-1) for name in ("image", "text")]
    for found, given in zip(fed.problem.outputs(state.server["model"][0], rows), raw, strict=True):
        torch.testing.assert_close(found.double(), given[rows], atol=1e-5, rtol=0)


def test_features_that_may_be_aligned_keep_their_width_and_have_both_starts(
    make, aligned, tmp_path
):
    fed, _, fleet = before(make(f"data.path={aligned}", "model.dim=0"), tmp_path)
    assert fed.problem.net.code == 6
    model = client.initial_model(fed.problem.net, 0)
    names = [one.name for one in fed.problem.starts(model, fleet.moments().total)]
    assert names[0] == "identity" and len(names) == 1 + len(retrieval.RIDGES)
    other, _, _ = before(make("model.dim=0"), tmp_path / "other")  # of 9 and 7 numbers
    assert other.problem.net.code == 64


@pytest.mark.parametrize(
    "keys",
    [["model.start=identity"], ["model.start=identity", "model.dim=5", "data.path=ALIGNED"],
     ["model.start=identity", "model.bits=8", "data.path=ALIGNED"]],
)  # fmt: skip
def test_an_identity_that_features_do_not_allow_is_refused(make, aligned, tmp_path, keys):
    own = [key.replace("ALIGNED", str(aligned)) for key in keys]
    with pytest.raises(ConfigError, match=r"model.start = 'identity'.*model.dim 0"):
        before(make(*own), tmp_path)


def test_pairs_of_too_many_numbers_start_at_random(make, tmp_path, monkeypatch):
    monkeypatch.setattr(retrieval, "MOST_MOMENTS", 15)
    fed, _, _ = before(make(OFF), tmp_path)
    assert not fed.problem.asks_moments and fed.problem.net.linear == "none"
    with pytest.raises(ConfigError, match=r"'closed-form'.*at most 15 .*have 16"):
        before(make(OFF, "model.start=closed-form"), tmp_path / "asked")


@pytest.mark.parametrize("linear", ["trained", "frozen"])
def test_clients_train_the_linear_term_unless_it_is_frozen(make, tmp_path, linear):
    summary = run(make(OFF, f"model.linear={linear}", "run.rounds=2"), tmp_path)
    run(make(OFF, f"model.linear={linear}", "run.rounds=0"), tmp_path / "start")
    last = load_file(tmp_path / records.CHECKPOINT)["server/model"]
    first = load_file(tmp_path / "start" / records.CHECKPOINT)["server/model"]
    fed, _, _ = before(make(OFF, f"model.linear={linear}"), tmp_path / "again")
    one, other = (fed.problem.net.layout.views(model) for model in (first, last))
    for tower in ("image", "text"):
        same = torch.equal(one[f"{tower}.linear"], other[f"{tower}.linear"])
        assert same == (linear == "frozen")
        assert not torch.equal(one[f"{tower}.1.weight"], other[f"{tower}.1.weight"])
    assert summary["rounds"] == 2


# ---- Whole runs ----------------------------------------------------------------------------------


def test_a_run_of_no_rounds_is_the_start(make, tmp_path):
    none = run(make("run.rounds=0"), tmp_path / "none")
    run(make("run.rounds=2"), tmp_path / "some")
    (row,) = lines(tmp_path / "none")
    first, *_ = lines(tmp_path / "some")
    # (Whoever does the next round is sent the model anyway.)
    assert row == first | {"bytes_down": row["bytes_down"]}
    assert none["rounds"] == none["selected"]["round"] == 0
    assert none["metrics"] == row["metrics"]
    run(make("run.rounds=2"), tmp_path / "none", resume=True)
    assert lines(tmp_path / "none")[1:] == lines(tmp_path / "some")[1:]
    summary = json.loads((tmp_path / "none" / records.SUMMARY).read_text())
    assert summary["rounds"] == 2


class Stop(Silent):
    """Ends a run when a round's row is written, before its checkpoint."""

    def __init__(self, number):
        self.number = number

    def row(self, row):
        if row["round"] == self.number:
            raise KeyboardInterrupt


SOURCES = {
    "all": ["synthesis.clusters=all"],
    "pooled": ["synthesis.clusters=own", "synthesis.directions=pooled"],
    "own": ["synthesis.clusters=own", "synthesis.directions=own"],
    "off": [OFF],
}


@pytest.mark.parametrize("source", SOURCES)
def test_a_run_goes_on_from_any_round(make, tmp_path, source):
    settings = make(*SOURCES[source], "run.fraction=0.6", "engine.checkpoint_seconds=0")
    run(settings, tmp_path / "whole")
    for number in range(3):
        out = tmp_path / str(number)
        with pytest.raises(KeyboardInterrupt):
            run(settings, out, observer=Stop(number))
        run(settings, out, resume=True)
        assert lines(out) == lines(tmp_path / "whole")
        assert (out / records.MODEL).read_bytes() == (
            tmp_path / "whole" / records.MODEL
        ).read_bytes()


def test_who_takes_part_for_the_first_time_begins_with_the_model_received(
    make, tmp_path, monkeypatch
):
    fed, state, fleet = before(make("method=moon", OFF, "run.fraction=0.4"), tmp_path)
    rounds.start(fed, state, fleet)
    begun, begin = [], client._begun

    def spy(plan, problem, newcomers, model):
        begun.append((newcomers.ids, model.clone()))
        return begin(plan, problem, newcomers, model)

    monkeypatch.setattr(client, "_begun", spy)
    for _ in range(3):
        begun.clear()
        received = state.server["model"][0].clone()
        rounds.conclude(fed, state, fleet, rounds.listen(fed, state, fleet))
        assert all(torch.equal(model, received) for _, model in begun)
    assert begun  # in the third round too somebody was new


def test_who_receives_no_model_begins_with_the_initial_one(make, tmp_path, monkeypatch):
    fed, state, fleet = before(make("method=creamfl"), tmp_path)
    row = rounds.start(fed, state, fleet)
    assert row["server"] == {} and row["losses"]["holdout"] is None
    begun, begin = [], client._begun

    def spy(plan, problem, newcomers, model):
        begun.append(model.clone())
        return begin(plan, problem, newcomers, model)

    monkeypatch.setattr(client, "_begun", spy)
    rounds.conclude(fed, state, fleet, rounds.listen(fed, state, fleet))
    initial = client.initial_model(fed.problem.net, 0)
    assert begun and all(torch.equal(model, initial) for model in begun)
