"""A node's own file."""

import re

import pytest

from fedsyn.deployment.node import NodeConfig
from fedsyn.errors import ConfigError


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
