"""What a node does, and what it refuses."""

import re

import pytest
import torch

import fedsyn
from fedsyn.deployment import node as module
from fedsyn.deployment.node import NodeConfig, answer
from fedsyn.deployment.parcels import Parcel
from fedsyn.deployment.server import serve
from fedsyn.errors import ConfigError, RunError


@pytest.fixture
def talk(make, table, tmp_path):
    """The messages of two rounds to three nodes, and the table they lie on."""
    config = make("run.rounds=2")
    at = table((0, 1, 2), (3, 4, 5), (6, 7, 8, 9), engine=config.engine)
    serve(config, tmp_path / "run", at)
    return at


def message(talk, kind, round=None):
    """The first of this kind to the first node."""
    for one, node, asked in talk.sent:
        if (one, node) == (kind, 100) and round in (None, asked.facts.get("round")):
            return asked
    raise AssertionError(kind)


def changed(parcel, arrays=(), **facts):
    return Parcel(parcel.facts | facts, parcel.arrays | dict(arrays))


def refusal(node, kind, parcel):
    found = answer(node, kind, parcel)
    assert found.facts["refused"] and not found.arrays
    return found.facts["refused"]


def test_a_repeated_message_has_the_same_answer(talk):
    asked = message(talk, "train", round=2)
    first, second = (answer(talk.held[100], "train", asked) for _ in range(2))
    assert first.facts == second.facts
    assert first.arrays.keys() == second.arrays.keys()
    assert all(torch.equal(value, second.arrays[name]) for name, value in first.arrays.items())


def test_a_round_that_nobody_heard_of_has_not_been(talk):
    # The server never heard of round 1: the clients begin anew, with untrained generators.
    asked = message(talk, "train", round=2)
    usual = answer(talk.held[100], "train", asked)
    anew = answer(talk.held[100], "train", changed(asked, since=0, introduced=[]))
    assert set(anew.facts["introduced"]) == {0, 1, 2}
    assert not torch.equal(usual.arrays["upload/trained"], anew.arrays["upload/trained"])


def test_two_rounds_are_kept_and_no_more(talk):
    folder = next(path for path in module.Path(talk.held[100].state).iterdir())
    assert sorted(path.name for path in folder.glob("round-*")) == [
        "round-1.safetensors", "round-2.safetensors",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("allow", "words"),
    [
        ({"methods": ["fedprox"]}, "method.name = 'fedavg'"),
        ({"objectives": ["ucch"]}, "objective.name = 'info_nce'"),
        ({"max_rounds": 1}, "max_rounds = 1"),
        ({"max_bytes": 100}, "max_bytes = 100"),
        ({"min_pairs": 1000}, "min_pairs = 1000"),
        ({"min_cluster": 4}, "min_cluster = 4"),
    ],
)
def test_a_node_allows_what_its_own_configuration_says(talk, allow, words):
    node = talk.held[100]
    strict = NodeConfig(**{**node.model_dump(), "allow": allow})
    for kind in ("introduce", "moments", "train", "judge"):
        assert words in refusal(strict, kind, message(talk, kind))


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
def test_arrays_are_checked_before_they_are_used(talk, which):
    asked = message(talk, "train", round=2)
    words, wrong = list(spoilt(asked.arrays["down/model"]).items())[which]
    assert words in refusal(talk.held[100], "train", changed(asked, {"down/model": wrong}))
    judged = message(talk, "judge")
    words, wrong = list(spoilt(judged.arrays["models/0"]).items())[which]
    assert words in refusal(talk.held[100], "judge", changed(judged, {"models/0": wrong}))


