"""What clients think of models: means over their rows."""

import math

import pytest

from fedsyn.core.judgement import Judgement

FOUND = Judgement((2, 5, 7), ((1.0, 3.0, math.inf), (4.0, 2.0, 0.5)), (1, 3, 0), 12, 34)


def test_a_mean_is_over_the_rows_of_those_who_are_asked_for():
    one = Judgement((2, 5), ((1.0, 3.0), (4.0, 2.0)), (1, 3))
    assert one.mean(0, (2, 5)) == pytest.approx((1 + 3 * 3) / 4)
    assert one.mean(1, [5, 2, 9]) == pytest.approx((4 + 3 * 2) / 4)
    assert one.mean(1, (2,)) == 4.0


def test_where_nobody_has_rows_there_is_no_mean():
    assert math.isnan(FOUND.mean(1, (7,))) and math.isnan(FOUND.mean(0, ()))
    assert math.isnan(FOUND.mean(1, (1,)))


def test_it_may_be_of_some_models_alone():
    assert FOUND.of([1]) == Judgement((2, 5, 7), ((4.0, 2.0, 0.5),), (1, 3, 0), 12, 34)
    assert FOUND.of([1, 0]).losses == FOUND.losses[::-1]
