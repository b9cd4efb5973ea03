"""Comparisons: their plan, their table, and going on where they stopped."""

import json

import pytest

from fedsyn.errors import ConfigError, RunError
from fedsyn.federation import compare, records
from fedsyn.federation.compare import gaps, plan, spread
from fedsyn.tasks.retrieval import RETRIEVAL

DIVERGING = ["model.start=random", "method.optimizer=sgd", "method.lr=1e30"]


def test_a_plan_is_every_combination_and_what_has_no_synthesis_appears_once_a_seed(make, tmp_path):
    jobs = plan(make(), tmp_path, ["cca", "fedavg", "local"], ["info_nce"], ["off", "on"], 2)
    assert sorted({job.setting[::2] for job in jobs}) == [
        ("cca", "off"),
        ("fedavg", "off"),
        ("fedavg", "on"),
        ("local", "off"),
    ]
    assert len(jobs) == 8
    assert {job.config.run.seed for job in jobs} == {0, 1}


@pytest.mark.parametrize(
    ("methods", "modes", "words"),
    [(["fedavg"], ["maybe"], "maybe"), (["fedmagic"], ["on"], "fedmagic"), ([], ["on"], "method")],
)
def test_a_plan_names_what_it_does_not_know(make, tmp_path, methods, modes, words):
    with pytest.raises(ConfigError, match=words):
        plan(make(), tmp_path, methods, ["info_nce"], modes, 1)


def test_a_plan_names_the_method_that_cannot_learn_the_task(make, tmp_path):
    with pytest.raises(ConfigError, match=r"'ccl' cannot learn task.name = 'retrieval'"):
        plan(make(), tmp_path, ["fedavg", "ccl"], ["info_nce"], ["off"], 1)


def test_another_task_has_a_row_of_its_own_metrics(make, tmp_path):
    base = make("task=representation")
    jobs = plan(base, tmp_path, ["fedavg"], ["simclr"], ["off", "on"], 2)
    assert [job.setting[2] for job in jobs] == ["off", "off"]  # synthesis is of retrieval
    for job, accuracy in zip(jobs, (0.4, 0.6), strict=True):
        job.out.mkdir(parents=True)
        metrics = {"linear_probe": accuracy, "knn": 0.3}
        outcomes = {name: {"metrics": metrics} for name in ("selected", "best", "last")}
        numbers = {"metrics": metrics, "seconds": 2.0, "bytes_up": 10}
        records.write_json(job.out / records.SUMMARY, outcomes | numbers)
        records.write_rows(job.out, [{"round": 1, "metrics": {"linear_probe": accuracy / 2}}])
    found = compare.row_of(jobs)
    assert found["task"] == "representation"
    assert found["linear_probe_mean"] == found["best_linear_probe_mean"] == pytest.approx(0.5)
    assert found["linear_probe_std"] == pytest.approx(0.02**0.5)
    assert (found["knn_mean"], found["last_knn_std"], found["semi_1_mean"]) == (0.3, 0.0, None)
    assert found["linear_probe_runs"] == [0.4, 0.6]
    assert found["knn_runs"] == [0.3, 0.3]
    assert found["curve"]["mean"] == [pytest.approx(0.25)]
    assert not any(name.startswith("map") for name in found)


METRICS = ("map", "r10")


def row(mode, mean, std=0.0):
    values = {f"{at}{metric}_{what}": v for at in ("", "best_", "last_")
              for metric in METRICS for what, v in (("mean", mean), ("std", std))}  # fmt: skip
    return {"method": "fedavg", "objective": "info_nce", "synthesis": mode, **values}


def test_the_gap_is_the_share_of_the_way_to_the_oracle():
    on = row("on", 0.5) | {"r10_mean": 0.3}
    (gap,) = gaps([row("off", 0.2), on, row("oracle", 0.6)], METRICS)
    assert gap["map"] == gap["best_map"] == gap["last_map"] == pytest.approx(0.75)
    assert (gap["r10"], gap["best_r10"]) == (pytest.approx(0.25), pytest.approx(0.75))


def test_retrieval_has_gaps_of_both_kinds():
    table = RETRIEVAL.metrics
    assert [table.compared[name] for name in table.gaps] == list(METRICS)
    assert set(table.gaps) <= set(table.columns)


def test_a_gap_within_the_noise_has_no_share():
    (gap,) = gaps([row("off", 0.5, 0.1), row("on", 0.55), row("oracle", 0.56)], METRICS)
    assert gap["map"] is gap["r10"] is None


def test_a_gap_needs_all_three():
    assert gaps([row("off", 0.2), row("on", 0.5)], METRICS) == []


def test_the_spread_is_the_sample_deviation():
    assert spread([1.0, 3.0]) == (2.0, pytest.approx(2**0.5))
    assert spread([1.0]) == (1.0, 0.0)
    assert spread([1.0, None]) == (None, None)


