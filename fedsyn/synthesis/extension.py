"""Synthesis as an extension: generators on the clients, filter and fine-tuning on the server.

client: its prototypes once, its generator in every round
server: pairs of all generators → filter → fine-tune the aggregated model → gate

Its modes are variants: fine-tuning on what the filter keeps, another server step in its place
(`fedsyn.synthesis.steps`), sharing what is kept with the clients, and the oracle, which fine-tunes
on all clients' real pairs.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from torch import Tensor

from fedsyn.core.extension import Extension, Pool, Record, ServerResult, ServerView
from fedsyn.core.judgement import Judgement
from fedsyn.core.payload import Payload
from fedsyn.core.wire import Library
from fedsyn.profiling import phase
from fedsyn.settings.plugins import Plugin
from fedsyn.synthesis import client, sharing
from fedsyn.synthesis.filters import FILTERS, Filter
from fedsyn.synthesis.generators import GENERATORS
from fedsyn.synthesis.generators.base import Generator
from fedsyn.synthesis.sampling import synthesise
from fedsyn.synthesis.settings import SynthesisConfig
from fedsyn.synthesis.steps import SERVER_STEPS, fine_tuning
from fedsyn.synthesis.steps.base import ServerStep
from fedsyn.tasks.retrieval import RetrievalProblem


def mode(config: SynthesisConfig, chosen: Mapping[str, Plugin]) -> Extension:
    """The variant of synthesis that is configured."""
    if config.oracle:
        return ORACLE
    generator, rule, step = GENERATORS.of(chosen), FILTERS.of(chosen), SERVER_STEPS.of(chosen)
    shares = config.share == "clients"
    made = replace(
        SYNTHESIS,
        client_state=partial(client.client_state, generator=generator),
        client=partial(client.client, generator=generator),
        takes_part=client.takes_part,
        server=partial(server, generator=generator, rule=rule, step=step, shares=shares),
        reads=step.reads,
    )
    if not shares:
        return made
    return replace(
        made,
        examples=sharing.examples,
        completes=sharing.completes,
        broadcast=sharing.broadcast,
        largest=sharing.largest,
    )


def server(
    view: ServerView, *, generator: Generator, rule: Filter, step: ServerStep, shares: bool
) -> ServerResult:
    """Sample the generators, filter, fine-tune the model, and let clients judge it."""
    record: Record = {}
    state: Payload = {}
    view = replace(view, uploads=replace(view.uploads, library=_able(view.uploads.library)))
    pool = Pool(0, lambda at: view.model.new_zeros(0, 0))
    if step.filters or shares:
        pool, candidates = synthesise(
            view.problem.net, view.model, view.uploads.library, generator, rule, view.config,
            view.seed, view.round_number, view.stack,
        )  # fmt: skip
        record |= {"candidates": candidates, "kept": pool.size}
    if shares:
        state = sharing.drawn(pool, view.config, view.seed, view.round_number)
    with phase("fine-tune"):
        tuned, loss = step.tune(view, pool, generator)
    return replace(_gated(view, tuned, record | {"loss": loss}), state=state)


def _able(library: Library) -> Library:
    """Of the clients that have prototypes."""
    if not library.ids:
        return library
    counts = library.take(library.ids, ("counts",))["counts"].sum(-1).tolist()
    return library.only(
        {client for client, count in zip(library.ids, counts, strict=True) if count}
    )


def oracle(view: ServerView) -> ServerResult:
    """Fine-tune the model on the pooled real pairs: what synthesis tries to reach."""
    if view.pooled is None:
        raise ValueError("expected all clients' pairs in one place, got none")
    with phase("fine-tune"):
        tuned, loss = fine_tuning.tune(view, view.pooled)
    return _gated(view, tuned, {"loss": loss})


def _gated(view: ServerView, tuned: Tensor, record: Record) -> ServerResult:
    """The fine-tuned model, if clients do not object; else the aggregated one."""
    accepted, judgement = True, None
    if view.config.gate and tuned is not view.model:
        with phase("gate"):
            accepted, judged, judgement = _gate(view, tuned)
        record |= judged
    model = tuned if accepted else view.model
    return ServerResult(model, record | {"accepted": accepted}, judgement=judgement)


def _gate(view: ServerView, tuned: Tensor) -> tuple[bool, Record, Judgement]:
    """Whether the round's clients accept a fine-tuning, without labels, and what they say.

    They compare both models by ``run.criterion`` on their held-out pairs, and refuse one that takes
    back more than the share ``synthesis.tolerance`` of what was gained since the initial model.
    """
    judgement = view.judge([view.model, tuned], initial=True)
    first, before, after = (judgement.mean(which, view.method.ids) for which in range(3))
    accepted = not after - before > view.config.tolerance * max(first - before, 0.0)
    record = {"holdout_start": first, "holdout_before": before, "holdout_after": after}
    return accepted, record, judgement.of([0, 2] if accepted else [0, 1])


def active(config: SynthesisConfig) -> bool:
    """Whether it is switched on, or the bound that takes its place."""
    return config.enabled or config.oracle


SYNTHESIS = Extension(
    name="synthesis",
    problem=RetrievalProblem,
    config=SynthesisConfig,
    families=(GENERATORS, FILTERS, SERVER_STEPS),
    mode=mode,
    active=active,
)
ORACLE = replace(SYNTHESIS, server=oracle, pooled=True)
