"""The planning, the verdicts and the page of ``make evidence-related``."""

from statistics import fmean, stdev

import pytest
from related import page, runs, studies
from related.arithmetic import verdicts
from related.studies import Case, Claim, Contender, Study, above

from fedsyn.metrics.headline import SCORES


def row(contender, values, *, case="small", task="vqa", study="trial", **others):
    """A row of several seeds, whose metrics but the headline are ``others`` by seed, or 0.2."""
    compared = SCORES[task].compared
    row = {
        "study": study, "case": case, "data": "glyphs", "contender": contender, "task": task,
        "seeds": len(values), "rounds": 3, "clients": 10, "code": "x", "bytes_up": 1e6,
        "bytes_down": 2e6, "seconds_mean": 30.0, "runs": [f"{case}-{contender}"],
        "curve": {"rounds": [1, 2], "mean": [0.1, None], "std": [0.0, None]},
    }  # fmt: skip
    for name in compared.values():
        runs = others.get(
            name, values if name == SCORES[task].headlines[0] else [0.2] * len(values)
        )
        known = None not in runs
        row[f"{name}_runs"] = runs
        row[f"{name}_mean"] = fmean(runs) if known else None
        row[f"{name}_std"] = (stdev(runs) if len(runs) > 1 else 0.0) if known else None
    return row


def trial(*claims, contenders=("new", "old")):
    return Study(
        "trial", "A trial", "Of something.", (Case("small", "glyphs"), Case("large", "glyphs")),
        tuple(Contender(name) for name in contenders), claims,
    )  # fmt: skip


# ---- Plans -----------------------------------------------------------------------------------


def test_the_contender_has_the_last_word_and_seeds_count_up(tmp_path):
    study = Study(
        "trial", "", "",
        (Case("a", "glyphs", ("method.epochs=3",)), Case("b", "emoji")),
        (Contender("plain"), Contender("long", ("method.epochs=4",))),
        (),
        overrides=("method.epochs=2", "run.rounds=5"),
    )  # fmt: skip
    cells, refused = runs.cells(study, {"glyphs": ["data.buckets=64"]}, tmp_path, seeds=2)
    assert refused == []
    assert [(cell.case, cell.contender) for cell in cells] == [("a", "plain"), ("a", "long")]
    assert [cell.jobs[0].config.method.epochs for cell in cells] == [3, 4]
    assert [job.config.run.seed for job in cells[0].jobs] == [0, 1]
    assert all(job.config.data.buckets == 64 for cell in cells for job in cell.jobs)
    quick, _ = runs.cells(study, {"glyphs": []}, tmp_path, 1, ("run.rounds=2",))
    assert quick[0].jobs[0].config.run.rounds == 2


def test_what_cannot_be_configured_is_a_failure_and_the_others_run(tmp_path):
    study = Study(
        "trial", "", "", (Case("a", "glyphs"),),
        (Contender("plain"), Contender("magic", ("method=fedmagic",))), (),
    )  # fmt: skip
    cells, (failure,) = runs.cells(study, {"glyphs": []}, tmp_path, 1)
    assert [cell.contender for cell in cells] == ["plain"]
    assert (failure["study"], failure["cell"]) == ("trial", "a, magic")
    assert "fedmagic" in failure["why"]


@pytest.mark.parametrize("study", studies.STUDIES, ids=lambda study: study.name)
def test_every_study_can_be_planned(study, tmp_path):
    data = {name: [f"data.path={name}.npz"] for name in studies.DATA}
    cells, refused = runs.cells(study, data, tmp_path, seeds=1)
    assert refused == []
    assert len(cells) == len(study.cases) * len(study.contenders)
    assert len({cell.jobs[0].out for cell in cells}) == len(cells)  # no two are the same run


@pytest.mark.parametrize("study", studies.STUDIES, ids=lambda each: each.name)
def test_claims_are_of_contenders(study):
    names = {contender.name for contender in study.contenders}
    assert {name for claim in study.claims for name in (claim.one, claim.other)} <= names
    known = {name for scores in SCORES.values() for name in scores.compared.values()}
    assert {claim.metric for claim in study.claims} - {""} <= known


# ---- Verdicts --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("new", "holds"),
    [([0.51, 0.615, 0.71], True), ([0.49, 0.58, 0.69], False), ([0.4, 0.6, 0.85], False)],
)
def test_a_claim_holds_if_its_interval_does(new, holds):
    rows = [row("new", new), row("old", [0.5, 0.6, 0.7])]
    (verdict,) = verdicts(rows, [trial(*above("new", "old"))])
    assert verdict["holds"] is holds
    assert verdict["effect"]["mean"] == pytest.approx(fmean(new) - 0.6)


