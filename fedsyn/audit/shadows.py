"""The likelihood ratio of models: would one that has not seen a pair find its partner as well?

Shadow models are trained as a client trains, from what it was sent, on random halves of all of its
pairs, members and strangers alike; for each pair those count that were trained without it. Shadow
models of all clients, averaged, make a shadow federation, by which the clients' average is judged:
whoever sees sums alone does not know what the others have sent. Rounds are expensive, so a few are
looked at, and their ratios are averaged.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedsyn import streams
from fedsyn.audit.attack import BOTH, Attack
from fedsyn.audit.models import ON, Models, measured, network, single
from fedsyn.audit.subjects import Subject
from fedsyn.audit.totals import together
from fedsyn.core.cohort import Cohort
from fedsyn.federation.federation import Federation
from fedsyn.models.retrieval import RetrievalNet
from fedsyn.privacy.likelihood import offline_ratio

ROUNDS = 3  # that are looked at: the first, the last, and one between
MEASURE = "log-odds"


@dataclass(frozen=True)
class Shadows:
    """Models that were trained on random halves of a client's pairs.

    Attributes
    ----------
    models : Tensor of shape [S, P]
    seen : Tensor of shape [S, n] bool
        Which pairs each has seen.
    """

    models: Tensor
    seen: Tensor


def by_ratio(
    fed: Federation, models: Models, subjects: Sequence[Subject], count: int, seed: int
) -> Iterator[Attack]:
    """The likelihood ratio of clients' models as they arrived, and of their averages.

    Parameters
    ----------
    fed : Federation
    models : Models
    subjects : sequence of Subject
    count : int
        Shadow models of each client and round, at least 2.
    seed : int
    """
    net = network(fed)
    uploads: dict[int, list[Tensor]] = {}
    averages: dict[int, list[Tensor]] = {}
    exposed = False
    for one in models.rounds(models.numbers(ROUNDS)):
        if one.down is None or not models.averaged:
            continue
        exposed |= one.exposed
        whole = together(one.arrived)
        federations = (one.down * whole.weight).expand(count, -1).clone()  # of who has no shadows
        seen: dict[int, Tensor] = {}
        for subject in subjects:
            own = one.of(subject.client)
            if own is None or len(own.ids) > 1:
                continue
            shadows = trained(fed, one.down, subject, count, seed + one.number)
            federations += own.weight * (shadows.models - one.down)
            seen[subject.client] = shadows.seen
            ratio = _ratio(net, own.mean, shadows.models, subject, shadows.seen)
            uploads.setdefault(subject.client, []).append(ratio)
        federations /= whole.weight
        for subject in subjects:
            if subject.client in seen:
                ratio = _ratio(net, one.average, federations, subject, seen[subject.client])
                averages.setdefault(subject.client, []).append(ratio)
    of, views = single(exposed)
    yield Attack("likelihood ratio, uploads", of, views, _means(uploads), ON)
    yield Attack("likelihood ratio, averages", "model", BOTH, _means(averages), ON)


def trained(fed: Federation, start: Tensor, subject: Subject, count: int, seed: int) -> Shadows:
    """Shadow models of a client, two and two on the halves of one division of its pairs."""
    size = len(subject.pairs)
    stream = streams.numpy_generator(seed, "audit.shadows", client=subject.client)
    orders = [stream.permutation(size) for _ in range(-(-count // 2))]
    halves = [half for order in orders for half in np.array_split(order, 2)][:count]
    problem, (places,) = fed.near([subject.rows])
    rows = tuple(np.sort(places[half]) for half in halves)
    cohort = Cohort(tuple(range(count)), rows, seed, subject.client)
    models, _ = problem.train(
        start.float().expand(count, -1), cohort, fed.plan.config, "audit.shadows"
    )
    seen = torch.zeros(count, size, dtype=torch.bool)
    for mine, half in zip(seen, halves, strict=True):
        mine[torch.from_numpy(half)] = True
    return Shadows(models, seen)


def _ratio(
    net: RetrievalNet, observed: Tensor, shadows: Tensor, subject: Subject, seen: Tensor
) -> Tensor:
    values = [measured(net, model, subject.pairs)[MEASURE] for model in (observed, *shadows)]
    return offline_ratio(values[0], torch.stack(values[1:]), seen)


def _means(found: Mapping[int, list[Tensor]]) -> dict[int, Tensor]:
    return {client: torch.stack(each).mean(0) for client, each in found.items()}
