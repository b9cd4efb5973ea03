"""Prototypes: k-means of fused features, and how pairs scatter around them.

A prototype is the mean of a cluster of a client's concatenated image and text features. It lives in
feature space, which all clients share, so any model can embed it: prototypes of different clients
are comparable under whichever network is in use.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from fedsyn import ops
from fedsyn.core.batches import everything
from fedsyn.core.cohort import Cohort
from fedsyn.core.payload import Payload
from fedsyn.synthesis.directions import BASIS, FREEDOM, SCATTER, own_basis, scatter
from fedsyn.synthesis.settings import SynthesisConfig


def fit(features: Tensor, cohort: Cohort, config: SynthesisConfig) -> Payload:
    """Prototypes and counts of each client, and its part of the directions.

    Parameters
    ----------
    features : Tensor [N, D]
        Concatenated pairs.
    cohort : Cohort
        Clients may hold any number of pairs. One with fewer than ``min_cluster`` gets no prototype.

    Returns
    -------
    Payload
        ``prototypes [C, M, D]`` and ``counts [C, M]`` (0 where there is no prototype). With
        ``directions = "pooled"`` also ``scatter [C, ...]`` and ``freedom [C]``, see
        `fedsyn.synthesis.directions`; with ``"own"`` ``basis [C, noise, D]``, the principal
        directions within clusters scaled by their standard deviations, so that ``z @ basis`` with
        ``z ~ N(0, I)`` has (up to rank ``noise``) the covariance within clusters; without
        ``condition``, that of all pairs.
    """
    index, valid = everything(cohort.rows, features.device)
    points = features[index]
    generators = cohort.streams("prototypes")
    prototypes, _, counts = ops.kmeans(points, config.prototypes, generators, valid=valid)
    alive = counts >= config.min_cluster
    # Where every cluster is small the largest stands for all, if the client has enough pairs.
    enough = valid.sum(-1) >= config.min_cluster
    largest = torch.nn.functional.one_hot(counts.argmax(-1), config.prototypes).bool()
    alive |= largest & (~alive.any(-1) & enough)[:, None]
    owner = assign(points, prototypes, alive).masked_fill(~(valid & enough[:, None]), -1)
    prototypes, counts = _means(points, owner, config.prototypes)
    anchor = anchors(prototypes, counts, config.condition)
    freed = counts > 0 if config.condition else counts.sum(-1, keepdim=True) > 0
    fitted = {"prototypes": prototypes, "counts": counts}
    # One client after another: their sizes differ too much to be worth stacking.
    residuals = _residuals(points, anchor, owner, freed.sum(-1).tolist())
    if config.directions == "own":
        rows = [own_basis(each, freedom, config.noise) for each, freedom in residuals]
        fitted[BASIS] = torch.stack(rows).to(points.dtype)
    elif config.directions == "pooled":
        sums = [
            (scatter(each, freedom, config.noise, cohort.seed), max(freedom, 0))
            for each, freedom in residuals
        ]
        fitted[SCATTER] = torch.stack([value for value, _ in sums])
        fitted[FREEDOM] = torch.tensor([freedom for _, freedom in sums], dtype=torch.float64)
    fitted["prototypes"] = _disclosed(prototypes, counts, cohort, config)
    return fitted


def _disclosed(
    prototypes: Tensor, counts: Tensor, cohort: Cohort, config: SynthesisConfig
) -> Tensor:
    """What the server is to see of a client's prototypes: shrunk to their mean, and with noise."""
    if config.shrinkage:
        number = counts[..., None].to(prototypes)
        mean = anchors(prototypes, counts, condition=False)
        prototypes = (number * prototypes + config.shrinkage * mean) / (number + config.shrinkage)
    if config.disclosed_noise:
        drawn = [
            torch.randn(prototypes.shape[1:], generator=stream)
            for stream in cohort.streams("disclosed-noise")
        ]
        prototypes = prototypes + config.disclosed_noise * torch.stack(drawn).to(prototypes)
    return prototypes * (counts > 0)[..., None]


def anchors(prototypes: Tensor, counts: Tensor, condition: bool) -> Tensor:  # [C, M, D]
    """What a generator is told of a pair that it is to make: a prototype, or nothing.

    Nothing is the mean of all the client's pairs, whichever prototype is asked for.
    """
    if condition:
        return prototypes
    share = counts / counts.sum(-1, keepdim=True).clamp(min=1)
    mean = (share[..., None].to(prototypes) * prototypes).sum(-2, keepdim=True)
    return mean.expand_as(prototypes)


def assign(points: Tensor, prototypes: Tensor, alive: Tensor) -> Tensor:  # [C, N]
    """Index of the nearest living prototype of each row (Euclidean)."""
    distance = torch.cdist(points.double(), prototypes.double())
    return distance.masked_fill(~alive[:, None, :], torch.inf).argmin(-1)


def _means(points: Tensor, owner: Tensor, k: int) -> tuple[Tensor, Tensor]:
    clients, _, dim = points.shape
    sums = points.new_zeros(clients, k + 1, dim + 1, dtype=torch.float64)
    index = torch.where(owner < 0, k, owner)[..., None].expand(-1, -1, dim + 1)
    sums.scatter_add_(1, index, pad(points.double(), (0, 1), value=1.0))
    counts = sums[:, :k, -1]
    means = sums[:, :k, :-1] / counts.clamp(min=1)[..., None]
    return means.to(points.dtype), counts.long()


def _residuals(
    points: Tensor, anchor: Tensor, owner: Tensor, means: Sequence[int]
) -> Iterator[tuple[Tensor, int]]:
    """Of each client its pairs without their anchors ``[n, D]`` and their degrees of freedom.

    ``means`` are the degrees of freedom that its anchors take.
    """
    for client, mine in enumerate(owner):
        rows = (mine >= 0).nonzero().squeeze(-1)
        residual = points[client, rows].double() - anchor[client, mine[rows]].double()
        yield residual, len(rows) - means[client]
