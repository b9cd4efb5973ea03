"""What Flower starts on a node: ``app``.

``--node-config 'config="/etc/fedsyn/node.toml"'`` names what the node holds and allows. In Flower's
simulation, which gives every node a number instead, a node has an equal share of the clients and
its folder lies among the machine's temporary files.
"""

import tempfile
from pathlib import Path

import numpy as np
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedsyn.deployment.flower.grid import packed, unpacked
from fedsyn.deployment.messages import Answered
from fedsyn.deployment.messages import Message as FedsynMessage
from fedsyn.deployment.node import NodeConfig, answer
from fedsyn.deployment.validation import RefusedError
from fedsyn.errors import FedsynError

app = ClientApp()


def _handle(kind: str, message: Message, context: Context) -> Message:
    try:
        asked = unpacked(message.content)
        reply = answer(_node(context, asked), kind, asked)
    except FedsynError as error:
        reply = Answered(refused=str(error)).message()
    return Message(packed(reply), reply_to=message)


def _node(context: Context, asked: FedsynMessage) -> NodeConfig:
    """What this node holds, and what it allows."""
    said = context.node_config
    if "config" in said:
        return NodeConfig.load(Path(str(said["config"])))
    if "partition-id" not in said:
        raise RefusedError("this node has no --node-config 'config=\"/path/to/node.toml\"'")
    clients = range(int(asked.facts["config"]["partition"]["clients"]))
    shares = np.array_split(np.array(clients), int(said["num-partitions"]))
    part = int(said["partition-id"])
    folder = Path(tempfile.gettempdir()) / "fedsyn-simulation" / f"node-{part}"
    return NodeConfig(clients=tuple(shares[part].tolist()), state=str(folder))


@app.query("introduce")
def introduce(message: Message, context: Context) -> Message:
    """Say who the node is and what it holds."""
    return _handle("introduce", message, context)


@app.query("moments")
def moments(message: Message, context: Context) -> Message:
    """Statistics for the preprocessing."""
    return _handle("moments", message, context)


@app.query("pair_moments")
def pair_moments(message: Message, context: Context) -> Message:
    """Sums for the model that all begin with."""
    return _handle("pair_moments", message, context)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Do a round of this node's clients."""
    return _handle("train", message, context)


@app.evaluate()
def judge(message: Message, context: Context) -> Message:
    """Judge models on held-out pairs."""
    return _handle("judge", message, context)
