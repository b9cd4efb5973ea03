"""Nodes in this process: all of a deployment but what carries its messages."""

import json
import os
import socket

import pytest
import torch
from safetensors.torch import load_file

from fedsyn.deployment.loopback import Loopback, carried
from fedsyn.deployment.messages import Message
from fedsyn.deployment.node import NodeConfig, answer
from fedsyn.deployment.server import serve
from fedsyn.federation import records


class InProcess(Loopback):
    """Carries messages within this process; ``spoil`` may change or lose an answer."""

    def __init__(self, nodes, spoil=lambda kind, node, asked, answer: answer):
        super().__init__(nodes)
        self.spoil, self.sent = spoil, []

    def exchange(self, kind, messages, timeout):
        found = {}
        for node, message in sorted(messages.items(), reverse=True):  # the last answers first
            if node not in self.held:
                continue
            asked = carried(message)
            self.sent.append((kind, node, asked))
            reply = self.spoil(kind, node, asked, carried(answer(self.held[node], kind, asked)))
            if reply is not None:
                found[node] = reply
        return found


@pytest.fixture
def in_process(tmp_path):
    """Nodes that hold these clients each, numbered 100, 101, ..."""

    def build(*clients, **keys):
        nodes = {
            100 + number: NodeConfig(clients=held, state=str(tmp_path / f"node-{number}"), **keys)
            for number, held in enumerate(clients)
        }
        return InProcess(nodes)

    return build


@pytest.fixture
def two_rounds(make, in_process, tmp_path):
    """Three nodes that have done two rounds, and the messages that they were sent."""
    config = make("run.rounds=2", "synthesis.clusters=own", "synthesis.directions=own")
    nodes = in_process((0, 1, 2), (3, 4, 5), (6, 7, 8, 9), engine=config.engine)
    serve(config, tmp_path / "run", nodes)
    return nodes


@pytest.fixture
def asked(two_rounds):
    """``asked("train", round_number=2)``: the first such message to the first node."""

    def find(kind, round_number=None):
        for one, node, message in two_rounds.sent:
            wanted = round_number in (None, message.facts.get("round_number"))
            if (one, node) == (kind, 100) and wanted:
                return message
        raise AssertionError(kind)

    return find


@pytest.fixture
def changed():
    """``changed(message, arrays, fact=...)``: a message with other arrays and facts."""

    def change(message, arrays=(), **facts):
        return Message(message.facts | facts, message.arrays | dict(arrays))

    return change


@pytest.fixture
def refusal():
    """``refusal(node, kind, message)``: why a node does not do what it is asked."""

    def refuse(node, kind, message):
        found = answer(node, kind, message)
        assert found.facts["refused"] and not found.arrays
        return found.facts["refused"]

    return refuse


@pytest.fixture(scope="session")
def free_ports():
    """``free_ports(n)``: the first of so many neighbouring ports that nobody listens on."""

    def found(count):
        for port in range(20_000 + os.getpid() % 10_000, 32_000, count):
            with socket.socket() as probe:
                if all(probe.connect_ex(("127.0.0.1", port + k)) for k in range(count)):
                    return port
        raise AssertionError("no free ports")

    return found


# ---- Whole runs over nodes ---------------------------------------------------------------------

NODES = [(0, 1, 2), (3, 4, 5), (6, 7, 8, 9)]


@pytest.fixture
def config(make):
    """Three rounds of three nodes."""
    return make("flower.nodes=3", "engine.stack=2")


@pytest.fixture
def three(config, in_process):
    """Three nodes."""
    return in_process(*NODES, engine=config.engine)


@pytest.fixture
def rows():
    """``rows(out)``: a run's rounds."""
    return lambda out: [
        json.loads(line) for line in (out / records.METRICS).read_text().splitlines()
    ]


@pytest.fixture(scope="session")
def same_weights():
    """``same_weights(one, other)``: whether two runs have left the same model, bit by bit."""

    def compare(one, other):
        one, other = (load_file(out / records.MODEL) for out in (one, other))
        return one.keys() == other.keys() and all(
            torch.equal(value, other[name]) for name, value in one.items()
        )

    return compare


@pytest.fixture
def status():
    """``status(out)``: what a run says of itself."""
    return lambda out: json.loads((out / records.STATUS).read_text())


@pytest.fixture
def found(rows):
    """``found(out)``: what a run has found, which does not depend on who was asked how often."""
    return lambda out: [
        (row["round"], row["clients"], row["losses"], row["metrics"]) for row in rows(out)
    ]


@pytest.fixture
def once():
    """``once("train", 1, node, spoil)``: spoils the first answer of this kind, round and node."""

    def build(kind, round_number, node, spoil):
        done = []

        def act(one, number, asked, answer):
            said = asked.facts.get("round_number", round_number)
            if (one, number, said) != (kind, node, round_number) or done:
                return answer
            done.append(number)
            return spoil(answer)

        return act

    return build


@pytest.fixture
def elsewhere():
    """``elsewhere(nodes, folder)``: the same nodes, which keep their state in that folder."""

    def move(nodes, folder):
        for node, held in nodes.held.items():
            nodes.held[node] = held.changed(state=str(folder / str(node)))
        return nodes

    return move


@pytest.fixture
def undisturbed(config, in_process, elsewhere, tmp_path):
    """``undisturbed()``: the directory of a run in which nothing happens."""

    def do():
        quiet = elsewhere(in_process(*NODES, engine=config.engine), tmp_path / "quiet-nodes")
        serve(config, tmp_path / "quiet", quiet)
        return tmp_path / "quiet"

    return do
