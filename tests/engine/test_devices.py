"""Clients on several devices: the same results as on one."""

import json

import pytest
import torch
from safetensors.torch import load_file

from fedsyn.engine import records
from fedsyn.engine.runner import run
from fedsyn.errors import ConfigError


def rounds(out):
    lines = (out / records.METRICS).read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


def test_two_devices_give_what_one_gives(make, tmp_path):
    for name, devices in (("one", ["cpu"]), ("two", ["cpu", "cpu"])):
        run(make("engine.stack=3", "run.rounds=2", f"engine.devices={devices}"), tmp_path / name)
    assert rounds(tmp_path / "two") == rounds(tmp_path / "one")
    for path in (records.MODEL, records.CHECKPOINT):
        one, two = (load_file(tmp_path / name / path) for name in ("one", "two"))
        assert one.keys() == two.keys()
        assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_device_that_is_not_here_is_named(make, tmp_path):
    with pytest.raises(ConfigError, match=r"'cuda:97'.*no such device"):
        run(make('engine.devices=["cpu", "cuda:97"]'), tmp_path / "out")
    assert not (tmp_path / "out").exists()
