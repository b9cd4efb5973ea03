"""The clients of a federation on other machines, as the server sees them.

A round is one exchange: what the method and the extensions broadcast goes down; uploads, reports
and what clients think of the model they received come up. Only where clients judge models before
the round ends (a line search), where what they think of a round's model says who does the next, and
after the last round, is there a second one. Before round 1 clients add up moments of their pairs,
and the validators judge the models that these give. Who does not answer in time, or answers what
cannot be used, is missing in this round; the round goes on while a quorum of clients is heard.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fedsyn.core.judgement import Judgement
from fedsyn.core.payload import Payload, named, nbytes, part_of
from fedsyn.core.wire import ONCE, OWN_WEIGHTS, SUMS, WEIGHTS
from fedsyn.data.moments import COUNT, moments_like
from fedsyn.data.preprocessing import add
from fedsyn.deployment.exchange import Exchange
from fedsyn.deployment.members import Member, Members
from fedsyn.deployment.messages import (
    DOWN,
    MODELS,
    MOMENTS,
    PREPROCESSING,
    UP,
    VERDICT,
    Answered,
    Facts,
    Judged,
    JudgeRequest,
    Message,
    Request,
    Trained,
    TrainRequest,
)
from fedsyn.deployment.schema import Schema
from fedsyn.deployment.validation import RefusedError, check, check_counts
from fedsyn.errors import RunError
from fedsyn.federation.checkpoint import State
from fedsyn.federation.federation import Federation
from fedsyn.federation.fleet import Answers, Moments
from fedsyn.federation.local import MOMENTS as PAIR_MOMENTS
from fedsyn.federation.local import broadcasting
from fedsyn.federation.received import PAIRS, REPORT, SIZES, Reception
from fedsyn.federation.records import uploads_of, write_tensors
from fedsyn.profiling import phase

HEARD = "heard"  # in a checkpoint: the last round in which each client was heard, 0 where in none


@dataclass
class RemoteFleet:
    """A fleet of nodes.

    Attributes
    ----------
    fed : Federation
    schema : Schema
        The form of what travels.
    members : Members
    exchange : Exchange
    common : dict
        What every request says: the run, and its configuration.
    preprocessing : dict of str to Tensor
        For nodes that have no features yet.
    heard : Tensor of shape [clients] long
        The last round in which each client was heard.
    out : Path
        The run's directory.
    """

    fed: Federation
    schema: Schema
    members: Members
    exchange: Exchange
    common: Facts
    preprocessing: Payload
    heard: Tensor
    out: Path
    late = True

    def tensors(self) -> Payload:
        """The last round in which each client was heard."""
        return {HEARD: self.heard}

    def saved(self) -> None:
        """Nothing else is kept here."""

    # ---- Rounds ----------------------------------------------------------------------------------

    def train(self, state: State, ids: Sequence[int], judge: bool) -> Answers:
        """One exchange for the round after ``state.round_number``.

        Raises
        ------
        RunError
            If fewer clients than the quorum are heard.
        """
        number = self.exchange.round_number = state.round_number + 1
        before = len(self.exchange.missing)
        self.members.greet()
        asked, judging = set(ids), set(self.fed.validators if judge else ())
        requests = {
            member.node: self._request(
                state,
                member,
                tuple(client for client in held if client in asked),
                tuple(client for client in held if client in judging),
            )
            for member, held in self.members.holders(asked | judging, needed=asked)
        }
        down, model = self._down(state)
        sent = {node: down if request.ids else model for node, request in requests.items()}
        late = {node: self._lacking(node) for node in requests}
        messages = {
            node: request.message(**{DOWN: sent[node], PREPROCESSING: late[node]})
            for node, request in requests.items()
        }
        with phase("clients"):
            answers = self.exchange.ask(
                "train", messages, Trained, {node: one.ids for node, one in requests.items()}
            )
        reception = Reception(state.received, uploads_of(self.fed.config, self.out, number))
        verdicts = []
        for node, said, message in answers:
            request = requests[node]
            with self.exchange.believing(node, request.ids):
                verdict = self._verdict(message, request.validators, 1)
                self._take(reception, request, said, message)
                verdicts += [verdict] if verdict.ids else []
        reception.close()
        self._prepared()
        self._quorum(reception.ids, ids)
        others = sum(nbytes(model) for one in requests.values() if not one.ids)
        judgement = _joined(verdicts, others) if verdicts else None
        return Answers(
            tuple(reception.ids),
            reception.uploads(),
            reception.report,
            bytes_up=reception.bytes,
            bytes_down=sum(nbytes(down) for one in requests.values() if one.ids)
            + self._unaccounted(late),
            judgement=judgement,
            missing=tuple(one.plain() for one in self.exchange.missing[before:]),
        )

    def _down(self, state: State) -> tuple[Payload, Payload]:
        """What clients receive alike goes to a node once; and of it the model."""
        down: Payload = {}
        for part, payload in broadcasting(self.fed, state)((0,)).items():
            down |= named(part, payload)
        return down, {name: value for name, value in down.items() if name in self.schema.model}

    def _request(
        self,
        state: State,
        member: Member,
        ids: tuple[int, ...],
        validators: tuple[int, ...],
    ) -> TrainRequest:
        """What a node is asked to train and to judge."""
        known = {
            part: tuple(np.array(ids, dtype=int)[memory.heard[list(ids)].numpy()].tolist())
            for part, memory in state.received.items()
        }
        return TrainRequest(
            **self.common,
            round_number=self.exchange.round_number,
            since=int(self.heard[list(member.said.clients)].max()),
            ids=ids,
            known=known,
            validators=validators,
        )

    def _take(
        self, reception: Reception, request: TrainRequest, said: Trained, message: Message
    ) -> None:
        """One node's answer, whole or, where it is not what was asked for, not at all."""
        ids, number = request.ids, self.exchange.round_number
        _check_clients(said.ids, ids)
        if not ids:
            return
        sent, together = message.group(UP), len(ids) > 1
        new = {part: len(ids) - len(known) for part, known in request.known.items()}
        check("what it sends", sent, self.schema.message(number, len(ids), new, together))
        check_counts("what it sends", {name: sent[name] for name in sent if _is_count(name)})
        # From here on nothing is refused.
        parts = (*self.schema.parts(number), REPORT)
        reception.take(ids, {part: part_of(sent, part) for part in parts}, together)
        self.heard[list(ids)] = number

    def moments(self) -> Moments:
        """One exchange with all nodes.

        Raises
        ------
        RunError
            If a node does not send its sums: what it holds would have no part in them.
        """
        taking_part = self.members.in_order()
        late = {member.node: self._lacking(member.node) for member in taking_part}
        request = Request(**self.common)
        messages = {n: request.message(**{PREPROCESSING: lack}) for n, lack in late.items()}
        clients = {member.node: member.said.clients for member in taking_part}
        expected = moments_like(self.fed.problem.features.shape[1])
        sums = []
        recorded: Payload = {}
        for node, _, sent in self.exchange.ask("pair_moments", messages, Answered, clients):
            with self.exchange.believing(node, clients[node]):
                found = check("the moments", sent.group(MOMENTS), expected)
                check_counts("the moments", {COUNT: found[COUNT]})
                sums.append(found)
                who = "+".join(map(str, sorted(clients[node])))
                recorded |= named(f"{who}/{PAIR_MOMENTS}/{SUMS}", found)
        self._prepared()
        if len(sums) < len(taking_part):
            raise RunError(f"the start is not complete: {self.exchange.missing[-1].why}")
        if path := uploads_of(self.fed.config, self.out, 0):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_tensors(path, recorded)
        up = len(taking_part) * nbytes(expected)
        return Moments(add(sums), up, self._unaccounted(late))

    def judge(
        self, models: Sequence[Tensor], ids: Sequence[int], shares: Sequence[float] = ()
    ) -> Judgement:
        """One exchange about models.

        Raises
        ------
        RunError
            If fewer clients than the quorum are heard.
        """
        sent = {str(number): model for number, model in enumerate(models)}
        requests = {
            member.node: JudgeRequest(**self.common, ids=held, shares=tuple(shares))
            for member, held in self.members.holders(ids, needed=ids)
        }
        late = {node: self._lacking(node) for node in requests}
        messages = {
            node: one.message(**{MODELS: sent, PREPROCESSING: late[node]})
            for node, one in requests.items()
        }
        asked = {node: one.ids for node, one in requests.items()}
        verdicts = []
        for node, said, message in self.exchange.ask("judge", messages, Judged, asked):
            with self.exchange.believing(node, asked[node]):
                _check_clients(said.ids, asked[node])
                verdicts.append(self._verdict(message, asked[node], len(shares) or len(models)))
        self._prepared()
        heard = [client for one in verdicts for client in one.ids]
        self._quorum(heard, ids)
        return _joined(verdicts, len(requests) * nbytes(sent) + self._unaccounted(late))

    def _verdict(self, message: Message, ids: Sequence[int], models: int) -> Judgement:
        """A node's verdict, if it is of these clients and of so many models."""
        expected: Payload = {}
        if ids:
            numbers = torch.zeros(models, len(ids), dtype=torch.float64)
            expected = {"losses": numbers, "pairs": torch.zeros(len(ids), dtype=torch.long)}
            if self.fed.problem.PARTNERS:
                expected["recalls"] = numbers
        found = check("its verdict", message.group(VERDICT), expected)
        if not ids:
            return Judgement((), ((),) * models, ())
        check_counts("its verdict", {"pairs": found["pairs"]})
        losses, recalls = (
            tuple(tuple(row) for row in found[name].tolist()) if name in found else ()
            for name in ("losses", "recalls")
        )
        pairs = tuple(found["pairs"].tolist())
        return Judgement(tuple(ids), losses, pairs, recalls, nbytes(found))

    def _quorum(self, heard: Collection[int], asked: Collection[int]) -> None:
        share = len(set(heard) & set(asked)) / len(asked)
        quorum, number = self.fed.config.flower.quorum, self.exchange.round_number
        if share < quorum:
            missing = self.exchange.missing
            reasons = dict.fromkeys(m.why for m in missing if m.round_number == number)
            raise RunError(
                f"round {number}: {share:.0%} of {len(asked)} clients have answered, "
                f"flower.quorum = {quorum:g} ({'; '.join(reasons)})"
            )

    # ---- Preprocessing of those who have none ----------------------------------------------------

    def _lacking(self, node: int) -> Payload:
        return {} if self.members[node].prepared else self.preprocessing

    def _prepared(self) -> None:
        """Nodes that do with features what they were asked for have some."""
        for node, prepared in self.exchange.answered.items():
            self.members[node].prepared = prepared

    def _unaccounted(self, late: dict[int, Payload]) -> int:
        """Bytes of preprocessing that nobody has counted before the first round."""
        total = 0
        for node, payload in late.items():
            if payload and not self.members[node].accounted:
                self.members[node].accounted = True
                total += nbytes(payload)
        return total


def _check_clients(said: tuple[int, ...], asked: tuple[int, ...]) -> None:
    """Refuse an answer that is of others than those who were asked."""
    if said != asked:
        raise RefusedError(f"it answers for clients {list(said)}; {list(asked)} were asked")


def _is_count(name: str) -> bool:
    """Whether something of a message, by ``part/kind/name``, is weights or numbers of rows."""
    part, kind, *_ = name.split("/")
    if part == REPORT:
        return kind in (PAIRS, SIZES)
    return kind.removeprefix(ONCE) in (WEIGHTS, OWN_WEIGHTS)


def _joined(verdicts: Sequence[Judgement], down: int) -> Judgement:
    """All nodes' verdicts as one, in their order."""
    ids = tuple(client for one in verdicts for client in one.ids)
    pairs = tuple(number for one in verdicts for number in one.pairs)
    losses, recalls = (
        tuple(tuple(value for part in parts for value in part) for parts in by_model)
        for by_model in (
            zip(*(one.losses for one in verdicts), strict=True),
            zip(*(one.recalls for one in verdicts), strict=True),
        )
    )
    return Judgement(ids, losses, pairs, recalls, sum(one.bytes_up for one in verdicts), down)
