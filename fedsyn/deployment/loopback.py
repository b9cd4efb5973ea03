"""Nodes in this process: what is sent to one, and what it answers, is copied as a network would."""

import json
from collections.abc import Mapping

from fedsyn.deployment.messages import Message
from fedsyn.deployment.node import NodeConfig, answer


class Loopback:
    """A `fedsyn.deployment.exchange.Transport` to nodes of this process.

    Parameters
    ----------
    held : mapping of int to NodeConfig
    """

    def __init__(self, held: Mapping[int, NodeConfig]) -> None:
        self.held = dict(held)

    def nodes(self) -> list[int]:
        """The numbers of all nodes, ascending."""
        return sorted(self.held)

    def exchange(
        self, kind: str, messages: Mapping[int, Message], timeout: float
    ) -> dict[int, Message | str]:
        """Their answers; the last node answers first."""
        return {
            node: carried(answer(self.held[node], kind, carried(message)))
            for node, message in sorted(messages.items(), reverse=True)
            if node in self.held
        }


def carried(message: Message) -> Message:
    """A message as it comes out at the other end."""
    arrays = {name: value.clone() for name, value in message.arrays.items()}
    return Message(json.loads(json.dumps(message.facts)), arrays)
