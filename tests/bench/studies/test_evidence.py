"""The arithmetic and the planning of ``make evidence``; its bench/ is on the path of all tests."""

import json
from dataclasses import replace
from statistics import fmean, stdev

import numpy as np
import pytest
import torch

from studies.evidence import (
    chance,
    columns,
    frontier,
    leaks,
    page,
    runs,
    sources,
    stages,
    studies,
    tuning,
    verdicts,
)
from studies.evidence.arithmetic import change, relate
from studies.trials.files import Result
from studies.trials.runs import mixed

PLAIN, CCA = studies.PLAIN, studies.CLOSED_FORM


def row(synthesis, maps, r10=None, *, study="baselines", data="glyphs", alpha=0.1,
        setting="default", against="", baseline=PLAIN, up=100.0, r1=None, audit=None):  # fmt: skip
    """A row of several seeds; recalls are as mAP where they are not given."""
    found = {
        "study": study, "data": data, "alpha": alpha, "setting": setting, "against": against,
        "method": baseline[0], "objective": baseline[1], "synthesis": synthesis, "rounds": 20,
        "bytes_up": up, "seeds": len(maps), "seconds_mean": 1.0, "bytes_up_total": 20 * up,
        "bytes_down_total": 20 * up, "bytes_down": up, "lr": 0.001, "temperature": 0.1,
        "runs": [f"{study}-{data}-{alpha}-{setting}-{baseline}-{synthesis}"],
    }  # fmt: skip
    values = {"map": maps, "r10": r10 or maps, "r1": r1 or maps, "map50": maps, "rsum": maps}
    for name, each in values.items():
        std = stdev(each) if len(each) > 1 else 0.0
        found |= {f"{name}_mean": fmean(each), f"{name}_std": std, f"{name}_runs": list(each)}
    return found | ({} if audit is None else {"audit": audit})


def related(*rows):
    relate(rows)
    return list(rows)


def cell(on, tuned, compute, closed, *, off=(0.2, 0.2), oracle=(0.6, 0.6), **place):
    """All rows of a cell of the study of baselines, mAP and R@10 alike."""
    return [
        row("off", closed, baseline=CCA, **{k: v for k, v in place.items() if k != "baseline"}),
        row("off", off, **place),
        row("on", on, **place),
        row("oracle", oracle, **place),
        row("off", tuned, setting="tuned", **place),
        row("off", compute, setting="compute", **place),
    ]


def met(rows, beginning):
    """Whether the one target that begins like this is met."""
    (found,) = [t for t in verdicts.targets(rows) if t["target"].startswith(beginning)]
    return found["met"]


# ---- Gaps and differences ----------------------------------------------------------------------


def test_the_share_of_the_gap_is_of_each_metric():
    on = row("on", [0.5, 0.5], [0.3, 0.3])
    related(row("off", [0.2, 0.2], [0.4, 0.4]), on, row("oracle", [0.6, 0.6], [0.6, 0.6]))
    assert on["gap_closed"] == {"map": pytest.approx(0.75), "r10": pytest.approx(-0.5)}


@pytest.mark.parametrize(("oracle", "share"), [(0.44, None), (0.45, 0.1 / 0.15)])
def test_a_gap_must_exceed_two_deviations(oracle, share):
    # The deviation of (0.25, 0.35) is 0.0707, twice that above 0.3 is 0.4414.
    on = row("on", [0.4, 0.4])
    related(row("off", [0.25, 0.35]), on, row("oracle", [oracle, oracle]))
    assert on["gap_closed"]["map"] == (None if share is None else pytest.approx(share))


def test_the_gap_is_to_the_defaults_of_the_baseline_not_to_the_tuned_one():
    rows = related(*cell([0.5, 0.5], [0.45, 0.45], [0.46, 0.46], [0.4, 0.4]))
    assert rows[2]["gap_closed"]["map"] == pytest.approx(0.75)


