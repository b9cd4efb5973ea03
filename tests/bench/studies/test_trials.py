"""What the studies share: intervals, where runs lie, data that are there; bench/ is on the path."""

import math

import pytest

from fedsyn import config
from studies.trials import command, page, runs
from studies.trials.arithmetic import interval, paired, signed


def test_the_interval_is_students():
    # Three values of mean 2 and deviation 1: 4.303 is the quantile of two degrees of freedom.
    found = interval([1.0, 2.0, 3.0])
    assert found["mean"] == 2.0
    assert found["half"] == pytest.approx(4.3027 / math.sqrt(3), abs=1e-4)
    assert signed(found) == "+2.000 ± 2.484"


def test_one_value_has_no_interval():
    assert interval([0.5])["half"] is None
    assert signed(interval([-0.5])) == "-0.500"


def test_differences_are_of_the_same_seed():
    assert paired([3.0, 1.0], [1.0, 2.0]) == [2.0, -1.0]


def test_runs_of_other_rounds_and_of_another_program_lie_elsewhere(monkeypatch):
    one, longer = (config.load(None, [f"run.rounds={rounds}"]) for rounds in (20, 21))
    before = runs.key(one)
    assert before != runs.key(longer)
    assert before == runs.key(config.load(None, ["engine.threads=3"]))
    monkeypatch.setattr(runs, "code", lambda: "another")
    assert before != runs.key(one)


def test_comments_and_docstrings_are_not_the_program():
    source = 'def f(x):\n    """One."""\n    return x + 1\n'
    assert runs.meaning(source) == runs.meaning(
        'def f(x):\n    "Two."\n    # why\n    return x+1\n'
    )
    assert runs.meaning(source) != runs.meaning(source.replace("+ 1", "+ 2"))


def test_a_set_that_is_absent_is_left_out(tmp_path, capsys):
    files = {"glyphs": "", "emoji": "emoji/emoji.npz"}
    assert command.available(files, tmp_path) == {"glyphs": []}
    assert "emoji is not in" in capsys.readouterr().err
    (tmp_path / "emoji").mkdir()
    (tmp_path / "emoji" / "emoji.npz").touch()
    there = command.available(files, tmp_path)
    assert there == {"glyphs": [], "emoji": [f"data.path={tmp_path / 'emoji/emoji.npz'}"]}


def test_time_is_counted_once_for_runs_that_studies_share():
    row = {"runs": ["a", "b"], "seeds": 2, "seconds_mean": 30.0, "rounds": 5}
    other = {"runs": ["c"], "seeds": 1, "seconds_mean": 20.0, "rounds": 20}
    assert page.hours([row, dict(row), other]).replace("\N{NO-BREAK SPACE}", " ") == "80.0 s"
    assert page.several([other, row], "rounds") == "5 or 20 rounds"


# ---- When, and on what -----------------------------------------------------------------------


def test_what_was_measured_at_once_is_said_once(facts):
    said = "Measured 2026-01-01 on m; fedsyn 0 (abc), PyTorch 2."
    assert page.measured({"one": facts, "two": facts}) == said


def test_another_program_day_or_device_is_told_of_each_study(facts):
    later = {**facts, "date": "2026-01-02", "code": "def", "device": "a GPU"}
    *_, first, second = page.measured({"one": facts, "two": later, "three": facts}).splitlines()
    assert first == "* one, three: 2026-01-01 on m; fedsyn 0 (abc), PyTorch 2"
    assert second == "* two: 2026-01-02 on m, a GPU; fedsyn 0 (def), PyTorch 2"


def test_a_study_measured_anew_leaves_what_is_known_of_the_others(monkeypatch):
    monkeypatch.setattr(command, "facts", lambda: {"date": "today"})
    monkeypatch.setattr(runs, "code", lambda: "new")
    result = {
        "rows": [{"study": "two", "value": 1}, {"study": "one", "value": 2}],
        "failures": [{"study": "one", "why": "it diverged"}],
        "measured": {"two": {"date": "before", "code": "old"}, "one": {"date": "before"}},
    }
    command.put(result, ["one", "two"], "one", [{"study": "one", "value": 3}], [])
    assert [row["value"] for row in result["rows"]] == [3, 1]
    assert result["failures"] == []
    assert result["measured"] == {
        "one": {"date": "today", "code": "new"}, "two": {"date": "before", "code": "old"},
    }  # fmt: skip
