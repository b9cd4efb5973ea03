"""Whole runs: reproducible, resumable, independent of stacking, and tidy when refused."""

import json
import math
import tomllib

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fedsyn.errors import ConfigError, DataError, RunError
from fedsyn.federation import config, records
from fedsyn.federation.runner import Silent, run
from fedsyn.methods import METHODS

MODES = {"off": "synthesis.enabled=false", "on": "synthesis.enabled=true"}


def rows(out):
    """The rounds of a run without their times."""
    lines = (out / records.METRICS).read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


class Interrupt(Silent):
    """Presses Ctrl-C in a phase of a round."""

    def __init__(self, round_number, name):
        self.at = (round_number, name)

    def phase(self, round_number, name):
        if (round_number, name) == self.at:
            raise KeyboardInterrupt


def test_a_run_leaves_its_files(make, tmp_path):
    summary = run(make(), tmp_path / "run")
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {
        "config.toml", "metrics.jsonl", "summary.json", "model.safetensors", "checkpoint",
        "preprocessing.safetensors", "partition.json", "gallery.json",
    }  # fmt: skip
    assert config.parse(tomllib.loads((tmp_path / "run/config.toml").read_text())) == make()
    assert json.loads((tmp_path / "run/summary.json").read_text()) == summary
    assert [row["round"] for row in rows(tmp_path / "run")] == [0, 1, 2, 3]
    assert summary["rounds"] == 3
    assert summary["synthesis"] == "on" and summary["clients"] == 10
    assert 0 < summary["metrics"]["map"] <= 1
    model = load_file(tmp_path / "run/model.safetensors")
    assert model["image.0.weight"].shape == (9, 12)


