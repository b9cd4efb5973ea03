"""Runs as they are by default: clusters of all pairs, found by sums; in one process, over nodes."""

import pytest

from fedsyn.audit import audit
from fedsyn.deployment.loopback import Loopback
from fedsyn.deployment.node import NodeConfig
from fedsyn.deployment.server import serve
from fedsyn.federation import config
from fedsyn.federation.runner import run

from .conftest import CLIENTS, OVERRIDES

ALL = ["synthesis.clusters=all", "synthesis.directions=pooled", "synthesis.cluster_rounds=2"]
OTHER = ["synthesis.clusters=own", "synthesis.directions=own"]


@pytest.fixture(scope="module")
def settings(recorded):
    """The configuration of runs on the same pairs, with overrides."""
    own = [each for each in OVERRIDES if each not in OTHER]
    own += [f"data.path={recorded.parent / 'pairs.npz'}", "data.test_fraction=0.4"]
    return lambda *more: config.load(None, [*own, "data.holdout=0.2", *ALL, *more])


@pytest.fixture(scope="module")
def whole(settings, tmp_path_factory):
    """The audit of such a run."""
    out = tmp_path_factory.mktemp("all") / "run"
    run(settings(), out)
    return audit(out)


def names(document, view):
    return {row["name"]: row for row in document["attacks"] if row["view"] == view}


def test_sums_of_clusters_are_attacked_as_they_arrive_and_added_up(whole):
    raw, pooled = names(whole, "raw"), names(whole, "sums")
    alone = {"nearest prototype, own clusters", "density ratio, own clusters"}
    assert alone <= raw.keys() and not alone & pooled.keys()
    assert raw["nearest prototype, own clusters"]["of"] == "sum"
    # What the server makes of sums over all is all that there is of synthesis.
    of_all = {"nearest prototype", "Mahalanobis distance", "likelihood", "nearest synthetic sample"}
    assert of_all <= pooled.keys() and {pooled[name]["of"] for name in of_all} == {"own"}
    assert "density ratio" not in pooled  # it is the same for all clients
    assert raw["leverage, moments/second"]["auc"] > pooled["leverage, moments/second"]["auc"] + 0.1
    assert whole["not_attacked"] == [] and whole["rounds"] == [0, 1, 2]


def test_synthesis_adds_nothing_to_sums_over_all(whole):
    found = names(whole, "sums")
    both, without = found["combined"], found["combined, without synthesis"]
    assert both["auc"] - without["auc"] < 0.1


@pytest.mark.parametrize("generator", ["wgan-gp", "wgan"])
def test_generators_of_clients_are_their_own(settings, tmp_path, generator):
    few = ["synthesis.steps=2", "synthesis.critic_warmup=2", "synthesis.hidden=[8]"]
    run(settings(f"synthesis.generator={generator}", *few), tmp_path / "run")
    document = audit(tmp_path / "run")
    assert names(document, "sums")["nearest synthetic sample"]["of"] == "own"
    assert document["not_attacked"] == []


def test_a_run_without_synthesis_has_nothing_of_it(settings, tmp_path):
    run(settings("synthesis.enabled=false"), tmp_path / "run")
    document = audit(tmp_path / "run")
    assert document["copies"] is None
    assert "own" not in {row["of"] for row in document["attacks"]}
    found = names(document, "sums")
    assert found["combined"]["auc"] == found["combined, without synthesis"]["auc"]


def test_a_start_that_is_not_recorded_is_made_again(settings, tmp_path, whole):
    run(settings(), tmp_path / "run")
    (tmp_path / "run" / "uploads" / "round-0.safetensors").unlink()
    assert audit(tmp_path / "run")["attacks"] == whole["attacks"]


def test_nodes_of_several_clients_are_seen_as_one(settings, tmp_path):
    half = CLIENTS // 2
    held = tuple(range(half)), tuple(range(half, CLIENTS))
    chosen = settings("flower.nodes=2", "synthesis.clusters=own")
    nodes = Loopback({
        100 + number: NodeConfig(clients=ids, state=str(tmp_path / f"node-{number}"))
        for number, ids in enumerate(held)
    })  # fmt: skip
    serve(chosen, tmp_path / "run", nodes)
    document = audit(tmp_path / "run")
    raw = names(document, "raw")
    assert "Mahalanobis distance, own scatter" not in raw  # no scatter came alone
    assert {"nearest prototype", "leverage, moments/second", "cosine, uploads"} <= raw.keys()
    assert document["clients_heard"] == CLIENTS


@pytest.mark.parametrize(
    ("overrides", "of", "left"),
    [
        (["method=local"], {"own", "all"}, []),
        (["method.weighting=contribution"], {"own", "sum", "model", "all"}, ["method/latent"]),
        (["method=fednova"], {"own", "sum", "model", "all"}, ["method/direction"]),
        (["synthesis.server=fedftg"], {"own", "sum", "model", "all"}, []),
    ],
)
def test_models_that_are_no_sums_are_clients_own(settings, tmp_path, overrides, of, left):
    run(settings(*overrides), tmp_path / "run")
    document = audit(tmp_path / "run")
    assert {row["of"] for row in document["attacks"]} == of
    assert document["not_attacked"] == left
    uploads = names(document, "sums").get("log-odds, uploads")
    assert (uploads is None) == (overrides == ["method=fednova"])
    assert uploads is None or uploads["of"] == "own"
