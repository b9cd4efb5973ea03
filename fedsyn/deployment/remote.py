"""The clients of a federation on other machines, as the server sees them.

A round is one exchange: model, shared pairs and what is asked go down; the method's payload,
generators, prototypes, losses and what clients think of the model they received come up. Only where
clients judge a fine-tuned model before it is accepted (the gate), where what they think of a
round's model says who does the next (flash), and after the last round, is there a second one. Who
does not answer in time, or answers what cannot be used, is missing in this round; the round goes on
while a quorum of clients is heard.
"""

import logging
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from fedsyn.config import Config
from fedsyn.core.payload import Payload, nbytes
from fedsyn.data import federated
from fedsyn.data.federated import Described
from fedsyn.deployment.parcels import Facts, Parcel, RefusedError, check, understood
from fedsyn.deployment.schema import Forms, rehearse
from fedsyn.deployment.words import (
    Answered,
    Asked,
    AskedToJudge,
    AskedToTrain,
    Introduced,
    Judged,
    Trained,
)
from fedsyn.errors import FedsynError, RunError
from fedsyn.federation.client import generates
from fedsyn.federation.evaluation import Judgement
from fedsyn.federation.federation import Federation
from fedsyn.federation.rounds import Heard
from fedsyn.federation.state import State
from fedsyn.profiling import phase

logger = logging.getLogger(__name__)

POLL = 0.25  # seconds between looks for nodes
Words = TypeVar("Words", bound=Answered)


class Post(Protocol):
    """What carries parcels to nodes and back."""

    def nodes(self) -> list[int]:
        """Who is there."""

    def exchange(
        self, kind: str, parcels: Mapping[int, Parcel], timeout: float
    ) -> Mapping[int, Parcel | str]:
        """The answers that came within ``timeout`` seconds; a sentence where there was an error."""


@dataclass
class Member:
    """A node that takes part."""

    node: int
    said: Introduced
    frequencies: Payload  # of its texts, for the preprocessing
    prepared: bool = False  # it has features for this run


@dataclass(frozen=True)
class Missing:
    """An answer that was asked for and is not there."""

    round: int
    node: int | None  # None where nobody holds the clients
    clients: tuple[int, ...]
    why: str

    def plain(self) -> Facts:
        """As JSON, whose numbers are too small for nodes."""
        node = None if self.node is None else str(self.node)
        return {"node": node, "clients": list(self.clients), "why": self.why}


