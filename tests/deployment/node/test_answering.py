"""What a node answers, and what it checks first."""

import pytest
import torch

import fedsyn
from fedsyn.data import federated
from fedsyn.data.moments import pair_moments
from fedsyn.data.preprocessing import add
from fedsyn.deployment.messages import Message
from fedsyn.deployment.node import answer
from fedsyn.federation.config import data_settings
from fedsyn.federation.federation import federation


def test_a_repeated_message_has_the_same_answer(two_rounds, asked):
    message = asked("train", round_number=2)
    first, second = (answer(two_rounds.held[100], "train", message) for _ in range(2))
    assert first.facts == second.facts
    assert first.arrays.keys() == second.arrays.keys()
    assert all(torch.equal(value, second.arrays[name]) for name, value in first.arrays.items())


def test_a_round_that_nobody_heard_of_has_not_been(two_rounds, asked, changed):
    # The server never heard of round 1: the clients begin anew, with untrained generators.
    message = asked("train", round_number=2)
    usual = answer(two_rounds.held[100], "train", message)
    anew = answer(two_rounds.held[100], "train", changed(message, since=0, known={}))
    first = set(anew.arrays) - set(usual.arrays)
    assert {name.rpartition("/")[2] for name in first} == {"prototypes", "counts", "basis"}
    assert {len(anew.arrays[name]) for name in first} == {3}
    generator = "up/synthesis/own/generator"
    assert not torch.equal(usual.arrays[generator], anew.arrays[generator])


def spoilt(value):
    """Arrays that are not those expected, by what is said of them."""
    value = value.clone()
    nan = value.clone()
    nan.view(-1)[0] = torch.nan
    return {
        "not finite": nan,
        "expected torch.float32 [1, ": value[:, 1:],
        "of torch.float64": value.double(),
    }


@pytest.mark.parametrize("which", range(3))
def test_arrays_are_checked_before_they_are_used(two_rounds, asked, changed, refusal, which):
    for kind, round_number, name in (
        ("train", 2, "down/method/model"),
        ("judge", None, "models/0"),
    ):
        message = asked(kind, round_number)
        words, wrong = list(spoilt(message.arrays[name]).items())[which]
        assert words in refusal(two_rounds.held[100], kind, changed(message, {name: wrong}))


def test_what_is_missing_or_too_much_is_named(two_rounds, asked, changed, refusal):
    node, message = two_rounds.held[100], asked("train", round_number=2)
    assert "expected ['method/model']" in refusal(node, "train", Message(message.facts, {}))
    for name in ("method/trojan", "trojan"):
        more = changed(message, {f"down/{name}": torch.zeros(1)})
        assert name in refusal(node, "train", more)


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"version": "0.0.1"}, f"runs fedsyn 0.0.1; this is {fedsyn.__version__}"),
        ({"run": "../../etc"}, "run"),
        ({"round_number": 0}, "round_number"),
        ({"round_number": 3}, "round 3 is asked for of 2"),
        ({"ids": [0, 9]}, "clients [9] are not held here"),
        ({"validators": [0, 9]}, "clients [9] are not held here"),
        ({"surprise": 1}, "surprise"),
        ({"run": "0123456789abcdef"}, "no features for run 0123456789abcdef"),
    ],
)
def test_facts_are_checked(two_rounds, asked, changed, refusal, facts, words):
    message = asked("train", round_number=2)
    assert words in refusal(two_rounds.held[100], "train", changed(message, **facts))


def test_sums_of_pairs_are_of_the_clients_held_here_and_of_their_training_pairs(
    two_rounds, asked, make
):
    fed = federation(make(), federated.load(data_settings(make())), torch.device("cpu"))
    found = answer(two_rounds.held[100], "pair_moments", asked("pair_moments")).group("moments")
    rows = [fed.silos[client].pairs for client in (0, 1, 2)]
    expected = add(pair_moments(fed.problem.features, rows))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)


def test_a_method_without_rounds_asks_for_none(two_rounds, asked, changed, refusal):
    message = asked("train", round_number=2)
    config = message.facts["config"]
    config = config | {"method": config["method"] | {"name": "cca"}}
    words = refusal(two_rounds.held[100], "train", changed(message, config=config))
    assert "round 2 is asked for of 0" in words


@pytest.mark.parametrize("shares", [[0.5, 2.0], [-0.1], "0.5"])
def test_shares_are_between_none_and_all(two_rounds, asked, changed, refusal, shares):
    words = refusal(two_rounds.held[100], "judge", changed(asked("judge"), shares=shares))
    assert "shares" in words


def test_clients_that_judge_must_be_held_here(two_rounds, asked, changed, refusal):
    message = asked("judge")
    words = refusal(two_rounds.held[100], "judge", changed(message, ids=[3]))
    assert "clients [3] are not held here" in words
