"""Nodes that fail or lie: the round goes on, and what was lost is told."""

import pytest
import torch

from fedsyn.deployment.messages import Message
from fedsyn.deployment.server import serve
from fedsyn.errors import RunError

EVERYBODY = list(range(10))
ALONE = [(client,) for client in EVERYBODY]


def with_array(name, value):
    """An answer whose array is something else."""
    return lambda answer: Message(answer.facts, answer.arrays | {name: value(answer.arrays[name])})


def without_array(name):
    return lambda answer: Message(
        answer.facts, {key: value for key, value in answer.arrays.items() if key != name}
    )


def with_facts(**facts):
    return lambda answer: Message(answer.facts | facts, answer.arrays)


def not_finite(value):
    value = value.clone()
    value.view(-1)[0] = torch.inf
    return value


MODEL, WEIGHT = "up/method/sums/model", "up/method/weights/model"
GENERATOR, PROTOTYPES = "up/synthesis/own/generator", "up/synthesis/once-own/prototypes"
SIZES, MEMBERS = "up/report/sizes", "up/synthesis/sums/members"
OWN = ["synthesis.clusters=own", "synthesis.directions=own"]
SPOILT = {
    "lost": (lambda answer: None, "no answer within"),
    "an error": (lambda answer: "it broke", "it broke"),
    "not finite": (with_array(MODEL, not_finite), "not finite"),
    "another shape": (with_array(MODEL, lambda v: v[1:]), "expected torch.float64"),
    "another type": (with_array(MODEL, lambda v: v.half()), "expected torch.float64"),
    "a negative weight": (with_array(WEIGHT, lambda v: -v), "method/weights/model below 0"),
    "another array": (
        with_array(GENERATOR, lambda v: v[:1]), "has synthesis/own/generator of torch.float32 [1, "
    ),
    "not finite prototypes": (with_array(PROTOTYPES, not_finite), "not finite"),
    "prototypes of fewer clients": (
        with_array(PROTOTYPES, lambda v: v[:1]), "has synthesis/once-own/prototypes of"
    ),
    "sums of clusters not finite": (with_array(MEMBERS, not_finite), "not finite"),
    "sums of other clusters": (
        with_array(MEMBERS, lambda v: v[1:]), "has synthesis/sums/members of torch.float64 [3, "
    ),
    "sums of too few": (
        with_array("up/synthesis/weights/members", lambda v: v - 9), "weights/members below 0"
    ),
    "too many arrays": (
        lambda a: Message(a.facts, a.arrays | {"up/method/own/x": torch.ones(1)}), "'method/own/x'"
    ),
    "other clients": (with_facts(ids=[0, 1, 2]), "answers for clients [0, 1, 2]"),
    "too few numbers": (with_array(SIZES, lambda v: v[:1]), "has report/sizes of torch.int64 [1]"),
    "no number": (with_array(SIZES, lambda v: v.float()), "expected torch.int64 [3]"),
    "a negative number": (with_array(SIZES, lambda v: v - 1000), "report/sizes below 0"),
    "another version": (with_facts(version="9"), "runs fedsyn 9"),
    "refused": (with_facts(refused="not today"), "not today"),
}  # fmt: skip


@pytest.mark.parametrize("fault", SPOILT)
def test_an_answer_that_cannot_be_used_is_missing_and_the_round_goes_on(
    make, three, once, rows, status, tmp_path, fault
):
    spoil, words = SPOILT[fault]
    own = OWN if "prototypes" in fault else []
    config = make("flower.nodes=3", "engine.stack=2", *own)
    three.spoil = once("train", 1, 101, spoil)
    serve(config, tmp_path / "run", three)
    _, first, *others = rows(tmp_path / "run")
    assert first["clients"] == [0, 1, 2, 6, 7, 8, 9]
    assert [(one["node"], one["clients"]) for one in first["missing"]] == [("101", [3, 4, 5])]
    assert words in first["missing"][0]["why"]
    assert all(row["clients"] == EVERYBODY and "missing" not in row for row in others)
    assert words in status(tmp_path / "run")["missing"][0]["why"]
    assert status(tmp_path / "run")["state"] == "done"


def test_so_is_that_of_a_client_alone_on_its_node(make, in_process, once, rows, tmp_path):
    config = make("flower.nodes=10", "run.rounds=1")
    nodes = in_process(*ALONE, engine=config.engine)
    nodes.spoil = once("train", 1, 103, with_array(WEIGHT, lambda v: -v))
    serve(config, tmp_path / "run", nodes)
    _, row = rows(tmp_path / "run")
    assert row["clients"] == [client for client in EVERYBODY if client != 3]
    assert "method/weights/model below 0" in row["missing"][0]["why"]


