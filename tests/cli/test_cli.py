"""The command line: what it prints where, exit codes, and files."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from fedsyn import cli
from fedsyn.cli.terminal import RunProgress
from fedsyn.errors import ConfigError
from fedsyn.federation import config

SMALL = [
    "model.hidden=[8]", "model.dim=4", "partition.clients=3", "synthesis.steps=2",
    "synthesis.critic_warmup=2", "synthesis.candidates=64", "synthesis.server_steps=2",
    "synthesis.hidden=[8]", "synthesis.critic_hidden=[8]", "run.rounds=2", "partition.alpha=5",
]  # fmt: skip


@pytest.fixture
def pairs(tmp_path):
    draw = np.random.default_rng(0)
    path = tmp_path / "pairs.npz"
    label = np.arange(120) % 4
    np.savez(
        path,
        image=draw.normal(size=(120, 5)) + label[:, None],
        text=np.array([f"number {k} of {k % 4}" for k in range(120)]),
        label=label,
    )
    return path


@pytest.fixture
def fedsyn(pairs, fedsyn):
    """The command line, in a folder with a file of pairs."""
    return fedsyn


def settings(pairs):
    return [f"data.path={pairs}", "data.buckets=64", "data.cache=", *SMALL]


def test_run_ends_with_a_table_and_a_report(fedsyn, pairs, tmp_path):
    code, out, err = fedsyn("run", *settings(pairs), "--out", tmp_path / "run")
    assert code == 0 and err == ""
    assert "mAP" in out and "report.html" in out
    assert (tmp_path / "run/report.html").stat().st_size > 10_000


def test_a_run_on_few_distinct_captions(fedsyn, tmp_path, monkeypatch):
    five = ["滩在滩沙水海", "车黑的上睡色骑人", "狗果上子场个睡男", "海车果场买", "人水里自两耍在"]
    image = np.random.default_rng(0).normal(size=(60, 5))
    np.savez(tmp_path / "few.npz", image=image, text=np.array(five * 12), label=np.arange(60) % 5)

    def gives_up(*arguments, **keys):  # as it does on some machines, with some numbers of threads
        raise torch.linalg.LinAlgError("linalg.eigh: The algorithm failed to converge")

    monkeypatch.setattr(torch.linalg, "eigh", gives_up)
    overrides = [f"data.path={tmp_path / 'few.npz'}", "data.cache=", *SMALL]
    code, out, err = fedsyn("run", *overrides, "--out", tmp_path / "run", "--json")
    assert (code, err) == (0, "") and json.loads(out)["rounds"] == 2


def test_run_json_is_the_summary_and_nothing_else(fedsyn, pairs, tmp_path):
    code, out, _ = fedsyn("run", *settings(pairs), "--out", tmp_path / "run", "--json")
    assert code == 0
    assert json.loads(out) == json.loads((tmp_path / "run/summary.json").read_text())


def test_quiet_says_nothing(fedsyn, pairs, tmp_path):
    assert fedsyn("run", *settings(pairs), "--out", tmp_path / "run", "--quiet") == (0, "", "")


def test_a_resumed_run_needs_no_configuration(fedsyn, pairs, tmp_path):
    fedsyn("run", *settings(pairs), "--out", tmp_path / "run", "--quiet")
    code, out, _ = fedsyn("run", "run.rounds=3", "--resume", "--out", tmp_path / "run", "--json")
    assert code == 0 and json.loads(out)["rounds"] == 3


def test_compare_report_and_their_files(fedsyn, pairs, tmp_path):
    arguments = ["compare", *settings(pairs), "--synthesis", "off,on,oracle"]
    code, out, _ = fedsyn(*arguments, "--out", tmp_path / "cmp", "--jobs", 1)
    assert code == 0 and "oracle" in out
    result = json.loads((tmp_path / "cmp/comparison.json").read_text())
    found = [(row["method"], row["synthesis"]) for row in result["rows"]]
    assert found == [("cca", "off"), *(("fedavg", mode) for mode in ("off", "on", "oracle"))]
    assert [set(gap) for gap in result["gap_closed"]] == [
        {
            "method",
            "objective",
            *(f"{at}{one}" for at in ("", "best_", "last_") for one in ("map", "r10")),
        }
    ]
    assert {"comparison.md", "comparison.png"} <= {p.name for p in (tmp_path / "cmp").iterdir()}
    code, out, _ = fedsyn("report", tmp_path / "cmp")
    assert code == 0 and "comparison.md" in out
    code, out, _ = fedsyn("report", tmp_path / "cmp/runs/fedavg-info_nce-on-seed0")
    assert code == 0 and "report.html" in out


@pytest.mark.parametrize(
    ("methods", "words", "task"),
    [
        ("fedavg,moon", [], "retrieval"),
        ("fedavg,creff", [], "image_classification"),
        ("fedavg,creamfl", [], "retrieval"),
        ("fedavg,creamfl", ["task=vqa"], "vqa"),
    ],
)
def test_a_comparison_is_of_the_task_of_its_methods(fedsyn, monkeypatch, methods, words, task):
    planned = []

    def stop(base, *arguments):
        planned.append(base.task.name)
        raise ConfigError("that is all")

    monkeypatch.setattr("fedsyn.federation.compare.plan", stop)
    fedsyn("compare", *words, "--methods", methods)
    assert planned == [task]


def test_progress_shows_the_headline_of_the_task():
    class Bars:
        def add_task(self, name, total):
            return 0

        def update(self, bar, description="", completed=0):
            self.shown = description

    for name, metrics, shown in (
        ("retrieval", {"map": 0.25, "map50": 0.5}, "mAP 0.2500"),
        ("retrieval", {"map50": 0.5}, "mAP@50 0.5000"),
        ("vqa", {"accuracy": 0.5, "question_only": 0.25}, "accuracy 0.5000"),
        ("vqa", {"accuracy": None}, ""),
        ("vqa", {}, ""),
    ):
        bars = Bars()
        progress = RunProgress(bars, config.load(None, [f"task={name}"]))
        progress.row({"round": 1, "metrics": metrics})
        progress.phase(2, "local")
        assert bars.shown.removeprefix("round 2/20").split("local")[1].strip() == shown


def test_data_inspect_and_partition(fedsyn, pairs, tmp_path):
    code, out, _ = fedsyn("data", "inspect", pairs)
    assert code == 0 and "image" in out and "number 0 of 0" in out
    code, out, _ = fedsyn("data", "inspect", pairs, "--json")
    assert [row["name"] for row in json.loads(out)] == ["image", "text", "label"]
    picture = tmp_path / "who.png"
    code, out, _ = fedsyn("data", "partition", *settings(pairs), "--plot", picture)
    assert code == 0 and "client" in out
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_info_is_machine_readable(fedsyn):
    code, out, _ = fedsyn("info", "--json")
    assert code == 0 and "reference" in json.loads(out)["backends"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "run.sed=1"], "run.seed"),
        (["run", "none.toml"], "none.toml"),
        (["run", "data.path=none.npz"], "none.npz"),
        (["run", "--resume"], "--out"),
        (["run", "--resume", "--out", "nowhere"], "nowhere"),
        (["compare", "--synthesis", "maybe"], "maybe"),
        (["compare", "--methods", "fedmagic"], "fedmagic"),
        (["report", "nowhere"], "nowhere"),
        (["data", "inspect", "none.npz"], "none.npz"),
        (["frobnicate"], "frobnicate"),
        (["run", "--frobnicate"], "--frobnicate"),
    ],
)
def test_wrong_input_is_named_in_one_sentence(fedsyn, arguments, words, tmp_path):
    before = set(tmp_path.iterdir())
    code, out, err = fedsyn(*arguments)
    assert code == 2 and out == ""
    assert words in err and "Traceback" not in err
    assert set(tmp_path.iterdir()) == before


def test_an_unforeseen_failure_is_code_one_and_debug_shows_where(fedsyn, monkeypatch):
    def broken(*arguments):
        raise RuntimeError("no such luck")

    monkeypatch.setattr("fedsyn.federation.config.load", broken)
    code, _, err = fedsyn("run")
    assert code == 1 and "no such luck" in err and "Traceback" not in err
    monkeypatch.setattr(sys, "argv", ["fedsyn", "run", "--debug"])
    with pytest.raises(RuntimeError, match="no such luck"):
        cli.main()


def test_ctrl_c_leaves_a_run_that_resumes(pairs, tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "fedsyn", "run", *settings(pairs), "--out", str(out)]
    process = subprocess.Popen(
        [*command, "run.rounds=5000"], stderr=subprocess.PIPE, text=True,
        env=os.environ | {"COLUMNS": "200"},
        # Where the tests themselves run in the background, it would be ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    metrics = out / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and metrics.read_text().count("\n")):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 1
    assert "--resume" in err and "Traceback" not in err
    done = metrics.read_text().count("\n")
    resumed = subprocess.run(
        [*command[:4], "--resume", "--out", str(out), f"run.rounds={done + 2}", "--json"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert resumed.returncode == 0, resumed.stderr
    assert json.loads(resumed.stdout)["rounds"] == done + 2


def test_importing_fedsyn_imports_no_torch():
    code = "import sys, fedsyn; assert 'torch' not in sys.modules and 'pydantic' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_help_teaches():
    done = subprocess.run(
        [sys.executable, "-m", "fedsyn", "run", "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0 and "data.path" in done.stdout