@pytest.fixture
def jobs(make, tmp_path):
    settings = make("run.rounds=2")
    return plan(settings, tmp_path / "out", ["fedavg"], ["info_nce"], ["off", "on"], 2)


def test_a_comparison_has_a_row_a_setting_and_is_not_run_twice(jobs, tmp_path):
    out, told = tmp_path / "out", []
    result = compare.compare(jobs, out, workers=1, progress=told.append)
    assert [(r["synthesis"], r["seeds"]) for r in result["rows"]] == [("off", 2), ("on", 2)]
    assert told[-1] == 4 * 3
    assert json.loads((out / compare.RESULT).read_text()) == result
    runs = [json.loads((job.out / records.SUMMARY).read_text()) for job in jobs[::2]]
    assert result["rows"][0]["map_runs"] == [run["metrics"]["map"] for run in runs]
    assert result["rows"][0]["curve"]["rounds"] == [0, 1, 2]
    assert result["rows"][0]["r10_mean"] == pytest.approx(
        sum(run["metrics"]["recall@10"] for run in runs) / 2
    )
    before = {path: path.stat().st_mtime_ns for path in out.rglob(records.SUMMARY)}
    (jobs[3].out / records.SUMMARY).unlink()  # as if stopped before its last step
    again = compare.compare(jobs, out, workers=1)
    assert again["rows"][0] == result["rows"][0]
    assert again["rows"][1]["map_mean"] == result["rows"][1]["map_mean"]
    unchanged = [path for path in before if path.stat().st_mtime_ns == before[path]]
    assert len(unchanged) == 3


def test_runs_of_another_configuration_are_not_mixed_in(jobs, make, tmp_path):
    compare.compare(jobs[:1], tmp_path / "out", workers=1)
    other = plan(
        make("run.rounds=2", "method.lr=0.01"), tmp_path / "out", ["fedavg"], ["info_nce"],
        ["off"], 1,
    )  # fmt: skip
    with pytest.raises(RunError, match="another configuration"):
        compare.compare(other, tmp_path / "out", workers=1)


def test_a_method_without_rounds_is_done_after_its_start(make, tmp_path):
    (job,) = plan(make(), tmp_path / "out", ["cca"], ["info_nce"], ["on"], 1)
    told = []
    (row,) = compare.compare([job], tmp_path / "out", workers=1, progress=told.append)["rows"]
    assert compare.finished(job) and told[-1] == 1
    assert (row["synthesis"], row["curve"]["rounds"]) == ("off", [0])
    assert row["map_mean"] == row["last_map_mean"]


def test_a_folder_with_other_things_is_not_written_to(jobs, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("...")
    with pytest.raises(RunError, match="not empty"):
        compare.compare(jobs, tmp_path / "out")


def test_a_failing_run_is_reported(make, tmp_path):
    settings = make(*DIVERGING)
    failing = plan(settings, tmp_path / "out", ["fedavg"], ["info_nce"], ["off"], 1)
    with pytest.raises(RunError, match="diverged"):
        compare.compare(failing, tmp_path / "out", workers=1)


def test_after_a_failure_no_other_run_begins(jobs, make, tmp_path):
    settings = make(*DIVERGING)
    failing = plan(settings, tmp_path / "bad", ["fedavg"], ["info_nce"], ["off"], 1)
    with pytest.raises(RunError, match="diverged"):
        compare.execute([*failing, *jobs], workers=1)
    assert not jobs[-1].out.exists()


def test_whoever_listens_is_told_of_failures_and_the_other_runs_go_on(jobs, make, tmp_path):
    settings = make(*DIVERGING)
    failing = plan(settings, tmp_path / "bad", ["fedavg"], ["info_nce"], ["off"], 1)
    heard = {}
    compare.execute([*failing, jobs[0]], workers=1, ended=heard.__setitem__)
    assert "diverged" in str(heard[failing[0]])
    assert heard[jobs[0]] is None and compare.finished(jobs[0])


def test_a_run_stopped_before_its_first_checkpoint_begins_again(jobs):
    jobs[0].out.mkdir(parents=True)
    (jobs[0].out / records.METRICS).write_text("")
    compare.execute(jobs[:1], workers=1)
    assert compare.finished(jobs[0])


def test_the_gap_can_be_asked_to_exceed_several_deviations():
    rows = {mode: row(mode, mean, 0.1) for mode, mean in (("off", 0.2), ("oracle", 0.35))}
    assert compare.gap_closed(rows, "map") is None
    rows["on"] = row("on", 0.275)
    assert compare.gap_closed(rows, "map") == pytest.approx(0.5)
    assert compare.gap_closed(rows, "map", deviations=2) is None
