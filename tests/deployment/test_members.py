"""Which nodes take part: who comes late, who leaves, and who is turned away."""

import numpy as np
import pytest

from fedsyn.deployment.server import serve
from fedsyn.errors import RunError

EVERYBODY = list(range(10))


def test_nobody_comes(make, in_process, tmp_path):
    with pytest.raises(RunError, match=r"0 of flower.nodes = 2 nodes came within"):
        serve(make("flower.wait=0.01"), tmp_path / "run", in_process())


def test_a_node_may_come_late(make, three, rows, tmp_path):
    config = make("flower.nodes=2", "flower.quorum=0.5", "engine.stack=2")
    late = three.held.pop(101)

    def come(kind, node, asked, answer):
        if kind == "train" and asked.facts["round_number"] == 1:
            three.held[101] = late
        return answer

    three.spoil = come
    serve(config, tmp_path / "run", three)
    _, first, second, _ = rows(tmp_path / "run")
    assert first["clients"] == [0, 1, 2, 6, 7, 8, 9]
    assert first["missing"] == [{"node": None, "clients": [3, 4, 5], "why": "no node holds them"}]
    assert second["clients"] == EVERYBODY


def test_a_node_may_leave_and_another_take_its_place(config, three, rows, tmp_path):
    copy, trained = three.held[101], []

    def leave(kind, node, asked, answer):
        trained.extend([node] * (kind == "train"))
        last = (kind, node) == ("judge", 100)  # who answers last
        if last and trained and 101 in three.held:  # in round 1
            del three.held[101]
        if kind == "train" and asked.facts["round_number"] == 2:
            three.held[200] = copy
        return answer

    three.spoil = leave
    serve(config, tmp_path / "run", three)
    *_, second, third = rows(tmp_path / "run")
    assert second["missing"] == [
        {"node": "101", "clients": [3, 4, 5], "why": "the node is not there"}
    ]
    assert third["clients"] == EVERYBODY


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ([(0, 1), (1, 2)], "clients [1] are held by node 100"),
        ([(0, 1), (12,)], "client"),
    ],
)
def test_who_claims_what_it_cannot_have_takes_no_part(
    make, in_process, status, tmp_path, nodes, words
):
    config = make("flower.nodes=2", "flower.quorum=0.1", "run.rounds=1")
    serve(config, tmp_path / "run", in_process(*nodes, engine=config.engine))
    told = status(tmp_path / "run")
    assert [one["node"] for one in told["nodes"]] == ["100"]
    assert words in told["missing"][0]["why"]


def test_nobody_with_other_data_takes_part(make, in_process, tmp_path, pairs):
    other = tmp_path / "other.npz"
    with np.load(pairs) as held:
        np.savez(other, image=held["image"][:, 1:], text=held["text"])
    config = make("flower.nodes=1", "run.rounds=1", "partition.clients=1")
    nodes = in_process((0,), data=(str(other),), engine=config.engine)
    with pytest.raises(RunError, match=r"image\.width"):
        serve(config, tmp_path / "run", nodes)