def test_an_effect_and_a_gain_are_of_runs_of_the_same_seed():
    off, default = (row(mode, values, study="pieces") for mode, values in
                    (("off", [0.0, 0.4, 0.8]), ("on", [0.1, 0.5, 0.9])))  # fmt: skip
    one = row("on", [0.2, 0.6, 1.0], study="pieces", setting="other", against="default", up=130.0)
    related(off, default, one)
    assert one["effect"]["map"]["mean"] == pytest.approx(0.1)
    assert one["effect"]["r10"]["half"] == pytest.approx(0.0, abs=1e-12)
    assert one["gain"]["map"]["mean"] == pytest.approx(0.2)
    assert one["bytes_synthesis"] == 30.0
    assert default["effect"] is None


def test_a_setting_with_runs_of_its_own_without_synthesis_gains_over_these():
    rows = [row("off", [0.3], study="pieces"), row("on", [0.5], study="pieces"),
            row("off", [0.1], study="pieces", setting="random", against="default"),
            row("on", [0.4], study="pieces", setting="random", against="default")]  # fmt: skip
    related(*rows)
    assert rows[3]["gain"]["map"]["mean"] == pytest.approx(0.3)
    assert rows[3]["effect"]["map"]["mean"] == pytest.approx(-0.1)


# ---- Cells --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("on", "expected"), [(0.7, 1), (0.55, 0), (0.45, 0), (0.3, -1)])
def test_a_change_counts_beyond_the_larger_deviation(on, expected):
    off = {"map_mean": 0.5, "map_std": 0.01}
    assert change(off, {"map_mean": on, "map_std": 0.1}, "map") == expected


@pytest.mark.parametrize(
    ("tuned", "compute", "closed", "best"),
    [(0.6, 0.5, 0.4, "tuned"), (0.5, 0.6, 0.4, "compute"), (0.4, 0.5, 0.6, "cca")],
)
def test_the_default_stands_beside_the_best_of_what_is_simpler(tuned, compute, closed, best):
    (found,) = verdicts.judged(related(*cell([0.7], [tuned], [compute], [closed])))
    assert (found["map"]["best"], found["map"]["verdict"]) == (best, 1)
    assert found["map"]["difference"] == pytest.approx(0.1)


def test_the_best_is_found_for_each_metric_by_itself():
    rows = [
        row("off", [0.6], [0.2], baseline=CCA),
        row("on", [0.5], [0.5]),
        row("off", [0.4], [0.4], setting="tuned"),
        row("off", [0.3], [0.6], setting="compute"),
    ]
    (found,) = verdicts.judged(related(*rows))
    assert [(found[m]["best"], found[m]["verdict"]) for m in ("map", "r10")] == [
        ("cca", -1), ("compute", -1),
    ]  # fmt: skip


def test_a_deviation_is_the_larger_of_the_two():
    noisy = cell([0.5, 0.5], [0.4, 0.7], [0.3, 0.3], [0.3, 0.3])
    (found,) = verdicts.judged(related(*noisy))
    assert found["map"]["verdict"] == 0
    assert found["map"]["noise"] == pytest.approx(stdev([0.4, 0.7]))


def test_a_cell_that_lacks_a_row_is_not_judged():
    rows = related(*cell([0.5], [0.4], [0.4], [0.4])[1:])
    assert verdicts.judged(rows) == []


def test_the_closed_form_is_of_the_same_data_and_skew():
    rows = [*cell([0.5], [0.4], [0.4], [0.6]), *cell([0.5], [0.4], [0.4], [0.1], alpha=1.0)]
    found = verdicts.judged(related(*rows))
    assert [(one["alpha"], one["map"]["verdict"]) for one in found] == [(0.1, -1), (1.0, 1)]


# ---- Targets -------------------------------------------------------------------------------------


