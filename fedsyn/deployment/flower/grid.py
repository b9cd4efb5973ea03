"""Messages as Flower's messages.

Arrays travel as NumPy's own format, which Flower reads without pickle; facts as one JSON string.
"""

import json
import time
from collections.abc import Mapping

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from fedsyn.deployment.messages import Message as FedsynMessage
from fedsyn.deployment.validation import RefusedError

ARRAYS, FACTS = "arrays", "facts"
# What each kind of message is in Flower's words.
MESSAGES = {
    "introduce": "query.introduce",
    "moments": "query.moments",
    "pair_moments": "query.pair_moments",
    "train": "train",
    "judge": "evaluate",
}
NUMPY = "numpy.ndarray"
TYPES = {"float16", "float32", "float64", "int64", "bool"}
POLL = 0.2  # seconds between looks for answers; Flower's own loop waits three


def packed(message: FedsynMessage) -> RecordDict:
    """One of fedsyn's messages as the content of one of Flower's."""
    arrays = {k: Array(v.cpu().contiguous().numpy()) for k, v in message.arrays.items()}
    facts = ConfigRecord({"json": json.dumps(message.facts)})
    return RecordDict({ARRAYS: ArrayRecord(arrays), FACTS: facts})


def unpacked(content: RecordDict) -> FedsynMessage:
    """The content of one of Flower's messages as one of fedsyn's.

    Raises
    ------
    RefusedError
        If it is not one.
    """
    try:
        facts = json.loads(str(content[FACTS]["json"]))
        arrays = {str(name): _tensor(str(name), a) for name, a in content[ARRAYS].items()}
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise RefusedError(f"a message is not one of fedsyn's: {error!r}") from None
    if not isinstance(facts, dict):
        raise RefusedError("a message is not one of fedsyn's: its facts are not an object")
    return FedsynMessage(facts, arrays)


def _tensor(name: str, array: Array) -> torch.Tensor:
    if array.stype != NUMPY or array.dtype not in TYPES:
        raise RefusedError(
            f"array {name!r} is {array.stype} of {array.dtype}; expected {sorted(TYPES)}"
        )
    try:
        value = array.numpy()
    except (ValueError, EOFError, OSError) as error:
        raise RefusedError(f"array {name!r} cannot be read: {error}") from None
    if not isinstance(value, np.ndarray) or str(value.dtype) not in TYPES:
        raise RefusedError(f"array {name!r} is not what its message says")
    return torch.from_numpy(value.copy())


class GridTransport:
    """A `fedsyn.deployment.exchange.Transport` over Flower's grid."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid

    def nodes(self) -> list[int]:
        """Ids of the nodes that are online."""
        return sorted(self._grid.get_node_ids())

    def exchange(
        self, kind: str, messages: Mapping[int, FedsynMessage], timeout: float
    ) -> dict[int, FedsynMessage | str]:
        """Push all, and pull until all are answered or the time is over."""
        deadline = time.monotonic() + timeout
        nodes = list(messages)
        packages = [
            Message(packed(messages[node]), node, MESSAGES[kind], ttl=timeout + POLL)
            for node in nodes
        ]
        pushed = dict(zip(self._grid.push_messages(packages), nodes, strict=True))
        waiting = {message: node for message, node in pushed.items() if message}
        found: dict[int, FedsynMessage | str] = {
            node: "Flower has not taken its message" for node in set(nodes) - set(waiting.values())
        }
        while waiting and time.monotonic() < deadline:
            for reply in self._grid.pull_messages(list(waiting)):
                node = waiting.pop(reply.metadata.reply_to_message_id, None)
                if node is not None:
                    found[node] = _answer(reply)
            if waiting:
                time.sleep(POLL)
        return found


def _answer(reply: Message) -> FedsynMessage | str:
    if reply.has_error():
        lines = (reply.error.reason or "").strip().splitlines()
        return f"Flower reports error {reply.error.code}: {lines[-1] if lines else 'no reason'}"
    try:
        return unpacked(reply.content)
    except RefusedError as error:
        return str(error)
