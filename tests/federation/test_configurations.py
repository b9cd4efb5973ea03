"""Configuration files that earlier versions wrote mean what they meant, or say what has changed."""

import tomllib
from pathlib import Path

import pytest
import tomli_w

from fedsyn.errors import ConfigError
from fedsyn.federation import config
from fedsyn.settings.loading import over, renamed

FOLDER = Path(__file__).with_name("configurations")
PLACE = "FOLDER"  # where their data were


def stored():
    """The trees of the files, by name."""
    trees = {"fedavg-on": tomllib.loads((FOLDER / "fedavg-on.toml").read_text())}
    for name, tree in tomllib.loads((FOLDER / "others.toml").read_text()).items():
        trees[name] = over(trees[tree.pop("like")], tree)
    return trees


TREES = stored()


def leaves(tree, *path):
    """A tree's values, by where they stand."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, *path, key)
        else:
            yield (*path, key), value


GONE = dict(renamed(config.Config()))  # keys that there were, and what is said of them


def without_gone(tree, *path):
    """A tree without them."""
    return {
        key: without_gone(value, *path, key) if isinstance(value, dict) else value
        for key, value in tree.items()
        if ".".join((*path, key)) not in GONE
    }


@pytest.mark.parametrize("name", TREES)
def test_every_value_of_the_file_is_one_of_the_configuration(tmp_path, name):
    tree, file = without_gone(TREES[name]), tmp_path / "config.toml"
    if tree["synthesis"]["space"] == "private":  # there were no clusters but a client's own
        with pytest.raises(ConfigError, match=r"synthesis.clusters = 'all' needs synthesis.space"):
            config.parse(tree)
        tree["synthesis"]["clusters"] = "own"
    file.write_text(tomli_w.dumps(tree).replace(PLACE, str(tmp_path)))
    found = dict(leaves(config.load(file).model_dump(mode="json")))
    for path, value in leaves(tomllib.loads(file.read_text())):
        assert (path, found[path], type(found[path])) == (path, value, type(value))


@pytest.mark.parametrize("key", GONE)
def test_a_key_that_is_no_more_says_what_has_taken_its_place(key):
    """Instead of the key that is called most like it."""
    section, _, name = key.partition(".")
    tree = without_gone(TREES["fedavg-on"])
    tree[section][name] = TREES["fedavg-on"][section][name]
    with pytest.raises(ConfigError) as caught:
        config.parse(tree)
    assert str(caught.value) == f"key {key!r} is no more: {GONE[key]}"


def test_the_line_search_is_in_the_place_of_the_gate():
    for key in ("synthesis.gate", "synthesis.tolerance"):
        assert "synthesis.line_search" in GONE[key]
        with pytest.raises(ConfigError, match=rf"key '{key}' is no more: synthesis\.line_search"):
            config.load(None, [f"{key}=true"])
