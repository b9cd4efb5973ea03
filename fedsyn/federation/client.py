"""What a chunk of clients does in a round, stacked: plain data in, plain data out."""

from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedsyn import streams
from fedsyn.config import Config
from fedsyn.core.cohort import Cohort, Extra
from fedsyn.core.graphs import recording
from fedsyn.core.payload import Payload, nbytes
from fedsyn.methods.base import Method, Problem
from fedsyn.profiling import phase
from fedsyn.synthesis import generators
from fedsyn.synthesis.completion import complete
from fedsyn.tasks.base import Net
from fedsyn.tasks.retrieval import RetrievalProblem

METHOD = "method."  # before the names of what a client keeps for the method


@dataclass(frozen=True)
class Task:
    """The clients, what they hold and what they receive."""

    cohort: Cohort
    problem: Problem  # whose features hold at least the cohort's rows
    payload: Payload  # [C, ...] of the method
    known: Tensor  # [C] bool, the clients that kept something from an earlier round
    kept: Payload  # [known, ...] what they kept
    shared: Payload = field(default_factory=dict)  # ``pairs [S, D]``, or nothing, sent to all
    images: tuple[np.ndarray, ...] = ()  # rows of each client to complete, images ...
    texts: tuple[np.ndarray, ...] = ()  # ... and texts; none where nobody completes

    def to(self, device: torch.device) -> "Task":
        """The same with all tensors on ``device``."""
        payloads = (self.payload, self.kept, self.shared)
        payload, kept, shared = (_moved(p, device) for p in payloads)
        problem = self.problem.to(device)
        return replace(self, problem=problem, payload=payload, kept=kept, shared=shared)


@dataclass(frozen=True)
class Reply:
    """What they send, and what stays with them."""

    payload: Payload  # [C, ...] of the method
    kept: Payload  # [C, ...]; of it `generators.upload`, and once `introduction`, go to the server
    losses: dict[str, Tensor]  # [C] by name
    bytes_up: int
    sizes: Tensor  # [C] long, on the host: pairs that each has trained on

    def to(self, device: torch.device) -> "Reply":
        """The same with all tensors on ``device``."""
        payload, kept, losses = (_moved(p, device) for p in (self.payload, self.kept, self.losses))
        return replace(self, payload=payload, kept=kept, losses=losses)


def _moved(payload: Payload, device: torch.device) -> Payload:
    return {name: value.to(device) for name, value in payload.items()}


def initial_model(net: Net, seed: int) -> Tensor:
    """The model ``[P]`` that everybody starts from, private networks included."""
    return net.init(streams.generator(seed, "model"))


def answer(config: Config, method: Method[Any], task: Task) -> Reply:
    """One round of a chunk of clients."""
    with recording(config.engine.graphs):
        return _answer(config, method, task)


def _answer(config: Config, method: Method[Any], task: Task) -> Reply:
    kept = _with_newcomers(config, method, task)
    mine = {k.removeprefix(METHOD): v for k, v in kept.items() if k.startswith(METHOD)}
    with phase("gather"):
        problem, cohort = _with_shared(config, task)
    with phase("local"):
        payload, mine, loss = method.client(problem, task.payload, mine, cohort, config.method)
    kept |= {f"{METHOD}{name}": value for name, value in mine.items()}
    losses, bytes_up, sizes = {"local": loss}, nbytes(payload), torch.tensor(cohort.sizes)
    if not generates(config, task.cohort.round):
        return Reply(payload, kept, losses, bytes_up, sizes)
    encoder, pairs, own = _encoder(config, task, kept), _pairs(task.problem), config.synthesis
    losses |= generators.train(kept, pairs.features, task.cohort, own, pairs.net, encoder)
    beginners = int((kept["trained"] == 1).sum())
    bytes_up += nbytes(generators.upload(kept, own))
    bytes_up += beginners * nbytes(generators.introduction(kept, own)) // len(sizes)
    return Reply(payload, kept, losses, bytes_up, sizes)


def _encoder(config: Config, task: Task, kept: Payload) -> Tensor:
    """The networks ``[C, P]`` through which clients look at generated pairs, as configured.

    Private ones are trained here, unless the method has some that it trains itself.
    """
    received = task.payload["model"]
    if "frozen" in kept:
        first = kept["trained"] == 0
        kept["frozen"][first] = received[first]
        return kept["frozen"]
    if not config.keeps_private_models:
        return received
    if f"{METHOD}private" in kept:
        return kept[f"{METHOD}private"]
    with phase("local"):
        kept["private"], _ = task.problem.train(
            kept["private"], task.cohort, config.method, "private"
        )
    return kept["private"]


def _pairs(problem: Problem) -> RetrievalProblem:
    """The problem of a run with synthesis, which is of pairs (`Config.synthesis_mode`)."""
    assert isinstance(problem, RetrievalProblem)
    return problem


def generates(config: Config, round: int) -> bool:
    """Whether clients train their generators in this round."""
    first, last = config.synthesis.first_round, config.synthesis.last_round
    return config.trains_generators and first <= round and (round <= last or not last)


def _with_shared(config: Config, task: Task) -> tuple[Problem, Cohort]:
    """What clients train the method's model on: their pairs, and what they make of those sent.

    Private networks and generators train on real pairs alone.
    """
    problem, cohort = task.problem, task.cohort
    if not task.shared:
        return problem, cohort
    problem, shared = _pairs(problem), task.shared["pairs"]
    held = [problem.features[torch.from_numpy(rows)] for rows in cohort.rows]
    if task.images:
        image_dim = problem.net.image.widths[0]
        more = complete(problem.features, image_dim, cohort, task.images, task.texts, shared)
        held = [torch.cat(both) for both in zip(held, more, strict=True)]
    features = torch.cat([*held, shared])
    bounds = np.cumsum([0, *map(len, held)])
    rows = tuple(np.arange(begin, end) for begin, end in pairwise(bounds))
    extra = Extra(
        np.arange(bounds[-1], len(features)), min(config.synthesis.shared_batch, len(shared))
    )
    return replace(problem, features=features), replace(cohort, rows=rows, extra=extra)


def _with_newcomers(config: Config, method: Method[Any], task: Task) -> Payload:
    """What all clients of the chunk have kept; those who take part for the first time, begin."""
    new = (~task.known).nonzero().squeeze(-1)
    if not len(new) or (method.keep is None and not config.trains_generators):
        return task.kept
    features = task.problem.features
    newcomers = replace(task.cohort.take(new.tolist()), round=0)
    model = initial_model(task.problem.net, config.run.seed).to(features.device)
    kept = {} if method.keep is None else method.keep(task.problem, model)
    own = {f"{METHOD}{name}": value for name, value in kept.items()}
    if config.keeps_private_models and f"{METHOD}private" not in own:
        own["private"] = model
    if config.trains_generators and config.synthesis.encoder == "frozen":
        own["frozen"] = model
    fresh = {name: value.expand(len(new), *value.shape).clone() for name, value in own.items()}
    if config.trains_generators:
        with phase("prototypes"):
            code = _pairs(task.problem).net.code
            fresh |= generators.init(features, newcomers, config.synthesis, code)
    old = task.known.nonzero().squeeze(-1)
    whole = {}
    for name, value in fresh.items():
        rows = value.new_empty(len(task.known), *value.shape[1:])
        rows[new.to(value.device)] = value
        if len(old):
            rows[old.to(value.device)] = task.kept[name]
        whole[name] = rows
    return whole
