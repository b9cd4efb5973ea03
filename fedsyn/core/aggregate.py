"""Reductions over clients, in client order, so that stacking never changes a sum."""

from collections.abc import Iterable

import torch
from torch import Tensor


def weighted_mean(rows: Iterable[Tensor], weights: Tensor) -> Tensor:
    """Σ w_k x_k / Σ w_k of equally shaped tensors, one a client.

    Summed one client after another in float64, so the result does not depend on how clients were
    stacked, and the mean of identical models is that model.

    Raises
    ------
    ValueError
        If there are no rows, or the weights are negative or all zero.
    """
    if weights.numel() == 0 or (weights < 0).any() or weights.sum() <= 0:
        raise ValueError(f"expected weights with a positive sum, got {weights.tolist()}")
    shares = (weights.double() / weights.double().sum()).tolist()
    total: Tensor | None = None
    dtype = torch.float32
    for row, share in zip(rows, shares, strict=True):
        dtype = row.dtype
        part = row.double() * share
        total = part if total is None else total.add_(part)
    assert total is not None
    return total.to(dtype)
