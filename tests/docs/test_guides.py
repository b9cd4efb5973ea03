"""The guides: the code on each page is run as it stands, from Python, by command and on nodes."""

import importlib
import re
import sys
from pathlib import Path

import pytest

from fedsyn import conformance
from fedsyn.deployment.loopback import Loopback
from fedsyn.deployment.node import Limits, NodeConfig
from fedsyn.deployment.server import serve
from fedsyn.federation import config as configuration
from fedsyn.federation.runner import run

GUIDES = Path(__file__).parents[2] / "docs" / "guides"
# What a page defines, its family, its key, and an option that it brings.
PAGES = {
    "method": ("FEDAVGM", "method", "method.name", "method.fedavgm.beta=0.5"),
    "objective": ("SIGLIP", "objective", "objective.name", "objective.siglip.scale=20"),
    "generator": ("STUDENT", "generator", "synthesis.generator", "synthesis.student.freedom=5"),
    "reader": ("JSON_LINES", "reader", "data.reader", "data.jsonl.limit=500"),
}
ALL = pytest.mark.parametrize("page", PAGES)


def code_of(page):
    """The program on a page."""
    (code,) = re.findall(r"```python\n(.*?)```", (GUIDES / f"{page}.md").read_text(), re.DOTALL)
    return code


@pytest.fixture
def module(tmp_path, monkeypatch):
    """``module(page)``: the page's program, saved and named as the page says."""

    def build(page):
        folder = tmp_path / "mine"
        folder.mkdir()
        (folder / f"my_{page}.py").write_text(code_of(page))
        monkeypatch.syspath_prepend(str(folder))
        monkeypatch.delitem(sys.modules, f"my_{page}", raising=False)
        importlib.invalidate_caches()
        return importlib.import_module(f"my_{page}")

    return build


@pytest.fixture
def words(settings, pairs_in_lines):
    """The overrides of a small run with synthesis, of pairs in the form that a page reads."""

    def build(page):
        own = ["partition.clients=3", "partition.alpha=5", "run.rounds=2", "data.cache="]
        if page == "reader":
            own += [f"data.path={pairs_in_lines}"]
        own += [f"synthesis.enabled={'true' if page == 'generator' else 'false'}"]
        return [*settings, *own, PAGES[page][3]]

    return build


@ALL
def test_the_program_of_a_guide_runs_in_three_ways(page, module, words, fedsyn, rows_of, tmp_path):
    name, family, key, _ = PAGES[page]
    plugin, full = getattr(module(page), name), f"my_{page}:{name}"
    overrides = words(page)
    own = configuration.load(None, [*overrides, "engine.stack=1"], **{family: plugin})
    run(own, tmp_path / "python")
    code, _, err = fedsyn(
        "run", *overrides, "engine.stack=1", f"{key}={full}", "--out", tmp_path / "line", "--json"
    )
    assert code == 0, err
    nodes = {
        number: NodeConfig(
            clients=(number,), state=str(tmp_path / f"node-{number}"), allow=Limits(plugins=(full,))
        )
        for number in range(3)
    }
    named = configuration.load(None, [*overrides, f"{key}={full}", "flower.nodes=3"])
    serve(named, tmp_path / "nodes", Loopback(nodes))
    assert rows_of(tmp_path / "python") == rows_of(tmp_path / "line")
    assert rows_of(tmp_path / "python") == rows_of(tmp_path / "nodes")


@ALL
def test_the_program_of_a_guide_conforms(page, module, pairs_in_lines):
    plugin = getattr(module(page), PAGES[page][0])
    if page == "reader":
        conformance.check_reader(plugin, pairs_in_lines)
    else:
        getattr(conformance, f"check_{page}")(plugin)


@ALL
def test_the_commands_on_a_page_name_what_it_defines(page):
    text = (GUIDES / f"{page}.md").read_text()
    assert f"my_{page}:{PAGES[page][0]}" in text
    assert f"my_{page}.py" in text


def test_the_method_is_as_short_as_the_page_says():
    code = code_of("method").partition('"""\n\n')[2]
    assert len([line for line in code.splitlines() if line.strip()]) <= 40