class Nodes:
    """A fleet of nodes.

    Parameters
    ----------
    config : Config
    run : str
        Names the run's folder on the nodes.
    own : Described
        What the server holds: nodes whose pairs have another form do not take part.
    post : Post
    preprocessing : Payload, optional
        Of a run that goes on; else `prepare` derives it.
    """

    late = True

    def __init__(
        self,
        config: Config,
        run: str,
        own: Described,
        post: Post,
        preprocessing: Payload | None = None,
    ) -> None:
        self.config, self.run, self._own, self._post = config, run, own, post
        self.preprocessing: Payload = preprocessing or {}
        self.members: dict[int, Member] = {}
        self.missing: list[Missing] = []
        self._online: list[int] = []
        self._turned_away: set[int] = set()
        self._fed: Federation | None = None
        self._round = 0
        self._common: Facts = {"run": run, "config": config.model_dump(mode="json")}

    # ---- Before the first round ------------------------------------------------------------------

    def gather(self) -> None:
        """Wait until there are as many nodes as wanted, and let them introduce themselves.

        Raises
        ------
        RunError
            If they do not come, or none of them takes part.
        """
        flower = self.config.flower
        deadline = time.monotonic() + flower.wait
        while len(found := self._post.nodes()) < flower.nodes:
            if time.monotonic() > deadline:
                raise RunError(
                    f"{len(found)} of flower.nodes = {flower.nodes} nodes came within "
                    f"flower.wait = {flower.wait:g} seconds"
                )
            time.sleep(POLL)
        self._greet()
        if not self.members:
            reasons = dict.fromkeys(one.why for one in self.missing)
            raise RunError(f"no node takes part: {'; '.join(reasons)}")

    def prepare(self) -> tuple[int, int]:
        """Derive the preprocessing from the sums of all nodes; bytes up and down.

        Raises
        ------
        RunError
            If a node does not send its sums: what it holds would have no part in them.
        """
        members = self.in_order()
        counted = [member.frequencies for member in members if member.frequencies]
        idf = federated.derive_idf(federated.add(counted)) if counted else {}
        asked = Asked(**self._common).parcel(idf=idf)
        answers = self._exchange("moments", {m.node: asked for m in members}, Answered)
        expected, sums = federated.moments(self._own, idf), []
        for node, _, sent in answers:
            with self._believing(node, self.members[node].said.clients):
                sums.append(check("the moments", sent.group("moments"), expected))
        if len(sums) < len(members):
            raise RunError(f"the preprocessing is not complete: {self.missing[-1].why}")
        self.preprocessing = federated.derive(self._own, federated.add(sums), idf)
        up = nbytes(expected) + nbytes(federated.frequencies(self._own))
        return len(members) * up, len(members) * nbytes(self.preprocessing)

    def enter(self, fed: Federation) -> None:
        """Know what the rounds are of; before `train` and `judge`."""
        self._fed, self._forms = fed, rehearse(fed)

    # ---- Rounds ----------------------------------------------------------------------------------

    def train(self, state: State, ids: Sequence[int], judge: bool) -> Heard:
        """One exchange for the round after ``state.round``.

        Raises
        ------
        RunError
            If fewer clients than the quorum are heard.
        """
        self._round = state.round + 1
        before = len(self.missing)
        self._greet()
        fed = self._federation
        asked, panel = set(ids), set(fed.panel if judge else ())
        orders = {
            member.node: self._order(
                state,
                member,
                ids=tuple(client for client in held if client in asked),
                judges=tuple(client for client in held if client in panel),
            )
            for member, held in self._holders(asked | panel, needed=asked)
        }
        # What all clients receive alike goes to a node once.
        down = {name: value[:1] for name, value in fed.method.down(state.server, (0,)).items()}
        parcels = {
            node: order.parcel(down=down, shared=state.shared, preprocessing=self._lacking(node))
            for node, order in orders.items()
        }
        with phase("clients"):
            answers = self._exchange("train", parcels, Trained)
        hearing = _Hearing(fed, self._forms, state, self._round)
        for node, said, sent in answers:
            with self._believing(node, orders[node].ids):
                hearing.take(orders[node], said, sent)
        self._quorum(hearing.ids, ids)
        heard = hearing.all(judge)
        missing = tuple(one.plain() for one in self.missing[before:])
        sizes = (parcel.nbytes for parcel in parcels.values())
        return replace(heard, bytes_down=sum(sizes), missing=missing)

    def judge(
        self, models: Sequence[Tensor], ids: Sequence[int], initial: bool = False
    ) -> Judgement:
        """One exchange about models.

        Raises
        ------
        RunError
            If fewer clients than the quorum are heard.
        """
        sent = {str(number): model for number, model in enumerate(models)}
        asked = {
            member.node: AskedToJudge(**self._common, ids=held, initial=initial)
            for member, held in self._holders(ids, needed=ids)
        }
        parcels = {
            node: one.parcel(models=sent, preprocessing=self._lacking(node))
            for node, one in asked.items()
        }
        answers = self._exchange("judge", parcels, Judged)
        found = []
        for node, said, _ in answers:
            with self._believing(node, asked[node].ids):
                found.append(_believed(said, asked[node].ids, len(models) + initial))
        judgement = _joined(found)
        self._quorum(judgement.ids, ids)
        return replace(
            judgement,
            bytes_up=sum(sent.nbytes for _, _, sent in answers),
            bytes_down=sum(parcel.nbytes for parcel in parcels.values()),
        )

    def _order(
        self, state: State, member: Member, ids: tuple[int, ...], judges: tuple[int, ...]
    ) -> AskedToTrain:
        """What a node is to train."""
        heard = _rounds_heard(state, len(self._own.silos))
        return AskedToTrain(
            **self._common,
            round=self._round,
            since=int(heard[list(member.said.clients)].max()),
            ids=ids,
            introduced=tuple(np.array(ids, dtype=int)[state.clients.has(ids).numpy()].tolist()),
            judges=judges,
        )

    def _lacking(self, node: int) -> Payload:
        return {} if self.members[node].prepared else self.preprocessing

    @property
    def _federation(self) -> Federation:
        assert self._fed is not None, "enter() comes first"
        return self._fed

    # ---- Nodes come and go -----------------------------------------------------------------------

    def _greet(self) -> None:
        """Let those who are new introduce themselves."""
        self._online = sorted(self._post.nodes())
        self._turned_away &= set(self._online)  # who comes back is asked again
        new = [n for n in self._online if n not in self.members and n not in self._turned_away]
        if not new:
            return
        asked = Asked(**self._common).parcel()
        answers = self._exchange("introduce", dict.fromkeys(new, asked), Introduced)
        expected = federated.frequencies(self._own)
        for node, said, sent in answers:
            with self._believing(node, said.clients):
                self._check_introduction(said)
                sums = check("the frequencies", sent.group("frequencies"), expected)
                self._admit(Member(node, said, sums))
        self._turned_away |= set(new) - self.members.keys()

    def _check_introduction(self, said: Introduced) -> None:
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
        for other in list(self.members.values()):
            if both := set(other.said.clients) & set(member.said.clients):
                if other.node in self._online:
                    raise RefusedError(f"clients {sorted(both)} are held by node {other.node}")
                del self.members[other.node]
        self.members[member.node] = member

    def _holders(
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
                self._miss(member.node, gone, "the node is not there")
                reached |= set(gone)
        if nobody := tuple(sorted(set(needed) - reached)):
            self._miss(None, nobody, "no node holds them")
        return [(member, held) for member, held in found if held]

    def in_order(self) -> list[Member]:
        """The members by client: sums are the same whoever answers first."""
        return sorted(self.members.values(), key=lambda member: min(member.said.clients))

    # ---- Exchanges -------------------------------------------------------------------------------

    def _exchange(
        self, kind: str, parcels: Mapping[int, Parcel], words: type[Words]
    ) -> list[tuple[int, Words, Parcel]]:
        """The answers that make sense, in the order of ``parcels``; the others are missing."""
        answers = self._post.exchange(kind, parcels, self.config.flower.timeout)
        found = []
        for node, asked in parcels.items():
            member = self.members.get(node)
            clients = tuple(asked.facts.get("ids", ())) or (member.said.clients if member else ())
            with self._believing(node, clients):
                answer = answers.get(node, f"no answer within {self.config.flower.timeout:g} s")
                if isinstance(answer, str):
                    raise RefusedError(answer)
                first = understood(Answered, {k: answer.facts.get(k) for k in ANSWERED})
                if member is not None and kind in NEED_FEATURES:
                    member.prepared = not first.unprepared
                if first.refused:
                    raise RefusedError(first.refused)
                said = understood(words, answer.facts)
                found.append((node, said, answer))
        return found

    @contextmanager
    def _believing(self, node: int, clients: tuple[int, ...]) -> Iterator[None]:
        """What cannot be believed is missing."""
        try:
            yield
        except FedsynError as error:
            self._miss(node, clients, str(error))

    def _miss(self, node: int | None, clients: tuple[int, ...], why: str) -> None:
        logger.warning("round %d: clients %s are missing: %s", self._round, list(clients), why)
        self.missing.append(Missing(self._round, node, clients, why))

    def _quorum(self, heard: Collection[int], asked: Collection[int]) -> None:
        share = len(set(heard) & set(asked)) / len(asked)
        if share < self.config.flower.quorum:
            reasons = dict.fromkeys(m.why for m in self.missing if m.round == self._round)
            raise RunError(
                f"round {self._round}: {share:.0%} of {len(asked)} clients have answered, "
                f"flower.quorum = {self.config.flower.quorum:g} ({'; '.join(reasons)})"
            )


ANSWERED = tuple(Answered.model_fields)
NEED_FEATURES = ("train", "judge")  # what nodes do with features, which they then have


class _Hearing:
    """Takes in answers, in order: each is used whole or, where it cannot be, not at all."""

    def __init__(self, fed: Federation, forms: Forms, state: State, round: int) -> None:
        self._fed, self._forms, self._state, self._round = fed, forms, state, round
        self._payload: Payload = {}
        self._said: list[Trained] = []
        self._models: list[Tensor] = []
        self._bytes = 0

    @property
    def ids(self) -> tuple[int, ...]:
        """Clients heard."""
        return tuple(client for said in self._said for client in said.ids)

    def take(self, asked: AskedToTrain, said: Trained, sent: Parcel) -> None:
        """One node's; raises `RefusedError` if it is not what was asked for."""
        fed, forms, ids = self._fed, self._forms, asked.ids
        if said.ids != ids:
            raise RefusedError(f"it answers for clients {list(said.ids)}; {list(ids)} were asked")
        lengths = [len(said.pairs), len(said.sizes), *map(len, said.losses.values())]
        if set(lengths) - {len(ids)}:
            raise RefusedError(f"it says numbers of other than the {len(ids)} clients")
        if said.judged is not None:
            _believed(said.judged, asked.judges, 1)
        elif asked.judges:
            raise RefusedError("it has not judged the model")
        if ids:
            heard = sent.group("heard")
            if len(ids) == 1:
                check("the payload", heard, forms.rows)
            else:
                check("the payload", heard, forms.sums(len(ids)))
            models = sent.group("models")
            expected = {"model": forms.rows["model"]} if self._looks_at_models else {}
            check("the models", models, expected, len(ids))
            library = self._library(asked, said, sent)
            # From here on nothing is refused.
            sizes = torch.tensor(said.sizes)
            config = fed.config.method
            if len(ids) == 1:
                self._payload = fed.method.hear(self._payload, ids, heard, sizes, config)
            else:
                self._payload = fed.method.merge(self._payload, heard)
            if library:
                self._state.clients.put(ids, library)
            self._models.extend(models.values())
            rounds = _rounds_heard(self._state, len(fed.silos))
            rounds[list(ids)] = self._round
            self._state.fleet = {"heard": rounds}
        self._said.append(said)
        self._bytes += sent.nbytes

    @property
    def _looks_at_models(self) -> bool:
        config = self._fed.config
        return config.synthesis.server == "fedftg" and config.trains_generators

    def _library(self, asked: AskedToTrain, said: Trained, sent: Parcel) -> Payload:
        """What the server keeps of these clients for its synthesis."""
        upload, introduction = sent.group("upload"), sent.group("introduction")
        forms, ids = self._forms, asked.ids
        if not generates(self._fed.config, self._round):
            check("the generators", upload | introduction, {})
            return {}
        beginners = tuple(client for client in ids if client not in asked.introduced)
        if said.introduced != beginners:
            raise RefusedError(
                f"it introduces clients {list(said.introduced)}; {list(beginners)} are new"
            )
        check("the generators", upload, forms.upload, len(ids))
        if beginners:
            check("the prototypes", introduction, forms.introduction, len(beginners))
        library = dict(upload)
        known = [client for client in ids if client in asked.introduced]
        old = self._state.clients.take(known, tuple(forms.introduction)) if known else {}
        new = torch.tensor([client in beginners for client in ids])
        for name, like in forms.introduction.items():
            rows = self._forms.library[name].new_empty(len(ids), *like.shape[1:])
            if beginners:
                rows[new] = introduction[name].to(rows.dtype)
            if known:
                rows[~new] = old[name].to(rows)
            library[name] = rows
        return library

    def all(self, judged: bool) -> Heard:
        """Of all who were heard."""
        said = [one for one in self._said if one.ids]
        names = dict.fromkeys(name for one in said for name in one.losses)
        verdicts = [one.judged for one in self._said if one.judged is not None]
        return Heard(
            self.ids,
            self._payload,
            pairs=torch.tensor([n for one in said for n in one.pairs]),
            sizes=torch.tensor([n for one in said for n in one.sizes]),
            losses={
                name: torch.tensor([v for one in said for v in one.losses[name]]) for name in names
            },
            models=tuple(self._models),
            bytes_up=self._bytes,
            judgement=_joined(verdicts) if judged and verdicts else None,
        )


def _rounds_heard(state: State, clients: int) -> Tensor:
    """The last round in which the server has heard each client, 0 where in none."""
    return state.fleet.get("heard", torch.zeros(clients, dtype=torch.long))


def _believed(said: Judged, ids: Sequence[int], models: int) -> Judged:
    """A verdict, if it is of these clients and of so many models."""
    shape = [len(said.losses), *(len(row) for row in said.losses), len(said.pairs)]
    if said.ids != tuple(ids) or shape != [models, *[len(ids)] * models, len(ids)]:
        raise RefusedError(f"it has not judged {models} models by the pairs of clients {list(ids)}")
    return said


def _joined(verdicts: Sequence[Judged]) -> Judgement:
    """All nodes' verdicts as one, in their order."""
    ids = tuple(client for one in verdicts for client in one.ids)
    pairs = tuple(number for one in verdicts for number in one.pairs)
    by_model = zip(*(one.losses for one in verdicts), strict=True)
    losses = tuple(tuple(loss for part in parts for loss in part) for parts in by_model)
    return Judgement(ids, losses, pairs)
