"""Similarities between the pairs of a batch, and means over those that take part."""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize, softplus

from fedsyn.objectives.pairs.base import PairBatch


def present(batch: PairBatch) -> Tensor:  # [C, B] bool
    """Which rows of a batch take part: all where none is named."""
    if batch.valid is None:
        return batch.image.new_ones(batch.image.shape[:-1], dtype=torch.bool)
    return batch.valid


def both(valid: Tensor) -> Tensor:  # [C, B] bool -> [C, B, B] bool
    """The entries of a Gram matrix of which both rows take part."""
    return valid[:, :, None] & valid[:, None, :]


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:  # [C, ...], [C, ...] bool -> [C]
    """Each client's mean over the entries in ``mask``; 0 where there are none."""
    total = x.masked_fill(~mask, 0).flatten(1).sum(-1)
    return total / mask.flatten(1).sum(-1).clamp(min=1)


def mse(x: Tensor, y: Tensor, mask: Tensor) -> Tensor:  # [C, ...] -> [C]
    """Each client's mean squared difference over the entries in ``mask``."""
    return masked_mean((x - y).square(), mask)


def gram(x: Tensor, y: Tensor) -> Tensor:  # [C, B, d], [C, N, d] -> [C, B, N]
    """Scalar products of all rows of ``x`` with all rows of ``y``."""
    return x @ y.mT


def contrast(
    z: Tensor,  # [..., d] unit rows
    near: Tensor,  # [..., d] unit rows
    far: Tensor,  # [..., d] unit rows
    temperature: float,
) -> Tensor:  # [...]
    """Of each row −log e^{z·near/τ} / (e^{z·near/τ} + e^{z·far/τ}) (MOON, eq. 3)."""
    return softplus((z * (far - near)).sum(-1) / temperature)


def weighted(pairs: Tensor, image: int, weight: float) -> Tensor:  # [C, B, D] -> [C, B, D]
    """Rows whose scalar products are ``weight · cos(images) + (1 − weight) · cos(texts)``.

    ``pairs[..., :image]`` are the image features.
    """
    first = math.sqrt(weight) * normalize(pairs[..., :image], dim=-1)
    second = math.sqrt(1 - weight) * normalize(pairs[..., image:], dim=-1)
    return torch.cat([first, second], -1)


def strongest(similarity: Tensor, exists: Tensor, dropped: float) -> Tensor:  # [C, B, N] bool
    """Each row's entries without the lowest ``⌊dropped · n⌋`` of the ``n`` that exist.

    ``exists [C, N]``. The highest is always kept, and so are those that tie with the lowest kept.
    """
    size = exists.sum(-1)
    count = (dropped * size.double()).long().minimum(size - 1).clamp(min=0)
    ordered = _ascending(similarity.masked_fill(~exists[:, None], math.inf))
    lowest = ordered.gather(-1, count[:, None, None].expand(*similarity.shape[:2], 1))
    return (similarity >= lowest) & exists[:, None]


def _ascending(x: Tensor) -> Tensor:
    """Sorted along the last axis; without a gradient."""
    if x.device.type == "cpu":  # numpy's sort of values alone is vectorised, torch's is not
        return torch.from_numpy(np.sort(x.numpy(force=True)))
    return x.sort(-1).values


def code(rows: Tensor, hashing: bool) -> Tensor:  # [..., d] unit rows -> [..., d], detached
    """What embeddings are relaxations of: their signs as unit rows, or they themselves."""
    rows = rows.detach()
    return rows.sign() / math.sqrt(rows.shape[-1]) if hashing else rows