def test_cells_are_counted():
    better = cell([0.7], [0.6], [0.6], [0.5])
    same = cell([0.6], [0.6], [0.6], [0.5], data="emoji")
    worse = cell([0.5], [0.6], [0.6], [0.5], data="wikipedia")
    for rows, below, above in (
        ([*better, *same], True, False),
        ([*better, *same, *worse], False, False),
        (better, True, True),
    ):
        related(*rows)
        assert met(rows, "mAP: cells where the default is below") is below
        assert met(rows, "mAP: cells where it is above") is above
    related(*better, *same)
    assert met([*better, *same], "R@10: cells where it is above") is True  # half are enough


def test_the_mean_gap_counts_no_more_than_all_of_it():
    more = cell([1.0], [0.3], [0.3], [0.3])  # two gaps
    none = cell([0.2], [0.1], [0.1], [0.1], data="emoji")
    rows = related(*more, *none)
    (found,) = [t for t in verdicts.targets(rows) if t["target"].startswith("mAP: mean share")]
    assert found["measured"].startswith("0.50 over the 2 cells that have a gap (1.00 ")
    assert found["met"] is False
    assert met(rows, "R@10: mean share") is True


def audited(own_auc=0.5, own_tpr=0.01, combined=0.7, count=1):
    nothing = {f"{part}_{name}": 0.5 for part in ("model", "without", "raw") for name in
               ("auc", "tpr")}  # fmt: skip
    return nothing | {
        "runs": count, "own_auc": own_auc, "own_tpr": own_tpr,
        "combined_auc": combined, "combined_tpr": 0.1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("audit", "found"),
    [
        (audited(0.60, 0.03, 0.71), (True, True, True)),
        (audited(0.61, 0.02, 0.73), (False, True, False)),
        (audited(None, None, 0.5), (True, True, True)),
        (audited(0.5, 0.04, 0.71), (True, False, True)),
    ],
)
def test_audits_are_judged(audit, found):
    rows = related(row("off", [0.2], audit=audited(None, None)), row("on", [0.3], audit=audit))
    texts = ("strongest attack", "the same: true positives", "all attacks together")
    assert tuple(met(rows, text) for text in texts) == found


def test_the_audit_of_more_runs_counts():
    rows = [
        row("off", [0.2], audit=audited(None, None)),
        row("on", [0.3], audit=audited(0.9)),
        row("on", [0.3], study="frontier", audit=audited(0.5, count=3)),
    ]
    assert met(related(*rows), "strongest attack") is True


@pytest.mark.parametrize(("one", "expected"), [(0.85, False), (0.896, True), (0.95, True)])
def test_aligned_embeddings_keep_what_they_have(one, expected):
    rows = [
        *cell([0.9], [0.9], [0.9], [0.9], data="faces"),
        row("off", [0.5], r1=[0.7], data="faces", setting="zero-shot"),
    ]
    rows[2]["r1_mean"] = one  # closed form and federation begin at .9
    assert met(related(*rows), "aligned embeddings") is expected


def test_what_was_not_measured_is_not_judged():
    assert all(one["met"] is None for one in verdicts.targets([]))


# ---- The frontier --------------------------------------------------------------------------------


def points(data="glyphs", gain=0.1):
    """A default, a point that gives less away and gains less, and one that gains nothing."""
    place = {"study": "frontier", "data": data}
    return [
        row("off", [0.2, 0.2], audit=audited(None, None), **place),
        row("on", [0.3, 0.3], audit=audited(0.6), **place),
        row("on", [0.2 + gain] * 2, setting="clusters of all: 8", audit=audited(0.5), **place),
        row("on", [0.2, 0.2], setting="clusters of all: 1", audit=audited(None, None), **place),
    ]


