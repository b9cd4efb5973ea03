"""Settings chosen without labels: which runs are made, and which of them is best."""

import json
import math

import pytest

from fedsyn.cli import tune as command
from fedsyn.errors import ConfigError, RunError
from fedsyn.federation import records
from fedsyn.federation.config import load
from fedsyn.federation.tuning import RESULT, candidates, tune

TRIED = {"objective.temperature": (0.1, 0.2, 1.0), "method.lr": (0.001, 0.01)}
START = {"objective.temperature": 1.0, "method.lr": 0.001}


def bowl(keys):
    """Best at 0.2 and 0.01; at 1.0 the other rate is worse."""
    away = abs(keys["objective.temperature"] - 0.2)
    return away + (0.01 - keys["method.lr"]) * (1 if away < 0.5 else -1)


class Runs:
    """Makes runs whose criterion is a function of their keys."""

    def __init__(self, criterion):
        self.criterion, self.made = criterion, []

    def __call__(self, keys, out):
        self.made.append(keys)
        out.mkdir(parents=True)
        value = self.criterion(keys)
        held_out = [9.0, value, 8.0]  # the second round is the one selected
        records.write_rows(
            out,
            [
                {"round": number, "losses": {"holdout": loss}, "holdout_recall@10": loss / 10}
                for number, loss in enumerate(held_out)
            ],
        )
        summary = {"selected": {"round": 1, "metrics": {"map": -value}}, "seconds": 2.5}
        records.write_json(out / records.SUMMARY, summary)
        return summary


def test_one_key_after_another_takes_each_value_until_nothing_changes(tmp_path):
    run, told = Runs(bowl), []
    trials = tune(TRIED, START, run, tmp_path, runs=99, told=told.append)
    order = [(keys["objective.temperature"], keys["method.lr"]) for keys in run.made]
    assert order == [
        (1.0, 0.001),  # as it is
        (0.1, 0.001), (0.2, 0.001),  # temperatures
        (0.2, 0.01),  # rates, at the best temperature so far
        (0.1, 0.01), (1.0, 0.01),  # temperatures again, at the best rate; rates are all known
    ]  # fmt: skip
    assert told == sorted(told, key=lambda one: run.made.index(one.keys))
    best = trials[0]
    assert best.keys == {"objective.temperature": 0.2, "method.lr": 0.01}
    assert (best.criterion, best.round, best.recall, best.seconds) == (0.0, 1, 0.0, 2.5)
    assert [one.criterion for one in trials] == sorted(one.criterion for one in trials)


def test_a_key_whose_values_are_no_better_keeps_the_one_it_had(tmp_path):
    trials = tune(TRIED, START, Runs(lambda keys: 1.0), tmp_path, runs=99)
    assert trials[0].keys == START
    assert len(trials) == 1 + 2 + 1  # and no second pass


def test_the_best_is_in_the_file(tmp_path):
    trials = tune(TRIED, START, Runs(bowl), tmp_path, runs=99)
    written = json.loads((tmp_path / RESULT).read_text())["trials"]
    assert [one["keys"] for one in written] == [one.keys for one in trials]
    assert written[0]["out"] == str(tmp_path / "runs" / "temperature=0.2,lr=0.01")


@pytest.mark.parametrize(("runs", "seconds", "made"), [(3, math.inf, 3), (99, 0.0, 1)])
def test_no_run_begins_beyond_the_budget(tmp_path, runs, seconds, made):
    run = Runs(bowl)
    trials = tune(TRIED, START, run, tmp_path, runs=runs, seconds=seconds)
    assert len(run.made) == len(trials) == made


def test_runs_that_are_done_are_not_made_again(tmp_path):
    first = Runs(bowl)
    tune(TRIED, START, first, tmp_path, runs=3)
    second = Runs(bowl)
    trials = tune(TRIED, START, second, tmp_path, runs=99)
    assert not [keys for keys in second.made if keys in first.made]
    whole = tune(TRIED, START, Runs(bowl), tmp_path / "whole", runs=99)
    assert [one.keys for one in trials] == [one.keys for one in whole]


