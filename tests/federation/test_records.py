"""Which rounds a summary reports."""

import math

import pytest

from fedsyn.federation.records import chosen_rounds
from fedsyn.tasks import TASKS
from fedsyn.tasks.retrieval import RETRIEVAL
from fedsyn.tasks.vqa import VQA


def rounds(name, values, held_out):
    """Rounds with these values of a metric, and these losses on held-out rows."""
    return [
        {"round": number, "metrics": {name: value}, "losses": {"holdout": loss}}
        for number, (value, loss) in enumerate(zip(values, held_out, strict=True), start=1)
    ]


@pytest.mark.parametrize("task", TASKS.own, ids=TASKS.names)
def test_the_best_round_is_by_the_headline_and_the_selected_one_by_held_out_rows(task):
    rows = rounds(task.metrics.headlines[0], [0.3, 0.5, 0.4, 0.1], [2.0, 1.5, 1.0, 3.0])
    chosen = chosen_rounds(rows, task.metrics)
    found = {name: row["round"] for name, row in chosen.items()}
    assert found == {"last": 4, "best": 2, "selected": 3}


def test_where_only_the_first_ranks_were_judged_they_decide():
    rows = rounds("map50", [0.1, 0.3, 0.2], [1.0, 1.0, 1.0])
    assert chosen_rounds(rows, RETRIEVAL.metrics)["best"]["round"] == 2


@pytest.mark.parametrize("nothing", [None, math.nan])
def test_a_round_without_a_number_is_not_the_best(nothing):
    rows = rounds("accuracy", [nothing, 0.2, nothing], [1.0, 2.0, 3.0])
    assert chosen_rounds(rows, VQA.metrics)["best"]["round"] == 2


@pytest.mark.parametrize("nothing", [None, math.nan])
def test_without_held_out_rows_the_last_round_is_selected(nothing):
    rows = [*rounds("accuracy", [0.4, 0.2], [nothing, nothing]), {"round": 3, "losses": {}}]
    assert chosen_rounds(rows, VQA.metrics)["selected"]["round"] == 2


@pytest.mark.parametrize("task", TASKS.own, ids=TASKS.names)
def test_every_task_has_a_headline(task):
    table = task.metrics
    assert table.headlines
    assert set(table.headlines) <= table.labels.keys()
    assert set(table.headlines) <= table.compared.keys()
