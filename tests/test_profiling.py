"""The stopwatch adds up what its clock says."""

import itertools
from contextlib import contextmanager

import pytest
import torch

from fedsyn.profiling import Stopwatch, account, announce, phase, stopwatch


class Ticking:
    """A clock that advances by one second at every reading."""

    def __init__(self):
        self.now = itertools.count().__next__

    def seconds(self, begin, end):
        return end - begin


def test_a_phase_entered_twice_adds_up():
    watch = Stopwatch(Ticking())
    for _ in range(2):
        with watch("local"):
            pass
    with watch("evaluate"):
        pass
    assert watch.lap() == {"local": 2, "evaluate": 1}


def test_a_lap_starts_from_nothing():
    watch = Stopwatch(Ticking())
    with watch("local"):
        pass
    watch.lap()
    assert watch.lap() == {}


def test_an_inner_phase_takes_its_time_from_the_outer():
    watch = Stopwatch(Ticking())
    with watch("local"):
        with watch("gather"):
            pass
        with watch("gather"):
            pass
    assert watch.lap() == {"local": 3, "gather": 2}


def test_time_until_an_exception_counts():
    watch = Stopwatch(Ticking())
    with pytest.raises(RuntimeError), watch("local"):
        raise RuntimeError
    assert watch.lap() == {"local": 1}


def test_code_names_its_phases_and_whoever_runs_a_stopwatch_has_them():
    with phase("nobody looks"):
        pass
    watch = Stopwatch(Ticking())
    with watch.running(), phase("local"):
        pass
    with phase("nobody looks"):
        account({"nobody looks": 1.0})
    assert watch.lap() == {"local": 1}


def test_phases_are_told_in_the_order_of_a_round():
    watch = Stopwatch(Ticking())
    for name in ("my own", "evaluate", "upload", "local"):
        with watch(name):
            pass
    assert list(watch.lap()) == ["local", "upload", "evaluate", "my own"]


def test_time_spent_in_other_processes_counts():
    watch = Stopwatch(Ticking())
    with watch.running():
        with phase("local"):
            pass
        account({"local": 0.5, "critic": 2.0})
    assert watch.lap() == {"local": 1.5, "critic": 2.0}


def test_profilers_see_every_phase_and_observers_the_outer_ones():
    seen, entered = [], []

    @contextmanager
    def label(name):
        seen.append(name)
        yield

    watch = Stopwatch(Ticking(), [label], entered.append)
    with watch("local"), watch("gather"):
        pass
    assert seen == ["local", "gather"]
    assert entered == ["local"]


def test_what_is_waited_for_is_told_and_not_timed():
    entered = []
    announce("nobody looks")
    watch = Stopwatch(Ticking(), entered=entered.append)
    with watch.running():
        announce("nodes")
    assert entered == ["nodes"] and watch.lap() == {}


def test_a_stopwatch_for_a_processor_takes_its_clock():
    entered = []
    watch = stopwatch(torch.device("cpu"), profiled=True, entered=entered.append)
    with watch("local"):
        sum(range(1000))
    (name, seconds), *others = watch.lap().items()
    assert name == "local" and 0 < seconds < 60 and not others
    assert entered == ["local"]
