"""What an audit found, on the page: a table of both views, and sentences."""

import json

import pytest

from fedsyn.errors import RunError
from fedsyn.report import write
from fedsyn.report.audit import read, table, words


def row(name, of, view, auc, rate=0.01):
    numbers = {"auc": auc, "auc_low": auc - 0.02, "auc_high": auc + 0.02, "tpr_at_1pct_fpr": rate}
    return {"name": name, "of": of, "view": view, "members": 1234, "strangers": 400, **numbers}


ROWS = [
    row("cosine, averages", "model", "sums", 0.58),
    row("nearest prototype", "own", "raw", 0.52),
    row("nearest prototype", "own", "sums", 0.52),
    row("leverage, moments/second", "sum", "raw", 0.97, 0.5),
    row("difference of rounds' clusters", "sum", "sums", 0.5) | {"recovered": 21},
    *(row("combined", "all", view, auc, 0.2) for view, auc in (("raw", 0.98), ("sums", 0.61))),
    *(row("combined, without synthesis", "all", view, 0.6) for view in ("raw", "sums")),
]
COPIES = {"samples": 8000, "exact": 0.0, "near": 0.3, "near_as_many": 0.2, "near_strangers": 0.21}
DOCUMENT = {
    "attacks": ROWS, "copies": COPIES, "clients": [{}] * 3, "clients_heard": 5,
    "not_attacked": ["method/latent"],
}  # fmt: skip


@pytest.fixture
def audited(tmp_path):
    """What is read of a document."""

    def make(document):
        (tmp_path / "audit.json").write_text(json.dumps(document))
        return read(tmp_path)

    return make


def test_both_views_of_an_attack_are_one_row_of_the_table(audited):
    grid = table(audited(DOCUMENT))
    assert grid.header == ("attack", "of", "AUC raw", "found raw", "AUC sums", "found sums")
    assert [cells[0] for cells in grid.rows] == [
        "nearest prototype", "leverage, moments/second", "difference of rounds' clusters",
        "cosine, averages", "combined", "combined, without synthesis",
    ]  # fmt: skip
    assert grid.rows[0][2:] == ("0.52±.02", "1", "0.52±.02", "1")
    assert grid.rows[1][2:] == ("0.97±.02", "50", "–", "–")
    assert grid.strong == {4, 5}


def test_sentences_say_who_can_tell_and_what_synthesis_adds(audited):
    text = " ".join(words(audited(DOCUMENT)))
    assert "1,234 pairs that 3 of 5 clients trained on" in text and "400 pairs" in text
    assert "almost surely" in text and "AUC 0.98" in text and "“leverage, moments/second”" in text
    assert "a little better than a coin's" in text and "synthesis adds +0.010" in text
    assert "8,000 synthetic pairs none is a copy" in text and "method/latent" in text
    assert text.count("21 training pairs can be read off what was sent, number by number") == 1


def test_of_a_run_without_synthesis_nothing_is_said_of_it(audited):
    rows = [one for one in ROWS if one["of"] != "own"]
    text = " ".join(words(audited(DOCUMENT | {"attacks": rows, "copies": None})))
    assert "synthe" not in text and "AUC 0.61" in text


def test_the_page_has_a_section_where_there_is_an_audit(write_run):
    path = write_run(rounds=1)
    assert "What an attacker can tell" not in write(path).read_text("utf-8")
    evil = row("<script>alert(1)</script>", "own", "raw", 0.5)
    (path / "audit.json").write_text(json.dumps(DOCUMENT | {"attacks": [*ROWS, evil]}))
    page = write(path).read_text("utf-8")
    assert "What an attacker can tell" in page and "leverage, moments/second" in page
    assert "<script>" not in page


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"attacks": 3}', '{"attacks": [{"name": "x"}], "copies": null}']
)
def test_a_malformed_file_is_named(tmp_path, text):
    (tmp_path / "audit.json").write_text(text)
    with pytest.raises(RunError, match=r"audit\.json.*run the audit again"):
        read(tmp_path)


def test_a_run_that_was_not_audited_has_none(tmp_path):
    assert read(tmp_path) is None
