"""The arithmetic and the planning of ``make evidence``; its bench/ is on the path of all tests."""

from statistics import fmean, stdev

import pytest

from studies.evidence import arithmetic, page, runs, studies
from studies.evidence.arithmetic import change, relate, summary
from studies.trials.runs import mixed


def row(synthesis, runs, *, study="baselines", data="glyphs", alpha=0.1, setting="default",
        against="", baseline=("fedavg", "info_nce"), up=100.0, best=0.0, r10=0.3):  # fmt: skip
    """Rows of several seeds; the best round's mAP is ``best`` above the selected one's."""
    mean, std = fmean(runs), stdev(runs) if len(runs) > 1 else 0.0
    return {
        "study": study, "data": data, "alpha": alpha, "setting": setting, "against": against,
        "method": baseline[0], "objective": baseline[1], "synthesis": synthesis,
        "map_mean": mean, "map_std": std, "best_map_mean": mean + best, "best_map_std": std,
        "r10_mean": r10, "r10_std": 0.01, "map_runs": runs, "bytes_up": up, "seeds": len(runs),
        "runs": [f"{study}-{data}-{alpha}-{setting}-{baseline}-{synthesis}"],
    }  # fmt: skip


def related(*rows):
    relate(rows)
    return list(rows)


def test_an_effect_is_of_runs_of_the_same_seed():
    none = row("on", [0.1, 0.5, 0.9], study="losses", setting="none")
    one = row("on", [0.2, 0.6, 1.0], study="losses", setting="direct", against="none")
    related(none, one)
    assert one["effect"]["mean"] == pytest.approx(0.1)
    assert one["effect"]["half"] == pytest.approx(0.0, abs=1e-12)
    assert none["effect"] is None


# ---- Gaps ------------------------------------------------------------------------------------


def test_the_share_of_the_gap_is_of_the_selected_and_of_the_best_round():
    on = row("on", [0.5, 0.5], best=0.05)
    related(row("off", [0.2, 0.2]), on, row("oracle", [0.6, 0.6]))
    assert on["gap_closed"] == pytest.approx(0.75)
    assert on["best_gap_closed"] == pytest.approx(0.875)


@pytest.mark.parametrize(("oracle", "share"), [(0.44, None), (0.45, 0.1 / 0.15)])
def test_a_gap_must_exceed_two_deviations(oracle, share):
    # The deviation of (0.25, 0.35) is 0.0707, twice that above 0.3 is 0.4414.
    off, on = row("off", [0.25, 0.35]), row("on", [0.4, 0.4])
    related(off, on, row("oracle", [oracle, oracle]))
    assert on["gap_closed"] == (None if share is None else pytest.approx(share))


def test_a_setting_without_runs_of_its_own_borrows_those_it_is_compared_with():
    other = row("on", [0.4], study="generators", setting="wgan-gp", against="default", up=130.0)
    rows = [row(mode, [value], study="generators") for mode, value in
            (("off", 0.2), ("on", 0.5), ("oracle", 0.6))]  # fmt: skip
    related(*rows, other)
    assert other["gap_closed"] == pytest.approx(0.5)
    assert other["bytes_synthesis"] == 30.0


def test_the_mean_gap_is_over_the_data_sets_that_have_one_and_counts_no_more_than_all_of_it():
    found = []
    for data, on, oracle in (("glyphs", 0.7, 0.6), ("emoji", 0.3, 0.3), ("wikipedia", 0.3, 0.4)):
        found += [row("off", [0.2 if data != "emoji" else 0.3], data=data),
                  row("on", [on], data=data), row("oracle", [oracle], data=data)]  # fmt: skip
    found += [row(mode, [0.9], alpha=1.0) for mode in ("off", "on", "oracle")]
    closed = summary(related(*found))["gap_closed"]["fedavg+info_nce"]["gap_closed"]
    assert closed["data"].keys() == {"glyphs", "wikipedia"}
    assert closed["mean"] == pytest.approx((1 + 0.5) / 2)


# ---- Harm ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("on", "expected"), [(0.7, 1), (0.55, 0), (0.45, 0), (0.3, -1)])
def test_a_change_counts_beyond_the_larger_deviation(on, expected):
    off = {"map_mean": 0.5, "map_std": 0.01}
    assert change(off, {"map_mean": on, "map_std": 0.1}) == expected


def test_harm_is_counted_once_for_runs_that_studies_share():
    first = [row("off", [0.5, 0.5]), row("on", [0.4, 0.4])]
    again = [{**one, "study": "federations", "setting": "10 clients"} for one in first]
    fine = [row("off", [0.5], data="emoji"), row("on", [0.5], data="emoji")]
    hurts = summary(related(*first, *again, *fine))["hurts"]
    assert hurts["of"] == 2
    (cell,) = hurts["cells"]
    assert (cell["study"], cell["data"], cell["off"], cell["on"]) == (
        "baselines",
        "glyphs",
        0.5,
        0.4,
    )


# ---- Losses ----------------------------------------------------------------------------------


def test_the_weight_of_a_loss_is_the_best_tried_or_zero():
    rows = [row("on", [0.5, 0.5], study="losses", setting="private encoder: none")]
    tried = {"direct 0.1": [0.5, 0.52], "direct 1": [0.51, 0.53], "jsd 0.1": [0.4, 0.5]}
    for name, maps in tried.items():
        rows.append(row("on", maps, study="losses", setting=f"private encoder: {name}",
                        against="private encoder: none"))  # fmt: skip
    losses = summary(related(*rows))["losses"]
    assert losses["best"] == {"direct": 1, "jsd": 0}
    assert losses["effects"]["private encoder: direct 1"]["mean"] == pytest.approx(0.02)


