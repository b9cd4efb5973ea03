"""What a client does for synthesis: its prototypes once, its generator in every round."""

import torch
from torch import Tensor

from fedsyn.core.cohort import Cohort
from fedsyn.core.extension import ClientResult, ClientView
from fedsyn.core.payload import Payload
from fedsyn.core.wire import Upload, halved
from fedsyn.models.retrieval import fuse
from fedsyn.profiling import phase
from fedsyn.synthesis import prototypes
from fedsyn.synthesis.generators.base import Generator, GeneratorTraining
from fedsyn.synthesis.settings import SynthesisConfig
from fedsyn.tasks.retrieval import RetrievalProblem

HALF = "float16"  # of ``synthesis.upload``
INTRODUCED = ("prototypes", "counts", "basis")  # never change, so are sent once


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
) -> Payload:
    """A cohort's state before its first round, stacked ``[C, ...]``.

    Prototypes are fitted once: features do not change between rounds. ``trained`` counts the
    rounds in which a client's generator was trained.
    """
    features, clients = problem.features, len(cohort.ids)
    state: Payload = {}
    if keeps_private_models(config, generator) and not private:
        state["private"] = model.expand(clients, -1).clone()
    if config.encoder == "frozen":
        state["frozen"] = model.expand(clients, -1).clone()
    with phase("prototypes"):
        fitted = prototypes.fit(features, cohort, config)
        if config.upload == HALF:  # the client goes by what the server will see of them
            fitted = {name: halved(value) for name, value in fitted.items()}
        state |= fitted
        state["trained"] = torch.zeros(clients, dtype=torch.long, device=features.device)
        if config.space == "private":
            state["embedded"] = features.new_zeros(*state["counts"].shape, problem.net.code)
        state |= generator.prepare(state, features, cohort, config)
    return state


def client(view: ClientView, state: Payload, *, generator: Generator) -> ClientResult:
    """A round's training of the generator, and what is sent of it."""
    config, net = view.config, view.problem.net
    encoder = _encoder(view, state, generator)
    sizes = torch.tensor(view.cohort.sizes, device=state["counts"].device)
    able = (state["counts"].sum(-1) > 0) & (sizes > 0)
    training = GeneratorTraining(view.problem.features, view.cohort, able, config, net, encoder)
    losses = generator.train(state, training)
    state["trained"] += able
    own = {name: state[name] for name in INTRODUCED} | generator.upload(state)
    half = frozenset(own if config.upload == HALF else ())
    if config.space == "private":
        state["embedded"] = fuse(*net.embed(encoder, state["prototypes"]))
        own["embedded"] = state["embedded"]
    upload = Upload(own=own, once=frozenset(INTRODUCED), half=half)
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


def takes_part(config: SynthesisConfig, round_number: int) -> bool:
    """Whether clients train their generators in this round."""
    started = config.first_round <= round_number
    return started and (round_number <= config.last_round or not config.last_round)
