"""How the server scores synthetic pairs, with all clients' prototypes in view.

A candidate is scored against the global prototypes (all clients' prototypes, embedded by the
aggregated model and clustered) and against those of the client that made it:

* ``divergence``: Jensen–Shannon divergence between its image's and its text's assignment to the
  global prototypes, in [0, ln 2];
* ``realism``: cosine of its fused embedding to the nearest prototype of its own client;
* ``agreement``: mean over all clients of the cosine to that client's nearest prototype;
* ``prototype``: the global prototype that its fused embedding is nearest to.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from fedsyn import ops
from fedsyn.models.retrieval import fuse


@dataclass(frozen=True)
class CandidateScores:
    """The scores of S candidates, by which some are kept."""

    divergence: Tensor  # [S]
    realism: Tensor  # [S]
    agreement: Tensor  # [S], NaN where it was not asked for
    prototype: Tensor  # [S] long

    @classmethod
    def empty(cls, size: int, device: torch.device) -> "CandidateScores":
        """Room for the scores of ``size`` candidates."""
        divergence, realism, agreement = torch.full((3, size), torch.nan, device=device)
        prototype = torch.zeros(size, dtype=torch.long, device=device)
        return cls(divergence, realism, agreement, prototype)

    def put(self, at: Tensor, scores: "CandidateScores") -> None:
        """The scores of the candidates ``at``."""
        for field in fields(self):
            getattr(self, field.name)[at] = getattr(scores, field.name)

    def take(self, at: Tensor) -> "CandidateScores":
        """The scores of the candidates ``at`` alone."""
        return CandidateScores(*(getattr(self, field.name)[at] for field in fields(self)))


@dataclass(frozen=True)
class GlobalPrototypes:
    """Clusters of all clients' prototypes under the aggregated model."""

    centroids: Tensor  # [G, d] unit rows
    mass: Tensor  # [G] share of all clients' pairs


def global_prototypes(
    embedded: Tensor,  # [C, M, d] every client's prototypes, unit rows
    counts: Tensor,  # [C, M] pairs behind each, 0 where there is none
    k: int,
    generator: torch.Generator,
) -> GlobalPrototypes:
    """Spherical k-means of the clients' prototypes; each counts as many pairs as it stands for."""
    alive = counts.flatten() > 0
    points, weight = embedded.flatten(0, 1)[alive][None], counts.flatten()[alive][None]
    centroids, owner, members = ops.kmeans(points, k, [generator], weight=weight, spherical=True)
    mass = torch.zeros(k, dtype=torch.float64, device=embedded.device)
    mass.scatter_add_(0, owner[0], weight[0].double())
    exists = members[0] > 0
    return GlobalPrototypes(centroids[0, exists], (mass / mass.sum())[exists].float())


def score(
    image: Tensor,  # [S, d] unit rows
    text: Tensor,  # [S, d] unit rows
    maker: Tensor,  # [S] long, position of the client that made each candidate
    embedded: Tensor,  # [C, M, d] the clients' prototypes, unit rows
    counts: Tensor,  # [C, M]
    world: GlobalPrototypes,
    scale: float,
    agreement: bool = True,
) -> CandidateScores:
    """Score candidates; ``agreement``, which looks at every client, only if it is asked for.

    The nearest global prototype is that with the greatest sum of both modalities' cosines: that to
    the fused embedding, which is their normalised mean, but for a positive factor.
    """
    fused = fuse(image, text)
    divergence, prototype = ops.js_assign(image, text, world.centroids, world.centroids, scale)
    realism = torch.full_like(fused[:, 0], -1.0)
    for client in maker.unique().tolist():
        mine = (maker == client).to(fused.device)
        realism[mine] = _nearest(fused[mine], embedded[client], counts[client])
    shared = torch.full_like(realism, torch.nan)
    if agreement:
        shared = torch.zeros_like(realism)
        for known, count in zip(embedded, counts, strict=True):
            shared += _nearest(fused, known, count) / len(embedded)
    return CandidateScores(divergence, realism, shared, prototype)


def _nearest(fused: Tensor, known: Tensor, count: Tensor) -> Tensor:
    """Cosine of each row to the nearest of one client's prototypes."""
    return (fused @ known[count > 0].T).amax(-1)


def quotas(mass: Sequence[float], budget: int, balance: float) -> list[int]:
    """Split ``budget`` in proportion to mass^(1 − balance), by largest remainder."""
    weight = [m ** (1 - balance) if m > 0 else 0.0 for m in mass]
    total = sum(weight)
    if total == 0:
        return [0] * len(weight)
    exact = [budget * w / total for w in weight]
    whole = [int(e) for e in exact]
    by_remainder = sorted(range(len(exact)), key=lambda g: (whole[g] - exact[g], g))
    for prototype in by_remainder[: budget - sum(whole)]:
        whole[prototype] += 1
    return whole
