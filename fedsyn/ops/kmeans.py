"""k-means batched over clients: k-means++ seeding, Lloyd iterations, empty clusters re-seeded.

Deterministic: draws come from the clients' own streams, sums run in row order, and padding does not
change a client's result, so a client's clusters do not depend on who it is stacked with.
(Arthur & Vassilvitskii 2007 for the seeding, greedy as in its section 5; Lloyd 1982.)
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from fedsyn import streams
from fedsyn.ops.backends import choose
from fedsyn.ops.checks import check_trailing
from fedsyn.ops.library import launch, register

# Best first. Others than float32 are computed in float64 by the reference.
_IMPLEMENTED = {"cpu": ("cpu", "reference"), "cuda": ("cuda", "triton", "reference")}
_NOTHING = 1e-12  # of the squared distances to the mean: what rounding leaves between equal rows
_TIE = 1e-9  # of what the worst draw leaves


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
        Rows. float32 is compared in float32, after subtracting the client's mean; other dtypes in
        float64. Sums are float64. No gradient flows back.
    k : int
        Clusters. A client with fewer distinct rows gets fewer: its last counts are 0.
    generators : sequence of torch.Generator
        One a client, for the seeding.
    valid : Tensor [C, N], optional
        Rows that exist; ragged clients are padded, with anything.
    weight : Tensor [C, N], optional
        Mass of each row in the seeding and in the centroids.
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
    TypeError
        If ``x`` is not a floating tensor or ``valid`` is not boolean.
    ValueError
        If shapes or devices do not fit, ``k`` or ``iterations`` is not positive, a weight is
        negative or not finite, or a row that exists is not finite.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        got = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"kmeans: expected a floating tensor x, got {got}")
    if x.ndim != 3 or x.shape[2] == 0:
        raise ValueError(f"kmeans: expected x [C, N, D] with D > 0, got {tuple(x.shape)}")
    if k < 1 or len(generators) != x.shape[0]:
        raise ValueError(
            f"kmeans: expected k >= 1 and {x.shape[0]} generators, got {k} and {len(generators)}"
        )
    if iterations < 1:
        raise ValueError(f"kmeans: expected iterations >= 1, got {iterations}")
    if valid is not None:
        check_trailing("kmeans", "valid", valid, x.shape[:2])
        if valid.dtype != torch.bool:
            raise TypeError(f"kmeans: expected a boolean valid, got {valid.dtype}")
    if weight is not None:
        check_trailing("kmeans", "weight", weight, x.shape[:2])
        weight = weight.detach().double()
        if valid is not None:
            weight = weight.masked_fill(~valid, 0)
        if not bool(((weight >= 0) & weight.isfinite()).all()):
            raise ValueError("kmeans: expected finite weights that are not negative")
    trials = 2 + int(math.log(k))
    draws = (
        streams.uniform(generators, k, trials) if generators else torch.empty(0, k, trials)
    ).to(x.device)
    found: tuple[Tensor, Tensor, Tensor] = _kmeans(
        x.detach(), draws, valid, weight, spherical, iterations
    )
    return found


# ---- In PyTorch -------------------------------------------------------------------------------


class _Steps:
    """The two steps of an iteration, in float64."""

    def __init__(self, points: Tensor, mass: Tensor, k: int):
        self.points, self.mass, self.k = points, mass, k

    def nearest(self, centroids: Tensor, alive: Tensor) -> tuple[Tensor, Tensor]:  # [C, N] each
        """Index of the nearest living centroid, the first of equals, and its squared distance."""
        distance = _distances(self.points, centroids).masked_fill(~alive[:, None, :], torch.inf)
        least, index = distance.min(-1)
        return index, least

    def sums(self, assignment: Tensor) -> tuple[Tensor, Tensor]:  # [C, k, D], [C, k]
        """Sums by cluster of mass times row, and of mass."""
        rows = _scatter(self.points * self.mass[..., None], assignment, self.k)
        return rows, _scatter(self.mass[..., None], assignment, self.k).squeeze(-1)


class _TritonSteps(_Steps):
    """The same by kernels, in float32; sums run in a fixed order, without atomics."""

    nowhere = 1e18  # finite: infinity times zero is NaN, and NaN is nearest to everything

    def __init__(self, points: Tensor, mass: Tensor, k: int):
        super().__init__(points.float(), mass.float(), k)

    def nearest(self, centroids: Tensor, alive: Tensor) -> tuple[Tensor, Tensor]:
        centroids = centroids.float().masked_fill(~alive[..., None], self.nowhere)
        index, distance = self.assign(centroids)
        return index, distance.double()

    def assign(self, centroids: Tensor) -> tuple[Tensor, Tensor]:
        from fedsyn.kernels.kmeans import triton as kernels

        found: tuple[Tensor, Tensor] = kernels.assign(self.points, centroids, None)
        return found

    def sums(self, assignment: Tensor) -> tuple[Tensor, Tensor]:
        from fedsyn.kernels.kmeans import triton as kernels

        total, mass = kernels.update(self.points, assignment, self.k, self.mass, None)
        return total.double(), mass.double()


class _CudaSteps(_TritonSteps):
    nowhere = torch.inf

    def assign(self, centroids: Tensor) -> tuple[Tensor, Tensor]:
        clients, rows, width = self.points.shape
        index = centroids.new_empty(clients, rows, dtype=torch.int64)
        distance = centroids.new_empty(clients, rows)
        launch(
            *("kmeans_assign", "cuda", self.points, self.points, centroids, None, index, distance),
            *(clients, rows, self.k, width),
        )
        return index, distance

    def sums(self, assignment: Tensor) -> tuple[Tensor, Tensor]:
        clients, rows, width = self.points.shape
        cluster, order = torch.where(assignment < 0, self.k, assignment).sort(stable=True)
        bounds = torch.arange(self.k + 1, device=order.device).expand(clients, -1).contiguous()
        start = torch.searchsorted(cluster, bounds)
        total = self.points.new_empty(clients, self.k, width)
        mass = self.points.new_empty(clients, self.k)
        launch(
            *("kmeans_update", "cuda", self.points, self.points, self.mass, order, start),
            *(total, mass, clients, rows, self.k, width),
        )
        return total.double(), mass.double()


_STEPS = {"reference": _Steps, "triton": _TritonSteps, "cuda": _CudaSteps}


def kmeans_reference(
    x: Tensor,  # [C, N, D]
    draws: Tensor,  # [C, k, trials] uniform in [0, 1)
    valid: Tensor | None,  # [C, N] bool
    weight: Tensor | None,  # [C, N]
    spherical: bool,
    iterations: int,
    steps: type[_Steps] = _Steps,
) -> tuple[Tensor, Tensor, Tensor]:  # [C, k, D], [C, N], [C, k]
    """`kmeans` in PyTorch and float64."""
    clients, rows, width = x.shape
    k = draws.shape[1]
    assignment = torch.full((clients, rows), -1, device=x.device)
    if clients == 0 or rows == 0:
        return x.new_zeros(clients, k, width), assignment, draws.new_zeros((clients, k)).long()
    if valid is None:
        valid = torch.ones(clients, rows, dtype=torch.bool, device=x.device)
    points = x.double().masked_fill(~valid[..., None], 0)
    broken = ~points.square().sum((1, 2)).isfinite()
    if bool(broken.any()):
        client = int(broken.int().argmax())
        raise ValueError(f"kmeans: expected rows with finite squares, not so for client {client}")
    if spherical:
        points = normalize(points, dim=-1)
    # Distances lose nothing where the mean is far away if it is subtracted first. It is rounded:
    # numbers of few digits lose none then, and their ties remain ties.
    total = _scatter(points, torch.where(valid, 0, -1), 1)
    origin = (total / valid.sum(-1).clamp(min=1)[:, None, None]).bfloat16().double()
    points = (points - origin).masked_fill(~valid[..., None], 0)
    mass = valid.double() if weight is None else weight.double() * valid
    centroids, alive = _seed(points, mass, draws.double())
    step = steps(points, mass, k)
    for _ in range(iterations):
        nearest, distance = step.nearest(centroids, alive)
        nearest = nearest.masked_fill(~valid, -1)
        if torch.equal(nearest, assignment):
            break
        assignment = nearest
        total, share = step.sums(assignment)
        centroids = total / share.clamp(min=1e-300)[..., None]
        _reseed(centroids, alive & (share == 0), points, distance.masked_fill(mass == 0, 0))
        if spherical:
            centroids = normalize(centroids + origin, dim=-1) - origin
    counts = _scatter(valid.double()[..., None], assignment, k).squeeze(-1).long()
    centroids = (centroids + origin).masked_fill(~(alive & (counts > 0))[..., None], 0)
    return centroids.to(x.dtype), assignment, counts


def _distances(points: Tensor, centroids: Tensor) -> Tensor:
    """Squared Euclidean distances ``[C, N, K]`` by one batched product."""
    cross = points @ centroids.transpose(-1, -2)
    square = points.square().sum(-1)[..., None] + centroids.square().sum(-1)[:, None, :]
    return (square - 2 * cross).clamp(min=0)


def _seed(points: Tensor, mass: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
    """Greedy k-means++: of a few rows drawn in proportion to their squared distance from the seeds
    so far, the one that leaves the least distance becomes the next seed.
    """
    spread = (mass * points.square().sum(-1)).sum(-1, keepdim=True)
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
        # Else no row is left that differs from the seeds.
        alive.append(total > (_NOTHING * spread if chosen else 0))
        chosen.append(tried.take_along_dim(best, 1))
    return torch.cat(chosen, 1), torch.cat(alive, 1)


def _first_least(remaining: Tensor) -> Tensor:
    """Index ``[C]`` of the first of the least values ``[C, trials]``.

    Two rows that are each other's nearest leave the same distance, whichever becomes the seed. Such
    ties go to the first draw: were rounding to decide, it would let padding decide.
    """
    slack = _TIE * remaining.amax(-1, keepdim=True)
    return (remaining <= remaining.amin(-1, keepdim=True) + slack).int().argmax(-1)


def _scatter(values: Tensor, assignment: Tensor, k: int) -> Tensor:
    """Sums of ``values [C, N, D]`` by cluster ``[C, k, D]``; rows at −1 are left out."""
    sums = values.new_zeros(values.shape[0], k + 1, values.shape[2])
    index = torch.where(assignment < 0, k, assignment)
    return sums.scatter_add_(1, index[..., None].expand_as(values), values)[:, :k]


def _reseed(centroids: Tensor, empty: Tensor, points: Tensor, own: Tensor) -> None:
    """Put each empty cluster's centroid on the row that is farthest from its own, each another."""
    if empty.any():
        for client, cluster in empty.nonzero().tolist():
            farthest = int(own[client].argmax())
            centroids[client, cluster] = points[client, farthest]
            own[client, farthest] = 0.0  # the next empty cluster takes another row


