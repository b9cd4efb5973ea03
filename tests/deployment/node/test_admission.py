"""What a node lets a run ask of it."""

import sys

import pytest

from fedsyn.deployment.messages import Request, understood
from fedsyn.deployment.node import NodeConfig, answer
from fedsyn.deployment.node.admission import admitted

KINDS = ("introduce", "moments", "pair_moments", "train", "judge")


def configured(message, **sections):
    """The facts of a message whose run has other keys."""
    config = dict(message.facts["config"])
    for section, values in sections.items():
        config[section] = config[section] | values
    return message.facts | {"config": config}


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
def test_a_node_allows_what_its_own_configuration_says(two_rounds, asked, refusal, allow, words):
    node = two_rounds.held[100]
    strict = NodeConfig(**{**node.model_dump(), "allow": allow})
    for kind in KINDS:
        assert words in refusal(strict, kind, asked(kind))


PLUGIN = """
from dataclasses import replace

from fedsyn.methods.fedavg import FEDAVG

MINE = replace(FEDAVG, name="mine")
"""


@pytest.fixture
def foreign(tmp_path, monkeypatch):
    """A method of another package, in a module that is not imported yet."""
    folder = tmp_path / "foreign"
    folder.mkdir()
    (folder / "another_package.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(folder)
    yield "another_package:MINE"
    sys.modules.pop("another_package", None)


def test_a_plugin_of_another_package_is_not_imported_unless_it_is_allowed(
    two_rounds, asked, refusal, foreign
):
    node = two_rounds.held[100]
    for kind in KINDS:
        message = asked(kind)
        message.facts.update(configured(message, method={"name": foreign}))
        words = refusal(node, kind, message)
        assert repr(foreign) in words and "plugins = []" in words
    assert "another_package" not in sys.modules


def test_a_plugin_that_is_allowed_is_used(two_rounds, asked, foreign):
    node = two_rounds.held[100]
    allow = node.allow.changed(plugins=(foreign,))
    message = asked("introduce")
    message.facts.update(configured(message, method={"name": foreign}))
    assert not answer(node.changed(allow=allow), "introduce", message).facts["refused"]
    config = admitted(node.changed(allow=allow), understood(Request, message.facts))
    assert config.plugins.method.name == "mine"


def test_every_family_of_plugins_has_to_be_allowed(two_rounds, asked, refusal):
    families = {
        "task": {"name": "a:B"}, "objective": {"name": "a:B"}, "teacher": {"name": "a:B"},
        "run": {"selection": "a:B"}, "synthesis": {"generator": "a:B"},
    }  # fmt: skip
    for values in (*families.items(), ("synthesis", {"filter": "a:B"}),
                   ("synthesis", {"server": "a:B"}), ("run", {"criterion": "a:B"}),
                   ("run", {"extensions": ["a:B"]})):  # fmt: skip
        message = asked("introduce")
        message.facts.update(configured(message, **dict([values])))
        words = refusal(two_rounds.held[100], "introduce", message)
        assert "'a:B'" in words and "plugins = []" in words, values


@pytest.mark.parametrize("method", [{"name": "magic"}, {"name": "fedavg", "lr": "fast"}])
def test_a_wrong_configuration_is_refused(two_rounds, asked, changed, refusal, method):
    message = asked("introduce")
    wrong = message.facts["config"] | {"method": method}
    words = refusal(two_rounds.held[100], "introduce", changed(message, config=wrong))
    assert f"method.{list(method)[-1]} = " in words


def test_the_engine_is_the_nodes_own(two_rounds, asked):
    message = asked("train", round_number=2)
    message.facts.update(configured(message, engine={"devices": ["cuda:99"]}))
    assert not answer(two_rounds.held[100], "train", message).facts["refused"]


def test_a_server_names_no_file_of_a_real_silo(two_rounds, asked):
    facts = configured(asked("introduce"), teacher={"path": "/etc/passwd"})
    found = []
    for data, own in (((), ""), (("a.npz",) * 3, ""), (("a.npz",) * 3, "mine")):
        node = two_rounds.held[100].changed(data=data, teacher=own)
        found.append(admitted(node, understood(Request, facts)).teacher.path)
    assert found == ["/etc/passwd", "", "mine"]
