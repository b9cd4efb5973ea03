"""Clusters of all clients' pairs, found by sums: no client's own prototypes are ever seen.

server: G centres drawn from the Gaussian of all pairs' moments (of one: their mean, and no rounds)
in each of the first ``cluster_rounds`` rounds:
    send the centres
    client k: assign the round's part of its pairs to them; of every centre that has at least
              ``min_cluster`` of these, send their sum and their number, as sums over clients
    centres ← Σ_k sums / Σ_k numbers

which is Lloyd's algorithm, but that **no pair takes part twice**: sums of two rounds over the same
pairs differ by the pairs that have moved, and where one has, the difference is that pair, however
many clients are added up. The last round has half of a client's pairs, the one before it a
quarter, and so on. Pairs of a centre that has too few of a client's go to the nearest that has
enough (if none has, to the largest, where the part has enough pairs in all). Scatter within
clusters is what is left of the moments, (share · Σ x xᵀ − Σ_g n_g μ_g μ_gᵀ) / (Σ_g n_g − G); the
share is that of all pairs that took part in the round.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from fedsyn import streams
from fedsyn.core.batches import everything
from fedsyn.core.cohort import Cohort
from fedsyn.core.decompositions import symmetric
from fedsyn.core.payload import Payload
from fedsyn.core.wire import Sum, Uploads
from fedsyn.data.moments import COUNT, SECOND, SUM
from fedsyn.synthesis.directions import BASIS
from fedsyn.synthesis.settings import SynthesisConfig

PROTOTYPES = "prototypes"
CENTRES, COUNTS, MEMBERS, NUMBERS = "centres", "counts", "members", "numbers"
PART = "cluster-part"
SIZE, LEFT = "size", "left"  # how many pairs there are, and rounds in which clients add up


def begin(moments: Mapping[str, Tensor], config: SynthesisConfig, seed: int) -> Payload:
    """The server's state before round 1: centres without pairs, and the directions of all pairs.

    Parameters
    ----------
    moments : dict of str to Tensor
        Of all clients' pairs, added up (`fedsyn.data.moments.pair_moments`); at least one pair.
    config : SynthesisConfig
    seed : int

    Returns
    -------
    dict
        ``centres [G, D]``, ``counts [G]`` long, ``basis [noise, D]``; the rounds that are ``left``;
        of all pairs their number ``size []``, ``mean [D]`` and ``second [D (D + 1) / 2]``.
    """
    total, second, pairs = moments[SUM], moments[SECOND], moments[COUNT]
    values, vectors = _spread(total[None], pairs[None], second, pairs)
    number, mean = config.prototypes, total / pairs
    stream = streams.generator(seed, "clusters")
    drawn = torch.randn(number, len(values), generator=stream, dtype=torch.float64)
    centres = mean + (number > 1) * (drawn * values.sqrt()) @ vectors.T
    return {
        "second": second,
        "mean": mean.float(),
        SIZE: pairs,
        LEFT: torch.tensor(config.cluster_rounds if number > 1 else 0),
        CENTRES: centres.float(),
        COUNTS: torch.full((number,), int(pairs) if number == 1 else 0),
        BASIS: _basis(values, vectors, config.noise),
    }


def known(state: Payload) -> Payload:
    """What generators are of: ``prototypes [G, D]`` and ``counts [G]``.

    While no centre has pairs, as where clients have too few for any, the mean of all is the only
    prototype.
    """
    if state[COUNTS].any():
        return {PROTOTYPES: state[CENTRES], COUNTS: state[COUNTS]}
    counts = state[COUNTS].clone()
    counts[0] = int(state[SIZE])
    return {PROTOTYPES: state["mean"].expand_as(state[CENTRES]), COUNTS: counts}


def assign(
    features: Tensor, cohort: Cohort, centres: Tensor, least: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The centre of each of the clients' pairs, of those that have enough.

    Parameters
    ----------
    features : Tensor of shape [N, D]
    cohort : Cohort
    centres : Tensor of shape [G, D]
    least : int
        Fewest of a client's pairs at a centre.

    Returns
    -------
    points : Tensor [C, n, D]
        Each client's pairs, padded.
    owner : Tensor [C, n] long
        Their centres; -1 where padded, and of a client with fewer than ``least`` pairs.
    counts : Tensor [C, G] long
    """
    index, valid = everything(cohort.rows, features.device)
    points, number = features[index], len(centres)
    distance = torch.cdist(points.double(), centres.double().expand(len(points), -1, -1))
    enough = (valid.sum(-1) >= least)[:, None]
    valid = valid & enough
    first = _counts(distance.argmin(-1).masked_fill(~valid, -1), number)
    alive = first >= least
    largest = one_hot(first.argmax(-1), number).bool()
    alive |= largest & ~alive.any(-1, keepdim=True) & enough
    distance.masked_fill_(~alive[:, None, :], torch.inf)
    owner = distance.argmin(-1).masked_fill(~valid, -1)
    return points, owner, _counts(owner, number)


