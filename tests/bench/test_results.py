"""Result files: what is written is read again, with few digits, and what is torn is refused."""

import json
import math

import pytest

import results
from results import ResultError

ABOUT = {"date": "2026-01-01", "machine": "m"}


def test_lines_are_read_by_kind_as_they_were_written(tmp_path):
    lines = {
        "row": [{"name": "a", "values": [1, 0.25, None]}, {"name": "\N{LINE SEPARATOR}", "n": {}}],
        "failure": [{"why": "it diverged"}],
        "about": [ABOUT, {**ABOUT, "study": "two"}],
    }
    path = tmp_path / "new" / "trial.jsonl"
    results.write(path, lines)
    assert results.read(path) == lines
    kinds = [json.loads(line)["kind"] for line in path.read_text("utf-8").split("\n")[:-1]]
    assert kinds == ["about", "about", "row", "row", "failure"]


def test_numbers_have_six_digits_and_integers_all(tmp_path):
    path = tmp_path / "trial.jsonl"
    row = {
        "n": 123_456_789, "small": 1.23456789e-7, "large": 192_438_825.5, "short": 0.5,
        "deep": [{"x": (1 / 3, -2 / 3)}], "yes": True, "never": math.inf, "none": math.nan,
    }  # fmt: skip
    results.write(path, {"about": [ABOUT], "row": [row]})
    (found,) = results.read(path)["row"]
    assert found == {
        "n": 123_456_789, "small": 1.23457e-7, "large": 192_439_000.0, "short": 0.5,
        "deep": [{"x": [0.333333, -0.666667]}], "yes": True, "never": None, "none": None,
    }  # fmt: skip
    results.write(path, {"about": [ABOUT], "row": [found]})
    assert results.read(path)["row"] == [found]


def test_a_torn_line_is_refused_with_its_number(tmp_path):
    path = tmp_path / "trial.jsonl"
    results.write(path, {"about": [ABOUT], "row": [{"name": "a"}, {"name": "b"}]})
    path.write_text(path.read_text("utf-8")[:-4], "utf-8")
    with pytest.raises(ResultError, match=r"trial\.jsonl, line 3 is torn; restore the file"):
        results.read(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "line 1 is torn"),
        ('{"kind": "row"}\n', "begins with kind 'row'; expected 'about'"),
        ('{"kind": "about"}\n[1]\n', "line 2: expected an object with a kind"),
        ('{"kind": "about"}\n{"name": "a"}\n', "line 2: expected an object with a kind"),
    ],
    ids=["empty", "about nothing", "no object", "no kind"],
)
def test_what_is_no_result_file_is_refused(tmp_path, text, said):
    path = tmp_path / "trial.jsonl"
    path.write_text(text, "utf-8")
    with pytest.raises(ResultError, match=said):
        results.read(path)


def test_a_file_that_is_not_there_is_said_to_be_absent(tmp_path):
    with pytest.raises(ResultError, match=r"none\.jsonl cannot be read: No such file"):
        results.read(tmp_path / "none.jsonl")


@pytest.mark.parametrize("path", sorted(results.FOLDER.iterdir()), ids=lambda path: path.name)
def test_stored_results_are_as_they_would_be_written(path, tmp_path):
    results.write(tmp_path / path.name, results.read(path))
    assert (tmp_path / path.name).read_bytes() == path.read_bytes()
