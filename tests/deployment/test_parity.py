"""The same rounds over nodes as in one process: same weights, same metrics, same bytes.

Bytes are the same where every node has one client. A node of several is sent once what they all
receive alike, and sends the sums over them, in float64, once.
"""

import json

import pytest

from fedsyn.deployment.server import serve
from fedsyn.federation import records
from fedsyn.federation.runner import run
from fedsyn.methods import METHODS

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

    def do(nodes, *overrides):
        config = make("engine.stack=1", f"flower.nodes={len(nodes)}", *overrides)
        here, there = tmp_path / "here", tmp_path / "there"
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
    "chosen by gains, without the gate": [
        "run.fraction=0.4", "run.selection=flash", "run.rounds=5", "synthesis.gate=false",
    ],
    "sampled, without the gate": ["run.fraction=0.4", "synthesis.gate=false"],
    "gaussian": ["synthesis.generator=gaussian"],
    "half precision": ["synthesis.upload=float16"],
    "clipped": ["synthesis.generator=wgan", "run.fraction=0.5"],
    "private spaces": ["synthesis.space=private", "run.fraction=0.5"],
    "frozen encoder": ["synthesis.encoder=frozen"],
    "some rounds": ["synthesis.first_round=2", "synthesis.last_round=2"],
    "fedftg": ["synthesis.server=fedftg", "run.fraction=0.5"],
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
    "seldom evaluated": ["run.evaluate_every=2", "run.criterion=alignment_uniformity"],
}  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
def test_so_do_all_kinds_of_synthesis(both, same_weights, variant):
    here, there = both(ALONE, *VARIANTS[variant])
    assert rows(here) == rows(there)
    assert total(here) == total(there)
    assert same_weights(here, there)


@pytest.mark.parametrize("method", FEDERATED)
def test_a_node_of_several_clients_gives_the_same_metrics(both, method):
    here, there = both(SHARDS, f"method={method}", "engine.stack=4")
    for one, other in zip(rows(here), rows(there), strict=True):
        assert other["metrics"] == pytest.approx(one["metrics"], abs=1e-5)
        assert other["losses"] == pytest.approx(one["losses"], abs=1e-4)


def test_what_all_clients_receive_goes_to_a_node_once(both):
    # The one case in which a simulation counts otherwise: ten clients on three nodes.
    here, there = both(SHARDS, "synthesis.enabled=false", "run.rounds=1")
    (one,), (other,) = rows(here), rows(there)
    assert other["bytes_down"] * len(ALONE) == one["bytes_down"] * len(SHARDS)


def test_a_shard_sends_one_sum_however_many_clients_it_has(make, in_process, tmp_path):
    config = make("synthesis.enabled=false", "run.rounds=1", "flower.nodes=1")
    up = {}
    for name, nodes in {"one": [tuple(range(10))], "all": ALONE}.items():
        serve(config, tmp_path / name, in_process(*nodes, engine=config.engine))
        (row,) = rows(tmp_path / name)
        up[name] = row["bytes_up"]
    # A sum in float64 against ten rows in float32, and a few numbers of each client.
    assert up["one"] < up["all"] / 4
