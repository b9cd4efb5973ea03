"""Where prototypes and directions come from: what travels, and what the server makes of it."""

from types import SimpleNamespace

import pytest
import torch

from fedsyn.core.extension import ClientView
from fedsyn.core.training import Training
from fedsyn.core.wire import Intake, Library, send
from fedsyn.data.moments import pair_moments
from fedsyn.data.preprocessing import add
from fedsyn.synthesis import prototypes
from fedsyn.synthesis.settings import SynthesisConfig
from fedsyn.synthesis.sources import ALL, EVERYBODY, OWN, SOURCES

SIZES = (30, 18, 2)  # the last has too few for a prototype
NOISE = 4


def told(clusters, directions="pooled", **keys):
    own = {"prototypes": 3, "min_cluster": 3, "noise": NOISE, **keys}
    return SynthesisConfig(clusters=clusters, directions=directions, **own)


def given(toy, config, cohort, state, alone, **received):
    """What the clients' generators are of."""
    models = toy.models[list(cohort.ids)]
    view = ClientView(toy.problem, cohort, models, config, Training(), None, received)
    return SOURCES[config.clusters].given(view, state, alone)


def arrived(cohort, upload):
    """What the server reads of the clients' first uploads."""
    sent = send(upload, torch.ones(len(cohort.ids), dtype=torch.bool))
    intake = Intake({})
    every, first = intake.take(cohort.ids, sent)
    kept = every | first

    def take(ids, names):
        return {name: kept[name][list(ids)] for name in names or kept}

    return intake.uploads(Library(cohort.ids if kept else (), take))


def server(toy, config, uploads, state=None, alone=True, fraction=1.0):
    """The library that the server reads, and what it keeps."""
    view = SimpleNamespace(
        config=config, uploads=uploads, problem=toy.problem, state=state or {}, seed=0,
        fraction=fraction, model=toy.models[:1],
    )  # fmt: skip
    return SOURCES[config.clusters].library(view, alone)


# ---- A client's own ------------------------------------------------------------------------------

TRAVELS = {
    "own": ({"prototypes", "counts", "basis"}, set()),
    "pooled": ({"prototypes", "counts"}, {"scatter"}),
    "none": ({"prototypes", "counts"}, set()),
}


@pytest.mark.parametrize("directions", TRAVELS)
@pytest.mark.parametrize("alone", [True, False])
def test_of_own_clusters_everything_travels_once_and_pooled_directions_as_a_sum(
    toy, directions, alone
):
    config, cohort = told("own", directions), toy.cohort(*SIZES)
    found = given(toy, config, cohort, OWN.client_state(toy.features, cohort, config), alone)
    own, sums = TRAVELS[directions]
    assert (set(found.upload.own), set(found.upload.sums)) == (own, sums)
    assert found.upload.once == own | sums and found.upload.half == frozenset()
    assert (found.counts.sum(-1) > 0).tolist() == [True, True, False]
    for one in found.upload.sums.values():
        # (By degrees of freedom, which the method's weighting does not change.)
        assert one.weight.tolist() == [30 - 3, 18 - 3, 0] and not one.weighted
        assert not one.value[2].any()


@pytest.mark.parametrize("directions", TRAVELS)
def test_a_clients_generator_has_the_directions_that_are_configured(toy, directions):
    config, cohort = told("own", directions), toy.cohort(*SIZES)
    state = OWN.client_state(toy.features, cohort, config)
    basis = torch.randn(NOISE, 5)
    before = given(toy, config, cohort, state, True)
    after = given(toy, config, cohort, state, True, **OWN.broadcast({"basis": basis}, True))
    if directions == "own":
        assert torch.equal(before.basis, state["basis"]) and before.basis[:2].any()
        assert torch.equal(after.basis, state["basis"])
    else:
        assert not before.basis.any()
        assert torch.equal(after.basis, basis.expand(3, -1, -1))
    assert torch.equal(after.prototypes, state["prototypes"])


def test_pooled_directions_are_sent_to_those_alone_who_train_by_them():
    state = {"basis": torch.zeros(NOISE, 5), "freedom": torch.tensor(3.0)}
    assert OWN.broadcast(state, True).keys() == {"basis"}
    assert OWN.broadcast(state, False) == OWN.broadcast({}, True) == {}


@pytest.mark.parametrize("directions", TRAVELS)
def test_the_server_knows_the_directions_that_are_configured(toy, directions):
    config, cohort = told("own", directions), toy.cohort(*SIZES)
    fitted = OWN.client_state(toy.features, cohort, config)
    uploads = arrived(cohort, given(toy, config, cohort, fitted, True).upload)
    library, kept = server(toy, config, uploads)
    found = library.take((0, 1), ("prototypes", "counts", "basis"))
    for name in ("prototypes", "counts"):
        assert torch.equal(found[name], fitted[name][:2])
    if directions == "own":
        assert torch.equal(found["basis"], fitted["basis"][:2]) and kept == {}
    elif directions == "none":
        assert not found["basis"].any()
    else:
        residual = []
        for client, rows in enumerate(cohort.rows[:2]):
            points = toy.features[rows]
            owner = prototypes.assign(
                points[None], fitted["prototypes"][client : client + 1],
                fitted["counts"][client : client + 1] > 0,
            )[0]  # fmt: skip
            residual.append(points - fitted["prototypes"][client][owner])
        scatter = sum(rows.T @ rows for rows in residual) / (27 + 15)
        values, vectors = torch.linalg.eigh(scatter)
        leading = vectors[:, -NOISE:] * values[-NOISE:].sqrt()
        torch.testing.assert_close(
            found["basis"][0].T @ found["basis"][0], leading @ leading.T, atol=1e-4, rtol=1e-3
        )
        assert torch.equal(*found["basis"])
        assert torch.equal(kept["basis"], found["basis"][0])


