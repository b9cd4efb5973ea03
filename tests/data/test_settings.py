"""What data is told, and by whom."""

from dataclasses import replace

import numpy as np
import pytest

from fedsyn.data.federated import load
from fedsyn.data.local import local_data
from fedsyn.data.settings import NEEDS, DataSettings, Needs
from fedsyn.errors import ConfigError, DataError


@pytest.mark.parametrize("name", [need.name for need in NEEDS])
def test_what_either_needs_both_need(name):
    one = Needs(**{name: True})
    assert one | Needs() == Needs() | one == one | one == one
    everything = Needs(**{need.name: True for need in NEEDS})
    assert one | everything == everything != one


@pytest.mark.parametrize(
    ("task", "method", "who"),
    [
        ("retrieval", "fedavg", {}),
        ("representation", "fedavg", {"pixels": "task.name = 'representation'"}),
        # What both need is said of the task, which is chosen first.
        ("vqa", "creamfl", {"labels": "task.name = 'vqa'", "public": "method.name = 'creamfl'"}),
        ("retrieval", "centralised", {"pooled": "method.name = 'centralised'"}),
    ],
)
def test_a_need_is_of_the_task_or_the_method(configure, task, method, who):
    settings = configure(task={"name": task}, method={"name": method})
    for need in NEEDS:
        assert settings.who(need.name) == settings.asked_by.get(need.name, "this run")
    assert {name: settings.asked_by[name] for name in who} == who
    assert {need.name for need in NEEDS if getattr(settings.needs, need.name)} == {
        *settings.asked_by
    }


def test_data_needs_no_run_to_be_told_something(toy):
    settings = replace(DataSettings(), needs=Needs(public=True))
    with pytest.raises(ConfigError, match=r"^this run learns from public pairs: .* data\.public"):
        local_data(settings, pairs=toy)


def test_pairs_may_be_passed_in_the_place_of_those_that_are_named(configure, toy):
    settings = configure(data={"path": "/nowhere.npz"}, partition={"clients": 3, "min_size": 2})
    with pytest.raises(DataError, match=r"/nowhere\.npz"):
        load(settings)
    data = load(settings, pairs=toy)
    assert data.pairs is toy
    rows = np.concatenate([data.test, *(one.training for one in data.silos)])
    assert np.array_equal(np.sort(rows), np.arange(len(toy)))
