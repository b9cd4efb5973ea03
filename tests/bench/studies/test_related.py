"""The planning, the verdicts and the page of ``make evidence-related``."""

import argparse
from dataclasses import replace
from statistics import fmean, stdev

import numpy as np
import pytest

from fedsyn.data.glyphs import glyphs
from fedsyn.federation import config
from fedsyn.tasks import TASKS
from studies.related import __main__ as command
from studies.related import figures, page, rows, runs, studies, teacher
from studies.related.arithmetic import metrics_of, verdicts
from studies.related.studies import Case, Claim, Contender, Study, above
from studies.trials.files import Result


def row(contender, values, *, case="small", task="vqa", study="trial", **others):
    """A row of several seeds, whose metrics but the headline are ``others`` by seed, or 0.2."""
    metrics = metrics_of(task)
    row = {
        "study": study, "case": case, "data": "glyphs", "contender": contender, "task": task,
        "seeds": len(values), "rounds": 3, "clients": 10, "bytes_up": 1e6,
        "bytes_down": 2e6, "seconds_mean": 30.0, "runs": [f"{case}-{contender}"],
        "curve": {"rounds": [1, 2], "mean": [0.1, None], "std": [0.0, None]},
    }  # fmt: skip
    for name in metrics.compared.values():
        runs = others.get(name, values if name == metrics.headlines[0] else [0.2] * len(values))
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
    known = {name for task in TASKS for name in task.metrics.compared.values()}
    assert {claim.metric for claim in study.claims} - {""} <= known


def test_a_study_may_ask_for_more_seeds_but_not_to_be_tried():
    few, many = (replace(trial(), seeds=number) for number in (1, 6))
    asked = argparse.Namespace(seeds=3, quick=False)
    assert [command.seeds(study, asked) for study in (few, many)] == [3, 6]
    assert command.seeds(many, argparse.Namespace(seeds=1, quick=True)) == 1


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


def test_a_margin_is_what_a_claim_may_lack():
    rows = [row("new", [0.48, 0.579, 0.68]), row("old", [0.5, 0.6, 0.7])]
    claims = [Claim("new", "old", margin=margin) for margin in (0.0, 0.019, 0.03)]
    assert [one["holds"] for one in verdicts(rows, [trial(*claims)])] == [False, False, True]
    below = Claim("old", "new", below=True, margin=0.03)
    (verdict,) = verdicts(rows, [trial(below)])
    assert verdict["holds"] is True
    assert page.claim(verdict) == "old at most 0.03 above new in accuracy"


def test_a_claim_may_be_of_some_cases():
    rows = [
        row("new", [0.6, 0.7], case="small"), row("old", [0.5, 0.6], case="small"),
        row("new", [0.3, 0.3], case="large"), row("old", [0.5, 0.9], case="large"),
    ]  # fmt: skip
    (verdict,) = verdicts(rows, [trial(*above("new", "old", cases=("small",)))])
    assert list(verdict["cases"]) == ["small"] and verdict["holds"] is True
    assert page.claim(verdict) == "new above old in accuracy (small)"


@pytest.mark.parametrize("study", studies.STUDIES, ids=lambda each: each.name)
def test_claims_are_of_cases_that_there_are(study):
    assert {case for claim in study.claims for case in claim.cases} <= {
        case.name for case in study.cases
    }


# ---- Training rows alone ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def emoji(tmp_path_factory):
    """A file as that of the emoji: a subgroup is where the ink is, and every fifth row is tested;
    row ``i`` has brightness ``i`` in both drawings.
    """
    number, side = 240, 16  # of half as many it depends on the seed whether names alone tell
    sublabel = np.arange(number) % 2
    image = np.full((number, side, side, 3), 255, dtype=np.uint8)
    for row_, (picture, half) in enumerate(zip(image, sublabel, strict=True)):
        picture[3:13, 8 * half : 8 * half + 8 : 2] = row_
    file = tmp_path_factory.mktemp("emoji") / "emoji.npz"
    np.savez(
        file, image=image, image_line=image[..., 0], label=np.zeros(number, dtype=np.int64),
        label_names=np.array(["strokes"]), sublabel=sublabel,
        sublabel_names=np.array(["left", "right"]),
        text=np.repeat("stroke", number),
        split=np.where(np.arange(number) % 5 == 0, "test", "train"),
    )  # fmt: skip
    return file


