"""Exchanges with nodes: a request to each, and the answers that can be believed."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeVar

from fedsyn.deployment.messages import Answered, Facts, Message, understood
from fedsyn.deployment.validation import RefusedError
from fedsyn.errors import FedsynError

logger = logging.getLogger(__name__)

A = TypeVar("A", bound=Answered)
COMMON = tuple(Answered.model_fields)  # what every answer says


class Transport(Protocol):
    """What carries messages to nodes and back."""

    def nodes(self) -> list[int]:
        """The numbers of the nodes that are there."""

    def exchange(
        self, kind: str, messages: Mapping[int, Message], timeout: float
    ) -> Mapping[int, Message | str]:
        """The answers that came within ``timeout`` seconds; a sentence where there was an error."""


@dataclass(frozen=True)
class Missing:
    """An answer that was asked for and is not there."""

    round_number: int
    node: int | None  # None where nobody holds the clients
    clients: tuple[int, ...]
    why: str

    def plain(self) -> Facts:
        """As JSON, whose numbers are too small for nodes."""
        node = None if self.node is None else str(self.node)
        return {"node": node, "clients": list(self.clients), "why": self.why}


class Exchange:
    """Asks nodes, and keeps a list of what was missing.

    Parameters
    ----------
    transport : Transport
    timeout : float
        Seconds that an exchange with all nodes may take.
    """

    def __init__(self, transport: Transport, timeout: float) -> None:
        self._transport, self._timeout = transport, timeout
        self.round_number = 0  # the round that is asked about
        self.missing: list[Missing] = []
        self.answered: dict[int, bool] = {}  # nodes that have, last, and whether they were prepared

    def nodes(self) -> list[int]:
        """The numbers of the nodes that are there, ascending."""
        return sorted(self._transport.nodes())

    def ask(
        self,
        kind: str,
        messages: Mapping[int, Message],
        answer: type[A],
        clients: Mapping[int, tuple[int, ...]],
    ) -> list[tuple[int, A, Message]]:
        """The answers that make sense, in the order of ``messages``; the others are missing.

        Parameters
        ----------
        kind : str
        messages : mapping of int to Message
            By node.
        answer : type
            What is to be said in the answers.
        clients : mapping of int to tuple of int
            Of each node those that are missing with its answer.
        """
        answers = self._transport.exchange(kind, messages, self._timeout)
        self.answered = {}
        found = []
        for node in messages:
            with self.believing(node, clients.get(node, ())):
                reply = answers.get(node, f"no answer within {self._timeout:g} s")
                if isinstance(reply, str):
                    raise RefusedError(reply)
                first = understood(Answered, {k: reply.facts.get(k) for k in COMMON})
                self.answered[node] = not first.unprepared
                if first.refused:
                    raise RefusedError(first.refused)
                found.append((node, understood(answer, reply.facts), reply))
        return found

    @contextmanager
    def believing(self, node: int, clients: tuple[int, ...]) -> Iterator[None]:
        """What cannot be believed is missing."""
        try:
            yield
        except FedsynError as error:
            self.miss(node, clients, str(error))

    def miss(self, node: int | None, clients: tuple[int, ...], why: str) -> None:
        """Enter into the list what is not there."""
        number = self.round_number
        logger.warning("round %d: clients %s are missing: %s", number, list(clients), why)
        self.missing.append(Missing(number, node, clients, why))
