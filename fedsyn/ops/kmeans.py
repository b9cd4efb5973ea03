"""k-means batched over clients: k-means++ seeding, Lloyd iterations, empty clusters re-seeded.

Deterministic: draws come from the clients' own streams, sums run in row order, and padding does not
change a client's result, so a client's clusters do not depend on who it is stacked with.
(Arthur & Vassilvitskii 2007 for the seeding.)
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fedsyn import streams
from fedsyn.ops.checks import check_trailing


def kmeans(
    x: Tensor,  # [C, N, D]
    k: int,
    generators: Sequence[torch.Generator],  # one a client
    *,
    valid: Tensor | None = None,  # [C, N] bool
    weight: Tensor | None = None,  # [C, N] non-negative mass of each row
    spherical: bool = False,
    iterations: int = 25,
) -> tuple[Tensor, Tensor, Tensor]:
    """Cluster each client's rows into at most ``k`` clusters.

    Parameters
    ----------
    x : Tensor [C, N, D]
        Rows; computed in float64.
    k : int
        Clusters. A client with fewer distinct rows gets fewer: its last counts are 0.
    generators : sequence of torch.Generator
        One a client, for the seeding.
    valid : Tensor [C, N], optional
        Rows that exist; ragged clients are padded.
    weight : Tensor [C, N], optional
        Mass of each row in the centroids.
    spherical : bool
        Cosine k-means: rows and centroids are normalised.
    iterations : int
        Most Lloyd iterations; stops earlier where no row moves.

    Returns
    -------
    centroids : Tensor [C, k, D]
        In the dtype of ``x``; zero for clusters that do not exist.
    assignment : Tensor [C, N]
        Cluster of each row; −1 for rows that do not exist.
    counts : Tensor [C, k]
        Rows of each cluster.

    Raises
    ------
    ValueError
        If shapes do not fit or ``k`` is not positive.
    """
    if x.ndim != 3:
        raise ValueError(f"kmeans: expected x [C, N, D], got {tuple(x.shape)}")
    if k < 1 or len(generators) != x.shape[0]:
        raise ValueError(
            f"kmeans: expected k >= 1 and {x.shape[0]} generators, got {k} and {len(generators)}"
        )
    clients, rows, _ = x.shape
    if valid is None:
        valid = torch.ones(clients, rows, dtype=torch.bool, device=x.device)
    check_trailing("kmeans", "valid", valid, (clients, rows))
    points = x.double()
    if spherical:
        points = torch.nn.functional.normalize(points, dim=-1)
    mass = valid.double() if weight is None else weight.double() * valid
    centroids, alive = _seed(points, mass, k, generators)
    assignment = torch.full((clients, rows), -1, device=x.device)
    for _ in range(iterations):
        distance = _distances(points, centroids).masked_fill(~alive[:, None, :], torch.inf)
        nearest = distance.argmin(-1).masked_fill(~valid, -1)
        if torch.equal(nearest, assignment):
            break
        assignment = nearest
        centroids = _update(points, mass, assignment, distance, alive, spherical)
    counts = _scatter(valid.double()[..., None], assignment, k).squeeze(-1).long()
    exists = counts > 0
    return (centroids * exists[..., None]).to(x.dtype), assignment, counts


def _distances(points: Tensor, centroids: Tensor) -> Tensor:
    """Squared Euclidean distances ``[C, N, K]`` by one batched product."""
    cross = points @ centroids.transpose(-1, -2)
    square = points.square().sum(-1)[..., None] + centroids.square().sum(-1)[:, None, :]
    return (square - 2 * cross).clamp(min=0)


def _seed(
    points: Tensor, mass: Tensor, k: int, generators: Sequence[torch.Generator]
) -> tuple[Tensor, Tensor]:
    """Greedy k-means++: of a few rows drawn in proportion to their squared distance from the seeds
    so far, the one that leaves the least distance becomes the next seed.
    """
    trials = 2 + int(math.log(k))
    draws = streams.uniform(generators, k, trials).double().to(points.device)
    gap = torch.full_like(mass, torch.inf)
    chosen: list[Tensor] = []
    alive: list[Tensor] = []
    for draw in draws.unbind(1):
        cumulative = (mass * gap if chosen else mass).cumsum(-1)
        total = cumulative[:, -1:]
        index = torch.searchsorted(cumulative, draw * total, right=True)
        tried = points.take_along_dim(index.clamp(max=points.shape[1] - 1)[..., None], dim=1)
        left = torch.minimum(_distances(tried, points), gap[:, None, :])  # [C, trials, N]
        best = _first_least((left * mass[:, None, :]).sum(-1))[:, None, None]
        gap = left.take_along_dim(best, 1).squeeze(1)
        chosen.append(tried.take_along_dim(best, 1))
        alive.append(total > 1e-12)  # else no row is left that differs from the seeds
    return torch.cat(chosen, 1), torch.cat(alive, 1)


def _first_least(remaining: Tensor) -> Tensor:
    """Index ``[C]`` of the first of the least values ``[C, trials]``.

    Two rows that are each other's nearest leave the same distance, whichever becomes the seed. Such
    ties go to the first draw: were rounding to decide, it would let padding decide.
    """
    slack = 1e-9 * remaining.amax(-1, keepdim=True)
    return (remaining <= remaining.amin(-1, keepdim=True) + slack).int().argmax(-1)


def _scatter(values: Tensor, assignment: Tensor, k: int) -> Tensor:
    """Sums of ``values [C, N, D]`` by cluster ``[C, k, D]``; rows at −1 are left out."""
    sums = values.new_zeros(values.shape[0], k + 1, values.shape[2])
    index = torch.where(assignment < 0, k, assignment)
    return sums.scatter_add_(1, index[..., None].expand_as(values), values)[:, :k]


def _update(
    points: Tensor,
    mass: Tensor,
    assignment: Tensor,
    distance: Tensor,
    alive: Tensor,
    spherical: bool,
) -> Tensor:
    k = alive.shape[1]
    total = _scatter(mass[..., None], assignment, k)
    centroids = _scatter(points * mass[..., None], assignment, k) / total.clamp(min=1e-300)
    empty = alive & (total.squeeze(-1) == 0)
    if empty.any():
        own = distance.amin(-1) * (mass > 0)
        for client, cluster in empty.nonzero().tolist():
            farthest = int(own[client].argmax())
            centroids[client, cluster] = points[client, farthest]
            own[client, farthest] = 0.0  # the next empty cluster takes another row
    return torch.nn.functional.normalize(centroids, dim=-1) if spherical else centroids