# ---- The operator behind it -----------------------------------------------------------------


def _cluster(
    x: Tensor,
    draws: Tensor,
    valid: Tensor | None,
    weight: Tensor | None,
    spherical: bool,
    iterations: int,
) -> tuple[Tensor, Tensor, Tensor]:
    _check(x, draws, valid, weight, iterations)
    device = x.device.type
    implemented = _IMPLEMENTED[device] if x.dtype == torch.float32 else ("reference",)
    chosen = choose("kmeans", implemented, f"{device} {x.dtype}")
    if chosen != "cpu":
        return kmeans_reference(x, draws, valid, weight, spherical, iterations, _STEPS[chosen])
    x, draws = x.contiguous(), draws.contiguous()
    valid = None if valid is None else valid.contiguous()
    weight = None if weight is None else weight.contiguous()
    results = _cluster_fake(x, draws, valid, weight, spherical, iterations)
    launch(
        *("kmeans", chosen, x, x, draws, valid, weight, *results),
        *(*x.shape, *draws.shape[1:], iterations, spherical),
    )
    return results


def _cluster_fake(
    x: Tensor,
    draws: Tensor,
    valid: Tensor | None,
    weight: Tensor | None,
    spherical: bool,
    iterations: int,
) -> tuple[Tensor, Tensor, Tensor]:
    _check(x, draws, valid, weight, iterations)
    clients, rows, width = x.shape
    k = draws.shape[1]
    return (
        x.new_empty(clients, k, width),
        x.new_empty(clients, rows, dtype=torch.int64),
        x.new_empty(clients, k, dtype=torch.int64),
    )


def _check(
    x: Tensor, draws: Tensor, valid: Tensor | None, weight: Tensor | None, iterations: int
) -> None:
    """Keep direct calls of the operator within their memory; `kmeans` explains better."""
    fits = x.ndim == draws.ndim == 3 and x.shape[0] == draws.shape[0] and iterations >= 1
    fits = fits and min(x.shape[2], *draws.shape[1:]) > 0 and draws.dtype == torch.float32
    fits = fits and draws.device == x.device
    for mask, dtype in ((valid, torch.bool), (weight, torch.float64)):
        if mask is not None:
            fits = fits and mask.shape == x.shape[:2] and mask.dtype == dtype
            fits = fits and mask.device == x.device
    if not fits:
        raise ValueError(
            "fedsyn::kmeans: expected x [C, N, D], draws [C, k, trials] of float32, valid [C, N] "
            "of bool and weight [C, N] of float64 on one device, and iterations >= 1"
        )


_kmeans = register(
    "kmeans(Tensor x, Tensor draws, Tensor? valid, Tensor? weight, bool spherical, int iterations) "
    "-> (Tensor, Tensor, Tensor)",
    *(_cluster, _cluster_fake),
)
