"""Configuration files that earlier versions wrote mean what they meant."""

import tomllib
from pathlib import Path

import pytest
import tomli_w

from fedsyn.federation import config
from fedsyn.settings.loading import over

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


@pytest.mark.parametrize("name", TREES)
def test_every_value_of_the_file_is_one_of_the_configuration(tmp_path, name):
    file = tmp_path / "config.toml"
    file.write_text(tomli_w.dumps(TREES[name]).replace(PLACE, str(tmp_path)))
    found = dict(leaves(config.load(file).model_dump(mode="json")))
    for path, value in leaves(tomllib.loads(file.read_text())):
        assert (path, found[path], type(found[path])) == (path, value, type(value))
