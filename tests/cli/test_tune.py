"""`fedsyn tune`, and the same over nodes."""

import json
from types import SimpleNamespace

import pytest

from fedsyn.deployment.flower import project, runs
from fedsyn.federation import config, records


@pytest.fixture
def words(settings):
    """A run without synthesis, of one round."""
    return [*settings, "synthesis.enabled=false", "run.rounds=1"]


TRY = ["--try", "method.lr=1e-3,0.3", "--try", "model.linear=trained,frozen"]


def test_a_table_of_what_was_tried_and_how_to_run_the_best(fedsyn, words, tmp_path):
    out = tmp_path / "tuned"
    code, text, err = fedsyn("tune", *words, *TRY, "--runs", 3, "--out", out)
    assert (code, err) == (0, "")
    for part in ("method.lr", "model.linear", "criterion", "recall@10", "tuning.json"):
        assert part in text
    trials = json.loads((out / "tuning.json").read_text())["trials"]
    assert len(trials) == 3 and len(list((out / "runs").iterdir())) == 3
    best = " ".join(f"{key}={json.dumps(value)}" for key, value in trials[0]["keys"].items())
    assert f"by held-out rows alone: {best}" in " ".join(text.split())
    assert config.load(None, [*words, *best.split()]).run.rounds == 1


def test_the_same_command_goes_on_where_it_stopped(fedsyn, words, tmp_path, monkeypatch):
    out = tmp_path / "tuned"
    assert fedsyn("tune", *words, *TRY, "--runs", 2, "--out", out, "--quiet") == (0, "", "")
    before = {path: path.stat().st_mtime_ns for path in out.rglob(records.SUMMARY)}
    code, text, _ = fedsyn("tune", *words, *TRY, "--runs", 3, "--out", out, "--json")
    assert code == 0 and len(json.loads(text)["trials"]) == 3
    assert len(before) == 2
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())


@pytest.mark.parametrize(
    ("tried", "said"),
    [
        ("method.lrr=1,2", "'method.lr'"),
        ("method.lr", "section.key=value,value"),
        ("method.lr=0.001", "nothing to try"),
        ("method.lr=0.001,fast", "method.lr"),
    ],
)
def test_what_cannot_be_tried_is_named(fedsyn, words, tmp_path, tried, said):
    code, text, err = fedsyn("tune", *words, "--try", tried, "--out", tmp_path / "tuned")
    assert (code, text) == (2, "") and said in " ".join(err.split())


def test_without_held_out_pairs_it_says_so(fedsyn, words, tmp_path):
    own = [*words, "data.holdout=0", "--out", tmp_path / "tuned"]
    code, _, err = fedsyn("tune", *own, "--try", "method.lr=0.1")
    assert code == 2 and "data.holdout" in err


def test_over_nodes_every_trial_is_a_run_that_is_submitted(fedsyn, words, tmp_path, monkeypatch):
    submitted = []

    def submit(where, keys, out, resume):
        submitted.append((keys, out, resume))
        out.mkdir(parents=True)
        value = 1.0 if "method.lr=0.3" in keys else 2.0
        records.write_rows(out, [{"round": 0, "losses": {"holdout": value}}])
        records.write_json(out / records.SUMMARY, {"selected": {"round": 0}, "seconds": 1.0})
        return out

    made = SimpleNamespace(runs=tmp_path / "runs")
    monkeypatch.setattr(project, "find", lambda directory: made)
    monkeypatch.setattr(runs, "load", lambda where, keys, out: config.load(None, words))
    monkeypatch.setattr(runs, "submit", submit)
    monkeypatch.setattr(
        runs, "follow", lambda where, run, told: SimpleNamespace(state="done", error=None)
    )
    code, text, err = fedsyn(
        "flower", "tune", tmp_path, "run.seed=3", "--try", "method.lr=0.001,0.3", "--json"
    )
    assert (code, err) == (0, "")
    assert [keys for keys, _, _ in submitted] == [
        ["run.seed=3", "method.lr=0.001"], ["run.seed=3", "method.lr=0.3"],
    ]  # fmt: skip
    assert not any(resume for _, _, resume in submitted)
    assert all(out.is_relative_to(tmp_path / "runs") for _, out, _ in submitted)
    assert [one["keys"] for one in json.loads(text)["trials"]] == [
        {"method.lr": 0.3}, {"method.lr": 0.001},
    ]  # fmt: skip


def test_over_nodes_a_trial_that_fails_ends_it(fedsyn, words, tmp_path, monkeypatch):
    monkeypatch.setattr(project, "find", lambda directory: SimpleNamespace(runs=tmp_path))
    monkeypatch.setattr(runs, "load", lambda where, keys, out: config.load(None, words))
    monkeypatch.setattr(runs, "submit", lambda where, keys, out, resume: out)
    monkeypatch.setattr(
        runs, "follow", lambda where, run, told: SimpleNamespace(state="failed", error="no nodes")
    )
    code, _, err = fedsyn("flower", "tune", tmp_path, "--try", "method.lr=0.3")
    assert code == 2 and "failed: no nodes" in " ".join(err.split())
