"""Where a retrieval network starts: linear maps of both halves, from sums over all clients.

**The closed form** is canonical correlation analysis with a ridge (Hotelling 1936; Vinod 1976).
With the covariances of images and texts and their cross-covariance,

    C̃ = C + r · tr(C)/d · I,    C̃_xx^(-1/2) C_xy C̃_yy^(-1/2) = U S Vᵀ
    A = C̃_xx^(-1/2) U_k S_k^(1/2),    B = C̃_yy^(-1/2) V_k S_k^(1/2)

image x is embedded as (x − m_x) A and text y as (y − m_y) B: their scalar product weighs each of
the k canonical directions by its correlation. It takes nothing but sums over clients, once.

**The identity** leaves features as they were before they were standardised: halves that an encoder
has aligned already keep what that encoder knows.

Either is scaled so that an embedding's mean square, before it is normalised, is 1 (of hash codes
that of each number, which tanh is to bend).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fedsyn.core.decompositions import singular, symmetric
from fedsyn.data.moments import COUNT, SECOND, SUM

LEAST = 1e-9  # eigenvalue, of a mean of 1, that is divided by


@dataclass(frozen=True)
class Moments:
    """Means and covariances of pairs, in float64.

    Attributes
    ----------
    mean : Tensor of shape [D]
        Of concatenated features, image first.
    covariance : Tensor of shape [D, D]
    image : int
        How many of the features are the image's.
    """

    mean: Tensor
    covariance: Tensor
    image: int

    @classmethod
    def of(cls, total: Mapping[str, Tensor], image: int) -> "Moments":
        """From sums over clients, see `fedsyn.data.moments.pair_moments`."""
        count, mean = float(total[COUNT]), total[SUM] / total[COUNT]
        width = len(mean)
        second = torch.zeros(width, width, dtype=torch.float64)
        row, column = torch.triu_indices(width, width)
        second[row, column] = second[column, row] = total[SECOND] / count
        return cls(mean, second - torch.outer(mean, mean), image)


@dataclass(frozen=True)
class LinearStart:
    """Maps of both halves to embeddings: x A + a and y B + b.

    Attributes
    ----------
    name : str
        What it is.
    image, text : pair of Tensor
        Weight ``[d, out]`` and bias ``[out]``, float64.
    """

    name: str
    image: tuple[Tensor, Tensor]
    text: tuple[Tensor, Tensor]


def closed_form(
    moments: Moments, out: int, ridge: float, directions: int, rotation: Tensor | None = None
) -> LinearStart:
    """Canonical correlation analysis, see above.

    Parameters
    ----------
    moments : Moments
    out : int
        Size of an embedding; numbers beyond ``directions`` are 0.
    ridge : float
        r, positive.
    directions : int
        k, at most ``out``.
    rotation : Tensor of shape [out, out], optional
        Applied to both embeddings: signs of the leading directions say less than signs of mixtures.
    """
    split = moments.image
    mean, covariance = moments.mean, moments.covariance
    image, text = (
        _inverse_root(part, ridge)
        for part in (covariance[:split, :split], covariance[split:, split:])
    )
    left, strength, right = singular(image @ covariance[:split, split:] @ text)
    kept = min(directions, out, len(strength))
    root = strength[:kept].sqrt()
    maps = []
    for half, vectors, centre in (
        (image, left[:, :kept], mean[:split]),
        (text, right[:kept].T, mean[split:]),
    ):
        weight = torch.zeros(len(half), out, dtype=torch.float64)
        weight[:, :kept] = half @ vectors * root
        if rotation is not None:
            weight = weight @ rotation
        maps.append((weight, -centre @ weight))
    turned = ", rotated" if rotation is not None else ""
    return LinearStart(f"closed form (ridge {ridge:g}, {kept} directions{turned})", *maps)


def identity(preprocessing: Mapping[str, Tensor]) -> LinearStart:
    """Features as they were before ``(x − offset) · scale``, see `fedsyn.data.preprocessing`."""
    maps = []
    for name in ("image", "text"):
        offset, scale = (preprocessing[f"{name}.{part}"].double() for part in ("offset", "scale"))
        spread = torch.where(scale == 0, 0.0, 1 / scale)
        maps.append((torch.diag(spread), offset))
    return LinearStart("identity", *maps)


def scaled(start: LinearStart, moments: Moments, square: float) -> LinearStart:
    """The same directions; the mean square of each half's embeddings is ``square``."""
    split = moments.image
    parts = (slice(None, split), slice(split, None))
    maps = []
    for (weight, bias), own in zip((start.image, start.text), parts, strict=True):
        mean = moments.mean[own] @ weight + bias
        spread = ((moments.covariance[own, own] @ weight) * weight).sum()
        size = (spread + mean.square().sum()).clamp(min=torch.finfo(torch.float64).tiny)
        factor = (square / size).sqrt()
        maps.append((factor * weight, factor * bias))
    return LinearStart(start.name, *maps)


def _inverse_root(covariance: Tensor, ridge: float) -> Tensor:
    """``(C + r tr(C)/d I)^(-1/2)``; of no variance at all the zero matrix."""
    trace = covariance.trace()
    if trace <= 0:
        return torch.zeros_like(covariance)
    unit = covariance * (len(covariance) / trace)  # of mean eigenvalue 1
    values, vectors = symmetric(unit + ridge * torch.eye(len(unit)).to(unit))
    root: Tensor = (vectors * values.clamp(min=LEAST).rsqrt()) @ vectors.T
    return root * (len(covariance) / trace).sqrt()