@pytest.mark.parametrize("below", [True, False])
def test_a_claim_may_be_of_less_and_of_another_metric(below):
    less = {"question_only": [0.31, 0.2, 0.11]}
    rows = [row("new", [0.1] * 3, **less), row("old", [0.9] * 3, question_only=[0.4, 0.3, 0.2])]
    (verdict,) = verdicts(rows, [trial(Claim("new", "old", "question_only", below))])
    assert verdict["holds"] is below
    assert verdict["effect"]["mean"] == pytest.approx(-0.28 / 3)


def test_runs_of_all_cases_count_and_each_case_is_told():
    rows = [
        row("new", [0.6, 0.7], case="small"), row("old", [0.5, 0.5], case="small"),
        row("new", [0.3, 0.3], case="large"), row("old", [0.2, 0.1], case="large"),
    ]  # fmt: skip
    (verdict,) = verdicts(rows, [trial(*above("new", "old"))])
    assert verdict["effect"]["values"] == pytest.approx([0.1, 0.2, 0.1, 0.2])
    means = {case: effect["mean"] for case, effect in verdict["cases"].items()}
    assert means == {"small": pytest.approx(0.15), "large": pytest.approx(0.15)}
    assert verdict["holds"] is True


def test_tasks_are_judged_apart_and_only_by_metrics_that_they_have():
    rows = [
        row("new", [0.6, 0.7]), row("old", [0.5, 0.6]),
        row("new", [0.2, 0.3], task="retrieval", case="large", r10=[0.9, 0.8]),
        row("old", [0.4, 0.5], task="retrieval", case="large", r10=[0.1, 0.2]),
    ]  # fmt: skip
    claims = *above("new", "old"), *above("new", "old", metric="r10")
    found = verdicts(rows, [trial(*claims)])
    assert [(one["task"], one["metric"], one["holds"]) for one in found] == [
        ("vqa", "accuracy", True),
        ("retrieval", "map", False),
        ("retrieval", "r10", False),  # by two runs that differ so much
    ]


@pytest.mark.parametrize(
    "rows",
    [
        [row("new", [0.5]), row("old", [0.4])],
        [row("new", [0.5, 0.6])],
        [row("new", [0.5, None]), row("old", [0.4, 0.4])],
    ],
    ids=["one run", "nobody to compare with", "no number"],
)
def test_what_was_not_measured_is_not_judged(rows):
    (verdict,) = verdicts(rows, [trial(*above("new", "old"))])
    assert verdict["holds"] is None


# ---- The page --------------------------------------------------------------------------------


def plain(text):
    return text.replace("\N{NO-BREAK SPACE}", " ").replace("\N{EN DASH}", "-")


def test_a_table_has_every_metric_and_marks_the_best_of_a_case():
    rows = [row("new", [0.5, 0.7]), row("old", [0.4, 0.4]), row("none", [None, 0.4])]
    assert plain(page.table_of(rows)).splitlines() == [
        "| case |  | accuracy | question alone | up | down | s |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        "| small | new | **0.600 ± 0.141** | 0.200 ± 0.000 | 1 MB | 2 MB | 30 |",
        "| small | old | 0.400 ± 0.000 | 0.200 ± 0.000 | 1 MB | 2 MB | 30 |",
        "| small | none | - | 0.200 ± 0.000 | 1 MB | 2 MB | 30 |",
    ]


def test_a_verdict_in_words():
    rows = [row("new", [0.4, 0.6]), row("old", [0.5, 0.5])]
    held, missing = verdicts(rows, [trial(*above("new", "old", "absent"))])
    assert page.line(held) == (
        "new above old in accuracy: **does not hold**, +0.000 ± 1.271 (n = 2) "
        "(small +0.000 ± 1.271)."
    )
    assert plain(page.line(missing)) == "new above absent in accuracy: not judged, -."


def test_the_page_shows_every_study_that_was_measured(tmp_path, monkeypatch):
    study = trial(*above("new", "old"))
    monkeypatch.setattr(page, "STUDIES", (study, Study("other", "Another", "", (), (), ())))
    rows = [row(name, [0.5, 0.6], case=case) for case in ("small", "large") for name in
            ("new", "old")]  # fmt: skip
    rows.append(row("old", [None, 0.2], case="without a number"))
    result = {
        "rows": rows, "verdicts": verdicts(rows, [study]), "date": "2026-01-01", "machine": "m",
        "device": "cpu", "version": "0", "versions": {"torch": "2"},
        "failures": [{"study": "trial", "cell": "small, gone", "why": "it diverged"}],
    }  # fmt: skip
    page.write(result, tmp_path / "page.md", tmp_path / "images")
    text = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert "## A trial" in text and "Another" not in text
    assert "| A trial | new above old in accuracy | +0.000" in text
    assert "* trial: small, gone: it diverged" in text
    for picture in ("related-trial.png", "related-trial-curves.png"):
        assert f"(images/{picture})" in text
        assert (tmp_path / "images" / picture).read_bytes().startswith(b"\x89PNG")
