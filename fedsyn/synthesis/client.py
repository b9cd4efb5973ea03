"""What a client does for synthesis: its prototypes once, its generator in every round."""

from dataclasses import replace

import torch
from torch import Tensor

from fedsyn.core.cohort import Cohort
from fedsyn.core.extension import ClientResult, ClientView
from fedsyn.core.payload import Payload
from fedsyn.models.retrieval import fuse
from fedsyn.profiling import phase
from fedsyn.synthesis.clusters import COUNTS, PROTOTYPES
from fedsyn.synthesis.directions import BASIS
from fedsyn.synthesis.generators.base import Generator, GeneratorTraining
from fedsyn.synthesis.settings import SynthesisConfig
from fedsyn.synthesis.sources import HALF, Source
from fedsyn.tasks.retrieval import RetrievalProblem


def keeps_private_models(config: SynthesisConfig, generator: Generator) -> bool:
    """Whether clients need models of their own, for constraint losses or for prototypes."""
    looks = generator.looks(config) and config.encoder == "private"
    return looks or config.space == "private"


def client_state(
    problem: RetrievalProblem,
    model: Tensor,
    cohort: Cohort,
    config: SynthesisConfig,
    private: bool,
    *,
    generator: Generator,
    source: Source,
) -> Payload:
    """A cohort's state before its first round, stacked ``[C, ...]``.

    ``trained`` counts the rounds in which a client's generator was trained.
    """
    features, clients = problem.features, len(cohort.ids)
    state: Payload = {}
    if keeps_private_models(config, generator) and not private:
        state["private"] = model.expand(clients, -1).clone()
    if config.encoder == "frozen":
        state["frozen"] = model.expand(clients, -1).clone()
    with phase("prototypes"):
        state |= source.client_state(features, cohort, config)
        state["trained"] = torch.zeros(clients, dtype=torch.long, device=features.device)
        if config.space == "private":
            state["embedded"] = features.new_zeros(*state["counts"].shape, problem.net.code)
        state |= generator.prepare(state, features, cohort, config)
    return state


def client(
    view: ClientView, state: Payload, *, generator: Generator, source: Source, alone: bool
) -> ClientResult:
    """A round's training of the generator, and what is sent of it.

    ``alone`` says whether the server looks at clients one by one.
    """
    config, net = view.config, view.problem.net
    encoder = _encoder(view, state, generator)
    given = source.given(view, state, alone)
    sizes = torch.tensor(view.cohort.sizes, device=given.counts.device)
    able = (given.counts.sum(-1) > 0) & (sizes > 0)
    training = GeneratorTraining(view.problem.features, view.cohort, able, config, net, encoder)
    # (Where they are not what clients keep, they are theirs for this round.)
    lent = {PROTOTYPES: given.prototypes, COUNTS: given.counts, BASIS: given.basis}
    lent = {name: value for name, value in lent.items() if name not in state}
    state |= lent
    losses = generator.train(state, training)
    for name in lent:
        del state[name]
    state["trained"] += able
    made = generator.upload(state)
    if config.space == "private":
        state["embedded"] = fuse(*net.embed(encoder, given.prototypes))
        made |= {"embedded": state["embedded"]}
    half = given.upload.half | frozenset(made if config.upload == HALF else ())
    upload = replace(given.upload, own={**given.upload.own, **made}, half=half)
    return ClientResult(upload, state, losses)


def _encoder(view: ClientView, state: Payload, generator: Generator) -> Tensor:
    """The models ``[C, P]`` through which clients look at generated pairs, as configured.

    Private ones are trained here, unless the method has some that it trains itself.
    """
    if "frozen" in state:
        first = state["trained"] == 0
        state["frozen"][first] = view.model[first]
        return state["frozen"]
    if not keeps_private_models(view.config, generator):
        return view.model
    if view.private is not None:
        return view.private
    with phase("local"):
        state["private"], _ = view.problem.train(
            state["private"], view.cohort, view.training, "private"
        )
    return state["private"]


def takes_part(config: SynthesisConfig, round_number: int, *, learns: bool) -> bool:
    """Whether clients do anything in this round: train generators, or add up clusters."""
    turn = round_number - config.first_round
    if turn < 0 or (config.last_round and round_number > config.last_round):
        return False
    several = config.prototypes > 1
    return learns or config.clusters == "own" or (several and turn < config.cluster_rounds)
