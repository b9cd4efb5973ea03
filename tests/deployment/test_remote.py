"""Nodes that fail, lie, leave and come back: the round goes on, and what was lost is told."""

import json

import pytest
import torch
from safetensors.torch import load_file

from fedsyn.deployment.parcels import Parcel
from fedsyn.deployment.server import serve
from fedsyn.errors import RunError
from fedsyn.federation import records
from fedsyn.federation.runner import run

NODES = [(0, 1, 2), (3, 4, 5), (6, 7, 8, 9)]
EVERYBODY = list(range(10))


@pytest.fixture
def config(make):
    """Three rounds of three nodes."""
    return make("flower.nodes=3", "engine.stack=2")


def rows(out):
    return [json.loads(line) for line in (out / records.METRICS).read_text().splitlines()]


def status(out):
    return json.loads((out / records.STATUS).read_text())


def found(out):
    """What does not depend on who was asked how often."""
    return [(row["round"], row["clients"], row["losses"], row["metrics"]) for row in rows(out)]


def once(kind, round, node, spoil):
    """Spoils one answer, the first of its kind."""
    done = []

    def act(one, number, asked, answer):
        mine = (one, number) == (kind, node) and asked.facts.get("round", round) == round
        if not mine or done:
            return answer
        done.append(number)
        return spoil(answer)

    return act


def with_array(name, value):
    """An answer whose array is something else."""
    return lambda answer: Parcel(answer.facts, answer.arrays | {name: value(answer.arrays[name])})


def with_facts(**facts):
    return lambda answer: Parcel(answer.facts | facts, answer.arrays)


def not_finite(value):
    value = value.clone()
    value.view(-1)[0] = torch.inf
    return value


SPOILT = {
    "lost": (lambda answer: None, "no answer within"),
    "an error": (lambda answer: "it broke", "it broke"),
    "not finite": (with_array("heard/model", not_finite), "not finite"),
    "another shape": (with_array("heard/model", lambda v: v[1:]), "expected torch.float64"),
    "another type": (with_array("heard/model", lambda v: v.half()), "expected torch.float64"),
    "another array": (with_array("upload/generator", lambda v: v[:1]), "the generators"),
    "not finite prototypes": (with_array("introduction/prototypes", not_finite), "not finite"),
    "too many arrays": (lambda a: Parcel(a.facts, a.arrays | {"heard/x": torch.ones(1)}), "'x'"),
    "other clients": (with_facts(ids=[0, 1, 2]), "answers for clients [0, 1, 2]"),
    "too few numbers": (with_facts(sizes=[3]), "numbers of other than the 3 clients"),
    "no number": (with_facts(sizes=["a", 1, 2]), "sizes"),
    "a negative number": (with_facts(sizes=[-1, 1, 2]), "sizes"),
    "another version": (with_facts(version="9"), "runs fedsyn 9"),
    "refused": (with_facts(refused="not today"), "not today"),
    "strangers introduced": (with_facts(introduced=[3]), "it introduces clients [3]"),
}


@pytest.mark.parametrize("fault", SPOILT)
def test_an_answer_that_cannot_be_used_is_missing_and_the_round_goes_on(
    config, table, tmp_path, fault
):
    spoil, words = SPOILT[fault]
    at = table(*NODES, engine=config.engine)
    at.spoil = once("train", 1, 101, spoil)
    serve(config, tmp_path / "run", at)
    first, *others = rows(tmp_path / "run")
    assert first["clients"] == [0, 1, 2, 6, 7, 8, 9]
    assert [(one["node"], one["clients"]) for one in first["missing"]] == [("101", [3, 4, 5])]
    assert words in first["missing"][0]["why"]
    assert all(row["clients"] == EVERYBODY and "missing" not in row for row in others)
    assert words in status(tmp_path / "run")["missing"][0]["why"]
    assert status(tmp_path / "run")["state"] == "done"


