"""Reductions over clients, in client order, as their payloads come.

What has been heard so far is a few running sums, so memory does not grow with the number of
clients; they are added up one client after another in float64, so the result does not depend on how
clients were stacked.
"""

from collections.abc import Collection

import torch
from torch import Tensor

from fedsyn.core.payload import Payload, append

WEIGHT = "weight"  # the key of the sum of weights among the sums


def add_weighted(
    sums: Payload,  # so far; empty at first
    payload: Payload,  # [C, ...]
    weights: Tensor,  # [C]
    total: str = WEIGHT,
) -> Payload:
    """``sums`` plus Σ w_k x_k of every tensor of a chunk's payload, and plus Σ w_k; in place.

    What has weights of its own has a ``total`` of its own, the name of Σ w_k.

    Raises
    ------
    ValueError
        If a weight is negative or not finite.
    """
    if not bool(((weights >= 0) & weights.isfinite()).all()):
        raise ValueError(f"expected weights that are finite and >= 0, got {weights.tolist()}")
    if total not in sums:
        new = {name: torch.zeros_like(v[0], dtype=torch.float64) for name, v in payload.items()}
        sums = sums | new | {total: torch.zeros((), dtype=torch.float64)}
    shares = weights.tolist()
    for name, rows in payload.items():
        for row, share in zip(rows, shares, strict=True):
            if share:  # what a client without a say sends may be anything
                sums[name].add_(row, alpha=share)
    for share in shares:
        sums[total] += share
    return sums


def add_sums(sums: Payload, more: Payload) -> Payload:
    """Both sums as one, name by name."""
    return {name: value + more[name] for name, value in sums.items()} if sums else more


def add_with_rows(sums: Payload, more: Payload, rows: Collection[str]) -> Payload:
    """Both sums as one, but the tensors named ``rows``, of which the second's come behind."""
    plain, behind = (
        {name: value for name, value in more.items() if (name in rows) == among}
        for among in (False, True)
    )
    known = {name: value for name, value in sums.items() if name not in rows}
    return add_sums(known, plain) | append(sums, behind)


def mean(sums: Payload) -> Payload:
    """Σ w_k x_k / Σ w_k of every tensor, in float64; the mean of identical tensors is that tensor.

    Raises
    ------
    ValueError
        If the weights add up to zero.
    """
    weight = float(sums[WEIGHT])
    if weight == 0:
        raise ValueError("expected weights with a positive sum, got 0")
    return {name: value / weight for name, value in sums.items() if name != WEIGHT}
