"""Sections: frozen, validated, found by their class."""

import pytest
from pydantic import ValidationError

from fedsyn.settings.sections import (
    Field,
    Iterations,
    Positive,
    Section,
    shortest,
)


class Inner(Section):
    """Options of something."""

    rate: Positive = Field(0.5, description="a rate")
    steps: Iterations = Field(9, description="repetitions")


class Outer(Section):
    """A family."""

    name: str = Field("", description="which of them")
    passes: Iterations = Field(0, description="repetitions")
    inner: Inner = Field(Inner(), description="options")


class Mixed(Inner, Outer):
    """A family with options that stand in it."""


class TestOf:
    def test_options_are_those_that_stand_in_a_field(self):
        own = Outer(inner=Inner(rate=2.0))
        assert own.of(Inner) is own.inner

    def test_options_that_stand_in_the_section_are_the_section_itself(self):
        own = Mixed(rate=3.0)
        assert own.of(Inner) is own and own.of(Outer) is own
        assert own.of(Inner).rate == 3.0

    def test_what_is_not_there_is_named(self):
        with pytest.raises(TypeError, match="Inner has no Outer"):
            Inner().of(Outer)


class TestChanged:
    def test_a_copy_has_other_values_and_the_section_keeps_its_own(self):
        one = Outer(name="a", inner=Inner(rate=2.0))
        other = one.changed(name="b")
        assert (one.name, other.name) == ("a", "b")
        assert type(other) is Outer and other.inner == one.inner and other != one
        assert other == Outer(name="b", inner=Inner(rate=2.0))

    def test_nothing_is_changed_in_place(self):
        with pytest.raises(ValidationError, match="frozen"):
            Outer().name = "b"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rate": 0.0}, "greater than 0"),
        ({"rate": float("nan")}, "finite"),
        ({"rate": float("inf")}, "finite"),
        ({"steps": -1}, "greater than or equal to 0"),
        ({"step": 1}, "step"),
    ],
)
def test_numbers_are_finite_and_within_bounds_and_keys_are_known(values, message):
    with pytest.raises(ValidationError, match=message):
        Inner(**values)


def test_the_shortest_repeats_everything_once_and_keeps_the_rest():
    own = Outer(name="a", passes=0, inner=Inner(rate=2.0, steps=7))
    brief = shortest(own)
    assert brief == Outer(name="a", passes=0, inner=Inner(rate=2.0, steps=1))
    assert own.inner.steps == 7
    assert shortest(Outer(passes=5)).passes == 1