VERDICTS = {
    "not finite": (with_array("verdict/losses", not_finite), "not finite"),
    "of fewer models": (with_array("verdict/losses", lambda v: v[:1]), "has losses of"),
    "of fewer recalls": (with_array("verdict/recalls", lambda v: v[:1]), "has recalls of"),
    "without recalls": (without_array("verdict/recalls"), "its verdict holds ['losses', 'pairs']"),
    "of negative rows": (with_array("verdict/pairs", lambda v: -v), "pairs below 0"),
    "none": (lambda answer: Message(answer.facts, {}), "its verdict holds []"),
    "of other clients": (with_facts(ids=[0, 1, 2]), "answers for clients [0, 1, 2]"),
}


@pytest.mark.parametrize("fault", VERDICTS)
def test_so_is_a_verdict(config, three, once, status, tmp_path, fault):
    spoil, words = VERDICTS[fault]
    three.spoil = once("judge", None, 101, spoil)
    serve(config, tmp_path / "run", three)
    (missing,) = status(tmp_path / "run")["missing"]
    assert (missing["node"], missing["clients"]) == ("101", [3, 4, 5])
    assert words in missing["why"]


SUMS = {
    "lost": (lambda answer: None, "no answer within"),
    "not finite": (with_array("moments/second", not_finite), "has second with values that are not"),
    "of another shape": (with_array("moments/sum", lambda v: v[1:]), "has sum of torch.float64"),
    "of negative rows": (with_array("moments/count", lambda v: -v), "count below 0"),
    "without one": (without_array("moments/second"), "the moments holds ['count', 'sum']"),
}


@pytest.mark.parametrize("fault", SUMS)
def test_without_all_sums_there_is_no_start_and_the_run_can_go_on(
    config, three, once, status, found, undisturbed, tmp_path, fault
):
    spoil, words = SUMS[fault]
    three.spoil = once("pair_moments", None, 101, spoil)
    with pytest.raises(RunError, match=r"the start is not complete: ") as caught:
        serve(config, tmp_path / "run", three)
    assert words in str(caught.value)
    assert status(tmp_path / "run")["state"] == "failed"
    serve(config, tmp_path / "run", three, resume=True)
    assert found(tmp_path / "run") == found(undisturbed())


def test_a_lost_round_is_as_if_the_node_had_not_been_there(
    config, in_process, elsewhere, once, found, tmp_path
):
    # It answers later from what the server has heard of, whether or not it did the lost round.
    for name in ("did it", "did not"):
        nodes = elsewhere(in_process((0, 1, 2), (3, 4, 5), (6, 7, 8, 9), engine=config.engine),
                          tmp_path / name)  # fmt: skip
        if name == "did it":
            nodes.spoil = once("train", 1, 101, lambda answer: None)
        else:
            nodes.exchange = without(nodes.exchange, ("train", 101, 1))
        serve(config, tmp_path / name / "run", nodes)
    assert found(tmp_path / "did it/run") == found(tmp_path / "did not/run")


def without(exchange, lost):
    """One message, by kind, node and round, does not arrive."""

    def partly(kind, messages, timeout):
        kept = {
            node: message
            for node, message in messages.items()
            if (kind, node, message.facts.get("round_number")) != lost
        }
        return exchange(kind, kept, timeout)

    return partly


def test_below_the_quorum_the_run_ends_and_can_go_on(
    make, three, once, rows, status, found, undisturbed, tmp_path
):
    strict = make("flower.nodes=3", "engine.stack=2", "flower.quorum=0.8")
    three.spoil = once("train", 2, 102, lambda answer: None)
    with pytest.raises(RunError, match=r"round 2: 60% of 10 clients have answered, flower.quorum"):
        serve(strict, tmp_path / "run", three)
    assert status(tmp_path / "run")["state"] == "failed"
    assert "round 2: 60%" in status(tmp_path / "run")["error"]
    assert len(rows(tmp_path / "run")) == 2
    serve(strict, tmp_path / "run", three, resume=True)
    assert found(tmp_path / "run") == found(undisturbed())


def test_a_node_that_lost_its_folder_is_prepared_anew(config, three, rows, status, tmp_path):
    def lose(kind, node, asked, answer):
        if (kind, node, asked.facts.get("round_number")) == ("train", 101, 1):
            three.held[101] = three.held[101].changed(state=str(tmp_path / "other"))
        return answer

    three.spoil = lose
    serve(config, tmp_path / "run", three)
    # It says so when asked to judge, which needs features, and gets them with the next message.
    (lost,) = status(tmp_path / "run")["missing"]
    assert (lost["round"], lost["node"]) == (1, "101") and "no features" in lost["why"]
    assert all(row["clients"] == EVERYBODY for row in rows(tmp_path / "run")[1:])