def test_what_is_missing_or_too_much_is_named(talk):
    asked = message(talk, "train", round=2)
    less = Parcel(asked.facts, {})
    assert "expected ['model']" in refusal(talk.held[100], "train", less)
    more = changed(asked, {"down/trojan": torch.zeros(1)})
    assert "trojan" in refusal(talk.held[100], "train", more)


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"version": "0.0.1"}, f"runs fedsyn 0.0.1; this is {fedsyn.__version__}"),
        ({"run": "../../etc"}, "run"),
        ({"round": 0}, "round"),
        ({"round": 3}, "round 3 is asked for of run.rounds = 2"),
        ({"ids": [0, 9]}, "clients [9] are not held here"),
        ({"surprise": 1}, "surprise"),
        ({"run": "0123456789abcdef"}, "no features for run 0123456789abcdef"),
    ],
)
def test_facts_are_checked(talk, facts, words):
    asked = message(talk, "train", round=2)
    assert words in refusal(talk.held[100], "train", changed(asked, **facts))


def test_a_wrong_configuration_is_refused(talk):
    asked = message(talk, "introduce")
    wrong = asked.facts["config"] | {"method": {"name": "magic"}}
    assert "method.name" in refusal(talk.held[100], "introduce", changed(asked, config=wrong))


def test_a_node_that_lost_its_folder_says_so(talk, tmp_path):
    node = talk.held[100].model_copy(update={"state": str(tmp_path / "empty")})
    found = answer(node, "train", message(talk, "train", round=2))
    assert found.facts["unprepared"]


def test_the_engine_is_the_nodes_own(talk):
    asked = message(talk, "train", round=2)
    engine = asked.facts["config"]["engine"] | {"devices": ["cuda:99"]}
    same = changed(asked, config=asked.facts["config"] | {"engine": engine})
    assert not answer(talk.held[100], "train", same).facts["refused"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("clients = []", "expected different ids"),
        ("clients = [1, 1]", "expected different ids"),
        ('clients = [1, 2]\ndata = ["a.npz"]', "1 files in data for 2 clients"),
        ("clients = [1]\nmax_byte = 3", "nearest valid name is 'allow.max_bytes'"),
    ],
)
def test_a_nodes_file_is_checked(tmp_path, text, words):
    path = tmp_path / "node.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=re.escape(words)):
        NodeConfig.load(path)


def test_paths_in_a_nodes_file_start_at_its_folder(tmp_path):
    text = 'clients = [3]\ndata = ["own.npz"]\nstate = "kept"\nteacher = "clip"'
    (tmp_path / "node.toml").write_text(text)
    node = NodeConfig.load(tmp_path / "node.toml")
    assert node.data == (str(tmp_path / "own.npz"),)
    assert node.state == str(tmp_path / "kept")
    assert node.teacher == str(tmp_path / "clip")
    (tmp_path / "node.toml").write_text("clients = [3]")
    assert NodeConfig.load(tmp_path / "node.toml").teacher == ""


def test_a_server_names_no_file_of_a_real_silo(talk, monkeypatch):
    asked = message(talk, "train", round=2)
    theirs = asked.facts["config"] | {"teacher": {"path": "/etc/passwd"}}
    seen = []
    monkeypatch.setattr(module, "_run", lambda node, config, *_: seen.append(config) or 1 / 0)
    for data, own in (((), ""), (("a.npz",) * 3, ""), (("a.npz",) * 3, "mine")):
        node = talk.held[100].model_copy(update={"data": data, "teacher": own})
        with pytest.raises(ZeroDivisionError):
            answer(node, "train", changed(asked, config=theirs))
    assert [config.teacher.path for config in seen] == ["/etc/passwd", "", "mine"]


def test_bounds_are_no_federations(make, table, tmp_path):
    for method in ("local", "centralised"):
        with pytest.raises(ConfigError, match=method):
            serve(make(f"method={method}"), tmp_path / method, table((0,)))
    with pytest.raises(ConfigError, match="oracle"):
        serve(make("synthesis.oracle=true"), tmp_path / "oracle", table((0,)))
    assert not list(tmp_path.glob("*/*"))


def test_nobody_comes(make, table, tmp_path):
    with pytest.raises(RunError, match=r"0 of flower.nodes = 2 nodes came within"):
        serve(make("flower.wait=0.01"), tmp_path / "run", table())
