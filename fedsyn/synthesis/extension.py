"""Synthesis as an extension: generators on the clients, filter and fine-tuning on the server.

client: its prototypes once, its generator in every round
server: pairs of all generators → filter → fine-tune the aggregated model → line search

Its modes are variants: what the filter keeps goes to the clients, whose batches it joins, or the
server fine-tunes on it, or both; another server step takes the place of that
(`fedsyn.synthesis.steps`); and the oracle does the same with all clients' real pairs.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from fedsyn.core.extension import Extension, Pool, Record, ServerResult, ServerView
from fedsyn.core.judgement import mixtures
from fedsyn.core.payload import Payload
from fedsyn.core.wire import Library
from fedsyn.profiling import phase
from fedsyn.settings.plugins import Plugin
from fedsyn.synthesis import client, sharing
from fedsyn.synthesis.clusters import CENTRES, LEFT
from fedsyn.synthesis.directions import BASIS
from fedsyn.synthesis.filters import FILTERS, Filter
from fedsyn.synthesis.generators import GENERATORS
from fedsyn.synthesis.generators.base import Generator
from fedsyn.synthesis.sampling import synthesise
from fedsyn.synthesis.settings import SynthesisConfig
from fedsyn.synthesis.sharing import PAIRS
from fedsyn.synthesis.sources import SOURCES, Source
from fedsyn.synthesis.steps import SERVER_STEPS, fine_tuning
from fedsyn.synthesis.steps.base import ServerStep
from fedsyn.tasks.retrieval import RetrievalProblem


def mode(config: SynthesisConfig, chosen: Mapping[str, Plugin]) -> Extension:
    """The variant of synthesis that is configured."""
    shares = config.share == "clients"
    if config.oracle:
        sent = partial(broadcast, shares=shares)
        bound = replace(ORACLE, server=partial(oracle, shares=shares), broadcast=sent)
        return _sharing(bound, shares)
    generator, rule, step = GENERATORS.of(chosen), FILTERS.of(chosen), SERVER_STEPS.of(chosen)
    source = SOURCES[config.clusters]
    alone = generator.learns or bool(step.reads)
    made = replace(
        SYNTHESIS,
        begin=source.begin,
        client_state=partial(client.client_state, generator=generator, source=source),
        client=partial(client.client, generator=generator, source=source, alone=alone),
        takes_part=partial(client.takes_part, learns=alone),
        server=partial(
            server,
            generator=generator,
            rule=rule,
            step=step,
            shares=shares,
            source=source,
            alone=alone,
        ),
        reads=step.reads,
        broadcast=partial(broadcast, source=source, learns=alone, shares=shares),
        largest=partial(largest, learns=alone, shares=shares),
    )
    return _sharing(made, shares)


def _sharing(made: Extension, shares: bool) -> Extension:
    """The extension, whose clients train on what they were sent where pairs are shared."""
    if not shares:
        return made
    return replace(made, examples=sharing.examples, completes=sharing.completes)


def broadcast(
    state: Payload, *, source: Source | None = None, learns: bool = False, shares: bool
) -> Payload:
    """Of what the server keeps what clients look at, once it is there."""
    sent = source.broadcast(state, learns) if source and state else {}
    return sent | ({PAIRS: state[PAIRS]} if shares and PAIRS in state else {})


def largest(
    problem: RetrievalProblem, config: SynthesisConfig, *, learns: bool, shares: bool
) -> Payload:
    """As much of it as there can be."""
    rows = {BASIS: config.noise * learns, PAIRS: config.shared * shares}
    whole: Payload = {}
    if config.clusters == "all":
        rows[CENTRES], whole[LEFT] = config.prototypes, torch.tensor(config.cluster_rounds)
    features = problem.features
    return whole | {
        name: features.new_zeros(number, features.shape[1])
        for name, number in rows.items()
        if number
    }


def server(
    view: ServerView,
    *,
    generator: Generator,
    rule: Filter,
    step: ServerStep,
    shares: bool,
    source: Source,
    alone: bool,
) -> ServerResult:
    """Sample the generators, filter, fine-tune the model, and let clients judge it."""
    record: Record = {}
    library, state = source.library(view, alone)
    view = replace(view, uploads=replace(view.uploads, library=_able(library)))
    pool = Pool(0, lambda at: view.model.new_zeros(0, 0))
    if step.filters or shares:
        pool, candidates = synthesise(
            view.problem.net, view.model, view.uploads.library, generator, rule, view.config,
            view.seed, view.round_number, view.stack,
        )  # fmt: skip
        record |= {"candidates": candidates, "kept": pool.size}
    if shares:
        state |= sharing.drawn(pool, view.config, view.seed, view.round_number)
    with phase("fine-tune"):
        tuned, loss = step.tune(view, pool, generator)
    return replace(_searched(view, tuned, record | {"loss": loss}), state=state)


def _able(library: Library) -> Library:
    """Of the clients that have prototypes."""
    if not library.ids:
        return library
    counts = library.take(library.ids, ("counts",))["counts"].sum(-1).tolist()
    return library.only(
        {client for client, count in zip(library.ids, counts, strict=True) if count}
    )


def oracle(view: ServerView, *, shares: bool) -> ServerResult:
    """The same with the pooled real pairs in the place of made ones: what these try to reach."""
    if view.pooled is None:
        raise ValueError("expected all clients' pairs in one place, got none")
    state = sharing.drawn(view.pooled, view.config, view.seed, view.round_number) if shares else {}
    with phase("fine-tune"):
        tuned, loss = fine_tuning.tune(view, view.pooled)
    return replace(_searched(view, tuned, {"loss": loss}), state=state)


def _searched(view: ServerView, tuned: Tensor, record: Record) -> ServerResult:
    """(1 − λ) · aggregated + λ · fine-tuned with the λ that the round's clients like best.

    They compare by ``run.criterion`` on their held-out pairs; of mixtures that they like alike the
    one nearest to the aggregated model is taken, and where nobody holds pairs out the last.
    """
    if tuned is view.model:
        return ServerResult(tuned, record)
    shares = sorted(view.config.line_search)
    if len(shares) == 1:
        (model,) = mixtures([view.model, tuned], shares)
        return ServerResult(model, record | {"share": shares[0]})
    with phase("line search"):
        judgement = view.judge([view.model, tuned], shares)
    means = [judgement.mean(which, view.method.ids) for which in range(len(shares))]
    nobody = all(map(math.isnan, means))
    best = len(shares) - 1 if nobody else judgement.best(view.method.ids)
    (model,) = mixtures([view.model, tuned], shares[best : best + 1])
    record |= {"share": shares[best], "holdout_shares": means}
    return ServerResult(model, record, judgement=judgement.of([best]))


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
