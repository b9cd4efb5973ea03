"""The form of everything that travels, from a round of one client whose pairs are noise.

So what either side is sent can be checked against what the method, as configured, sends.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch

from fedsyn import streams
from fedsyn.config import with_overrides
from fedsyn.core.cohort import Cohort
from fedsyn.core.payload import Payload
from fedsyn.federation.client import Task, answer, initial_model
from fedsyn.federation.federation import Federation
from fedsyn.synthesis import generators

PAIRS = 256  # enough for as many prototypes as there can be


@dataclass(frozen=True)
class Forms:
    """Tensors like those that travel; what they hold means nothing."""

    model: Payload  # [1, P] what every client receives, of most methods ...
    more: Payload  # [1, ...] ... and what some methods send beside it, at its largest
    rows: Payload  # [1, ...] what a client sends
    sums: Callable[[int], Payload]  # what the server hears of that many clients
    introduction: Payload  # [1, ...] what a client's synthesis sends once ...
    upload: Payload  # [1, ...] ... and in every round
    library: Payload  # [1, ...] both, as the server keeps them


def rehearse(fed: Federation) -> Forms:
    """Run one round of one client."""
    given = fed.config.method
    few = {
        "epochs": 1,
        "creff": given.creff.model_dump() | {"repeats": 1, "steps": 1, "classifier_epochs": 1},
        "feddm": given.feddm.model_dump() | {"steps": 1},
    }
    still = {"steps": min(1, fed.config.synthesis.steps), "critic_warmup": 0}
    config = with_overrides(fed.config, method=few, synthesis=still)
    method, net = fed.method, fed.problem.net
    stream = streams.generator(0, "rehearsal")
    round = max(config.synthesis.first_round, 1)
    cohort = Cohort((0,), (np.arange(PAIRS),), config.run.seed, round)
    problem = fed.problem.noise(PAIRS, stream)
    state = method.init(problem, initial_model(net, config.run.seed), len(fed.silos))
    task = Task(cohort, problem, method.down(state, (0,)), torch.tensor([False]), {})
    reply = answer(config, method, task)

    @cache
    def sums(clients: int) -> Payload:
        many = {name: v.expand(clients, *v.shape[1:]) for name, v in reply.payload.items()}
        sizes = torch.full((clients,), PAIRS)
        return method.hear({}, tuple(range(clients)), many, sizes, config.method)

    state = method.server(problem, state, sums(1), config.method, stream)
    more = method.down(state, (0,))
    model = {"model": more.pop("model")} if method.sends_model else {}
    own = config.synthesis
    on = config.trains_generators
    introduction = generators.introduction(reply.kept, own) if on else {}
    upload = generators.upload(reply.kept, own) | _trained(reply.kept) if on else {}
    names = introduction.keys() | upload.keys()
    library = {name: reply.kept[name] for name in sorted(names)}
    return Forms(model, more, reply.payload, sums, introduction, upload, library)


def _trained(kept: Payload) -> Payload:
    """How often a client's generator has been trained, which the server has to know."""
    return {"trained": kept["trained"]}