def test_recall_is_judged_beside_map():
    rows = []
    for data, off, on in (("glyphs", 0.3, 0.2), ("emoji", 0.3, 0.4), ("wikipedia", 0.3, 0.305)):
        rows += [row("off", [0.5], data=data, r10=off), row("on", [0.6], data=data, r10=on)]
    found = summary(related(*rows))["hurts_r10"]
    assert [cell["data"] for cell in found["cells"]] == ["glyphs"]
    assert (found["of"], found["better"]) == (3, 1)


# ---- Targets ---------------------------------------------------------------------------------


def measured(shares, trained, small):
    """Rows with these shares of each baseline's gap, of 0.1, on glyphs."""
    rows = []
    for baseline, share in zip(studies.BASELINES, shares, strict=True):
        for mode, value in (("off", 0.5), ("on", 0.5 + 0.1 * share), ("oracle", 0.6)):
            rows.append(row(mode, [value], baseline=baseline))
    for setting, value in ((studies.DEFAULT, 0.5), (studies.ADVERSARIAL, trained)):
        against = "" if setting == studies.DEFAULT else studies.DEFAULT
        rows.append(row("on", [value], study="generators", setting=setting, against=against))
    rows.append(row("off", [0.5], study="uploads", setting=studies.UPLOAD))
    rows.append(row("on", [0.5], study="uploads", setting=studies.UPLOAD, up=200.0))
    rows.append(row("on", [small[1]], study="uploads", setting=studies.SMALL_UPLOAD,
                    against=studies.UPLOAD, up=100 + 100 * small[0]))  # fmt: skip
    return related(*rows)


@pytest.mark.parametrize(
    ("shares", "trained", "small", "met"),
    [
        ((0.95, 0.7, 0.7, 0.7), 0.51, (0.4, 0.5), [True] * 5),
        ((0.85, 0.7, 0.7, 0.7), 0.49, (0.6, 0.5), [False, True, True, False, False]),
        ((0.95, 0.7, 0.5, 0.7), 0.51, (0.4, 0.4), [True, False, True, True, False]),
        ((0.95, 0.7, -0.2, 0.7), 0.51, (0.4, 0.5), [True, False, False, True, True]),
    ],
)
def test_targets_are_judged_by_the_rows(shares, trained, small, met):
    found = summary(measured(shares, trained, small))["targets"]
    assert [target["met"] for target in found] == met


def test_what_was_not_measured_is_not_judged():
    rows = related(row("off", [0.5]), row("on", [0.6]), row("oracle", [0.6]))
    assert [one["met"] for one in summary(rows)["targets"]] == [True, None, True, None, None]
    assert all(one["met"] is None for one in summary([])["targets"])


# ---- Plans -----------------------------------------------------------------------------------


def study(*settings, **changes):
    return studies.Study("trial", "", "", settings, data=("glyphs",), **changes)


def test_studies_share_the_runs_of_the_same_configuration(tmp_path):
    default = studies.Setting("default", modes=studies.ALL)
    spelt_out = studies.Setting("ten", ("partition.clients=10",), ("on",))
    cells = runs.cells(study(default, spelt_out), {"glyphs": []}, tmp_path, seeds=2)
    assert [len(cell.jobs) for cell in cells] == [2, 2, 2, 2]
    assert cells[1].jobs == cells[3].jobs
    assert len(mixed(cells)) == 6


@pytest.mark.parametrize("each", studies.STUDIES, ids=lambda each: each.name)
def test_every_study_can_be_planned(each, tmp_path):
    cells = runs.cells(each, {name: [] for name in each.data}, tmp_path, seeds=1)
    known = {cell.setting for cell in cells}
    assert {cell.against for cell in cells} - {""} <= known


# ---- The page --------------------------------------------------------------------------------


def test_a_table_marks_help_and_harm_and_leaves_out_what_is_the_same_or_absent():
    rows = related(
        *(row(mode, runs, data="glyphs") for mode, runs in
          (("off", [0.4, 0.42]), ("on", [0.5, 0.52]), ("oracle", [0.6, 0.62]))),
        *(row(mode, runs, data="emoji") for mode, runs in
          (("off", [0.4, 0.42]), ("on", [0.3, 0.32]), ("oracle", [0.41, 0.41]))),
    )  # fmt: skip
    text = page.table_of(rows, (*page.NAMES, *page.RESULTS))
    text = text.replace("\N{NO-BREAK SPACE}", " ").replace("\N{EN DASH}", "-")
    assert text.splitlines() == [
        "All: Dirichlet 0.1, fedavg + info_nce, default.",
        "",
        "| data | off | on | oracle | gap closed | best round |",
        "| --- | --- | --- | --- | --- | --- |",
        "| glyphs | 0.410 ± 0.014 | **0.510 ± 0.014** | 0.610 ± 0.014 | 0.50 | 0.50 |",
        "| emoji | 0.410 ± 0.014 | 0.310 ± 0.014 † | 0.410 ± 0.000 | - | - |",
    ]


def test_targets_that_are_missed_say_so():
    found = arithmetic.targets(summary(related(row("off", [0.5]), row("on", [0.4]))))
    text = page.targets(found)
    assert "| 1 of 1 | **missed** |" in text
    assert text.count("not measured") == 4