def test_settings_are_chosen_without_the_rows_that_are_tested_on(emoji, tmp_path):
    rows.without_tests(emoji, tmp_path / "emoji.npz")
    with np.load(tmp_path / "emoji.npz") as kept:
        assert "split" not in kept
        assert kept["image"][:, 4, :, 0].min(1).tolist() == [n for n in range(240) if n % 5]
        assert len(kept["text"]) == len(kept["image"])
        assert kept["sublabel_names"].tolist() == ["left", "right"]
    rows.without_tests(None, tmp_path / "glyphs.npz")
    pairs = glyphs()
    with np.load(tmp_path / "glyphs.npz") as kept:
        assert np.array_equal(kept["text"], pairs.text[~pairs.split])
        assert np.array_equal(kept["image"], pairs.image[~pairs.split])


def test_the_teacher_of_emoji_has_seen_line_drawings_of_training_rows(emoji, tmp_path):
    overrides = teacher.of_emoji(emoji, tmp_path)
    with np.load(tmp_path / "line-drawings.npz") as drawn:
        assert drawn["image"].shape == (192, 16, 16, 3)
        assert drawn["image"][:, 4].min((1, 2)).tolist() == [n for n in range(240) if n % 5]
        assert drawn["text"][0] == "right, strokes, stroke"
    settings = config.load(None, ["method=clip2fl", f"data.path={emoji}", *overrides])
    known = settings.plugins.teacher.load(settings.teacher, settings.data, settings.model.dim)
    with np.load(emoji) as file:
        pictures, sublabel = known.pictures(file["image"]), file["sublabel"]
    guess = (pictures @ known.texts(["left", "right"]).T).argmax(-1).numpy()
    assert (guess == sublabel).mean() > 0.9
    assert teacher.of_emoji(emoji, tmp_path) == overrides


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


def test_the_page_shows_every_study_that_was_measured(tmp_path, monkeypatch, facts):
    study = trial(*above("new", "old"))
    monkeypatch.setattr(page, "STUDIES", (study, Study("other", "Another", "", (), (), ())))
    rows = [row(name, [0.5, 0.6], case=case) for case in ("small", "large") for name in
            ("new", "old")]  # fmt: skip
    rows.append(row("old", [None, 0.2], case="without a number"))
    failures = [{"study": "trial", "cell": "small, gone", "why": "it diverged"}]
    result = Result(rows, failures, {"trial": facts})
    page.write(result, tmp_path / "page.md", tmp_path / "images")
    text = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert "## A trial" in text and "Another" not in text
    assert "| A trial | new above old in accuracy | +0.000" in text
    assert "* trial: small, gone: it diverged" in text
    assert "Of 1 claims 0 hold." in text
    assert "Measured 2026-01-01 on m; fedsyn 0 (abc), PyTorch 2." in text
    for picture in ("related-trial.png", "related-trial-curves.png"):
        assert f"(images/{picture})" in text
        assert (tmp_path / "images" / picture).read_bytes().startswith(b"\x89PNG")


def test_what_is_on_another_scale_is_drawn_apart(tmp_path):
    curve = {"rounds": [1, 2], "mean": [1.5, 1.2], "std": [0.1, 0.1]}
    rows = [
        {**row(name, [0.5, 0.6], task="multimodal_classification"), "imbalance_curve": curve}
        for name in ("new", "old")
    ]
    drawn = figures.draw(rows, trial(), tmp_path)
    assert drawn["Imbalance over the rounds"] == "related-trial-imbalance.png"
    assert (tmp_path / "related-trial-imbalance.png").read_bytes().startswith(b"\x89PNG")
    axes, *_ = figures.curves(rows, trial(), "imbalance").axes
    assert axes.get_ylabel() == "imbalance ↓"
    assert list(axes.lines[0].get_ydata()) == [1.5, 1.2]


def test_a_case_that_was_evaluated_once_is_not_drawn_over_the_rounds(tmp_path, monkeypatch):
    drawn, curves = [], figures.curves

    def watched(rows, *others):
        drawn.append([row["case"] for row in rows])
        return curves(rows, *others)

    monkeypatch.setattr(figures, "curves", watched)
    once = {"rounds": [2], "mean": [0.5], "std": [0.0]}
    rows = [row("new", [0.5]), {**row("new", [0.5], case="large"), "curve": once}]
    assert "Over the rounds" in figures.draw(rows, trial(), tmp_path)
    assert drawn == [["small"]]
    assert "Over the rounds" not in figures.draw(rows[1:], trial(), tmp_path)
