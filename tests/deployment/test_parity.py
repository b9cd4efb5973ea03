"""The same rounds over nodes as in one process: same weights, same metrics, same bytes.

Bytes are the same where every node has one client. A node of several is sent once what they all
receive alike, and sends the sums over them, in float64, once.
"""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fedsyn.deployment.server import serve
from fedsyn.federation import records
from fedsyn.federation.runner import run
from fedsyn.methods import METHODS
from fedsyn.synthesis import directions

ALONE = [(client,) for client in range(10)]
SHARDS = [(0, 1, 2), (3,), (4, 5, 6, 7, 8, 9)]
FEDERATED = sorted(method.name for method in METHODS if method.deployable)
BYTES = ("bytes_up", "bytes_down")


def rows(out):
    """What a run found, round by round, and what it has sent."""
    found = [json.loads(line) for line in (out / records.METRICS).read_text().splitlines()]
    for row in found:
        for kind in ("metrics", "client_metrics"):
            if kind in row:  # a server counts nobody's labels
                row[kind] = {k: v for k, v in row[kind].items() if not k.endswith("_shot")}
        del row["seconds"]
    return found


def total(out):
    """Bytes of a whole run, the preprocessing included."""
    summary = json.loads((out / records.SUMMARY).read_text())
    return [summary[name] for name in BYTES]


@pytest.fixture
def both(make, in_process, tmp_path):
    """The directories of a run in this process and over nodes."""

    def do(nodes, *overrides, folder=""):
        config = make("engine.stack=1", f"flower.nodes={len(nodes)}", *overrides)
        here, there = tmp_path / folder / "here", tmp_path / folder / "there"
        run(config, here)
        serve(config, there, in_process(*nodes, engine=config.engine))
        return here, there

    return do


@pytest.mark.parametrize("synthesis", ["on", "off"])
@pytest.mark.parametrize("method", FEDERATED)
def test_clients_alone_on_their_nodes_give_the_very_same_run(both, same_weights, method, synthesis):
    overrides = f"method={method}", f"synthesis.enabled={str(synthesis == 'on').lower()}"
    here, there = both(ALONE, *overrides)
    assert rows(here) == rows(there)
    assert total(here) == total(there)
    assert same_weights(here, there)


VARIANTS = {
    "sampled": ["run.fraction=0.4"],
    "chosen by gains": ["run.fraction=0.4", "run.selection=flash", "run.rounds=5"],
    "chosen by gains, of one share": [
        "run.fraction=0.4", "run.selection=flash", "run.rounds=5", "synthesis.line_search=[1.0]",
    ],
    "sampled, of one share": ["run.fraction=0.4", "synthesis.line_search=[1.0]"],
    "many shares": ["synthesis.line_search=[0.0, 0.1, 0.4, 0.7, 1.0]", "model.start=random"],
    "no held-out pairs": ["data.holdout=0"],
    "gaussian": ["synthesis.generator=gaussian"],
    "gaussian, some rounds of clusters": [
        "synthesis.generator=gaussian", "synthesis.cluster_rounds=1", "run.fraction=0.5",
    ],
    "one prototype": ["synthesis.generator=gaussian", "synthesis.prototypes=1"],
    "half precision": ["synthesis.upload=float16"],
    "clipped": ["synthesis.generator=wgan", "run.fraction=0.5"],
    "cold": ["synthesis.warm_start=false"],
    "own clusters, pooled directions": [
        "synthesis.clusters=own", "synthesis.directions=pooled", "run.fraction=0.5",
    ],
    "own clusters and directions": ["synthesis.clusters=own", "synthesis.directions=own"],
    "own clusters, no directions": [
        "synthesis.clusters=own", "synthesis.directions=none", "synthesis.generator=gaussian",
    ],
    "private spaces": [
        "synthesis.clusters=own", "synthesis.space=private", "run.fraction=0.5",
    ],
    "frozen encoder": ["synthesis.encoder=frozen"],
    "some rounds": ["synthesis.first_round=2", "synthesis.last_round=2"],
    "fedftg": ["synthesis.server=fedftg", "run.fraction=0.5"],
    "fedftg of the Gaussian": [
        "synthesis.server=fedftg", "synthesis.generator=gaussian", "synthesis.cluster_rounds=1",
        "run.fraction=0.5",
    ],
    "completed": [
        "synthesis.share=clients", "synthesis.complete=true", "synthesis.shared=40",
        "synthesis.shared_batch=6", "partition.single_modality=0.4",
    ],
    "a bank": ["objective=ucch"],
    "parameters": ["objective=cirh", "model.bits=8"],
    "by contribution": ["method.weighting=contribution", "run.fraction=0.5"],
    "answers": ["task=vqa", "data.questions=0"],
    "answers and representations": [
        "task=vqa", "data.questions=0", "method=creamfl", "run.fraction=0.5",
        "model.variants=[[6], [5, 4]]",
    ],
    "no rounds": ["run.rounds=0"],
    "a random start": ["model.start=random"],
    "a closed form": ["model.start=closed-form", "model.linear=frozen", "run.fraction=0.5"],
    "a closed form of codes": ["model.bits=8", "synthesis.enabled=false"],
    "judged as trained": ["run.criterion=objective"],
    "seldom evaluated": ["run.evaluate_every=2", "run.criterion=alignment_uniformity"],
}  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
def test_so_do_all_kinds_of_synthesis(both, same_weights, variant):
    here, there = both(ALONE, *VARIANTS[variant])
    assert rows(here) == rows(there)
    assert total(here) == total(there)
    assert same_weights(here, there)


