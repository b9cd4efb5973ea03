"""Where prototypes and directions come from: all clients' pairs, or each client's own."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from fedsyn.core.cohort import Cohort
from fedsyn.core.extension import ClientView, ServerView
from fedsyn.core.payload import Payload
from fedsyn.core.wire import Library, Sum, Upload, halved
from fedsyn.synthesis import clusters, prototypes
from fedsyn.synthesis.clusters import CENTRES, COUNTS, LEFT, PROTOTYPES
from fedsyn.synthesis.directions import BASIS, FREEDOM, SCATTER, pooled_basis, with_basis
from fedsyn.synthesis.settings import SynthesisConfig

HALF = "float16"  # of ``synthesis.upload``
GIVEN = (PROTOTYPES, COUNTS, BASIS)  # what generators are of
EVERYBODY = 0  # stands for all clients where none is seen alone


class Given(NamedTuple):
    """What clients' generators are of, in one round.

    Attributes
    ----------
    prototypes : Tensor of shape [C, M, D]
    counts : Tensor of shape [C, M] long
        A client's pairs at each; 0 where there is none.
    basis : Tensor of shape [C, noise, D]
        Directions; zero while they are not known.
    upload : Upload
        What is sent of all this.
    """

    prototypes: Tensor
    counts: Tensor
    basis: Tensor
    upload: Upload


@dataclass(frozen=True)
class Source:
    """Where they come from.

    Attributes
    ----------
    begin : ``(moments, config, seed) -> state``
        What the server has kept before round 1, by the moments of all pairs; ``None`` where
        nothing.
    broadcast : ``(state, learns) -> payload``
        What of the server's state clients look at; ``learns`` says whether they train generators.
    client_state : ``(features [N, D], cohort, config) -> payload [C, ...]``
        What clients keep.
    given : ``(view, state, alone) -> Given``
        What their generators are of; ``alone`` says whether the server looks at clients one by
        one.
    library : ``(view, alone) -> library, state``
        The same as the server knows it, and what it keeps.
    """

    begin: Callable[[Mapping[str, Tensor], SynthesisConfig, int], Payload] | None
    broadcast: Callable[[Payload, bool], Payload]
    client_state: Callable[[Tensor, Cohort, SynthesisConfig], Payload]
    given: Callable[[ClientView, Payload, bool], Given]
    library: Callable[[ServerView, bool], tuple[Library, Payload]]


# ---- All clients' -------------------------------------------------------------------------------


def _nothing(features: Tensor, cohort: Cohort, config: SynthesisConfig) -> Payload:
    return {}


def _of_all(view: ClientView, state: Payload, alone: bool) -> Given:
    config, features = view.config, view.problem.features
    centres, left = view.received[CENTRES].to(features), int(view.received[LEFT])
    chosen = clusters.part(view.cohort, left, config.cluster_rounds)
    points, owner, counts = clusters.assign(features, chosen, centres, config.min_cluster)
    sums = clusters.sums(points, owner, counts)
    if alone:
        *_, counts = clusters.assign(features, view.cohort, centres, config.min_cluster)
    own = {COUNTS: counts} if alone else {}
    clients = len(counts)
    none = features.new_zeros(config.noise, features.shape[1])
    basis = view.received.get(BASIS, none).to(features).repeat(clients, 1, 1)
    return Given(centres.repeat(clients, 1, 1), counts, basis, Upload(sums, own))


def _library_of_all(view: ServerView, alone: bool) -> tuple[Library, Payload]:
    state = clusters.update(view.state, view.uploads, view.config, view.fraction)
    device = view.model.device
    made = clusters.known(state)
    prototypes = state[CENTRES] if alone else made[PROTOTYPES]  # clients know the centres alone
    known = {PROTOTYPES: prototypes.to(device), BASIS: state[BASIS].to(device)}

    def take(ids: Sequence[int], names: Sequence[str]) -> Payload:
        rest = [name for name in names if name not in known]
        found: Payload = {}
        if alone and (rest or not names):
            found = view.uploads.library.take(ids, rest)
        elif not alone and (COUNTS in rest or not names):
            found = {COUNTS: made[COUNTS][None].to(device)}
        wanted = {name: value for name, value in known.items() if name in names or not names}
        return found | {name: value.expand(len(ids), -1, -1) for name, value in wanted.items()}

    ids = view.uploads.library.ids if alone else (EVERYBODY,)
    return Library(ids, take), state


def _sent_to_all(state: Payload, learns: bool) -> Payload:
    if not learns and not int(state[LEFT]):
        return {}
    return {name: state[name] for name in (CENTRES, LEFT, *((BASIS,) * learns))}


ALL = Source(clusters.begin, _sent_to_all, _nothing, _of_all, _library_of_all)


# ---- A client's own -----------------------------------------------------------------------------


def _fitted(features: Tensor, cohort: Cohort, config: SynthesisConfig) -> Payload:
    fitted = prototypes.fit(features, cohort, config)
    if config.upload != HALF:
        return fitted
    # The client goes by what the server will see of what is its own.
    return {k: v if k in (SCATTER, FREEDOM) else halved(v) for k, v in fitted.items()}


def _of_its_own(view: ClientView, state: Payload, alone: bool) -> Given:
    config, clients = view.config, len(view.cohort.ids)
    own = {name: state[name] for name in GIVEN if name in state}
    sums = {}
    if SCATTER in state:
        sums[SCATTER] = Sum(state[SCATTER], state[FREEDOM].cpu(), weighted=False)
    basis = state.get(BASIS)
    if basis is None:
        none = view.problem.features.new_zeros(config.noise, view.problem.features.shape[1])
        basis = view.received.get(BASIS, none).repeat(clients, 1, 1)
    half = frozenset(own if config.upload == HALF else ())
    upload = Upload(sums, own, once=frozenset([*own, *sums]), half=half)
    return Given(state[PROTOTYPES], state[COUNTS], basis, upload)


def _library_of_its_own(view: ServerView, alone: bool) -> tuple[Library, Payload]:
    config, library = view.config, view.uploads.library
    if config.directions == "own":
        return library, {}
    width = view.problem.features.shape[1]
    state = pooled_basis(view.uploads, view.state, width, config.noise, view.seed)
    basis = state.get(BASIS, torch.zeros(config.noise, width))
    return with_basis(library, basis.to(view.model)), state


def _sent_back(state: Payload, learns: bool) -> Payload:
    return {BASIS: state[BASIS]} if learns and BASIS in state else {}


OWN = Source(None, _sent_back, _fitted, _of_its_own, _library_of_its_own)
SOURCES = {"all": ALL, "own": OWN}