def test_a_run_that_was_stopped_is_gone_on_with(tmp_path):
    stopped = Runs(bowl)

    def failing(keys, out):
        if len(stopped.made) == 2:
            raise KeyboardInterrupt
        return stopped(keys, out)

    with pytest.raises(KeyboardInterrupt):
        tune(TRIED, START, failing, tmp_path, runs=99)
    assert len(json.loads((tmp_path / RESULT).read_text())["trials"]) == 2
    rest = Runs(bowl)
    tune(TRIED, START, rest, tmp_path, runs=99)
    assert len(stopped.made) + len(rest.made) == 6


@pytest.mark.parametrize("tried", [{}, {"method.lr": (0.001,)}])
def test_nothing_to_try_is_said(tmp_path, tried):
    with pytest.raises(ConfigError, match="nothing to try"):
        tune(tried, START, Runs(bowl), tmp_path / "out", runs=9)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("nothing", [None, math.nan])
def test_without_held_out_rows_there_is_nothing_to_choose_by(tmp_path, nothing):
    def run(keys, out):
        out.mkdir(parents=True)
        records.write_rows(out, [{"round": 0, "losses": {"holdout": nothing}}])
        return {"selected": {"round": 0}, "seconds": 1.0}

    with pytest.raises(RunError, match=r"no client holds rows out.*data\.holdout"):
        tune(TRIED, START, run, tmp_path, runs=9)


# ---- What is tried, and of real runs -------------------------------------------------------------


def test_keys_that_are_worth_trying_are_those_of_what_is_in_force():
    found = candidates(load(None, ["synthesis.enabled=true"]))
    assert {"objective.temperature", "method.lr", "synthesis.server_temperature"} <= found.keys()
    assert all(len(values) > 1 for values in found.values())
    off = candidates(load(None, ["synthesis.enabled=false"]))
    assert {key.partition(".")[0] for key in off} == {"objective", "method"}
    other = candidates(load(None, ["objective=ucch", "synthesis.enabled=false"]))
    assert "objective.temperature" not in other  # its own is another key


def test_keys_may_be_named_on_the_command_line():
    config = load()
    assert command.tried(config, []) == candidates(config)
    words = ["method.lr = 1e-3,3e-3", "objective=ucch,info_nce", "model.linear=frozen"]
    assert command.tried(config, words) == {
        "method.lr": (1e-3, 3e-3), "objective": ("ucch", "info_nce"), "model.linear": ("frozen",),
    }  # fmt: skip
    for wrong in ("method.lr", "method.lr="):
        with pytest.raises(ConfigError, match=r"--try.*section\.key=value,value"):
            command.tried(config, [wrong])


def test_runs_in_this_process_have_the_keys_that_are_tried(make, tmp_path):
    settings = make("synthesis.enabled=false", "run.rounds=1")
    run = command.simulated(settings)
    tried = {"method.lr": (1e-3, 3.0), "model.linear": ("trained", "frozen")}
    start = {"method.lr": 1e-3, "model.linear": "trained"}
    trials = tune(tried, start, run, tmp_path, runs=2)
    for one in trials:
        kept = load(tmp_path / "runs" / one.out.rpartition("/")[2] / records.CONFIG)
        assert (kept.method.lr, kept.model.linear) == tuple(one.keys.values())
        assert kept.run.rounds == 1 and one.recall is not None
    again = tune(tried, start, lambda keys, out: pytest.fail("made again"), tmp_path, runs=2)
    assert again == trials


def test_runs_by_a_command_line_have_the_keys_as_overrides(tmp_path):
    said = []

    def make(words, out):
        said.append((words, out))
        return {}

    command.by_words(make)({"method.lr": 0.1, "model.linear": "frozen"}, tmp_path)
    assert said == [(["method.lr=0.1", 'model.linear="frozen"'], tmp_path)]
