"""What a chunk of clients does in a round, stacked: plain data in, plain data out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedsyn import streams
from fedsyn.core.cohort import Cohort
from fedsyn.core.extension import ClientResult, ClientView, Examples, Extension
from fedsyn.core.graphs import recording
from fedsyn.core.payload import Payload, named, part_of
from fedsyn.core.wire import Upload
from fedsyn.methods.base import Method, MethodConfig
from fedsyn.profiling import phase
from fedsyn.settings.sections import Section
from fedsyn.tasks.base import Net, Problem

METHOD = "method"  # the part of the method, beside those of the extensions, which have their names
LOCAL = "local"  # the loss of the method's training


@dataclass(frozen=True)
class Plan:
    """What clients do, whoever they are."""

    method: Method[Any]
    config: MethodConfig
    extensions: tuple[tuple[Extension, Section], ...]
    seed: int
    graphs: bool = False

    def taking_part(
        self, round_number: int
    ) -> tuple[tuple[str, Callable[..., ClientResult], Section], ...]:
        """Name, client part and options of the extensions in which clients do theirs now."""
        return tuple(
            (extension.name, extension.client, own)
            for extension, own in self.extensions
            if extension.client is not None and extension.takes_part(own, round_number)
        )

    @property
    def keeps(self) -> bool:
        """Whether clients keep anything between rounds."""
        begins = (extension.client_state for extension, _ in self.extensions)
        return any(begin is not None for begin in (self.method.client_state, *begins))

    @property
    def exposed(self) -> frozenset[str]:
        """The method's sums that an extension reads client by client."""
        return frozenset(name for extension, _ in self.extensions for name in extension.reads)


@dataclass(frozen=True)
class Assignment:
    """The clients of a chunk, what they hold and what they receive."""

    cohort: Cohort
    problem: Problem  # whose features hold at least the cohort's rows
    received: Mapping[str, Payload]  # by part: of the method [C, ...], of extensions sent to all
    known: Tensor  # [C] bool, the clients that have kept something from an earlier round
    state: Payload  # [known, ...] what they have kept, by "part/name"
    images: tuple[np.ndarray, ...] = ()  # rows of each client that lost a half, images ...
    texts: tuple[np.ndarray, ...] = ()  # ... and texts; none where nobody looks at them

    def to(self, device: torch.device) -> "Assignment":
        """The same with all tensors on ``device``."""
        received = {part: _moved(payload, device) for part, payload in self.received.items()}
        problem, state = self.problem.to(device), _moved(self.state, device)
        return replace(self, problem=problem, received=received, state=state)


@dataclass(frozen=True)
class Answer:
    """What they send, and what stays with them."""

    uploads: Mapping[str, Upload]  # by part
    state: Payload  # [C, ...], by "part/name"
    losses: Mapping[str, Mapping[str, Tensor]]  # [C], by part and by name
    sizes: Tensor  # [C] long, on the host: pairs that each has trained on

    def to(self, device: torch.device) -> "Answer":
        """The same with all tensors on ``device``."""
        uploads = {
            part: replace(
                upload,
                sums={
                    name: replace(one, value=one.value.to(device))
                    for name, one in upload.sums.items()
                },
                own=_moved(upload.own, device),
            )
            for part, upload in self.uploads.items()
        }
        losses = {part: _moved(mine, device) for part, mine in self.losses.items()}
        return replace(self, uploads=uploads, state=_moved(self.state, device), losses=losses)


def _moved(payload: Mapping[str, Tensor], device: torch.device) -> Payload:
    return {name: value.to(device) for name, value in payload.items()}


def initial_model(net: Net, seed: int) -> Tensor:
    """The model ``[P]`` that everybody starts from, where sums over clients give no other."""
    return net.init(streams.generator(seed, "model"))


def answer(plan: Plan, work: Assignment) -> Answer:
    """One round of a chunk of clients."""
    with recording(plan.graphs):
        return _answer(plan, work)


def _answer(plan: Plan, work: Assignment) -> Answer:
    kept = _with_newcomers(plan, work)
    method, received = plan.method, work.received[METHOD]
    with phase("gather"):
        examples = Examples(work.problem, work.cohort, work.images, work.texts)
        for extension, own in plan.extensions:
            if extension.examples is not None:
                sent = work.received.get(extension.name, {})
                examples = extension.examples(examples, sent, own)
    with phase("local"):
        update = method.client(
            examples.problem, received, part_of(kept, METHOD), examples.cohort, plan.config
        )
    kept |= named(METHOD, update.state)
    uploads, losses = {METHOD: update.upload}, {METHOD: {LOCAL: update.losses}}
    for name, client, own in plan.taking_part(work.cohort.round_number):
        private = update.state[method.private] if method.private else None
        sent = work.received.get(name, {})
        view = ClientView(
            work.problem, work.cohort, received["model"], own, plan.config, private, sent
        )
        result = client(view, part_of(kept, name))
        kept |= named(name, result.state)
        uploads[name], losses[name] = result.upload, result.losses
    return Answer(uploads, kept, losses, torch.tensor(examples.cohort.sizes))


def _with_newcomers(plan: Plan, work: Assignment) -> Payload:
    """What all clients of the chunk have kept; those who take part for the first time, begin."""
    new = (~work.known).nonzero().squeeze(-1)
    if not len(new) or not plan.keeps:
        return dict(work.state)
    # (Who receives a model begins with it; all receive the same.)
    model = work.received[METHOD].get("model")
    first = initial_model(work.problem.net, plan.seed) if model is None else model[0]
    fresh = _begun(plan, work.problem, work.cohort.take(new.tolist()), first)
    old = work.known.nonzero().squeeze(-1)
    whole = {}
    for name, value in fresh.items():
        rows = value.new_empty(len(work.known), *value.shape[1:])
        rows[new.to(value.device)] = value
        if len(old):
            rows[old.to(value.device)] = work.state[name]
        whole[name] = rows
    return whole


def _begun(plan: Plan, problem: Problem, newcomers: Cohort, model: Tensor) -> Payload:
    """What clients have kept before their first round ``[C, ...]``."""
    method, number = plan.method, len(newcomers.ids)
    model = model.to(problem.features.device)
    own = {} if method.client_state is None else method.client_state(problem, model)
    fresh = {
        name: value.expand(number, *value.shape).clone()
        for name, value in named(METHOD, own).items()
    }
    before = replace(newcomers, round_number=0)
    for extension, config in plan.extensions:
        if extension.client_state is not None:
            state = extension.client_state(problem, model, before, config, bool(method.private))
            fresh |= named(extension.name, state)
    return fresh
