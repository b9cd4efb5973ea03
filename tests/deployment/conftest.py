"""Nodes in this process: everything of the engine but Flower itself."""

import json
import os
import socket

import pytest

from fedsyn.deployment.node import NodeConfig, answer
from fedsyn.deployment.parcels import Parcel


def carried(parcel):
    """As it comes out at the other end."""
    arrays = {name: value.clone() for name, value in parcel.arrays.items()}
    return Parcel(json.loads(json.dumps(parcel.facts)), arrays)


class Table:
    """Passes parcels over the table; ``spoil`` may change or lose an answer."""

    def __init__(self, nodes, spoil=lambda kind, node, asked, answer: answer):
        self.held, self.spoil, self.sent = dict(nodes), spoil, []

    def nodes(self):
        return sorted(self.held)

    def exchange(self, kind, parcels, timeout):
        found = {}
        for node, parcel in sorted(parcels.items(), reverse=True):  # the last answers first
            if node not in self.held:
                continue
            asked = carried(parcel)
            self.sent.append((kind, node, asked))
            reply = self.spoil(kind, node, asked, carried(answer(self.held[node], kind, asked)))
            if reply is not None:
                found[node] = reply
        return found


@pytest.fixture
def table(tmp_path):
    """Nodes that hold these clients each, numbered 100, 101, ..."""

    def build(*clients, **keys):
        nodes = {
            100 + number: NodeConfig(clients=held, state=str(tmp_path / f"node-{number}"), **keys)
            for number, held in enumerate(clients)
        }
        return Table(nodes)

    return build


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
