"""Whole runs on real SuperLinks and SuperNodes: the same as in one process, whatever dies."""

import json
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest

from fedsyn.deployment.cluster import commands, processes, state
from fedsyn.deployment.flower import project, runs
from fedsyn.federation import config, records
from fedsyn.federation.runner import Silent, run

pytest.importorskip("flwr")
pytestmark = pytest.mark.flower

CLIENTS = 3


def overrides(pairs):
    """A run of three clients that computes for less than a second."""
    return [
        f"data.path={pairs}", f"partition.clients={CLIENTS}", "model.hidden=[12]", "model.dim=8",
        "method.batch=16", "synthesis.prototypes=4", "synthesis.noise=6",
        "synthesis.candidates=128", "synthesis.global_prototypes=6", "synthesis.server_steps=4",
        "run.rounds=3", "engine.threads=1", "engine.stack=1", "flower.timeout=60",
    ]  # fmt: skip


def start(folder, pairs, port, insecure=False):
    """A federation of a node a client, all online."""
    made = project.create(folder, config.load(None, overrides(pairs)), CLIENTS)
    for name in made.nodes:  # which allow more than what init found in run.toml
        path = made.node(name)
        lines = path.read_text().splitlines()
        path.write_text(
            "\n".join(line for line in lines if not line.startswith(("methods", "obj")))
        )
    commands.up(made, insecure=insecure, port=port)
    return made


SLOW = pytest.mark.slow


@pytest.fixture(
    scope="module", params=["TLS and authentication", pytest.param("plain", marks=SLOW)]
)
def federation(request, tmp_path_factory, pairs, free_ports):
    """Three nodes on the loopback."""
    folder = tmp_path_factory.mktemp("flower") / "federation"
    made = start(folder, pairs, free_ports(8), insecure=request.param == "plain")
    yield made
    commands.down(made)


class Watch(Silent):
    """Does something when a round is done; a busy machine may show several at once."""

    def __init__(self, acts):
        self.acts = dict(acts)

    def row(self, row):
        for due in [number for number in self.acts if number <= row["round"]]:
            self.acts.pop(due)()


def trained(made, *words, acts=(), out=None, resume=False):
    """The run directory and how the run ended."""
    out = out or made.runs / str(time.time_ns())
    runs.load(made, words, out if resume else None)
    submitted = runs.submit(made, words, out, resume)
    return out, runs.follow(made, submitted, Watch(acts))


def found(out):
    """What a run found."""
    rows = map(json.loads, (out / records.METRICS).read_text().splitlines())
    return [
        # A server counts nobody's labels, and so knows no class by its shots.
        (row["round"], row["clients"], row["losses"],
         {name: value for name, value in row["metrics"].items() if not name.endswith("_shot")})
        for row in rows
    ]  # fmt: skip


def sent(out):
    """Bytes of each round: every node has one client, as in a simulation."""
    rows = map(json.loads, (out / records.METRICS).read_text().splitlines())
    return [(row["bytes_up"], row["bytes_down"]) for row in rows]


WORDS = {
    "fedavg": ["synthesis.enabled=false"],
    "scaffold": ["method=scaffold", "synthesis.enabled=false"],
    "fedavg with synthesis": [],
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("fedavg", marks=SLOW),
        pytest.param("scaffold", marks=SLOW),
        "fedavg with synthesis",
    ],
)
def test_real_nodes_give_the_run_of_one_process(federation, same_weights, pairs, tmp_path, name):
    words = WORDS[name]
    out, end = trained(federation, *words)
    assert end.state == "done", end.error
    run(config.load(None, [*overrides(pairs), *words]), tmp_path / "here")
    assert found(out) == found(tmp_path / "here")
    assert sent(out) == sent(tmp_path / "here")
    assert same_weights(out, tmp_path / "here")
    assert end.missing == []


