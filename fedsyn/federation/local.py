"""The clients of this process: chunks, stacked, one after another or on devices.

Memory is bounded by the chunks: replies are added up as they come, and what clients keep lies where
`fedsyn.federation.store.ClientRows` puts it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedsyn.config import MethodConfig
from fedsyn.core.cohort import Cohort, chunks
from fedsyn.core.payload import Payload, nbytes
from fedsyn.federation.client import Task
from fedsyn.federation.devices import Devices
from fedsyn.federation.evaluation import Judgement, held_out_losses
from fedsyn.federation.federation import Federation
from fedsyn.federation.rounds import Heard
from fedsyn.federation.state import State
from fedsyn.federation.store import ClientRows
from fedsyn.profiling import phase

Hear = Callable[[Payload, tuple[int, ...], Payload, Tensor, MethodConfig], Payload]


@dataclass(frozen=True)
class Here:
    """The fleet of a simulation: what a client keeps is all in ``state.clients``."""

    fed: Federation
    devices: Devices
    late = False

    def train(self, state: State, ids: Sequence[int], judge: bool) -> Heard:
        """One round of these clients; nobody is missing."""
        fed, server = self.fed, state.server
        heard = train(
            fed, state.clients, self.devices, ids, state.round + 1,
            down=lambda part: fed.method.down(server, part), shared=state.shared,
            hear=fed.method.hear,
        )  # fmt: skip
        judgement = self.judge([server["model"]], fed.panel) if judge else None
        return replace(heard, judgement=judgement)

    def judge(
        self, models: Sequence[Tensor], ids: Sequence[int], initial: bool = False
    ) -> Judgement:
        """Models on the held-out pairs of these clients."""
        # The first is the aggregated one, which is sent anyway; one number a model comes back.
        sent = sum(nbytes({"model": model}) for model in models[1:])
        judgement = held_out_losses(self.fed, models, ids, initial)
        back = len(judgement.losses) * models[0].element_size()
        return replace(judgement, bytes_down=len(ids) * sent, bytes_up=len(ids) * back)


def train(
    fed: Federation,
    clients: ClientRows,
    devices: Devices,
    ids: Sequence[int],
    round: int,
    down: Callable[[tuple[int, ...]], Payload],
    shared: Payload,
    hear: Hear,
) -> Heard:
    """One round of these clients: ``down`` is what they receive, ``hear`` takes in what they send.

    What they keep is put into ``clients``.
    """
    config = fed.config
    cohort = Cohort(tuple(ids), tuple(fed.rows(c) for c in ids), config.run.seed, round)
    heard: Payload = {}
    losses: dict[str, list[Tensor]] = {}
    sizes: list[Tensor] = []
    models: list[Tensor] = []
    up = place = 0
    tasks = _tasks(fed, clients, cohort, devices, down, shared)
    for reply in devices.answers(tasks):
        part = cohort.ids[place : place + len(reply.sizes)]
        place += len(part)
        up += reply.bytes_up
        sizes.append(reply.sizes)
        if config.synthesis.server == "fedftg" and config.trains_generators:
            models.append(reply.payload["model"].to(fed.device))
        if reply.kept:
            with phase("upload"):
                clients.put(part, reply.kept)
        with phase("aggregate"):
            heard = hear(heard, part, reply.payload, reply.sizes, config.method)
        for name, value in reply.losses.items():
            losses.setdefault(name, []).append(value)
    return Heard(
        cohort.ids,
        heard,
        pairs=torch.tensor(cohort.sizes),
        sizes=torch.cat(sizes),
        losses={name: torch.cat(values) for name, values in losses.items()},
        models=tuple(models),
        bytes_up=up,
        bytes_down=len(ids) * (nbytes(down(cohort.ids[:1])) + nbytes(shared)),
    )


def _tasks(
    fed: Federation,
    clients: ClientRows,
    cohort: Cohort,
    devices: Devices,
    down: Callable[[tuple[int, ...]], Payload],
    shared: Payload,
) -> Iterator[Task]:
    """The chunks of a cohort, each made when it can be worked on."""
    completing = fed.config.synthesis.complete and bool(shared)
    for chunk in chunks(cohort, fed.stack, devices.workers):
        silos, count = [fed.silos[client] for client in chunk.ids], len(chunk.ids)
        halves = [*(s.images for s in silos), *(s.texts for s in silos)] if completing else []
        problem, places = fed.near([*chunk.rows, *halves], devices.device)
        with phase("gather"):
            known = clients.has(chunk.ids)
            old = [client for client, is_known in zip(chunk.ids, known, strict=True) if is_known]
            kept = clients.take(old) if old else {}
            payload = down(chunk.ids)
            sent = {name: value.to(devices.device) for name, value in shared.items()}
        here = replace(chunk, rows=places[:count])
        images, texts = places[count : 2 * count], places[2 * count :]
        yield Task(here, problem, payload, known, kept, sent, images, texts)
