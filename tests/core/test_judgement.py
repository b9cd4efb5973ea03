"""What clients think of models: means over their rows."""

import math
from dataclasses import replace

import pytest
import torch

from fedsyn.core.judgement import Judgement, mixtures

FOUND = Judgement(
    (2, 5, 7), ((1.0, 3.0, math.inf), (4.0, 2.0, 0.5)), (1, 3, 0), bytes_up=12, bytes_down=34
)


def test_a_mean_is_over_the_rows_of_those_who_are_asked_for():
    one = Judgement((2, 5), ((1.0, 3.0), (4.0, 2.0)), (1, 3))
    assert one.mean(0, (2, 5)) == pytest.approx((1 + 3 * 3) / 4)
    assert one.mean(1, [5, 2, 9]) == pytest.approx((4 + 3 * 2) / 4)
    assert one.mean(1, (2,)) == 4.0


def test_where_nobody_has_rows_there_is_no_mean():
    assert math.isnan(FOUND.mean(1, (7,))) and math.isnan(FOUND.mean(0, ()))
    assert math.isnan(FOUND.mean(1, (1,)))


def test_it_may_be_of_some_models_alone():
    assert FOUND.of([1]) == replace(FOUND, losses=((4.0, 2.0, 0.5),))
    assert FOUND.of([1, 0]).losses == FOUND.losses[::-1]


def test_a_recall_goes_with_its_model():
    one = replace(FOUND, recalls=((0.5, 0.1, 0.0), (0.2, 0.4, 1.0)))
    assert one.recall(1, (2, 5)) == pytest.approx((0.2 + 3 * 0.4) / 4)
    assert one.of([1]).recall(0, (5,)) == pytest.approx(0.4)
    assert FOUND.recall(0, (2,)) is None


def test_the_best_is_the_first_of_those_that_are_liked_alike():
    one = Judgement((0, 1), ((2.0, 2.0), (1.0, 2.0), (2.0, 1.0), (math.nan, 0.0)), (1, 1))
    assert one.best((0, 1)) == 1
    assert one.best((1,)) == 3
    assert Judgement((0,), ((5.0,), (1.0,)), (0,)).best((0,)) == 0


def test_mixtures_begin_and_end_with_the_models_themselves():
    first, second = torch.randn(2, 1, 9)
    found = mixtures([first, second], (0.0, 0.25, 1.0))
    assert torch.equal(found[0], first) and torch.equal(found[2], second)
    torch.testing.assert_close(found[1], 0.75 * first + 0.25 * second)
    assert mixtures([first, second, first], ()) == [first, second, first]