def test_so_do_directions_that_travel_as_a_sketch(both, same_weights, monkeypatch):
    monkeypatch.setattr(directions, "MORE", 1)
    assert directions.sketched(16, 3)
    own = "synthesis.clusters=own", "synthesis.directions=pooled", "synthesis.noise=3"
    here, there = both(ALONE, *own, "synthesis.upload=float16")
    assert rows(here) == rows(there)
    assert total(here) == total(there)
    assert same_weights(here, there)


@pytest.mark.parametrize("method", FEDERATED)
def test_a_node_of_several_clients_gives_the_same_metrics(both, method):
    here, there = both(SHARDS, f"method={method}", "engine.stack=4")
    for one, other in zip(rows(here), rows(there), strict=True):
        assert other["metrics"] == pytest.approx(one["metrics"], abs=1e-5)
        assert other["losses"] == pytest.approx(one["losses"], abs=1e-4)


def test_what_nodes_send_is_recorded_as_in_one_process(both):
    here, there = both(ALONE, "run.record_uploads=true", "run.rounds=1")
    for number in (0, 1):
        name = f"round-{number}.safetensors"
        one, other = (load_file(out / records.UPLOADS / name) for out in (here, there))
        assert one.keys() == other.keys() and len(one) > 10
        assert all(torch.equal(value, other[key]) for key, value in one.items())


def test_what_all_clients_receive_goes_to_a_node_once(both):
    # The one case in which a simulation counts otherwise: ten clients on three nodes.
    here, there = both(SHARDS, "synthesis.enabled=false", "run.rounds=1")
    (_, one), (_, other) = rows(here), rows(there)
    assert other["bytes_down"] * len(ALONE) == one["bytes_down"] * len(SHARDS)


def test_a_shard_sends_one_sum_however_many_clients_it_has(make, in_process, tmp_path):
    config = make("synthesis.enabled=false", "run.rounds=1", "flower.nodes=1")
    up = {}
    for name, nodes in {"one": [tuple(range(10))], "all": ALONE}.items():
        serve(config, tmp_path / name, in_process(*nodes, engine=config.engine))
        up[name] = [row["bytes_up"] for row in rows(tmp_path / name)]
    # A sum in float64 against ten rows in float32, and a few numbers of each client.
    assert up["one"][1] < up["all"][1] / 4
    # Of the start, whose sums are float64 whoever sends them: and a verdict of each client.
    verdict = 10 * 8 * (2 * 3 + 1)
    assert (up["one"][0] - verdict) * 10 == up["all"][0] - verdict


def test_a_node_that_adds_up_its_clients_moments_gives_the_same_start(both, same_weights):
    here, there = both(SHARDS, "method=cca")
    assert [row["server"] for row in rows(here)] == [row["server"] for row in rows(there)]
    for one, other in zip(rows(here), rows(there), strict=True):
        assert other["metrics"] == pytest.approx(one["metrics"], abs=1e-5)


def test_features_that_may_be_aligned_start_alike_on_nodes(both, same_weights, pairs, tmp_path):
    aligned = tmp_path / "aligned.npz"
    with np.load(pairs) as held:
        np.savez(aligned, **{**held, "image": held["image"][:, :7]})
    keys = [f"data.path={aligned}", "model.dim=0", "synthesis.enabled=false"]
    for start in ("auto", "identity"):
        here, there = both(ALONE, *keys, f"model.start={start}", folder=start)
        assert rows(here) == rows(there)
        assert same_weights(here, there)
