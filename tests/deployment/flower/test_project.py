"""The folder that ``fedsyn flower init`` writes."""

import json
import stat
import subprocess
import sys
import tomllib
import zipfile

import pytest

from fedsyn.deployment.cluster import executables
from fedsyn.deployment.flower import project
from fedsyn.deployment.node import NodeConfig
from fedsyn.federation import config as configuration

SECRETS = ("PRIVATE KEY", "BEGIN CERTIFICATE")


@pytest.fixture
def made(tmp_path):
    config = configuration.load(None, ["partition.clients=5", "method=moon"])
    return project.create(tmp_path / "federation", config, nodes=2)


def script(path, *arguments, **environment):
    return subprocess.run(
        [path, *arguments],
        env={"PATH": "/usr/bin:/bin"} | environment,
        capture_output=True,
        text=True,
    )


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def read_toml(path):
    return tomllib.loads(path.read_text())


def test_silos_and_nodes_are_those_asked_for(fedsyn, tmp_path):
    code, out, err = fedsyn("flower", "init", "here", "--silos", 4, "--nodes", 2, "run.rounds=7")
    assert (code, err) == (0, "") and out.strip() == str(tmp_path / "here" / "README.md")
    written = configuration.load(tmp_path / "here" / "run.toml")
    assert (written.partition.clients, written.flower.nodes, written.run.rounds) == (4, 2, 7)
    nodes = sorted((tmp_path / "here" / "nodes").iterdir())
    assert [read_toml(node)["clients"] for node in nodes] == [[0, 1], [2, 3]]


def test_silos_are_those_of_the_configuration_unless_told_otherwise(fedsyn, tmp_path):
    fedsyn("flower", "init", "set", "partition.clients=4")
    fedsyn("flower", "init", "default")
    for name, silos in (("set", 4), ("default", 3)):
        assert configuration.load(tmp_path / name / "run.toml").partition.clients == silos
        assert len(list((tmp_path / name / "nodes").iterdir())) == silos


