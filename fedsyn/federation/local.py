"""The clients of this process: chunks, stacked, one after another or on devices.

Memory is bounded by the chunks: uploads are added up as they come, and what clients keep lies where
`fedsyn.federation.store.ClientStore` puts it. The server gets what clients send, and nothing else.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from fedsyn.core.cohort import Cohort, chunks
from fedsyn.core.judgement import Judgement
from fedsyn.core.payload import Payload, named, nbytes
from fedsyn.core.wire import SUMS, send
from fedsyn.data.moments import pair_moments
from fedsyn.data.preprocessing import add
from fedsyn.federation.checkpoint import State
from fedsyn.federation.client import METHOD, Answer, Assignment
from fedsyn.federation.devices import Devices
from fedsyn.federation.evaluation import held_out_losses
from fedsyn.federation.federation import Federation
from fedsyn.federation.fleet import Answers, Moments
from fedsyn.federation.received import REPORT, Message, Reception, Report
from fedsyn.federation.records import uploads_of, write_tensors
from fedsyn.federation.store import ClientStore
from fedsyn.profiling import phase

MOMENTS = "moments"  # the part that they are recorded as
# What these clients receive: of the method [C, ...], of extensions what all are sent alike.
Broadcast = Callable[[tuple[int, ...]], Mapping[str, Payload]]
# What is done with what these clients have sent.
Take = Callable[[tuple[int, ...], Message], None]


@dataclass(frozen=True)
class LocalFleet:
    """The fleet of a simulation."""

    fed: Federation
    devices: Devices
    clients: ClientStore  # what clients keep
    out: Path | None = None  # the run's directory, for what is recorded there
    late = False

    def train(self, state: State, ids: Sequence[int], judge: bool) -> Answers:
        """One round of these clients; nobody is missing."""
        fed, number = self.fed, state.round_number + 1
        broadcast = broadcasting(fed, state)
        reception = Reception(state.received, uploads_of(fed.config, self.out, number))
        new, take = reception.new, reception.take
        train(fed, self.clients, self.devices, ids, number, broadcast, new, take)
        reception.close()
        validators = fed.validators
        judgement = self.judge([state.server["model"]], validators) if judge else None
        one = broadcast(tuple(ids[:1])) if ids else {}
        return Answers(
            tuple(ids),
            reception.uploads(),
            reception.report,
            bytes_up=reception.bytes,
            bytes_down=len(ids) * sum(map(nbytes, one.values())),
            judgement=judgement,
        )

    def moments(self) -> Moments:
        """Added up one client after another; where all pairs are in one place they cost nothing."""
        fed, recorded = self.fed, Payload()
        each = pair_moments(fed.problem.features, [silo.pairs for silo in fed.silos])
        total: Payload = {}
        for client, mine in enumerate(each):
            if fed.config.run.record_uploads:
                recorded |= named(f"{client}/{MOMENTS}/{SUMS}", mine)
            total = add([total, mine]) if total else mine
        if (path := uploads_of(fed.config, self.out, 0)) and recorded:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_tensors(path, recorded)
        free = fed.config.plugins.needs.pooled
        return Moments(total, bytes_up=0 if free else len(fed.silos) * nbytes(total))

    def judge(
        self, models: Sequence[Tensor], ids: Sequence[int], shares: Sequence[float] = ()
    ) -> Judgement:
        """Models on the held-out pairs of these clients."""
        judgement = held_out_losses(self.fed, models, ids, shares)
        sent = sum(nbytes({"model": model[:1]}) for model in models)
        return replace(
            judgement, bytes_down=len(ids) * sent, bytes_up=len(ids) * verdict_bytes(judgement)
        )

    def tensors(self) -> Payload:
        """What clients keep, for a checkpoint."""
        return self.clients.tensors()

    def saved(self) -> None:
        """Rows that the checkpoint does not refer to may go."""
        self.clients.saved()


def verdict_bytes(judgement: Judgement) -> int:
    """What a client's verdict weighs: its numbers of each model, and of rows, 8 bytes each."""
    return 8 * (len(judgement.losses) + len(judgement.recalls) + 1)


def broadcasting(fed: Federation, state: State) -> Broadcast:
    """What clients receive in the round after ``state``."""
    common = {
        extension.name: extension.broadcast(state.extensions.get(extension.name, {}))
        for extension, _ in fed.plan.extensions
        if extension.broadcast is not None
    }
    return lambda ids: {METHOD: fed.plan.method.broadcast(state.server, ids), **common}


def train(
    fed: Federation,
    clients: ClientStore,
    devices: Devices,
    ids: Sequence[int],
    round_number: int,
    broadcast: Broadcast,
    new: Callable[[str, Sequence[int]], Tensor],
    take: Take,
) -> None:
    """One round of these clients, in client order.

    Parameters
    ----------
    fed, clients, devices
        What they keep is put into ``clients``.
    ids : sequence of int
    round_number : int
    broadcast : callable
        What they receive.
    new : ``(part, ids) -> bool [C]``
        Clients of whom the server has nothing yet of a part.
    take : callable
        Told of what each chunk of them has sent.
    """
    plan = fed.plan
    cohort = Cohort(tuple(ids), tuple(fed.rows(c) for c in ids), plan.seed, round_number)
    sizes, place = cohort.sizes, 0
    for answer in devices.answers(_assignments(fed, clients, cohort, devices, broadcast)):
        part = cohort.ids[place : place + len(answer.sizes)]
        pairs = torch.tensor(sizes[place : place + len(part)])
        place += len(part)
        if answer.state:
            with phase("upload"):
                clients.put(part, answer.state)
        with phase("aggregate"):
            take(part, _message(fed, answer, pairs, part, new))


def _message(
    fed: Federation,
    answer: Answer,
    pairs: Tensor,
    ids: Sequence[int],
    new: Callable[[str, Sequence[int]], Tensor],
) -> Message:
    """What a chunk of clients sends."""
    sent = {
        part: send(upload, new(part, ids), fed.plan.exposed if part == METHOD else ())
        for part, upload in answer.uploads.items()
    }
    losses = {name: value for mine in answer.losses.values() for name, value in mine.items()}
    return {**sent, REPORT: Report(pairs, answer.sizes, losses).sent()}


def _assignments(
    fed: Federation,
    clients: ClientStore,
    cohort: Cohort,
    devices: Devices,
    broadcast: Broadcast,
) -> Iterator[Assignment]:
    """The chunks of a cohort, each made when it can be worked on."""
    for chunk in chunks(cohort, fed.stack, devices.workers):
        silos, count = [fed.silos[client] for client in chunk.ids], len(chunk.ids)
        received = broadcast(chunk.ids)
        completing = any(
            extension.completes(own) and received.get(extension.name)
            for extension, own in fed.plan.extensions
        )
        halves = [*(s.images for s in silos), *(s.texts for s in silos)] if completing else []
        problem, places = fed.near([*chunk.rows, *halves], devices.device)
        with phase("gather"):
            known = clients.has(chunk.ids)
            old = [client for client, is_known in zip(chunk.ids, known, strict=True) if is_known]
            kept = clients.take(old) if old else {}
            common = {
                part: {name: value.to(devices.device) for name, value in payload.items()}
                for part, payload in received.items()
                if part != METHOD
            }
        here = replace(chunk, rows=places[:count])
        images, texts = places[count : 2 * count], places[2 * count :]
        yield Assignment(
            here, problem, {METHOD: received[METHOD], **common}, known, kept, images, texts
        )
