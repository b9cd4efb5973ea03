"""What the studies share: intervals, where runs and results lie, data that are there."""

import math
import sys

import pytest

from fedsyn.federation import config
from results import ResultError
from studies.trials import audits, command, files, page, runs
from studies.trials.arithmetic import interval, paired, signed
from studies.trials.files import Result


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


def test_without_a_folder_there_is_what_is_embedded(capsys):
    assert command.available({"glyphs": "", "emoji": "emoji/emoji.npz"}, None) == {"glyphs": []}
    assert capsys.readouterr().err == ""


def test_a_run_that_is_recorded_is_also_of_the_program_that_audits_it(monkeypatch):
    plain, recorded = (
        config.load(None, [f"run.record_uploads={word}"]) for word in ("false", "true")
    )
    before = runs.key(plain), runs.key(recorded)
    assert before[0] != before[1]
    monkeypatch.setattr(runs, "auditor", lambda: "another")
    assert runs.key(plain) == before[0]
    assert runs.key(recorded) != before[1]


# ---- Stages ----------------------------------------------------------------------------------


def test_a_stage_may_depend_on_those_before_it(monkeypatch):
    done = []

    def execute(jobs, progress, workers):
        done.extend(jobs)
        return {f"{jobs[0]} failed": "why"}

    def stages():
        yield command.Stage("one", "first", ["a"])
        yield command.Stage("one", f"after {done}", ["b"], ["cell"])
        yield command.Stage("two", "other", ["c"], ["cell"])

    told = []
    monkeypatch.setattr(runs, "execute", execute)
    monkeypatch.setattr(runs, "rounds", len)
    command.carry_out(stages(), lambda stage, why: told.append((stage.title, sorted(why))))
    assert told == [
        ("first", ["a failed"]), ("after ['a']", ["a failed", "b failed"]), ("other", ["c failed"]),
    ]  # fmt: skip


def test_a_run_without_uploads_is_not_audited(tmp_path):
    assert audits.execute([tmp_path], 1) == {}


# ---- What is asked for -----------------------------------------------------------------------


@pytest.fixture
def ask(monkeypatch):
    """``ask("--only", "one")``: the arguments as studies see them."""
    data = {"glyphs": "", "emoji": "emoji/emoji.npz", "photos": "photos/photos.npz"}

    def asked(*words):
        monkeypatch.setattr(sys, "argv", ["trial", *map(str, words)])
        return command.arguments("trial", "A trial.", ["one", "two"], data, "quick")

    return asked


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "--data: expected the folder with emoji/emoji.npz, photos/photos.npz"),
        (("--data", "gone"), "gone: no such folder; expected the folder with emoji/emoji.npz"),
    ],
)
def test_nothing_is_measured_without_the_folder_of_the_data(ask, capsys, words, said):
    with pytest.raises(SystemExit) as caught:
        ask(*words)
    assert caught.value.code == 2
    assert said in capsys.readouterr().err


def test_a_page_and_a_quick_try_need_no_data(ask, tmp_path):
    assert ask("--data", tmp_path).data == tmp_path
    assert ask("--page").results == command.results.FOLDER
    quick = ask("--quick", "--data", tmp_path)
    assert (quick.data, quick.seeds) == (None, 1)
    assert quick.results == quick.docs == command.ROOT / "runs" / "trial-quick"


# ---- The files -------------------------------------------------------------------------------


def test_curves_lie_beside_the_rows_and_are_read_into_them(tmp_path, facts):
    curve = {"rounds": [1, 2], "mean": [0.25, None], "std": [0.0, None]}
    rows = [
        {"study": "one", "case": "a", "value": 0.5, "curve": curve},
        {"study": "one", "case": "b", "value": 0.25, "curve": curve, "loss_curve": curve},
        {"study": "two", "case": "a", "value": 1},
    ]
    failures = [{"study": "two", "cell": "b", "why": "it diverged"}]
    result = Result(rows, failures, {"one": facts, "two": facts})
    path = tmp_path / "trial.jsonl"
    files.write(path, result, ("study", "case"))
    assert "curve" not in path.read_text("utf-8")
    assert (tmp_path / "trial.curves.jsonl").read_text("utf-8").count('"rounds"') == 3
    assert files.read(path, ("study", "case")) == result
    path.write_text(path.read_text("utf-8")[:-9], "utf-8")
    with pytest.raises(ResultError, match="line 6 is torn"):
        files.read(path, ("study", "case"))


def test_rows_of_a_study_that_is_no_more_go(tmp_path, facts):
    path = tmp_path / "trial.jsonl"
    rows = [{"study": "one", "value": 1}, {"study": "two", "value": 2}]
    files.write(path, Result(rows, [], {"one": facts, "two": facts}), ("study",))
    found = command.known(path, ("study",), ["two", "three"])
    assert (found.rows, list(found.measured)) == (rows[1:], ["two"])
    assert command.known(tmp_path / "none.jsonl", ("study",), ["two"]) == Result()


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
    result = Result(
        rows=[{"study": "two", "value": 1}, {"study": "one", "value": 2}],
        failures=[{"study": "one", "why": "it diverged"}],
        measured={"two": {"date": "before", "code": "old"}, "one": {"date": "before"}},
    )
    command.put(result, ["one", "two"], "one", [{"study": "one", "value": 3}], [])
    assert [row["value"] for row in result.rows] == [3, 1]
    assert result.failures == []
    assert result.measured == {
        "one": {"date": "today", "code": "new"}, "two": {"date": "before", "code": "old"},
    }  # fmt: skip
