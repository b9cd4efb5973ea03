"""Attacks by the shape of what a client has sent: how near, or how likely, is a pair?

Each takes pairs ``[n, D]`` and gives scores ``[n]``, higher for likelier members, in float64. An
attacker knows how features are made, has the pair it asks about, and what was sent.

nearest        −min_m ‖x − p_m‖                               (prototypes; samples: distance to the
                                                              closest record, Hilprecht et al. 2019)
Mahalanobis    the same under a covariance: −min_m ((x − p_m)ᵀ Σ⁻¹ (x − p_m))^½
subspace       −min_m ‖(I − QQᵀ)(x − p_m)‖                     Q spans the directions sent
likelihood     log Σ_m (n_m / n) N(x; p_m, Σ)
ratio          the client's likelihood over all other clients'
leverage       −(xᵀ S⁻¹ x)^½ by second moments S; alignment: the cosine with first moments
explained      ‖Q Qᵀ x‖ / ‖x‖                                  Q spans the difference of two sums

Σ is what was sent plus a ridge: `RIDGE` times its mean variance in every direction.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

RIDGE = 0.01
TINY = torch.finfo(torch.float64).tiny
BLANK = 1e-10  # share of the largest eigenvalue below which a direction is rounding


@dataclass(frozen=True)
class Metric:
    """A covariance as a map: ‖x root‖² = xᵀ Σ⁻¹ x.

    Attributes
    ----------
    root : Tensor of shape [D, D]
    log_det : float
        Of Σ.
    """

    root: Tensor
    log_det: float

    @classmethod
    def of(cls, covariance: Tensor, ridge: float = RIDGE) -> "Metric":
        """From a covariance ``[D, D]``, known up to a factor where only ranks matter."""
        values, vectors = eigen(covariance)
        values = values.clamp(min=0)
        values = values + ridge * (float(values.mean()) or 1.0)
        return cls(vectors * values.rsqrt(), float(values.log().sum()))


@dataclass(frozen=True)
class Mixture:
    """Gaussians of one covariance.

    Attributes
    ----------
    centres : Tensor of shape [M, D]
    counts : Tensor of shape [M]
        Pairs behind each, positive.
    metric : Metric
    """

    centres: Tensor
    counts: Tensor
    metric: Metric

    @property
    def size(self) -> float:
        """How many pairs are behind all of them."""
        return float(self.counts.sum())


def nearest(pairs: Tensor, centres: Tensor) -> Tensor:
    """Minus the distance to the nearest of the centres ``[M, D]``."""
    return -torch.cdist(pairs.double(), centres.double()).amin(-1)


def mahalanobis(pairs: Tensor, centres: Tensor, metric: Metric) -> Tensor:
    """The same under a covariance."""
    return nearest(pairs.double() @ metric.root, centres.double() @ metric.root)


def leverage(pairs: Tensor, second: Tensor) -> Tensor:
    """Minus the length of pairs under second moments ``[D, D]``, about 0 and up to a factor.

    A pair that is in the sum lies in its span; a stranger does not where it is short of rank.
    """
    lengths: Tensor = (pairs.double() @ Metric.of(second).root).norm(dim=-1)
    return -lengths


def alignment(pairs: Tensor, total: Tensor) -> Tensor:
    """The cosine of pairs and a sum ``[D]`` that they may be in (after Homer et al. 2008)."""
    lengths: Tensor = pairs.double().norm(dim=-1) * total.double().norm()
    return pairs.double() @ total.double() / lengths.clamp(min=TINY)


def subspace(pairs: Tensor, centres: Tensor, directions: Tensor) -> Tensor:
    """Minus how far a pair is from the nearest of the centres plus the span of ``[r, D]``."""
    spanned = span(directions.double().T @ directions.double())
    rest = torch.eye(len(spanned)).double() - spanned @ spanned.T
    return nearest(pairs.double() @ rest, centres.double() @ rest)


def log_likelihood(pairs: Tensor, mixture: Mixture) -> Tensor:
    """The logarithm of a mixture's density."""
    root = mixture.metric.root
    square = torch.cdist(pairs.double() @ root, mixture.centres.double() @ root).square()
    share = (mixture.counts.double() / mixture.size).log()
    constant = len(root) * torch.log(torch.tensor(2 * torch.pi)).double() + mixture.metric.log_det
    return (share - square / 2).logsumexp(-1) - constant / 2


def density_ratio(pairs: Tensor, own: Mixture, others: Sequence[Mixture]) -> Tensor:
    """The log-likelihood under the client's mixture less that under all others' together."""
    whole = sum(one.size for one in others)
    beside = torch.stack(
        [
            log_likelihood(pairs, one) + torch.tensor(one.size / whole).double().log()
            for one in others
        ]
    )
    return log_likelihood(pairs, own) - beside.logsumexp(0)


def explained(pairs: Tensor, difference: Tensor) -> Tensor:
    """Which share of a pair's length lies in the span of a difference of second moments."""
    share: Tensor = (pairs.double() @ span(difference)).norm(dim=-1)
    share /= pairs.double().norm(dim=-1).clamp(min=TINY)
    return share


def span(matrix: Tensor) -> Tensor:
    """An orthonormal basis ``[D, r]`` of what a symmetric matrix ``[D, D]`` spans."""
    values, vectors = eigen(matrix)
    basis: Tensor = vectors[:, values.abs() > BLANK * values.abs().max()]
    return basis


def eigen(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues ``[D]`` and vectors as columns ``[D, D]`` of a symmetric matrix, in float64."""
    try:
        values, vectors = torch.linalg.eigh(matrix.double())
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        # LAPACK's divide and conquer gives up on some singular matrices; QR iteration does not.
        from scipy.linalg import eigh

        values, vectors = map(torch.from_numpy, eigh(matrix.double().numpy(), driver="ev"))
    return values, vectors
