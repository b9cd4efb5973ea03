"""First and second moments of pairs, cross moments included: sums that clients add up to."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from fedsyn.core.payload import Payload
from fedsyn.data.silos import NOTHING

COUNT, SUM, SECOND = "count", "sum", "second"
CHUNK = 4096  # rows in float64 at a time


def pair_moments(features: Tensor, clients: Sequence[np.ndarray]) -> Iterator[Payload]:
    """What each client has of them, one after another.

    Parameters
    ----------
    features : Tensor of shape [N, D]
        Concatenated pairs.
    clients : sequence of array
        Of each client the int64 rows of its pairs.

    Yields
    ------
    Payload
        ``count`` [], ``sum`` [D] and ``second`` [D (D + 1) / 2], the upper triangle of Σ x xᵀ, all
        float64.
    """
    width = features.shape[1]
    triangle = torch.triu_indices(width, width)
    for rows in clients:
        total = torch.zeros(width, dtype=torch.float64)
        second = torch.zeros(width, width, dtype=torch.float64)
        for start in range(0, len(rows), CHUNK):
            at = torch.from_numpy(rows[start : start + CHUNK]).to(features.device)
            part = features[at].cpu().double()
            total += part.sum(0)
            second += part.T @ part
        yield {
            COUNT: torch.tensor(float(len(rows)), dtype=torch.float64),
            SUM: total,
            SECOND: second[triangle[0], triangle[1]],
        }


def moments_like(width: int) -> Payload:
    """What a client without pairs has of them: zeros."""
    return next(pair_moments(torch.empty(0, width), [NOTHING]))
