"""Contrast with others' features, and commitment to neighbours among them, as CCL has it.

L_con = −log e^{q·k⁺/τ} / Σ_n e^{q·n/τ}  over the queue and the others' features      (fusion)
L_nei = −Σ_j p_j log p_j,  p ∝ e^{q·n_j/τ}  over the N features nearest to q

(Wu et al. 2022, IJCAI; arXiv 2111.10763.)
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fedsyn import ops
from fedsyn.objectives.similarity import masked_mean
from fedsyn.objectives.views.base import Learner, Seen, Views
from fedsyn.objectives.views.moco import Contrast
from fedsyn.ops.info_nce import MASKED
from fedsyn.ops.prototype_nce import prototype_logits


@dataclass(frozen=True)
class Fused(Learner):
    """A contrast with the queue, and with others' features beside it.

    Without ``fusion`` they are neighbours alone.
    """

    contrast: Contrast
    others: Tensor  # [C, R, d] unit rows
    exist: Tensor  # [C, R] bool: those that are others'
    fusion: bool
    matching: float  # weight of L_nei
    neighbours: int  # N

    def __call__(self, params: Tensor, clients: Tensor, views: Views, step: Tensor) -> Seen:
        """The step's ``L_con + matching · L_nei``."""
        features, query = self.contrast.look(params, views)
        own = self.contrast.remember(params, clients, views, step)
        queue, held = self.contrast.queue.held(clients)
        everything = torch.cat([queue, self.others[clients]], 1)
        exist = torch.cat([held, self.exist[clients]], 1)
        scale = 1 / self.contrast.temperature
        keys, among = (everything, exist) if self.fusion else (queue, held)
        loss = ops.prototype_nce(query, keys, own, scale, among)
        if self.matching:
            entropy = neighbourhood(query, everything, exist, own, self.neighbours, scale)
            loss = loss + self.matching * entropy
        return Seen(loss, features, views.valid)


def neighbourhood(
    query: Tensor,  # [C, B, d] unit rows
    features: Tensor,  # [C, M, d] unit rows
    exist: Tensor,  # [C, M] bool
    own: Tensor,  # [C, B] long, the feature that is the query's own and no neighbour; -1: no query
    neighbours: int,
    scale: float,  # 1 / temperature
) -> Tensor:  # [C]
    """``L_nei``: the mean entropy of the queries over their nearest features."""
    logits = prototype_logits(query, features, scale, exist)
    logits = logits.scatter(-1, own.clamp(min=0)[..., None], MASKED)
    log_p = logits.topk(min(neighbours, logits.shape[-1]), -1).values.log_softmax(-1)
    return masked_mean(-(log_p.exp() * log_p).sum(-1), own >= 0)
