"""The stopwatch adds up what its clock says."""

import itertools

import pytest

from fedsyn.metrics.timing import Stopwatch


def ticking() -> Stopwatch:
    """A stopwatch whose clock advances by one second at every reading."""
    return Stopwatch(clock=itertools.count().__next__)


def test_a_phase_entered_twice_adds_up() -> None:
    watch = ticking()
    for _ in range(2):
        with watch("local"):
            pass
    with watch("evaluate"):
        pass
    assert watch.lap() == {"local": 2, "evaluate": 1}


def test_a_lap_starts_from_nothing() -> None:
    watch = ticking()
    with watch("local"):
        pass
    watch.lap()
    assert watch.lap() == {}


def test_an_inner_phase_counts_in_the_outer_too() -> None:
    watch = ticking()
    with watch("round"), watch("local"):
        pass
    assert watch.lap() == {"local": 1, "round": 3}


def test_time_until_an_exception_counts() -> None:
    watch = ticking()
    with pytest.raises(RuntimeError), watch("local"):
        raise RuntimeError
    assert watch.lap() == {"local": 1}