def test_a_folder_with_something_in_it_is_refused(fedsyn, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    code, _, err = fedsyn("flower", "init", "mine")
    assert code == 2 and "not empty" in err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


def test_more_nodes_than_silos_are_refused(fedsyn, tmp_path):
    code, _, err = fedsyn("flower", "init", "here", "--silos", 2, "--nodes", 3)
    assert code == 2 and "--nodes 3" in err and not (tmp_path / "here").exists()


def test_the_configuration_is_complete_and_its_paths_are_absolute(fedsyn, tmp_path):
    given = "data.path=pairs.npz", "teacher.path=runs/taught", "method=moon"
    fedsyn("flower", "init", "here", *given)
    text = (tmp_path / "here" / "run.toml").read_text()
    written = configuration.parse(tomllib.loads(text))
    assert written.data.path == str(tmp_path / "pairs.npz")
    assert written.teacher.path == str(tmp_path / "runs" / "taught")
    assert tomllib.loads(text) == tomllib.loads(configuration.dump(written))
    assert "# How the rows are divided over clients.\n[partition]" in text
    lines = text.splitlines()
    assert all(lines[at - 1].startswith("# ") for at, line in enumerate(lines) if line[:1] == "[")


def test_a_node_agrees_to_nothing_but_what_its_runs_do(made):
    allowed = read_toml(made.node("node-0"))["allow"]
    assert allowed["methods"] == ["moon"] and allowed["objectives"] == ["info_nce"]
    assert allowed["max_bytes"] > 0 and allowed["max_rounds"] > 0 and allowed["min_pairs"] >= 2
    states = {read_toml(made.node(name))["state"] for name in made.nodes}
    assert states == {str(made.state("node-0")), str(made.state("node-1"))}


def test_nodes_allow_the_plugins_of_the_run_they_were_made_for(made, tmp_path, monkeypatch):
    assert read_toml(made.node("node-0"))["allow"]["plugins"] == []
    (tmp_path / "own_method.py").write_text(
        "from dataclasses import replace\n"
        "from fedsyn.methods.fedavg import FEDAVG\n"
        "OWN = replace(FEDAVG, name='own')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    config = configuration.load(None, ["method=own_method:OWN", "partition.clients=2"])
    other = project.create(tmp_path / "other", config, 2)
    found = NodeConfig.load(other.node("node-1")).allow
    assert found.plugins == ("own_method:OWN",) and found.methods == ("own_method:OWN",)


def test_the_app_names_what_is_installed_and_holds_nothing_else(made):
    assert [path.name for path in made.app.iterdir()] == ["pyproject.toml"]
    app = read_toml(made.app / "pyproject.toml")["tool"]["flwr"]["app"]
    assert app["config"] == {"config": "", "overrides": "[]", "out": "", "resume": False}
    assert all(ref.startswith("fedsyn.deployment.flower.") for ref in app["components"].values())


@pytest.mark.flower
def test_a_secret_that_strays_into_the_app_is_not_bundled(made):
    pytest.importorskip("flwr")
    (made.app / "secret.yaml").write_text("password: 1234")
    (made.app / "notes.md").write_text("1234")
    for side in ("server", "client"):  # modules that there are for certain
        replace(
            made.app / "pyproject.toml",
            f"fedsyn.deployment.flower.{side}_app:app",
            "fedsyn.cli.app:app",
        )
    done = subprocess.run(
        [executables.executable("flwr"), "build", "--app", made.app],
        cwd=made.path, env=executables.environment(made.home), capture_output=True, text=True,
    )  # fmt: skip
    (bundle,) = made.path.glob("*.fab")
    assert done.returncode == 0
    assert set(zipfile.ZipFile(bundle).namelist()) == {"pyproject.toml", ".info/CONTENT"}


def test_folders_and_private_keys_are_for_their_owner_alone(made):
    script(made.certificates / "make-certificates.sh")
    script(made.path / "keys" / "make-key.sh", "node-0")
    folders = [made.path, *(path for path in made.path.rglob("*") if path.is_dir())]
    assert {mode(folder) for folder in folders} == {0o700}
    private = [
        path
        for path in made.path.rglob("*")
        if path.is_file() and "PRIVATE KEY" in path.read_text()
    ]
    assert {path.name for path in private} == {"ca.key", "server.key", "node-0"}
    assert {mode(path) for path in private} == {0o600}
    bundled = [path.read_text() for path in made.app.rglob("*")]
    assert not any(secret in text for secret in SECRETS for text in bundled)


def test_the_certificates_are_a_chain_that_openssl_accepts(made):
    make = made.certificates / "make-certificates.sh"
    assert script(make, "superlink.example", "192.0.2.7", "2001:db8::7").returncode == 0
    authority, server = made.certificates / "ca.crt", made.certificates / "server.crt"
    for name in ("superlink.example", "localhost"):
        check = ["-x509_strict", "-purpose", "sslserver", "-verify_hostname", name]
        assert verified(authority, server, *check)
    for address in ("192.0.2.7", "127.0.0.1", "2001:db8::7", "::1"):
        assert verified(authority, server, "-verify_ip", address)
    assert not verified(authority, server, "-verify_hostname", "elsewhere.example")
    assert not verified(server, server)


def verified(authority, certificate, *options):
    command = ["openssl", "verify", *options, "-CAfile", authority, certificate]
    return subprocess.run(command, capture_output=True).returncode == 0


def test_certificates_made_again_are_of_the_same_authority(made):
    make = made.certificates / "make-certificates.sh"
    script(make)
    before = {path.name: path.read_bytes() for path in made.certificates.iterdir()}
    script(make)
    after = {path.name: path.read_bytes() for path in made.certificates.iterdir()}
    assert before.keys() == after.keys()
    assert {name for name in before if before[name] == after[name]} == {
        "make-certificates.sh", "ca.crt", "ca.key"
    }  # fmt: skip
    assert verified(made.certificates / "ca.crt", made.certificates / "server.crt")


def test_a_node_key_is_p384_and_never_overwritten(made):
    make = made.path / "keys" / "make-key.sh"
    assert script(make, "node-0").returncode == 0
    assert made.key("node-0").with_suffix(".pub").read_text().startswith("ecdsa-sha2-nistp384 ")
    before = made.key("node-0").read_bytes()
    again = script(make, "node-0")
    assert again.returncode == 1 and "exists" in again.stderr
    assert made.key("node-0").read_bytes() == before


def test_every_service_has_home_calls_and_installs_switched_off(made):
    yaml = pytest.importorskip("yaml")
    services = yaml.safe_load((made.path / "deploy" / "compose.yaml").read_text())["services"]
    assert set(services) == {"superlink", "node-0", "node-1"}
    for service in services.values():
        assert project.SWITCHED_OFF.items() <= service["environment"].items()
        assert service["restart"] == "unless-stopped" and service["user"]
    for unit in (made.path / "deploy").glob("*.service"):
        lines = unit.read_text().splitlines()
        assert all(f"Environment={k}={v}" in lines for k, v in project.SWITCHED_OFF.items())
        assert "Restart=always" in lines and any(line.startswith("User=") for line in lines)


def test_nothing_published_lets_more_than_nodes_reach_the_superlink(made):
    yaml = pytest.importorskip("yaml")
    services = yaml.safe_load((made.path / "deploy" / "compose.yaml").read_text())["services"]
    assert all(p.startswith("127.0.0.1:") for s in services.values() for p in s.get("ports", []))
    assert "--host 127.0.0.1" in (made.path / "deploy" / "fedsyn-superlink.service").read_text()


def test_commands_name_a_folder_that_is_none(fedsyn, tmp_path):
    for command in ("up", "run", "status", "down"):
        code, _, err = fedsyn("flower", command, tmp_path)
        assert code == 2 and "fedsyn flower init" in err


@pytest.mark.flower
def test_nothing_runs_in_a_new_folder(fedsyn, made):
    pytest.importorskip("flwr")
    code, out, _ = fedsyn("flower", "status", made.path, "--json")
    assert code == 0 and json.loads(out) == {"processes": [], "run": None}
    assert "nothing was running" in fedsyn("flower", "down", made.path)[2]


@pytest.mark.flower
def test_a_run_without_a_superlink_says_how_to_start_one(fedsyn, made):
    pytest.importorskip("flwr")
    for side in ("server", "client"):  # modules that there are for certain
        replace(
            made.app / "pyproject.toml",
            f"fedsyn.deployment.flower.{side}_app:app",
            "fedsyn.cli.app:app",
        )
    replace(made.home / "config.toml", ":8000", ":1")
    code, _, err = fedsyn("flower", "run", made.path)
    assert code == 2 and f"fedsyn flower up {made.path}" in err
    assert not any(made.runs.iterdir())


def replace(path, before, after):
    path.write_text(path.read_text().replace(before, after))


def test_without_flower_the_command_says_what_to_install(fedsyn, made, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    monkeypatch.setenv("PATH", "")
    code, _, err = fedsyn("flower", "run", made.path)
    assert code == 2 and "pip install 'fedsyn[flower]'" in err


def test_a_relative_path_of_a_run_is_refused(fedsyn, made):
    code, _, err = fedsyn("flower", "run", made.path, "data.path=pairs.npz")
    assert code == 2 and "absolute" in err and not any(made.runs.iterdir())
