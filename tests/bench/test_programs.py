"""The programs that measure ask for keys that there are, and for what they say they measure."""

import pytest

import flower
import same_runs
from fedsyn.federation import config
from fedsyn.federation.catalogue import keys
from simulator import synthesis_loop, workload
from simulator.fedsyn_system import Laps, overrides
from simulator.workload import Clock, Task


def task(kind):
    return Task(kind, 4, 320, rounds=2, threads=1, seed=0, data="data", result="result")


# Where the number of the plain program stands in fedsyn's workload.
PLAIN = {
    "method.epochs": "EPOCHS", "synthesis.prototypes": "PROTOTYPES",
    "synthesis.min_cluster": "MIN_CLUSTER", "synthesis.noise": "RANK", "synthesis.steps": "STEPS",
    "synthesis.batch": "DRAWN", "synthesis.critic_steps": "CRITIC_STEPS",
    "synthesis.critic_warmup": "CRITIC_WARMUP", "synthesis.generator_lr": "GENERATOR_LR",
    "synthesis.critic_lr": "CRITIC_LR", "synthesis.betas": "BETAS", "synthesis.penalty": "PENALTY",
    "synthesis.direct": "DIRECT", "synthesis.indirect": "INDIRECT", "synthesis.jsd": "JSD",
    "synthesis.global_prototypes": "GLOBAL_PROTOTYPES", "synthesis.candidates": "CANDIDATES",
    "synthesis.truncation": "TRUNCATION", "synthesis.quantile": "QUANTILE",
    "synthesis.keep": "KEEP", "synthesis.balance": "BALANCE",
    "synthesis.server_steps": "SERVER_STEPS", "synthesis.server_batch": "SERVER_BATCH",
    "synthesis.server_lr": "SERVER_LR",
}  # fmt: skip


def test_the_workload_says_every_number_of_the_plain_program():
    words = overrides(task("synthesis"))
    said = {word.partition("=")[0] for word in words}
    values = {key.path: key.value for key in keys(config.load(None, words))}
    for key, name in PLAIN.items():
        assert key in said
        assert values[key] == getattr(synthesis_loop, name), key
    assert values["synthesis.temperature"] == pytest.approx(1 / synthesis_loop.SCALE)
    layers = [synthesis_loop.WIDTH]
    assert [*values["synthesis.hidden"]] == layers
    assert [*values["synthesis.critic_hidden"]] == 2 * layers


def test_both_workloads_say_the_model_and_how_it_is_trained():
    for kind in ("local", "synthesis"):
        values = {key.path: key.value for key in keys(config.load(None, overrides(task(kind))))}
        assert [*values["model.hidden"]] == [workload.HIDDEN]
        assert values["model.dim"] == workload.EMBEDDING
        assert values["method.lr"] == workload.LR
        assert values["method.batch"] == workload.BATCH
        assert values["objective.temperature"] == workload.TEMPERATURE
        assert values["model.start"] == "random"


def test_the_start_is_no_round():
    clock = Clock()
    laps = Laps(clock)
    laps.row({"round": 0})
    assert clock.ends == []
    laps.row({"round": 1})
    assert len(clock.ends) == 1


@pytest.mark.parametrize("name", [name for name in same_runs.RUNS if not name.endswith("+")])
def test_what_two_checkouts_run_can_be_configured(name, tmp_path):
    words = [word.format(data=tmp_path, out=tmp_path) for word in same_runs.RUNS[name]]
    config.load(None, words)


@pytest.mark.parametrize("name", same_runs.NODES)
def test_what_they_run_over_nodes_can_be_configured(name, tmp_path):
    nodes, words = same_runs.NODES[name]
    words = [word.format(data=tmp_path, out=tmp_path) for word in words]
    config.load(None, [*words, f"flower.nodes={len(nodes)}"])


@pytest.mark.parametrize("name", flower.CASES)
def test_what_real_nodes_are_measured_on_can_be_configured(name, tmp_path):
    nodes, words = flower.CASES[name]
    words = [word.format(pairs=tmp_path) for word in (*flower.COMMON, *words)]
    config.load(None, [*words, f"flower.nodes={nodes}"])
