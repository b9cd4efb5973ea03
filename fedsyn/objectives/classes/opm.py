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

from fedsyn.core.batches import steps
from fedsyn.core.cohort import Cohort
from fedsyn.core.training import Training
from fedsyn.metrics.classification import discrepancy
from fedsyn.models.fusion import FusionNet
from fedsyn.objectives.base import Objective
from fedsyn.objectives.classes.halves import HalvesBatch, HalvesObjective, HalvesOptions, LocalLoss
from fedsyn.settings.plugins import FLAT
from fedsyn.settings.sections import Field, Fraction, Section, Whole


class OPMOptions(Section):
    """Options of the objective OPM."""

    base: Fraction = Field(0.5, description="share q of rows that lose the dominant half")
    slope: Fraction = Field(0.5, description="slope λ of that share")
    probability: Fraction = Field(0.7, description="probability p that a batch is modulated")
    warmup: Whole = Field(5, description="epochs without modulation")


@dataclass(frozen=True)
class OPMLoss(HalvesObjective):
    """Cross-entropy, whose fusion head sees less of the dominant modality."""

    options: OPMOptions

    def training(
        self, net: FusionNet, cohort: Cohort, training: Training, purpose: str
    ) -> LocalLoss:
        """The loss with halves of some rows hidden from the fusion head."""
        if (cohort.round_number - 1) * training.epochs < self.options.warmup:
            return super().training(net, cohort, training, purpose)
        numbers = _numbers(cohort, training, f"{purpose}.opm")

        def loss(params: Tensor, clients: Tensor, batch: HalvesBatch, step: Tensor) -> Tensor:
            drawn = numbers.to(params)[step, clients]
            return self.modulated(net, batch, drawn[:, 0], drawn[:, 1:])

        return loss

    def modulated(
        self, net: FusionNet, batch: HalvesBatch, whether: Tensor, which: Tensor
    ) -> Tensor:
        """The loss ``[C]``, by uniform numbers of batches ``[C]`` and of their rows ``[C, B]``."""
        own, fused = self.options, batch.reading.fused
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


def _numbers(cohort: Cohort, training: Training, purpose: str) -> Tensor:
    """Uniform numbers ``[S, C, 1 + B]`` of every step: one of the batch, one a row."""
    taken = steps(cohort.sizes, training.batch, training.epochs).tolist()
    drawn = [
        torch.rand(own, 1 + training.batch, generator=stream)
        for own, stream in zip(taken, cohort.streams(purpose), strict=True)
    ]
    return pad_sequence(drawn)


OPM = Objective(
    name="opm",
    options={FLAT: HalvesOptions, "opm": OPMOptions},
    halves=lambda config: OPMLoss(config.of(HalvesOptions).modality, config.of(OPMOptions)),
)
