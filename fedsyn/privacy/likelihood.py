"""Attacks on models of pairs: is a pair's partner found better than it should be?

partner's cosine    ⟨u, v⟩
partner's log-odds  log p / (1 − p) of the pair's own partner among candidates, mean of both ways:
                    ⟨u_i, v_i⟩/T − log Σ_{j ≠ i} exp(⟨u_i, v_j⟩/T); what InfoNCE minimises, made
                    unbounded
likelihood ratio    (log-odds − μ) / σ, μ and σ of models that have not seen the pair: LiRA, offline
                    (Carlini et al. 2022, IEEE S&P, section V-E; one variance for all pairs, as
                    there where models are few)
"""

import torch
from torch import Tensor

TEMPERATURE = 0.1


def cosine(image: Tensor, text: Tensor) -> Tensor:
    """Of each pair's unit embeddings ``[..., n, d]``: ``[..., n]``."""
    return (image * text).sum(-1).double()


def log_odds(image: Tensor, text: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """Of each pair's partner among all ``n >= 2`` pairs, by unit embeddings ``[..., n, d]``."""
    similar = image @ text.transpose(-1, -2) / temperature
    own = similar.diagonal(dim1=-2, dim2=-1)
    itself = torch.eye(similar.shape[-1], dtype=torch.bool)
    others = similar.masked_fill(itself, -torch.inf)
    return (own - (others.logsumexp(-1) + others.logsumexp(-2)) / 2).double()


def offline_ratio(observed: Tensor, shadows: Tensor, seen: Tensor) -> Tensor:
    """By how many standard deviations a pair's log-odds exceed those of models without it.

    Parameters
    ----------
    observed : Tensor of shape [n]
        Under the model attacked.
    shadows : Tensor of shape [S, n]
        Under shadow models.
    seen : Tensor of shape [S, n] bool
        Which of them have trained on which pairs. Each pair needs one that has not.
    """
    without = (~seen).double()
    count = without.sum(0).clamp(min=1)
    mean = (shadows.double() * without).sum(0) / count
    square = ((shadows.double() - mean).square() * without).sum()
    freedom = (without.sum() - len(observed)).clamp(min=1)
    deviation = (square / freedom).sqrt().clamp(min=torch.finfo(torch.float64).tiny)
    return (observed.double() - mean) / deviation
