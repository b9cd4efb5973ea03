"""Pairs from single halves: cross-modal sampling from the synthetic pairs that clients were sent.

A client's row that lost its text, or its picture, or only its pairing, cannot be contrasted. The
synthetic pairs tell which texts go with pictures like this one:

for each image v:  (v_1, t_1) ... (v_k, t_k) ← the k synthetic pairs with v_i nearest to v
                   i ~ softmax(−‖v − v_i‖² / h)
                   (v, t_i) is a training pair of this round

and likewise for each text. What v's own text was is not looked at. h is the mean over the client's
rows of ‖v − v_k‖² − ‖v − v_1‖²: how far the neighbours are apart, not how far they are, which in
many dimensions is nearly the same for all of them.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fedsyn.core.cohort import Cohort

NEIGHBOURS = 5


def complete(
    features: Tensor,  # [N, D] concatenated pairs
    image_dim: int,
    cohort: Cohort,
    images: Sequence[np.ndarray],  # rows of each client of which only the image is known ...
    texts: Sequence[np.ndarray],  # ... and only the text
    shared: Tensor,  # [S, D] synthetic pairs, at least one
) -> list[Tensor]:
    """The completed pairs ``[n, D]`` of each client: those of its images, then of its texts."""
    halves = slice(None, image_dim), slice(image_dim, None)
    completed = []
    for stream, *known in zip(cohort.streams("completion"), images, texts, strict=True):
        made = []
        for own, rows in zip(halves, known, strict=True):
            half = features[torch.from_numpy(rows), own]
            pairs = shared[_partners(half, shared[:, own], stream)]  # copies
            pairs[:, own] = half
            made.append(pairs)
        completed.append(torch.cat(made))
    return completed


def _partners(half: Tensor, shared: Tensor, stream: torch.Generator) -> Tensor:  # [n]
    """A synthetic pair for each real half ``[n, d]``, by the pairs' own halves ``[S, d]``."""
    near, probability = neighbours(half, shared)
    point = torch.rand(len(half), 1, generator=stream, dtype=torch.float64).to(half.device)
    chosen = (probability.cumsum(-1) <= point).sum(-1).clamp(max=near.shape[-1] - 1)
    return near.take_along_dim(chosen[:, None], -1)[:, 0]


def neighbours(half: Tensor, shared: Tensor) -> tuple[Tensor, Tensor]:  # [n, k], [n, k]
    """The nearest of ``shared [S, d]`` to each row ``[n, d]``, and how likely each is drawn."""
    distance = torch.cdist(half.double(), shared.double()).square()
    count = min(NEIGHBOURS, len(shared))
    found, near = distance.topk(count, largest=False)
    beyond = found - found[:, :1]
    # Neighbours at one distance are drawn evenly.
    width = beyond[:, -1].mean().clamp(min=torch.finfo(beyond.dtype).tiny)
    return near, (-beyond / width).softmax(-1)