def test_points_are_gains_and_leaks():
    found = frontier.points(related(*points()))["glyphs"]
    assert found["default"]["map"] == pytest.approx(0.1)
    assert found["default"]["own_auc"] == 0.6
    assert found["clusters of all: 1"]["own_auc"] == 0.5  # nothing is sent that is its own
    assert "own_auc" not in found["off"] and "map" not in found["off"]
    assert frontier.families(list(found)) == {
        "clusters of all": ["clusters of all: 8", "clusters of all: 1"]
    }


@pytest.mark.parametrize(("gain", "expected"), [(0.07, False), (0.08, True)])
def test_a_cheap_point_has_most_of_the_gain(gain, expected):
    rows = related(*points(gain=gain))
    assert met(rows, "a point of the frontier") is expected


def test_averages_are_over_the_data_sets_that_have_a_point():
    rows = related(*points(gain=0.1), *points("emoji", gain=0.2)[:3])
    found = frontier.average(frontier.points(rows))
    assert found["clusters of all: 8"]["map"] == pytest.approx(0.15)
    assert "clusters of all: 1" not in found


def test_the_strongest_attack_is_that_of_the_highest_mean(tmp_path):
    files = []
    for number, (one, other) in enumerate([(0.9, 0.6), (0.5, 0.6)]):
        attacks = [
            {"name": "one", "of": "own", "view": "raw", "auc": one, "tpr_at_1pct_fpr": 0.0},
            {"name": "other", "of": "own", "view": "raw", "auc": other, "tpr_at_1pct_fpr": 0.1},
            {"name": "combined", "of": "all", "view": "raw", "auc": 1.0, "tpr_at_1pct_fpr": 1.0},
            {"name": "combined", "of": "all", "view": "sums", "auc": 0.7, "tpr_at_1pct_fpr": 0.2},
        ]
        files.append(tmp_path / f"{number}.json")
        files[-1].write_text(json.dumps({"attacks": attacks}), "utf-8")
    found = leaks.summary(files)
    assert (found["runs"], found["own_auc"], found["own_tpr"]) == (2, 0.7, 0.1)
    assert (found["combined_auc"], found["raw_auc"], found["model_auc"]) == (0.7, 1.0, None)


# ---- Chance --------------------------------------------------------------------------------------


def test_chance_is_the_expectation_of_a_random_ranking():
    label = torch.arange(200) % 4
    found = chance.levels(label, 200)
    relevant, items = 50, 200
    harmonic = sum(1 / k for k in range(1, items + 1)) / items
    expected = harmonic + (1 - harmonic) * (relevant - 1) / (items - 1)
    assert found["map"] == pytest.approx(expected, abs=0.005)
    assert found["recall@10"] == pytest.approx(10 / 200, abs=0.005)
    assert found["rsum"] == pytest.approx(2 * 16 / 200, abs=0.02)


def test_chance_without_labels_is_of_the_partner():
    found = chance.levels(None, 100)
    assert found["map"] == pytest.approx(sum(1 / k for k in range(1, 101)) / 100, abs=0.005)


# ---- Tuning --------------------------------------------------------------------------------------


def metrics(folder, holdout, seconds=1.0):
    """The record of a run: its criterion round by round, and what a round took."""
    folder.mkdir(parents=True)
    rows = [
        {"round": number, "losses": {"holdout": value},
         "seconds": {"local": seconds, "evaluate": 9.0} if number else {"start": 5.0}}
        for number, value in enumerate(holdout)
    ]  # fmt: skip
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    return folder


def test_settings_are_chosen_by_held_out_pairs_at_the_selected_round(tmp_path):
    tried = {
        ("a",): metrics(tmp_path / "a", [3.0, 2.5, 2.7]),
        ("b",): metrics(tmp_path / "b", [3.0, 2.4, 2.9]),
        ("c",): metrics(tmp_path / "c", [3.0, 2.4, 2.4]),
    }
    assert tuning.chosen(tried) == ("b",)


def test_only_the_temperature_of_info_nce_is_tried():
    assert len(tuning.grid(PLAIN)) == len(studies.RATES) * len(studies.TEMPERATURES)
    assert [len(tuning.grid(one)) for one in studies.BASELINES[1:]] == [len(studies.RATES)] * 3


