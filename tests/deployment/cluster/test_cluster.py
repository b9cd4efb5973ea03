"""``fedsyn flower up | run | status | down`` with real SuperLinks and nodes on the loopback."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fedsyn.deployment.cluster import commands, executables, processes, state
from fedsyn.deployment.flower import project
from fedsyn.errors import ConfigError, RunError
from fedsyn.federation import config as configuration

pytest.importorskip("flwr")
pytestmark = pytest.mark.flower

PATIENCE = 120  # seconds after which a test gives up


def make(path, *overrides):
    """The folder of a federation of two nodes whose app is the stand-in."""
    config = configuration.load(None, ["partition.clients=2", "run.rounds=3", *overrides])
    made = project.create(path, config, nodes=2)
    app = made.app / "pyproject.toml"
    text = app.read_text()
    for side in ("server", "client"):
        text = text.replace(f"fedsyn.deployment.flower.{side}_app:app", f"standin:{side}")
    app.write_text(text)
    return made


@pytest.fixture(scope="module")
def on_path():
    """Let the stand-in be found by the processes that are started."""
    with pytest.MonkeyPatch.context() as patch:
        inherited = os.environ.get("PYTHONPATH", "")
        patch.setenv("PYTHONPATH", f"{Path(__file__).parent}{os.pathsep}{inherited}")
        yield


@pytest.fixture(scope="module")
def federation(tmp_path_factory, on_path, free_ports):
    """Two nodes online, with TLS and authentication."""
    made = make(tmp_path_factory.mktemp("flower") / "federation")
    commands.up(made, port=free_ports(8))
    yield made
    commands.down(made)


def fedsyn(*arguments):
    """``fedsyn flower ...`` in a process of its own."""
    command = [sys.executable, "-m", "fedsyn", "flower", *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # Where the tests themselves run in the background, Ctrl-C would be ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def done(*arguments):
    """Its exit code, stdout and stderr."""
    process = fedsyn(*arguments)
    out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out, err


def seen(made):
    return {one.name: one for one in commands.status(made)}


def wait_for(condition):
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return found


# ---- Up ------------------------------------------------------------------------------------


def test_all_are_alive_and_online(federation):
    found = seen(federation)
    assert set(found) == {"superlink", "node-0", "node-1"}
    assert all(one.alive and one.why is None for one in found.values())
    assert found["node-0"].online and found["node-1"].online
    assert found["node-0"].node != found["node-1"].node


def test_the_superlink_does_not_speak_without_tls(federation):
    port = state.read(federation).port
    with pytest.raises((OSError, http.client.HTTPException)):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", "/health")
        connection.getresponse()


def test_up_again_starts_nothing_that_runs(federation):
    before = state.read(federation)
    commands.up(federation)
    assert state.read(federation) == before


def test_what_runs_is_not_run_otherwise(federation):
    with pytest.raises(ConfigError, match="run with TLS on port"):
        commands.up(federation, insecure=True)
    with pytest.raises(ConfigError, match="run with TLS on port"):
        commands.up(federation, port=state.read(federation).port + 100)
    with pytest.raises(ConfigError, match="--nodes 3"):
        commands.up(federation, nodes=3)


def test_everything_started_has_home_calls_and_installs_switched_off(federation):
    for one in commands.status(federation):
        given = Path(f"/proc/{one.pid}/environ").read_text().split("\0")
        assert {f"{k}={v}" for k, v in project.SWITCHED_OFF.items()} <= set(given)
        assert any(v.startswith(f"FLWR_HOME={federation.path}") for v in given)


def test_a_taken_port_is_named(tmp_path, federation):
    other = make(tmp_path / "other")
    port = state.read(federation).port
    with pytest.raises(RunError, match=f"port {port} is not free"):
        commands.up(other, port=port)
    assert commands.down(other) == []


# ---- Who is not let in -----------------------------------------------------------------------

REFUSED = {
    "unregistered": r"\[code: 2004\]",
    "without-key": r"\[code: 2001\]",
    "plaintext": "Connection attempt failed",
    "wrong-authority": "certificate verify failed",
}


@pytest.fixture(scope="module")
def strangers(federation, tmp_path_factory):
    """Nodes that ask to be let in, each with something wrong."""
    other = make(tmp_path_factory.mktemp("flower") / "other")
    subprocess.run([other.certificates / "make-certificates.sh"], check=True, capture_output=True)
    subprocess.run([other.path / "keys" / "make-key.sh", "node-0"], check=True)
    fleet = state.read(federation)
    usual = commands.node_command(federation, fleet, "node-0", 0)
    plain, key = usual[: usual.index("--root-certificates")], usual[-2:]
    root = usual[len(plain) : -2]
    wrong = {
        "unregistered": [*plain, *root, key[0], str(other.key("node-0"))],
        "without-key": [*plain, *root],
        "plaintext": [*plain, "--insecure"],
        "wrong-authority": [*plain, root[0], str(other.certificates / "ca.crt"), *key],
    }
    for number, (name, command) in enumerate(wrong.items(), start=3):
        command[command.index("--port") + 1] = str(fleet.port + number)
        processes.start(federation, name, command, fleet.port + number)
    return federation


@pytest.mark.parametrize("kind", REFUSED)
def test_a_node_that_is_not_let_in_is_not_online_and_says_why(strangers, kind):
    def refused():
        found = seen(strangers)[kind]
        assert not found.online
        return re.search(REFUSED[kind], found.why)

    wait_for(refused)


def test_the_others_stay_online_meanwhile(strangers):
    found = seen(strangers)
    assert found["node-0"].online and found["node-1"].online


def test_a_node_that_runs_elsewhere_is_listed(federation, tmp_path):
    other = make(tmp_path / "other")
    subprocess.run([other.path / "keys" / "make-key.sh", "node-0"], check=True)
    key = other.key("node-0").with_suffix(".pub")
    node = str(executables.flwr(federation, "supernode", "register", str(key))["node-id"])
    (found,) = (one for one in commands.status(federation) if one.node == node)
    assert (found.name, found.pid, found.online) == (commands.ELSEWHERE, None, False)
    assert found.why == "registered"


@pytest.mark.slow
def test_a_certificate_that_has_expired_is_named(tmp_path, on_path, free_ports):
    made = make(tmp_path / "expired")
    subprocess.run(
        [made.certificates / "make-certificates.sh"],
        env=os.environ | {"DAYS": "0"}, check=True, capture_output=True,
    )  # fmt: skip
    port = free_ports(3)
    with pytest.raises(RunError, match="certificate has expired"):
        commands.up(made, port=port)
    fleet = state.read(made)
    processes.start(
        made, "node-0", commands.node_command(made, fleet, "node-0", port + 1), port + 1
    )
    wait_for(lambda: "certificate has expired" in (seen(made)["node-0"].why or ""))
    assert not seen(made)["node-0"].online
    assert "superlink" in commands.down(made)


# ---- Run -------------------------------------------------------------------------------------


def test_a_run_ends_with_its_table_and_report(federation):
    code, out, err = done("run", federation.path, "run.rounds=2")
    (run,) = (path for path in federation.runs.iterdir() if (path / "summary.json").exists())
    assert code == 0, err
    assert "mAP" in out and str(run / "report.html") in out
    assert configuration.load(run / "config.toml").run.rounds == 2
    assert "1 replies were missing" in err


@pytest.mark.slow
def test_a_run_as_json_is_its_summary(federation, tmp_path):
    code, out, _ = done("run", federation.path, "--json", "--out", tmp_path / "run")
    assert (code, json.loads(out)) == (0, {"rounds": 3, "resumed": False})
    code, out, _ = done("status", federation.path, "--json")
    run = json.loads(out)["run"]
    assert (run["state"], run["round"], run["out"]) == ("done", 3, str(tmp_path / "run"))
    assert run["missing"][0]["why"] == "late"


@pytest.mark.slow
def test_a_run_that_fails_says_why_and_can_be_resumed(federation, tmp_path):
    out = tmp_path / "run"
    code, _, err = done("run", federation.path, "run.seed=1", "--out", out)
    assert code == 1 and "failed: no node has two pairs" in err
    code, text, _ = done("run", federation.path, "run.seed=0", "--resume", "--json")
    assert (code, json.loads(text)) == (0, {"rounds": 3, "resumed": True})


@pytest.mark.slow
def test_a_run_that_dies_without_a_word_has_failed(federation, tmp_path):
    code, _, err = done("run", federation.path, "run.seed=2", "--out", tmp_path / "run")
    assert code == 1 and "the dog has eaten the homework" in err


def test_a_folder_with_something_in_it_is_no_run_directory(federation, tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    code, _, err = done("run", federation.path, "--out", tmp_path)
    assert code == 2 and "not empty" in err


@pytest.mark.slow
def test_ctrl_c_leaves_the_run_running(federation, tmp_path):
    process = fedsyn("run", federation.path, "run.seed=3", "--out", tmp_path / "run")
    wait_for((tmp_path / "run" / "status.json").exists)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1 and "fedsyn flower status" in err and "flwr.sh stop" in err
    run = json.loads(done("status", federation.path, "--json")[1])["run"]
    assert run["state"] == "running"
    stopped = executables.flwr(federation, "stop", run["id"])
    assert stopped["success"]
    ended = json.loads(done("status", federation.path, "--json")[1])["run"]
    assert ended["state"] == "failed" and "stopped" in ended["error"]


# ---- Down, and what dies -----------------------------------------------------------------------


@pytest.mark.slow
def test_a_killed_node_is_named_and_comes_back_as_itself(federation):
    before = seen(federation)["node-1"]
    os.kill(before.pid, signal.SIGKILL)
    wait_for(lambda: not seen(federation)["node-1"].alive)
    found = seen(federation)["node-1"]
    assert not found.online and found.why
    commands.up(federation)
    after = seen(federation)["node-1"]
    assert after.online and after.node == before.node and after.pid != before.pid


@pytest.mark.slow
def test_a_killed_superlink_comes_back_with_its_port_and_its_nodes(federation):
    before = seen(federation)
    os.kill(before["superlink"].pid, signal.SIGKILL)
    wait_for(lambda: not seen(federation)["superlink"].alive)
    assert all(one.online is None for one in seen(federation).values())
    port = state.read(federation).port
    commands.up(federation)
    after = seen(federation)
    assert state.read(federation).port == port
    for name in ("node-0", "node-1"):
        assert after[name].online
        assert (after[name].pid, after[name].node) == (before[name].pid, before[name].node)


@pytest.mark.slow
def test_down_stops_all_of_it_and_a_run_too(tmp_path, on_path, free_ports):
    made = make(tmp_path / "federation")
    commands.up(made, nodes=1, insecure=True, port=free_ports(2))
    going = fedsyn("run", made.path, "run.seed=3")
    wait_for(lambda: list(made.runs.glob("*/status.json")))
    bystander = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    code, _, err = done("down", made.path)
    assert code == 0 and "superlink" in err and "node-0" in err
    assert not any(processes.held(made.state(name) / "lock") for name in ("superlink", "node-0"))
    assert started_from(made) == []
    assert bystander.poll() is None
    bystander.communicate(b"\n")
    _, err = going.communicate(timeout=PATIENCE)
    assert going.returncode == 1 and "interrupted" in err


def started_from(made):
    """Processes whose environment names the folder, zombies apart."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"FLWR_HOME={made.path}" in entry.read_text():
                found.append(entry.with_name("cmdline").read_text())
        except OSError:
            pass
    return found


def test_a_process_that_ignores_the_request_is_killed(tmp_path, monkeypatch, free_ports):
    monkeypatch.setattr(processes, "GRACE", 1.0)
    made = make(tmp_path / "federation")
    stubborn = (
        "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'],"
        "start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL);"
        "print('ready', flush=True); time.sleep(60)"
    )
    started = processes.start(made, "node-0", [sys.executable, "-c", stubborn], free_ports(1))
    wait_for(lambda: "ready" in made.log("node-0").read_text())
    assert commands.down(made) == ["node-0"]
    assert not processes.alive(made, started) and started_from(made) == []


def test_a_process_that_took_an_old_id_is_not_ours(tmp_path, free_ports):
    made = make(tmp_path / "federation")
    bystander = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    process = processes.start(made, "node-0", [sys.executable, "-c", ""], free_ports(1))
    wait_for(lambda: not processes.alive(made, process))
    path = made.path / "processes.json"
    path.write_text(path.read_text().replace(str(process.pid), str(bystander.pid)))
    (found,) = commands.status(made)
    assert found.pid == bystander.pid and not found.alive
    assert commands.down(made) == [] and bystander.poll() is None
    bystander.communicate(b"\n")