@SLOW
@pytest.mark.parametrize("method", ["creamfl", "fedcmi", "mfcpl", "ccl", "clip2fl", "feddm"])
def test_so_do_methods_of_other_payloads_and_tasks(
    make, same_weights, free_ports, tmp_path, method
):
    config = make(f"method={method}", f"partition.clients={CLIENTS}", "engine.stack=1")
    made = project.create(tmp_path / "federation", config, CLIENTS)
    commands.up(made, port=free_ports(8))
    try:
        out, end = trained(made)
    finally:
        commands.down(made)
    assert end.state == "done", end.error
    run(config, tmp_path / "here")
    assert found(out) == found(tmp_path / "here")
    assert same_weights(out, tmp_path / "here")


# ---- Faults --------------------------------------------------------------------------------

LONGER = ["synthesis.line_search=[1.0]", "run.rounds=6"]  # so that a fault is in the middle


@pytest.fixture(scope="module")
def fragile(tmp_path_factory, pairs, free_ports):
    """Nodes for those who kill some."""
    made = start(tmp_path_factory.mktemp("fragile") / "federation", pairs, free_ports(8))
    yield made
    commands.down(made)


def kill(made, name):
    """Without a chance to say goodbye; its app goes with it."""
    process = state.read(made).processes[name]
    os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def quiet(tmp_path_factory, pairs):
    """The undisturbed run."""
    out = tmp_path_factory.mktemp("quiet") / "run"
    run(config.load(None, [*overrides(pairs), *LONGER]), out)
    return out


@SLOW
def test_a_run_whose_superlink_was_killed_goes_on_to_the_same_end(fragile, same_weights, quiet):
    acts = [(1, lambda: kill(fragile, processes.SUPERLINK))]
    out, end = trained(fragile, *LONGER, acts=acts)
    assert end.state in ("interrupted", "failed")
    commands.up(fragile, port=state.read(fragile).port)
    _, end = trained(fragile, out=out, resume=True)
    assert end.state == "done", end.error
    assert found(out) == found(quiet)
    assert same_weights(out, quiet)


@SLOW
def test_a_run_whose_server_app_was_killed_goes_on_to_the_same_end(fragile, same_weights, quiet):
    def kill_app():
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it has ended
                words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                where = (entry / "environ").read_bytes().decode(errors="replace").split("\0")
                ours = f"FLWR_HOME={fragile.home}" in where
                if ours and any("flwr-serverapp" in word for word in words):
                    os.kill(int(entry.name), signal.SIGKILL)

    out, end = trained(fragile, *LONGER, acts=[(1, kill_app)])
    assert end.state in ("failed", "interrupted")
    _, end = trained(fragile, out=out, resume=True)
    assert end.state == "done", end.error
    assert found(out) == found(quiet)
    assert same_weights(out, quiet)


@SLOW
def test_a_node_that_was_killed_is_missing_until_it_is_started_again(fragile):
    words = [*LONGER, "flower.timeout=25"]
    out, end = trained(fragile, *words, acts=[(1, lambda: kill(fragile, "node-1"))])
    assert end.state == "done", end.error
    rounds = [row[1] for row in found(out)]
    assert (rounds[1], rounds[-1]) == ([0, 1, 2], [0, 2])
    assert {tuple(one["clients"]) for one in end.missing} == {(1,)}
    commands.up(fragile, port=state.read(fragile).port)
    out, end = trained(fragile, *words)
    assert all(row[1] == [0, 1, 2] for row in found(out)[1:])


@SLOW
def test_a_node_may_come_late(fragile):
    commands.down(fragile)
    port = state.read(fragile).port
    commands.up(fragile, nodes=2, port=port)
    acts = [(1, lambda: commands.up(fragile, port=port))]
    words = ["synthesis.line_search=[1.0]", "flower.nodes=2", "run.rounds=10"]
    out, end = trained(fragile, *words, acts=acts)
    assert end.state == "done", end.error
    assert found(out)[1][1] == [0, 1]
    assert found(out)[-1][1] == [0, 1, 2]
    assert {one["why"] for one in end.missing} == {"no node holds them"}