def part(cohort: Cohort, left: int, rounds: int) -> Cohort:
    """The clients with the pairs that take part when ``left`` of ``rounds`` are left, 1 the last.

    A client's pairs are drawn into parts once, whatever the round; none take part where none is
    left.
    """
    chosen = []
    same = replace(cohort, round_number=0)
    for rows, stream in zip(cohort.rows, same.streams(PART), strict=True):
        order = rows[torch.randperm(len(rows), generator=stream).numpy()]
        end = len(order) >> (left - 1) if left else 0
        begin = end >> 1 if left < rounds else 0  # the first two are of one size
        chosen.append(np.sort(order[begin:end]))
    return replace(cohort, rows=tuple(chosen))


def sums(points: Tensor, owner: Tensor, counts: Tensor) -> dict[str, Sum]:
    """What clients add up to: ``members [C, G, D]`` and ``numbers [C, G]``, float64."""
    clients, number = counts.shape
    width = points.shape[-1]
    members = points.new_zeros(clients, number + 1, width, dtype=torch.float64)
    index = torch.where(owner < 0, number, owner)[..., None].expand(-1, -1, width)
    members.scatter_add_(1, index, points.double())
    present = (counts.sum(-1) > 0).double().cpu()
    values = {MEMBERS: members[:, :number], NUMBERS: counts.double()}
    return {name: Sum(value, present, weighted=False) for name, value in values.items()}


def update(state: Payload, uploads: Uploads, config: SynthesisConfig, fraction: float) -> Payload:
    """The server's state after a round's sums; unchanged where there are none.

    Where a share ``fraction`` of the clients does a round, sums of earlier rounds count on.
    """
    if not uploads.weight(MEMBERS):
        return state
    old = 1 - fraction if MEMBERS in state else 0.0
    members, numbers = uploads.sums[MEMBERS].cpu(), uploads.sums[NUMBERS].cpu()
    if old:
        members, numbers = members + old * state[MEMBERS], numbers + old * state[NUMBERS]
    alive = numbers >= config.min_cluster
    means = members / numbers.clamp(min=1)[:, None]
    counts = numbers.where(alive, 0.0)
    centres = means.float().where(alive[:, None], state[CENTRES])
    values, vectors = _spread(members[alive], numbers[alive], state["second"], state[SIZE])
    found = {CENTRES: centres, COUNTS: counts.round().long(), LEFT: state[LEFT] - 1}
    if fraction < 1:
        found |= {MEMBERS: members, NUMBERS: numbers}
    return state | found | {BASIS: _basis(values, vectors, config.noise)}


def _spread(
    members: Tensor, numbers: Tensor, second: Tensor, pairs: Tensor
) -> tuple[Tensor, Tensor]:
    """Eigenvalues [D], not negative, and vectors as columns of the covariance within clusters.

    Of sums ``members [G, D]`` of ``numbers [G]`` pairs and of second moments of all ``pairs``.
    """
    width = members.shape[1]
    whole = torch.zeros(width, width, dtype=torch.float64)
    row, column = torch.triu_indices(width, width)
    whole[row, column] = whole[column, row] = second
    share = numbers.sum() / pairs  # of the pairs, where some have no centre
    between = (members / numbers[:, None]).T @ members if len(members) else 0.0
    freedom = (numbers.sum() - len(numbers)).clamp(min=1)
    values, vectors = symmetric((share * whole - between) / freedom)
    return values.clamp(min=0), vectors


def _basis(values: Tensor, vectors: Tensor, rank: int) -> Tensor:
    """The leading directions ``[rank, D]``, scaled by standard deviations."""
    kept = min(rank, len(values))
    basis = torch.zeros(rank, len(values), dtype=torch.float64)
    basis[:kept] = (vectors.flip(1)[:, :kept] * values.flip(0)[:kept].sqrt()).T
    return basis.float()


def _counts(owner: Tensor, number: int) -> Tensor:
    """How many pairs each centre has ``[C, number]``; those at -1 have none."""
    counts = torch.zeros(len(owner), number + 1, dtype=torch.long, device=owner.device)
    places = torch.where(owner < 0, number, owner)
    counts.scatter_add_(1, places, torch.ones_like(places))
    return counts[:, :number]
