"""Attacks by where the server knows that a client's pairs lie, and by samples drawn there."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from fedsyn import streams
from fedsyn.audit.attack import Attack
from fedsyn.audit.priors import Known, Prior, Source
from fedsyn.audit.subjects import Subject
from fedsyn.core.payload import Payload
from fedsyn.privacy import attacks
from fedsyn.privacy.attacks import Metric, Mixture
from fedsyn.privacy.copies import Copies, copies
from fedsyn.synthesis.clusters import COUNTS, PROTOTYPES
from fedsyn.synthesis.directions import BASIS
from fedsyn.synthesis.generators.base import Generator
from fedsyn.synthesis.prototypes import anchors

NEAREST = "nearest prototype"
SAMPLES = 4000  # of a client's generator
BLOCK = 500  # of them at a time
OTHERS = 30  # clients that one is compared with; drawn from more


def by_shape(known: Known, subjects: Sequence[Subject], seed: int) -> Iterator[Attack]:
    """Nearest prototype, subspace, Mahalanobis, likelihood and density ratio."""
    metrics: dict[int, Metric] = {}  # by tensor, which clients may share
    for one in known.clients.values():
        if id(one.basis) not in metrics:
            metrics[id(one.basis)] = Metric.of(one.basis.double().T @ one.basis.double())
    mixtures = {
        client: Mixture(one.prototypes, one.counts, metrics[id(one.basis)])
        for client, one in known.clients.items()
    }
    found: dict[str, dict[int, Tensor]] = {}
    for subject in subjects:
        prior = known.clients.get(subject.client)
        if prior is not None:
            others = _others(mixtures, subject.client, seed)
            mine = mixtures[subject.client]
            for name, values in _scores(known, subject, prior, mine, others):
                found.setdefault(name, {})[subject.client] = values
    for name, scores in found.items():
        label, plain = f"{name}{known.how}", name == NEAREST
        yield Attack(label, known.of, known.views, scores, known.on, distance=plain)


def _scores(
    known: Known, subject: Subject, prior: Prior, mine: Mixture, others: Sequence[Mixture]
) -> Iterator[tuple[str, Tensor]]:
    pairs, basis = subject.pairs, prior.basis.double()
    if known.prototypes:
        yield NEAREST, attacks.nearest(pairs, prior.prototypes)
    if not basis.any():
        return
    yield "Mahalanobis distance", attacks.mahalanobis(pairs, mine.centres, mine.metric)
    yield "likelihood", attacks.log_likelihood(pairs, mine)
    if torch.linalg.matrix_rank(basis) < pairs.shape[1]:
        yield "subspace of directions", attacks.subspace(pairs, mine.centres, basis)
    if others:
        yield "density ratio", attacks.density_ratio(pairs, mine, others)


def _others(mixtures: Mapping[int, Mixture], client: int, seed: int) -> list[Mixture]:
    """Those of other clients, where they are not the same for all."""
    mine = mixtures[client]
    rest = sorted(other for other in mixtures if not _same(mixtures[other], mine))
    order = streams.numpy_generator(seed, "audit.others", client=client).permutation(rest)
    return [mixtures[other] for other in sorted(order[:OTHERS].tolist())]


def _same(one: Mixture, other: Mixture) -> bool:
    return (
        one.metric is other.metric
        and torch.equal(one.counts, other.counts)
        and torch.equal(one.centres, other.centres)
    )


# ---- Samples -------------------------------------------------------------------------------------


def by_samples(
    source: Source, known: Known, generator: Generator, subjects: Sequence[Subject], seed: int
) -> tuple[Attack, dict[int, Copies]]:
    """The distance to the closest sample of what is known, and how many samples are copies."""
    own, scores, found = source.own(), {}, {}
    for one in subjects:
        prior = known.clients.get(one.client)
        if prior is None:
            continue
        made = samples(prior, own.get(one.client, {}), generator, source, seed + one.client)
        if len(made):
            scores[one.client] = attacks.nearest(one.pairs, made)
            found[one.client] = copies(made, one.pairs[: one.members], one.pairs[one.members :])
    sent = frozenset((source.part, name) for mine in own.values() for name in mine)
    name = f"nearest synthetic sample{known.how}"
    return Attack(name, known.of, known.views, scores, known.on | sent, distance=True), found


def samples(prior: Prior, own: Payload, generator: Generator, source: Source, seed: int) -> Tensor:
    """Pairs ``[n, D]`` of a client's generator, as the server draws them; those that are finite."""
    config = source.config
    basis = torch.nn.functional.pad(prior.basis, (0, 0, 0, config.noise - len(prior.basis)))
    own = {name: value for name, value in own.items() if name not in (PROTOTYPES, COUNTS, BASIS)}
    sent = {
        PROTOTYPES: prior.prototypes.float()[None],
        COUNTS: prior.counts.long()[None],
        BASIS: basis.float()[None],
        **{name: value[None] for name, value in own.items()},
    }
    anchor = anchors(sent[PROTOTYPES], sent[COUNTS], config.condition)
    stream, made = streams.generator(seed, "audit.samples"), []
    for _ in range(SAMPLES // BLOCK):
        noise = config.truncation * torch.randn(1, BLOCK, config.noise, generator=stream)
        kinds = prior.counts.multinomial(BLOCK, True, generator=stream)
        made.append(generator.sample(sent, noise, anchor[:, kinds], config)[0])
    found = torch.cat(made)
    return found[found.isfinite().all(-1)]
