"""``fedsyn audit``: a table, JSON, and one sentence where there is nothing to audit."""

import json

import numpy as np
import pytest

from fedsyn.federation import config
from fedsyn.federation.runner import run

SMALL = [
    "partition.clients=4", "partition.scheme=iid", "model.hidden=[8]", "model.dim=4",
    "synthesis.candidates=64", "synthesis.server_steps=2", "synthesis.prototypes=4",
    "run.rounds=2", "engine.threads=1", "data.cache=", "data.test_fraction=0.4",
]  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Directories of runs, with and without recorded uploads."""
    folder = tmp_path_factory.mktemp("trained")
    draw = np.random.default_rng(0)
    np.savez(
        folder / "pairs.npz", image=draw.normal(size=(200, 6)), text=draw.normal(size=(200, 5))
    )
    for name, kept in (("loud", "true"), ("quiet", "false")):
        own = [f"data.path={folder / 'pairs.npz'}", f"run.record_uploads={kept}"]
        run(config.load(None, [*SMALL, *own]), folder / name)
    return folder


def test_a_table_words_and_files(fedsyn, trained, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = fedsyn("audit", trained / "loud")
    assert (code, err) == (0, "")
    for words in ("nearest prototype", "combined, without synthesis", "AUC", "false alarms"):
        assert words in out
    assert "audit.json" in out.replace("\n", "") and "report.html" in out.replace("\n", "")
    assert "What an attacker can tell" in (trained / "loud" / "report.html").read_text()


def test_json_is_what_is_written_and_nothing_else(fedsyn, trained):
    code, out, err = fedsyn("audit", trained / "loud", "--json", "--seed", 3, "--shadows", 2)
    document = json.loads(out)
    assert (code, err) == (0, "")
    assert document == json.loads((trained / "loud" / "audit.json").read_text())
    assert {"attacks", "copies", "clients"} <= document.keys()
    assert (document["seed"], document["shadow_models"]) == (3, 2)
    assert any(row["name"].startswith("likelihood ratio") for row in document["attacks"])


def test_quiet_says_nothing(fedsyn, trained):
    assert fedsyn("audit", trained / "loud", "--quiet") == (0, "", "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["quiet"], "run.record_uploads=true"),
        (["nowhere"], "not the directory of a run"),
        (["loud", "--shadows", "1"], "2 or more"),
        (["loud", "--shadows", "-1"], "--shadows"),
    ],
)
def test_wrong_input_is_named_in_one_sentence(fedsyn, trained, arguments, words):
    code, out, err = fedsyn("audit", trained / arguments[0], *arguments[1:])
    assert code == 2 and out == ""
    assert words in err and "Traceback" not in err