@pytest.mark.parametrize(("on", "factor"), [(0.5, 1), (1.4, 1), (2.6, 3), (9.0, 4)])
def test_equal_compute_is_a_whole_number_of_times_as_many_rounds(tmp_path, on, factor):
    off, with_it = (metrics(tmp_path / str(s), [1.0] * 4, s) for s in (1.0, on + 1e-9))
    assert tuning.factor(off, with_it) == factor


# ---- Plans ---------------------------------------------------------------------------------------


def study(*settings, **changes):
    return studies.Study("trial", "", "", settings, data=("glyphs",), **changes)


def test_studies_share_the_runs_of_the_same_configuration(tmp_path):
    default = studies.Setting("default", modes=studies.ALL)
    spelt_out = studies.Setting("ten", ("partition.clients=10",), ("on",))
    cells = runs.cells(study(default, spelt_out), {"glyphs": []}, tmp_path, seeds=2)
    assert [len(cell.jobs) for cell in cells] == [2, 2, 2, 2]
    assert cells[1].jobs == cells[3].jobs
    assert len(mixed(job for cell in cells for job in cell.jobs)) == 6


def test_recorded_runs_are_not_those_that_are_not(tmp_path):
    default = studies.Setting("default")
    plain, recorded = (
        runs.cells(study(default, recorded=which), {"glyphs": []}, tmp_path, seeds=1)[0]
        for which in (False, True)
    )
    assert plain.jobs[0].out != recorded.jobs[0].out
    assert (plain.audited, recorded.audited) == ((), recorded.jobs)


@pytest.mark.parametrize("each", studies.STUDIES, ids=lambda each: each.name)
def test_every_study_can_be_planned(each, tmp_path):
    data = {name: studies.READ.get(name, ()) for name in each.data}
    cells = runs.cells(each, data, tmp_path, seeds=1)
    known = {cell.setting for cell in cells}
    assert {cell.against for cell in cells} - {""} <= known
    keys = [(c.data, c.setting, c.jobs[0].config.partition.alpha, c.jobs[0].setting) for c in cells]
    assert len(set(keys)) == len(keys)


def test_presets_become_overrides():
    assert "synthesis.generator=wgan-gp" in studies.preset("wgan")
    assert "synthesis.condition=false" in studies.preset("wgan")


def test_baselines_come_first_and_seed_by_seed(tmp_path, monkeypatch):
    small = replace(studies.BASELINE_STUDY, data=("glyphs",), baselines=(PLAIN,), alphas=(0.1,))
    monkeypatch.setattr(studies, "BASELINE_STUDY", small)
    monkeypatch.setattr(studies, "STUDIES", (small, *studies.STUDIES[1:]))
    plan = stages.Plan({"glyphs": ()}, tmp_path, 2)
    found = list(stages.stages(plan, ["baselines", "codes"]))
    assert [stage.study for stage in found] == ["baselines"] * 4 + ["codes"]
    seeds = [{job.config.run.seed for job in stage.jobs} for stage in found[:4]]
    assert seeds == [{0}, set(), {1}, set()]  # (nothing is tuned without runs to tune by)
    first = found[0].jobs
    assert sum(job.config.run.record_uploads for job in first) == 2
    assert sum(job.config.plugins.method.name == "cca" for job in first) == 1
    assert len(first) == 4 + 2 + len(tuning.grid(PLAIN))
    chance_row, *cells = found[1].cells
    assert isinstance(chance_row, chance.Chance)
    assert [len(cell.jobs) for cell in cells] == [1] * 4


