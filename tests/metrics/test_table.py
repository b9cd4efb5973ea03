"""What a task is judged by, for people and files."""

import pytest

from fedsyn.metrics.table import MetricTable, of_rows
from fedsyn.tasks import TASKS

LABELS = {"accuracy": "accuracy", "knn": "nearest neighbours", "imbalance": "imbalance ↓"}
ROWS = of_rows("Classification", LABELS, nouns={"imbalance": "imbalance"}, apart=("imbalance",))
SIDES = MetricTable(
    title="Retrieval",
    labels={"map": "mAP", "map50": "mAP@50", "rsum": "sum of recalls"},
    headlines=("map", "map50"),
    compared={"map": "map", "rsum": "rsum"},
    columns=("map",),
    sides={"one way": "_i2t", "other way": "_t2i", "both": ""},
    nouns={"map": "mean average precision"},
)


def test_the_headline_is_the_first_that_there_is():
    assert SIDES.headline({"map": 0.2, "map50": 0.3}) == "map"
    assert SIDES.headline({"rsum": 1.0, "map50": None}) == "map50"
    assert SIDES.headline({}) == "map"
    assert ROWS.headline({"knn": 0.5}) == "accuracy"


def test_of_a_metric_without_lines_of_its_own_all_sides_are_drawn_the_whole_first():
    lines = SIDES.lines("map50")
    assert lines == {"both": "map50", "one way": "map50_i2t", "other way": "map50_t2i"}
    assert next(iter(lines)) == "both"


def test_shares_of_rows_are_drawn_the_headline_first_and_what_has_another_scale_apart():
    assert list(ROWS.lines("knn").items()) == [
        ("nearest neighbours", "knn"), ("accuracy", "accuracy"),
    ]  # fmt: skip
    assert ROWS.apart == ("imbalance",) and ROWS.compared == {name: name for name in LABELS}
    assert ROWS.columns == tuple(LABELS) and ROWS.headlines == ("accuracy",)


def test_some_have_another_name_in_a_sentence():
    assert ROWS.noun("imbalance") == "imbalance" and ROWS.noun("knn") == "nearest neighbours"
    assert SIDES.noun("map") == "mean average precision" and SIDES.noun("rsum") == "sum of recalls"


@pytest.mark.parametrize("task", TASKS.own, ids=TASKS.names)
def test_the_table_of_every_task_speaks_of_metrics_that_it_names(task):
    table, ends = task.metrics, tuple(task.metrics.sides.values())
    assert table.headlines and table.title
    named = [*table.headlines, *table.compared, *table.columns, *table.drawn, *table.apart]
    assert {*named, *table.nouns} <= table.labels.keys()
    assert set(table.lines(table.headlines[0]).values()) <= {
        f"{name}{end}" for name in table.labels for end in ends
    }
    assert next(iter(table.lines(table.headlines[0]).values())) == table.headlines[0]
