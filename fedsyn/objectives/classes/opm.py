"""On-the-fly prediction modulation (Wei et al. 2024, TPAMI).

Of a batch, with s_u the probability of the true class by modality u's half of the fusion head:

ρ_u = Σ s_u / Σ s_other        over the rows with both halves
q_u = q (1 + λ tanh(ρ_u − 1)) where ρ_u > 1, else 0

With probability p a batch is modulated: its fusion head sees each row without u's half with
probability q_u, and what is left over 1 − θ, where θ is the mean of q_u over the features that the
head is given. Rows with nothing left have no say. Batches of the first epochs are not modulated;
epochs are counted over rounds, as of a client that takes part in all.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from fedsyn.config import MethodConfig, OPMConfig
from fedsyn.core.batches import steps
from fedsyn.core.cohort import Cohort
from fedsyn.metrics.classification import discrepancy
from fedsyn.models.fusion import FusionNet
from fedsyn.objectives.classes.halves import Batch, CrossEntropy, Training


@dataclass(frozen=True)
class OPM(CrossEntropy):
    """Cross-entropy, whose fusion head sees less of the dominant modality."""

    config: OPMConfig

    def training(
        self, net: FusionNet, cohort: Cohort, config: MethodConfig, purpose: str
    ) -> Training:
        """The loss with halves of some rows hidden from the fusion head."""
        if (cohort.round - 1) * config.epochs < self.config.warmup:
            return super().training(net, cohort, config, purpose)
        numbers = _numbers(cohort, config, f"{purpose}.opm")

        def loss(params: Tensor, clients: Tensor, batch: Batch, step: Tensor) -> Tensor:
            drawn = numbers.to(params)[step, clients]
            return self.modulated(net, batch, drawn[:, 0], drawn[:, 1:])

        return loss

    def modulated(self, net: FusionNet, batch: Batch, whether: Tensor, which: Tensor) -> Tensor:
        """The loss ``[C]``, by uniform numbers of batches ``[C]`` and of their rows ``[C, B]``."""
        own, fused = self.config, batch.reading.fused
        with torch.no_grad():
            halves = net.halves(batch.reading.parts, batch.reading.own)
            ratio = discrepancy(*halves, batch.target, batch.whole)
        both = torch.stack([ratio, 1 / ratio], -1)
        share = (own.base * (1 + own.slope * (both - 1).tanh())).clamp(max=1)
        share = torch.where((both > 1) & (whether < own.probability)[:, None], share, 0)
        # At most one of the two is dominant, so that one number a row is enough.
        hidden = which[..., None] < share[:, None]
        left = [
            half.masked_fill(gone[..., None], 0) / (1 - share.mean(-1))[:, None, None]
            for half, gone in zip(fused, hidden.unbind(-1), strict=True)
        ]
        something = (batch.present & ~hidden).any(-1)
        return self.total(net, batch, (left[0], left[1]), batch.labelled & something)


def _numbers(cohort: Cohort, config: MethodConfig, purpose: str) -> Tensor:
    """Uniform numbers ``[S, C, 1 + B]`` of every step: one of the batch, one a row."""
    taken = steps(cohort.sizes, config.batch, config.epochs).tolist()
    drawn = [
        torch.rand(own, 1 + config.batch, generator=stream)
        for own, stream in zip(taken, cohort.streams(purpose), strict=True)
    ]
    return pad_sequence(drawn)