def test_what_is_recorded_is_made_a_few_runs_at_a_time(tmp_path):
    plan = stages.Plan({"glyphs": (), "emoji": ()}, tmp_path, 2)
    *parts, told = stages.stages(plan, ["frontier"])
    assert [stage.title for stage in parts] == [
        f"frontier, {data}, seed {seed}" for data in ("glyphs", "emoji") for seed in (0, 1)
    ]
    assert all(job.config.run.record_uploads for stage in parts for job in stage.jobs)
    assert not told.jobs and told.cells


# ---- Data sets that are made --------------------------------------------------------------------


def test_photos_are_on_one_side_and_tested_with_one_caption(tmp_path):
    names = np.repeat([f"photo {n}" for n in range(10)], 5)
    image = np.repeat(np.eye(10, dtype=np.float32), 5, axis=0)
    np.savez(tmp_path / "clip.npz", image=image, text=image, picture=names)
    path = sources.photos(tmp_path / "clip.npz", tmp_path / "made")
    with np.load(path) as made:
        train, test = (made["picture"][made["split"] == side] for side in ("train", "test"))
        assert made["image"].shape == (30, 10)
    assert len(train) == 25 and len(test) == len(set(test)) == 5
    assert not set(train) & set(test)


# ---- The page ------------------------------------------------------------------------------------


def test_a_table_marks_help_and_harm_and_leaves_out_what_is_absent():
    rows = related(
        *(row(mode, values, [0.3, 0.3], study="codes", setting="16 bits") for mode, values in
          (("off", [0.4, 0.42]), ("on", [0.5, 0.52]))),
        row("off", [0.3, 0.3], study="codes", setting="16 bits", baseline=CCA),
        *(row(mode, values, [0.3, 0.3], study="codes", setting="32 bits") for mode, values in
          (("off", [0.4, 0.42]), ("on", [0.3, 0.32]))),
    )  # fmt: skip
    text = columns.table_of(rows, columns.of_study("codes"))
    assert text.replace("\N{NO-BREAK SPACE}", " ").splitlines() == [
        "| data | setting | mAP off | mAP on | R@10 off | R@10 on | mAP cca | R@10 cca |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        "| glyphs | 16 bits | 0.410 ± 0.014 | **0.510 ± 0.014** | 0.300 ± 0.000 | 0.300 ± 0.000 "
        "| 0.300 ± 0.000 | 0.300 ± 0.000 |",
        "| glyphs | 32 bits | 0.410 ± 0.014 | 0.310 ± 0.014 † | 0.300 ± 0.000 | 0.300 ± 0.000 "
        "|  |  |",
    ]


def test_targets_that_are_missed_say_so():
    found = verdicts.targets(related(*cell([0.3], [0.5], [0.4], [0.4])))
    text = page.targets(found)
    assert "| 1 of 1 | **missed** |" in text
    assert "not measured" in text


def test_the_page_is_made_of_rows_and_drops_older_pictures(tmp_path, facts):
    curve = {"rounds": [0, 1], "mean": [0.2, 0.3], "std": [0.0, 0.0]}
    rows = [
        one | {"curve": curve, "r10_curve": curve}
        for one in cell([0.5, 0.52], [0.4, 0.4], [0.4, 0.41], [0.3, 0.3])
    ]
    rows[1]["audit"], rows[2]["audit"] = audited(None, None), audited()
    rows += points()
    images = tmp_path / "images"
    images.mkdir()
    for name in ("evidence-losses.png", "another.png"):
        (images / name).touch()
    result = Result(related(*rows), [], {"baselines": facts, "frontier": facts})
    page.write(result, tmp_path / "evidence.md", images)
    text = (tmp_path / "evidence.md").read_text("utf-8")
    assert "## Four baselines" in text and "### R@10" in text and "### Audit" in text
    assert "**default**" in text
    made = {path.name for path in images.iterdir()}
    assert {"another.png", "evidence-cells.png", "evidence-frontier.png"} <= made
    assert "evidence-losses.png" not in made
    assert all(f"images/{name}" in text for name in made - {"another.png"})
