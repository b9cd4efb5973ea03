"""Which nodes take part, and which clients each of them holds."""

import time
from collections.abc import Collection
from dataclasses import dataclass

from fedsyn.core.payload import Payload
from fedsyn.data import federated
from fedsyn.data.federated import LocalData
from fedsyn.deployment.exchange import Exchange
from fedsyn.deployment.messages import FREQUENCIES, Facts, Introduced, Request
from fedsyn.deployment.validation import RefusedError, check
from fedsyn.errors import RunError

POLL = 0.25  # seconds between looks for nodes


@dataclass
class Member:
    """A node that takes part in the run."""

    node: int
    said: Introduced
    frequencies: Payload  # of its texts, for the preprocessing
    prepared: bool = False  # it has features for this run
    accounted: bool = False  # the preprocessing that it is sent has been counted


class Members:
    """The nodes that take part.

    Parameters
    ----------
    exchange : Exchange
    own : LocalData
        What the server holds: nodes whose pairs have another form do not take part.
    common : dict
        What every request says: the run, and its configuration.
    """

    def __init__(self, exchange: Exchange, own: LocalData, common: Facts) -> None:
        self._exchange, self._own, self._common = exchange, own, common
        self._members: dict[int, Member] = {}
        self._online: list[int] = []
        self._turned_away: set[int] = set()

    def __getitem__(self, node: int) -> Member:
        return self._members[node]

    def in_order(self) -> list[Member]:
        """The members by client: sums are the same whoever answers first."""
        return sorted(self._members.values(), key=lambda member: min(member.said.clients))

    def gather(self, number: int, wait: float) -> None:
        """Wait until there are so many nodes, and let them introduce themselves.

        Raises
        ------
        RunError
            If they do not come, or none of them takes part.
        """
        deadline = time.monotonic() + wait
        while len(found := self._exchange.nodes()) < number:
            if time.monotonic() > deadline:
                raise RunError(
                    f"{len(found)} of flower.nodes = {number} nodes came within "
                    f"flower.wait = {wait:g} seconds"
                )
            time.sleep(POLL)
        self.greet()
        if not self._members:
            reasons = dict.fromkeys(one.why for one in self._exchange.missing)
            raise RunError(f"no node takes part: {'; '.join(reasons)}")

    def greet(self) -> None:
        """Let those who are new introduce themselves."""
        self._online = self._exchange.nodes()
        self._turned_away &= set(self._online)  # who comes back is asked again
        new = [n for n in self._online if n not in self._members and n not in self._turned_away]
        if not new:
            return
        request = Request(**self._common).message()
        messages = dict.fromkeys(new, request)
        expected = federated.frequencies(self._own)
        for node, said, sent in self._exchange.ask("introduce", messages, Introduced, {}):
            with self._exchange.believing(node, said.clients):
                self._check(said)
                sums = check("the frequencies", sent.group(FREQUENCIES), expected)
                self._admit(Member(node, said, sums))
        self._turned_away |= set(new) - self._members.keys()

    def _check(self, said: Introduced) -> None:
        clients, total = said.clients, len(self._own.silos)
        numbers = (said.pairs, said.holdout, said.images_only, said.texts_only)
        if not clients or len(set(clients)) < len(clients) or max(clients) >= total:
            raise RefusedError(
                f"it holds clients {list(clients)}; expected different ids below {total}, "
                "the number of clients"
            )
        if any(len(number) != len(clients) for number in numbers):
            raise RefusedError(f"it says the sizes of other than its {len(clients)} clients")
        federated.agree(self._own, said.form, f"the node of clients {list(clients)}")

    def _admit(self, member: Member) -> None:
        """Take in a node, in the place of those that held its clients and are gone."""
        for other in list(self._members.values()):
            if both := set(other.said.clients) & set(member.said.clients):
                if other.node in self._online:
                    raise RefusedError(f"clients {sorted(both)} are held by node {other.node}")
                del self._members[other.node]
        self._members[member.node] = member

    def holders(
        self, ids: Collection[int], needed: Collection[int]
    ) -> list[tuple[Member, tuple[int, ...]]]:
        """Nodes that are there, in order, and which of these clients each holds.

        Clients that are ``needed`` and whose node is not there are missing.
        """
        members = self.in_order()
        there = [m for m in members if m.node in self._online]
        found = [(m, tuple(c for c in sorted(m.said.clients) if c in ids)) for m in there]
        reached = {client for _, held in found for client in held}
        for member in (m for m in members if m.node not in self._online):
            gone = tuple(c for c in member.said.clients if c in needed and c not in reached)
            if gone:
                self._exchange.miss(member.node, gone, "the node is not there")
                reached |= set(gone)
        if nobody := tuple(sorted(set(needed) - reached)):
            self._exchange.miss(None, nobody, "no node holds them")
        return [(member, held) for member, held in found if held]