def test_half_precision_is_for_what_is_the_clients_own(toy):
    config, cohort = told("own", upload="float16"), toy.cohort(*SIZES)
    upload = given(toy, config, cohort, OWN.client_state(toy.features, cohort, config), True).upload
    assert upload.half == {"prototypes", "counts"}
    assert upload.sums["scatter"].value.dtype == torch.float64


# ---- All clients' --------------------------------------------------------------------------------


def begun(toy, config, *sizes):
    return ALL.begin(add(pair_moments(toy.features, toy.cohort(*sizes).rows)), config, 0)


def test_of_clusters_of_all_pairs_sums_travel_and_after_the_first_rounds_they_are_of_nothing(toy):
    config, cohort = told("all", cluster_rounds=2), toy.cohort(*SIZES)
    state, taken = begun(toy, config, *SIZES), []
    for _ in range(3):
        received = ALL.broadcast(state, True)
        assert received.keys() == {"centres", "left", "basis"}
        found = given(toy, config, cohort, {}, False, **received)
        assert set(found.upload.sums) == {"members", "numbers"}
        assert not found.upload.own and not found.upload.once
        assert torch.equal(found.prototypes, state["centres"].expand(3, -1, -1))
        assert torch.equal(found.basis, state["basis"].expand(3, -1, -1))
        before = state
        _, state = server(toy, config, arrived(cohort, found.upload), state, alone=False)
        taken.append(int(found.upload.sums["numbers"].value.sum()))
    assert taken == [15 + 9, 15 + 9, 0]  # halves; the client with two pairs has no part
    assert state is before and int(state["left"]) == 0


def test_no_pair_of_a_client_is_added_twice(toy):
    config, cohort = told("all", cluster_rounds=3, min_cluster=1, prototypes=1), toy.cohort(30)
    centres, parts = torch.zeros(1, 5), []
    for left in (3, 2, 1):
        received = {"centres": centres, "left": torch.tensor(left)}
        parts.append(given(toy, config, cohort, {}, False, **received).upload.sums)
    assert sum(part["numbers"].value for part in parts).tolist() == [[30]]
    expected = toy.features[:30].double().sum(0)
    torch.testing.assert_close(sum(part["members"].value for part in parts)[0, 0], expected)


def test_counts_are_a_clients_own_only_where_the_server_looks_at_clients_one_by_one(toy):
    config, cohort = told("all"), toy.cohort(*SIZES)
    state = begun(toy, config, *SIZES)
    found = given(toy, config, cohort, {}, True, **ALL.broadcast(state, True))
    assert set(found.upload.own) == {"counts"} and not found.upload.once
    library, kept = server(toy, config, arrived(cohort, found.upload), state)
    assert library.ids == (0, 1, 2)
    every = library.take((1, 0), ())
    assert every.keys() == {"counts", "prototypes", "basis"}
    assert torch.equal(every["counts"], found.counts[[1, 0]])
    assert found.counts.sum(-1).tolist() == [30, 18, 0]  # of all its pairs, whatever takes part
    assert torch.equal(every["prototypes"], kept["centres"].expand(2, -1, -1))
    assert library.take((0,), ("basis",)).keys() == {"basis"}


def test_where_no_client_is_seen_alone_the_library_has_all_of_them_as_one(toy):
    config, cohort = told("all", cluster_rounds=1), toy.cohort(*SIZES)
    state = begun(toy, config, *SIZES)
    found = given(toy, config, cohort, {}, False, **ALL.broadcast(state, False))
    library, kept = server(toy, config, arrived(cohort, found.upload), state, alone=False)
    assert library.ids == (EVERYBODY,)
    every = library.take(library.ids, ())
    assert every["counts"].tolist() == [kept["counts"].tolist()]
    assert kept["counts"].sum() == 48  # those of the client with two pairs have no part
    assert torch.equal(every["prototypes"][0], kept["centres"])
    assert torch.equal(every["basis"][0], kept["basis"])


def test_who_trains_no_generator_is_sent_centres_while_there_is_something_to_add_up(toy):
    state = begun(toy, told("all", cluster_rounds=1), *SIZES)
    assert ALL.broadcast(state, False).keys() == {"centres", "left"}
    done = state | {"left": torch.tensor(0)}
    assert ALL.broadcast(done, False) == {}
    assert ALL.broadcast(done, True).keys() == {"centres", "left", "basis"}


def test_nothing_of_all_clusters_is_kept_by_clients(toy):
    config = told("all")
    assert ALL.client_state(toy.features, toy.cohort(*SIZES), config) == {}
    assert OWN.begin is None