def test_a_lost_round_is_as_if_the_node_had_not_been_there(config, table, tmp_path):
    # It answers later from what the server has heard of, whether or not it did the lost round.
    for name, act in (
        ("did it", lambda answer: None),
        ("did not", None),
    ):
        at = table(*NODES, engine=config.engine)
        for node, held in at.held.items():
            at.held[node] = held.model_copy(update={"state": str(tmp_path / name / str(node))})
        if act:
            at.spoil = once("train", 1, 101, act)
        else:
            at.exchange = absent(at, at.exchange)
        serve(config, tmp_path / name / "run", at)
    assert found(tmp_path / "did it/run") == found(tmp_path / "did not/run")


def absent(at, exchange):
    """Node 101 does not get the order of round 1."""

    def partly(kind, parcels, timeout):
        kept = {
            node: parcel
            for node, parcel in parcels.items()
            if (kind, node, parcel.facts.get("round")) != ("train", 101, 1)
        }
        return exchange(kind, kept, timeout)

    return partly


def test_below_the_quorum_the_run_ends_and_can_go_on(config, make, table, tmp_path):
    strict = make("flower.nodes=3", "engine.stack=2", "flower.quorum=0.8")
    at = table(*NODES, engine=config.engine)
    at.spoil = once("train", 2, 102, lambda answer: None)
    with pytest.raises(RunError, match=r"round 2: 60% of 10 clients have answered, flower.quorum"):
        serve(strict, tmp_path / "run", at)
    assert status(tmp_path / "run")["state"] == "failed"
    assert "round 2: 60%" in status(tmp_path / "run")["error"]
    assert len(rows(tmp_path / "run")) == 1
    serve(strict, tmp_path / "run", at, resume=True)
    undisturbed(config, table, tmp_path)
    assert found(tmp_path / "run") == found(tmp_path / "quiet")


def undisturbed(config, table, tmp_path):
    at = table(*NODES, engine=config.engine)
    for node, held in at.held.items():
        at.held[node] = held.model_copy(update={"state": str(tmp_path / "quiet-nodes" / str(node))})
    serve(config, tmp_path / "quiet", at)


class Crash(BaseException):
    """Power goes."""


@pytest.mark.parametrize("exchange", range(2, 8))
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_run_that_was_killed_goes_on_to_the_same_end(config, table, tmp_path, exchange, when):
    """Killed before its nodes hear of an exchange, or after they have done what it asks."""
    at = table(*NODES, engine=config.engine)
    left, whole = [exchange], at.exchange

    def crashing(kind, parcels, timeout):
        left[0] -= 1
        if left[0] == 0 and when == "before":
            raise Crash
        answers = whole(kind, parcels, timeout)
        if left[0] == 0:
            raise Crash
        return answers

    at.exchange = crashing
    with pytest.raises(Crash):
        serve(config, tmp_path / "run", at)
    assert status(tmp_path / "run")["state"] == "failed"
    if not (tmp_path / "run" / records.CHECKPOINT).exists():  # not yet a run
        with pytest.raises(RunError, match="there is no run to resume"):
            serve(config, tmp_path / "run", at, resume=True)
        return
    serve(config, tmp_path / "run", at, resume=True)
    undisturbed(config, table, tmp_path)
    assert found(tmp_path / "run") == found(tmp_path / "quiet")
    models = [load_file(tmp_path / name / records.MODEL) for name in ("run", "quiet")]
    assert all(torch.equal(value, models[1][name]) for name, value in models[0].items())


def test_a_node_that_lost_its_folder_is_prepared_anew(config, table, tmp_path):
    at = table(*NODES, engine=config.engine)

    def lose(kind, node, asked, answer):
        if (kind, node, asked.facts.get("round")) == ("train", 101, 1):
            at.held[101] = at.held[101].model_copy(update={"state": str(tmp_path / "other")})
        return answer

    at.spoil = lose
    serve(config, tmp_path / "run", at)
    # It says so when asked to judge, which needs features, and gets them with the next order.
    (lost,) = status(tmp_path / "run")["missing"]
    assert (lost["round"], lost["node"]) == (1, "101") and "no features" in lost["why"]
    assert all(row["clients"] == EVERYBODY for row in rows(tmp_path / "run"))


