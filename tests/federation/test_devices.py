"""Clients on several devices: the same results as on one."""

import json

import pytest
import torch
from safetensors.torch import load_file

from fedsyn.errors import ConfigError, RunError
from fedsyn.federation import records
from fedsyn.federation.runner import run

DIVERGING = ["model.start=random", "method.optimizer=sgd", "method.lr=1e30"]


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


@pytest.mark.parametrize("threads", [2, 5])
def test_threads_give_what_one_gives(make, tmp_path, threads):
    for count in (1, threads):
        settings = make("engine.stack=3", "run.rounds=2", f"engine.threads={count}")
        run(settings, tmp_path / str(count))
    assert rounds(tmp_path / str(threads)) == rounds(tmp_path / "1")


def test_a_run_leaves_torch_its_threads(make, tmp_path):
    before = torch.get_num_threads()
    run(make("run.rounds=1", "engine.threads=3"), tmp_path / "run")
    assert torch.get_num_threads() == before


def test_what_fails_in_a_thread_fails_the_run(make, tmp_path):
    with pytest.raises(RunError, match=r"diverged in round 1.*method\.lr"):
        run(make("engine.threads=2", *DIVERGING), tmp_path / "run")


def test_a_device_that_is_not_here_is_named(make, tmp_path):
    with pytest.raises(ConfigError, match=r"'cuda:97'.*no such device"):
        run(make('engine.devices=["cpu", "cuda:97"]'), tmp_path / "out")
    assert not (tmp_path / "out").exists()
