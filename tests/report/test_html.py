"""The page: complete, self-contained, safe with any name, and possible for any run."""

import json
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from fedsyn.report import write
from fedsyn.report.files import read_run
from fedsyn.report.html import facts, headline

RunWriter = Callable[..., Path]
VOID = {"meta", "img", "br", "link", "input"}


class Page(HTMLParser):
    """Collects tags, references, headings and text, and checks that tags are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.references: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        self.references += [
            value or "" for name, value in attrs if name in ("src", "href", "xlink:href")
        ]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data


def page(run_dir: Path) -> Page:
    return Page(write(run_dir).read_text(encoding="utf-8"))


def test_the_page_shows_everything_about_a_run(write_run: RunWriter) -> None:
    path = write_run("synthesis.steps=33")
    result = page(path)
    assert headline(read_run(path)) in result.text
    for heading in (
        "Retrieval after",
        "Over the rounds",
        "Who has what",
        "What the model finds",
        "Time and traffic",
        "Configuration",
    ):
        assert heading in result.text
    assert result.tags.count("svg") == 4
    assert "steps = 33" in result.text
    assert "★ its pair" in result.text and "✓ relevant" in result.text
    # Text queries show their results' pictures; image queries show their own.
    assert result.tags.count("img") == 2 * 6 + 2


def test_the_page_fetches_and_runs_nothing(write_run: RunWriter) -> None:
    result = page(write_run())
    assert {reference.split(":")[0][:5] for reference in result.references} == {"data"} | {
        reference[:5] for reference in result.references if reference.startswith("#")
    }
    assert not {"script", "link", "iframe"} & set(result.tags)


@pytest.mark.parametrize(
    "settings",
    [
        {"rounds": 1},
        {"clients": 100, "rounds": 2},
        {"clients": 1, "rounds": 2},
        {"labels": (), "rounds": 2},
        {"labels": tuple(f"label {n}" for n in range(40)), "rounds": 2},
        {"without": ("gallery.json",), "rounds": 2},
        {"without": ("summary.json", "partition.json", "gallery.json"), "rounds": 2},
    ],
)
def test_any_run_has_a_page(write_run: RunWriter, settings: dict) -> None:
    result = page(write_run(**settings))
    assert "reached a mean average precision" in result.text
    assert ("What the model finds" in result.text) == (
        "gallery.json" not in settings.get("without", ())
    )


def test_a_run_without_any_number_has_a_page(write_run: RunWriter) -> None:
    path = write_run(rounds=1, without=("summary.json", "partition.json", "gallery.json"))
    (path / "metrics.jsonl").write_text('{"round": 1, "metrics": {"map": NaN}}\n')
    result = page(path)
    assert "No round was evaluated" in result.text
    assert "fedavg with synthesis ran 1 round over 10 clients." in result.text


def test_captions_and_labels_are_text_whatever_they_hold(write_run: RunWriter) -> None:
    path = write_run(rounds=1)
    evil = '"><script>alert(1)</script>'
    item = {"caption": evil, "label": evil, "image": evil, "score": 0.5}
    queries = [{"kind": kind, "results": [item]} | item for kind in ("text", "image")]
    (path / "gallery.json").write_text(json.dumps({"queries": queries}))
    (path / "partition.json").write_text(
        json.dumps({"clients": [[3]], "labels": [evil], "pairs": [3]})
    )
    result = page(path)
    assert "script" not in result.tags
    assert evil in result.text


def test_a_gallery_without_pictures_shows_captions(write_run: RunWriter) -> None:
    path = write_run(rounds=1)
    hit = {"caption": "a green star", "image": None, "score": None}
    (path / "gallery.json").write_text(
        json.dumps({"queries": [{"kind": "text", "caption": "star", "results": [hit]}]})
    )
    result = page(path)
    assert "img" not in result.tags and "a green star" in result.text


def test_the_headline_names_a_better_earlier_round(write_run: RunWriter) -> None:
    path = write_run(rounds=1, without=("summary.json",))
    (path / "metrics.jsonl").write_text(
        '{"metrics": {"map": 0.4}}\n{"metrics": {"map": 0.5}}\n{"metrics": {"map": 0.3}}\n'
    )
    assert headline(read_run(path)) == (
        "fedavg with synthesis reached a mean average precision of 0.300 in 3 rounds over "
        "10 clients (best 0.500 in round 2)."
    )


def test_the_headline_is_silent_about_a_best_that_reads_the_same(write_run: RunWriter) -> None:
    path = write_run(rounds=1, without=("summary.json",))
    (path / "metrics.jsonl").write_text('{"metrics": {"map": 0.4001}}\n{"metrics": {"map": 0.4}}\n')
    assert "best" not in headline(read_run(path))


@pytest.mark.parametrize(
    ("override", "name"),
    [
        ("synthesis.enabled=false", "fedavg reached"),
        ("synthesis.oracle=true", "fedavg with real pairs (oracle) reached"),
    ],
)
def test_the_headline_names_the_synthesis_mode(
    write_run: RunWriter, override: str, name: str
) -> None:
    assert headline(read_run(write_run(override, rounds=2))).startswith(name)


def test_facts_tell_codes_from_embeddings_and_count_the_server(write_run: RunWriter) -> None:
    known = dict(facts(read_run(write_run("model.bits=32", rounds=5))))
    assert known["embedding"] == "32-bit codes"
    assert known["synthetic pairs kept"] == "15,360 of 20,480 (75%)"
    assert known["fine-tuned model's share"] == "50% on average"


def test_importing_the_report_imports_no_plotting() -> None:
    code = (
        "import sys, fedsyn.report; "
        "print({'matplotlib', 'jinja2', 'rich'} & {name.split('.')[0] for name in sys.modules})"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert output.stdout.strip() == "set()"