def test_a_node_may_come_late(make, table, tmp_path):
    config = make("flower.nodes=2", "flower.quorum=0.5", "engine.stack=2")
    at = table(*NODES, engine=config.engine)
    late = at.held.pop(101)

    def come(kind, node, asked, answer):
        if kind == "train" and asked.facts["round"] == 1:
            at.held[101] = late
        return answer

    at.spoil = come
    serve(config, tmp_path / "run", at)
    first, second, _ = rows(tmp_path / "run")
    assert first["clients"] == [0, 1, 2, 6, 7, 8, 9]
    assert first["missing"] == [{"node": None, "clients": [3, 4, 5], "why": "no node holds them"}]
    assert second["clients"] == EVERYBODY


def test_a_node_may_leave_and_another_take_its_place(config, table, tmp_path):
    at = table(*NODES, engine=config.engine)

    def leave(kind, node, asked, answer):
        if (kind, node) == ("judge", 100) and 101 in at.held:  # who answers last in round 1
            del at.held[101]
        if kind == "train" and asked.facts["round"] == 2:
            at.held[200] = copy
        return answer

    copy = at.held[101]
    at.spoil = leave
    serve(config, tmp_path / "run", at)
    _, second, third = rows(tmp_path / "run")
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
def test_who_claims_what_it_cannot_have_takes_no_part(make, table, tmp_path, nodes, words):
    config = make("flower.nodes=2", "flower.quorum=0.1", "run.rounds=1")
    serve(config, tmp_path / "run", table(*nodes, engine=config.engine))
    told = status(tmp_path / "run")
    assert [one["node"] for one in told["nodes"]] == ["100"]
    assert words in told["missing"][0]["why"]


def test_nobody_with_other_data_takes_part(make, table, tmp_path, pairs):
    import numpy as np

    other = tmp_path / "other.npz"
    with np.load(pairs) as held:
        np.savez(other, image=held["image"][:, 1:], text=held["text"])
    config = make("flower.nodes=1", "run.rounds=1", "partition.clients=1")
    at = table((0,), data=(str(other),), engine=config.engine)
    with pytest.raises(RunError, match=r"image\.width"):
        serve(config, tmp_path / "run", at)


def test_silos_with_files_of_their_own_and_a_server_with_a_test_file(make, table, tmp_path, pairs):
    import numpy as np

    files = []
    with np.load(pairs) as held:
        train = held["split"] == "train"
        for name, part in (("a", train & (held["label"] < 3)), ("b", train & (held["label"] >= 3))):
            files.append(tmp_path / f"{name}.npz")
            np.savez(files[-1], image=held["image"][part], text=held["text"][part])
        np.savez(
            tmp_path / "test.npz",
            **{name: held[name][~train] for name in ("image", "text", "label")},
        )
    config = make(
        "flower.nodes=2", f"flower.test={tmp_path}/test.npz", "data.path=", "data.name=",
        "partition.clients=2",
    )  # fmt: skip
    at = table((0,), (1,), engine=config.engine)
    for number, file in enumerate(files):
        at.held[100 + number] = at.held[100 + number].model_copy(update={"data": (str(file),)})
    summary = serve(config, tmp_path / "run", at)
    assert summary["clients"] == 2
    assert summary["metrics"]["map"] > 0.3  # 1/6 by chance


def test_a_resumed_run_needs_its_directory(config, table, tmp_path):
    with pytest.raises(RunError, match="does not name a run to resume"):
        serve(config, tmp_path / "nowhere", table(*NODES), resume=True)


def test_a_local_run_cannot_be_resumed_over_nodes(config, table, tmp_path):
    run(config, tmp_path / "run")
    with pytest.raises(RunError, match="does not name a run to resume"):
        serve(config, tmp_path / "run", table(*NODES), resume=True)
