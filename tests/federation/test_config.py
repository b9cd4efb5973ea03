"""The configuration says what is wrong, and survives a round trip."""

import tomllib

import pytest

from fedsyn.errors import ConfigError
from fedsyn.federation import config


def test_a_dumped_configuration_parses_to_itself():
    there = config.load(None, ["run.seed=3", "model.hidden=[64, 32]", "method=local"])
    assert config.parse(tomllib.loads(config.dump(there))) == there


def test_overrides_win_over_the_file(tmp_path):
    file = tmp_path / "c.toml"
    file.write_text("[run]\nseed = 1\nrounds = 7\n")
    read = config.load(file, ["run.seed=2"])
    assert (read.run.seed, read.run.rounds) == (2, 7)


def test_private_prototypes_are_of_private_networks():
    own = ["synthesis.clusters=own", "synthesis.space=private", "synthesis.encoder=global"]
    with pytest.raises(ConfigError, match=r"synthesis\.space.*synthesis\.encoder.*'global'"):
        config.load(None, own)


def test_fedftg_is_refused_where_no_model_is_sent():
    with pytest.raises(ConfigError, match=r"fedftg.*fednova"):
        config.load(None, ["synthesis.server=fedftg", "method=fednova"])


@pytest.mark.parametrize(
    ("override", "names"),
    [
        ("run.sed=1", ["run.sed", "run.seed"]),
        ("rn.seed=1", ["rn", "run.seed"]),
        ("alpha=1", ["alpha", "partition.alpha"]),
        ("run.rounds=-1", ["run.rounds", "-1"]),
        ("run.rounds=many", ["run.rounds", "many"]),
        ("objective.jdsh.low=0.5", ["objective.jdsh", "low <= high, got 0.5 and -0.138"]),
        ("method.name=fedmagic", ["method.name", "fedmagic", "fedavg"]),
        ("run.criterion=ucc", ["run.criterion = 'ucc'", "'ucch'"]),
        ("partition.alpha=nan", ["partition.alpha", "nan"]),
        ("run", ["run", "section.key=value"]),
        ("run.seed.deep.er=1", ["run.seed"]),
    ],
)
def test_a_wrong_key_or_value_is_named(override, names):
    with pytest.raises(ConfigError) as caught:
        config.load(None, [override])
    assert all(name in str(caught.value) for name in names)
    assert "\n" not in str(caught.value)


def test_a_missing_and_a_malformed_file_are_named(tmp_path):
    with pytest.raises(ConfigError, match="does not exist"):
        config.load(tmp_path / "none.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("[run\n")
    with pytest.raises(ConfigError, match=r"broken\.toml"):
        config.load(broken)


def test_a_configuration_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        config.Config().run.seed = 4


@pytest.mark.parametrize(
    ("overrides", "mode"),
    [
        ([], "on"),
        (["synthesis.enabled=false"], "off"),
        (["synthesis.oracle=true"], "oracle"),
        (["method=local"], "off"),
        (["method=centralised"], "off"),
    ],
)
def test_the_synthesis_mode_has_one_name(overrides, mode):
    assert config.load(None, overrides).synthesis_mode == mode


def test_what_is_given_wins_over_the_method_and_that_over_the_task():
    answers = config.load(None, ["task=vqa"])
    assert (answers.data.public, answers.partition.single_modality) == (0.1, 0.0)
    creamfl = config.load(None, ["task=vqa", "method=creamfl"])
    assert (creamfl.data.public, creamfl.partition.single_modality) == (0.2, 0.5)
    assert creamfl.data.questions == answers.data.questions > 0
    given = config.load(None, ["task=vqa", "method=creamfl", "data.public=0.3"])
    assert (given.data.public, given.partition.single_modality) == (0.3, 0.5)


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        (
            ["synthesis.complete=true", "synthesis.share=server"],
            ["synthesis.complete", "synthesis.share", "'server'"],
        ),
        (
            ["synthesis.clusters=all", "synthesis.directions=own"],
            ["synthesis.clusters = 'all'", "synthesis.directions = 'pooled'", "'own'"],
        ),
        (
            ["synthesis.clusters=all", "synthesis.space=private"],
            ["synthesis.clusters = 'all'", "synthesis.space = 'global'", "'private'"],
        ),
        (["synthesis.line_search=[]"], ["synthesis.line_search", "[]"]),
        (["synthesis.line_search=[0.5, 2]"], ["synthesis.line_search", "2"]),
        (
            ["synthesis.shared=8", "synthesis.shared_batch=9"],
            ["synthesis.shared_batch = 9", "synthesis.shared = 8"],
        ),
        (["partition.single_modality=1.0"], ["partition.single_modality", "1.0"]),
        (["synthesis.server=fedgan"], ["synthesis.server", "fedgan", "fedftg"]),
        (["synthesis.fedftg.iterations=0"], ["synthesis.fedftg.iterations", "0"]),
    ],
)
def test_synthesis_that_contradicts_itself_is_refused(overrides, names):
    with pytest.raises(ConfigError) as caught:
        config.load(None, overrides)
    assert all(name in str(caught.value) for name in names)
    assert "\n" not in str(caught.value)