def test_the_same_seed_gives_the_same_rounds_and_another_does_not(make, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run(make(f"run.seed={seed}"), tmp_path / name)
    assert rows(tmp_path / "a") == rows(tmp_path / "b") != rows(tmp_path / "c")


def test_pairs_in_memory_give_what_the_file_gives(make, pairs, tmp_path):
    run(make(), tmp_path / "file")
    with np.load(pairs) as arrays:
        data, settings, parts = dict(arrays), make("data.path="), tmp_path / "parts"
    run(settings, tmp_path / "memory", data=data)
    with pytest.raises(KeyboardInterrupt):
        run(settings, parts, observer=Interrupt(2, "local"), data=data)
    run(settings, parts, resume=True, data=data)
    assert rows(tmp_path / "file") == rows(tmp_path / "memory") == rows(parts)


@pytest.mark.parametrize("generator", ["wgan-gp", "wgan", "gaussian"])
def test_stacking_changes_nothing(make, tmp_path, generator):
    found = []
    for stack in (1, 3, 10):
        out = tmp_path / str(stack)
        run(make(f"engine.stack={stack}", f"synthesis.generator={generator}"), out)
        found.append(rows(out))
    for other in found[1:]:
        for mine, theirs in zip(found[0], other, strict=True):
            assert mine["metrics"] == pytest.approx(theirs["metrics"], abs=1e-4)
            assert mine["losses"] == pytest.approx(theirs["losses"], abs=1e-4)


@pytest.mark.parametrize(
    # (Whoever evaluates a round has begun the next one.)
    "at",
    [(0, "start"), (1, "evaluate"), (1, "local"), (2, "generator"), (3, "evaluate")],
)
@pytest.mark.parametrize("mode", ["on", "off"])
@pytest.mark.parametrize("engine", [(), ("engine.memory=0",), ("engine.checkpoint_seconds=1e9",)])
def test_an_interrupted_run_resumes_to_the_same_rounds(make, tmp_path, at, mode, engine):
    if mode == "off" and (at[1] == "generator" or engine):
        pytest.skip("no such phase, or nothing that clients keep")
    settings = make(MODES[mode], "run.fraction=0.6", "engine.stack=3", *engine)
    run(settings, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(settings, tmp_path / "parts", observer=Interrupt(*at))
    run(settings, tmp_path / "parts", resume=True)
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")
    whole, parts = (load_file(tmp_path / name / records.MODEL) for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


@pytest.mark.parametrize("method", METHODS.names)
def test_every_method_resumes_to_the_same_rounds(make, tmp_path, method):
    settings = make(f"method={method}", "run.fraction=0.6", "engine.stack=3", MODES["off"])
    run(settings, tmp_path / "whole")
    at = (3, "local") if settings.rounds else (0, "start")
    with pytest.raises(KeyboardInterrupt):
        run(settings, tmp_path / "parts", observer=Interrupt(*at))
    run(settings, tmp_path / "parts", resume=True)
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")


def test_a_model_that_no_client_receives_is_judged_by_none_and_the_last_is_kept(make, tmp_path):
    summary = run(make("method=creamfl"), tmp_path)
    found = rows(tmp_path)
    assert all(row["losses"]["holdout"] is None for row in found)
    assert summary["selected"] == summary["last"]
    assert summary["metrics"] == found[-1]["metrics"]


SHARING = [
    "synthesis.share=clients",
    "synthesis.shared=40",
    "synthesis.shared_batch=5",
    "synthesis.complete=true",
    "partition.single_modality=0.4",
    "partition.missing_text=0.2",
]
FEDFTG = ["synthesis.server=fedftg", "synthesis.fedftg.iterations=2"]


@pytest.mark.parametrize("overrides", [SHARING, FEDFTG], ids=["shared", "fedftg"])
def test_shared_pairs_and_fedftg_resume_and_stack_as_the_rest(make, tmp_path, overrides):
    settings = make(*overrides, "run.fraction=0.6", "engine.stack=3")
    run(settings, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(settings, tmp_path / "parts", observer=Interrupt(3, "local"))
    run(settings, tmp_path / "parts", resume=True)
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")
    for engine in ("engine.stack=1", "engine.memory=0"):
        out = tmp_path / engine
        run(make(*overrides, "run.fraction=0.6", engine), out)
        for mine, theirs in zip(rows(tmp_path / "whole"), rows(out), strict=True):
            assert mine["metrics"] == pytest.approx(theirs["metrics"], abs=1e-4)
            assert mine["losses"] == pytest.approx(theirs["losses"], abs=1e-4, nan_ok=True)


def test_what_is_mapped_from_files_changes_nothing(make, tmp_path):
    for memory in (0, 1024):
        run(make(f"engine.memory={memory}"), tmp_path / str(memory))
    assert rows(tmp_path / "0") == rows(tmp_path / "1024")
    kept = {path.name for path in (tmp_path / "0" / "checkpoint").iterdir()}
    assert kept == {
        "state.safetensors", "clients.safetensors", "uploads-synthesis.safetensors",
    }  # fmt: skip


def test_phases_are_timed_and_add_up(make, tmp_path):
    summary = run(make(), tmp_path / "run")
    lines = (tmp_path / "run" / records.METRICS).read_text().splitlines()
    start, first, *_ = (json.loads(line)["seconds"] for line in lines)
    assert set(start) == {"start", "evaluate", "checkpoint"}
    assert set(first) == {
        "gather", "local", "prototypes", "critic", "generator", "upload", "aggregate", "sample",
        "filter", "fine-tune", "line search", "evaluate", "checkpoint",
    }  # fmt: skip
    assert all(value >= 0 for seconds in (start, first) for value in seconds.values())
    total = sum(sum(json.loads(line)["seconds"].values()) for line in lines)
    assert summary["seconds"] == pytest.approx(total)
    assert summary["seconds"] <= summary["seconds_total"]


def test_the_first_ranks_alone_can_be_judged(make, tmp_path):
    full = run(make("run.rounds=1"), tmp_path / "full")["metrics"]
    top = run(make("run.rounds=1", "run.ranking=top"), tmp_path / "top")["metrics"]
    assert {name for name in full if name not in top} == {"map", "map_i2t", "map_t2i"}
    assert top == {name: full[name] for name in top}


def test_a_profile_shows_phases_and_operators(make, tmp_path):
    run(make("run.rounds=2"), tmp_path / "run", profile=True)
    trace = json.loads((tmp_path / "run" / records.TRACE).read_text())
    names = {event.get("name") for event in trace["traceEvents"]}
    assert {"local", "critic", "generator", "filter", "evaluate", "fedsyn::critic_step"} <= names


def test_rounds_written_after_the_checkpoint_are_computed_again(make, tmp_path):
    run(make(), tmp_path / "whole")
    run(make("run.rounds=2"), tmp_path / "parts")
    with (tmp_path / "parts" / records.METRICS).open("a") as file:
        file.write('{"round": 3, "torn')
    run(make(), tmp_path / "parts", resume=True)
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")


def test_a_resume_under_another_configuration_is_refused(make, tmp_path):
    run(make("run.rounds=1"), tmp_path / "run")
    with pytest.raises(RunError, match="another configuration"):
        run(make("method.lr=0.5"), tmp_path / "run", resume=True)


def test_a_damaged_checkpoint_is_named(make, tmp_path):
    run(make("run.rounds=1"), tmp_path / "run")
    (tmp_path / "run" / records.CHECKPOINT).write_bytes(b"not tensors")
    with pytest.raises(RunError, match=r"state\.safetensors"):
        run(make(), tmp_path / "run", resume=True)


def test_nothing_to_resume_is_said(make, tmp_path):
    with pytest.raises(RunError, match="no run to resume"):
        run(make(), tmp_path / "none", resume=True)
    assert not (tmp_path / "none").exists()


def test_a_folder_with_other_things_is_not_written_to(make, tmp_path):
    (tmp_path / "thesis.tex").write_text("...")
    with pytest.raises(RunError, match="not empty"):
        run(make(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("method", ["local", "centralised"])
def test_the_bounds_run_without_synthesis(make, tmp_path, method):
    summary = run(make(f"method={method}"), tmp_path / "run")
    assert summary["synthesis"] == "off"
    assert summary["clients"] == (10 if method == "local" else 1)
    names = load_file(tmp_path / "run" / records.MODEL)
    assert any(name.startswith("client9/") for name in names) == (method == "local")


def test_the_oracle_moves_no_generators(make, tmp_path):
    off = run(make(MODES["off"]), tmp_path / "off")
    oracle = run(make("synthesis.oracle=true"), tmp_path / "oracle")
    assert oracle["synthesis"] == "oracle"
    assert oracle["last"] != off["last"]


@pytest.mark.parametrize(
    "overrides",
    [
        ["model.bits=16"],
        ["objective.learnable=true", "objective.temperature=0.1"],
        ["method.optimizer=sgd", "method.momentum=0.9"],
        ["method.optimizer=rmsprop"],
        ["method.weighting=uniform"],
        ["partition.missing_text=0.3", "partition.missing_image=0.2", "partition.unpaired=0.1"],
        ["partition.scheme=iid", "synthesis.encoder=global"],
        ["data.label=", "partition.scheme=dirichlet-clusters"],
        ["data.holdout=0"],
        ["synthesis.filter=quantile"],
        ["synthesis.filter=none"],
        ["synthesis.filter=agreement"],
        ["run.evaluate_every=2"],
        ["synthesis.prototypes=200"],
        ["synthesis.steps=0"],
        ["synthesis.share=clients", "synthesis.shared=16", "synthesis.generator=gaussian"],
        ["synthesis.share=clients", "method=local"],
        ["synthesis.share=clients", "synthesis.server=fedftg"],
        ["synthesis.server=fedftg", "synthesis.generator=gaussian"],
        ["partition.single_modality=0.5"],
    ],
    ids=lambda overrides: overrides[0],
)
def test_every_option_runs_to_finite_metrics(make, tmp_path, overrides):
    summary = run(make(*overrides), tmp_path / "run")
    for name, value in summary["metrics"].items():
        assert value is not None and math.isfinite(value), name


def test_one_client_alone_and_a_client_with_nothing(make, tmp_path, caplog):
    assert run(make("partition.clients=1"), tmp_path / "one")["clients"] == 1
    run(make("partition.min_size=0", "partition.alpha=0.01"), tmp_path / "few")
    counts = json.loads((tmp_path / "few" / records.PARTITION).read_text())["pairs"]
    assert min(counts) < 2
    assert "sit out training" in caplog.text


@pytest.mark.parametrize(
    ("overrides", "error", "words"),
    [
        (["data.path=none.npz"], DataError, "none.npz"),
        (["data.image=picture"], DataError, "picture"),
        (["partition.clients=400"], DataError, "400"),
        (["engine.devices=['cuda:99']"], ConfigError, "cuda:99"),
        (["partition.scheme=column", "partition.column=none"], DataError, "none"),
        (["method=creamfl", "data.public=0"], ConfigError, "data.public"),
    ],
)
def test_a_refused_run_leaves_nothing(make, tmp_path, overrides, error, words):
    with pytest.raises(error, match=words) as caught:
        run(make(*overrides), tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_bad_arrays_are_named(make, tmp_path):
    good = {"image": np.ones((20, 3)), "text": np.ones((20, 2)), "label": np.zeros(20, int)}
    holes = good["image"].copy()
    holes[7, 1] = np.nan
    for name, bad, words in (
        ("nan", {"image": holes}, "image"),
        ("count", {"text": np.ones((19, 2))}, "19"),
        ("shape", {"text": np.ones((20, 2, 2, 2, 2))}, "text"),
    ):
        path = tmp_path / f"{name}.npz"
        np.savez(path, **(good | bad))
        with pytest.raises(DataError, match=words):
            run(make(f"data.path={path}"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_diverging_run_says_so_and_keeps_its_last_checkpoint(make, tmp_path):
    settings = make("model.start=random", "method.optimizer=sgd", "method.lr=1e30")
    with pytest.raises(RunError, match=r"diverged in round 1.*method\.lr"):
        run(settings, tmp_path / "run")
    assert [row["round"] for row in rows(tmp_path / "run")] == [0]


HARMFUL = ["synthesis.generator=gaussian", "synthesis.server_lr=5", "run.rounds=1"]


def test_the_line_search_takes_nothing_of_a_harmful_fine_tuning(make, tmp_path):
    off = run(make(MODES["off"], "run.rounds=1"), tmp_path / "off")
    searched = run(make(*HARMFUL), tmp_path / "searched")
    _, row = rows(tmp_path / "searched")
    assert row["server"]["share"] == 0
    assert searched["last"] == off["last"]
    taken = run(make(*HARMFUL, "synthesis.line_search=[1.0]"), tmp_path / "taken")
    assert taken["last"]["metrics"]["map"] < off["last"]["metrics"]["map"]


@pytest.mark.parametrize("keys", [[], ["model.start=random", "run.fraction=0.4"]])
def test_the_share_is_the_one_that_the_rounds_clients_like_best(make, tmp_path, keys):
    run(make(*keys, "synthesis.line_search=[1.0, 0.3, 0.0, 0.6]"), tmp_path)
    for row in rows(tmp_path)[1:]:
        found = row["server"]["holdout_shares"]
        best = found.index(min(found))
        assert row["server"]["share"] == [0.0, 0.3, 0.6, 1.0][best]
        if not keys:  # the validators, who are then all of them
            assert row["losses"]["holdout"] == found[best]


def test_of_one_share_nobody_is_asked(make, tmp_path):
    run(make(*HARMFUL, "synthesis.line_search=[0.7]"), tmp_path)
    _, row = rows(tmp_path)
    assert row["server"]["share"] == 0.7 and "holdout_shares" not in row["server"]


def test_the_kept_model_is_of_the_round_selected_without_labels(make, tmp_path):
    # A wild rate makes later rounds worse, so that the last is not the one to keep.
    settings = [MODES["off"], "method.lr=0.3", "model.start=random"]
    summary = run(make(*settings, "run.rounds=6"), tmp_path / "whole")
    held_out = [row["losses"]["holdout"] for row in rows(tmp_path / "whole")]
    kept = summary["selected"]["round"]
    assert held_out[kept] == min(held_out)
    assert 0 < kept < 6
    run(make(*settings, f"run.rounds={kept}"), tmp_path / "short")
    whole, short = (load_file(tmp_path / name / records.MODEL) for name in ("whole", "short"))
    assert all(torch.equal(whole[name], short[name]) for name in whole)
    assert summary["metrics"] == summary["selected"]["metrics"]
