"""OGM-GE, on-the-fly gradient modulation with generalisation enhancement (Peng et al. 2022, CVPR).

Of a batch, with s_u the probability of the true class by modality u's half of the fusion head:

ρ_u = Σ s_u / Σ s_other        over the rows with both halves
k_u = 1 − tanh(α ρ_u) where ρ_u > 1, else 1
gradient of u's encoder ← k_u · gradient + N(0, σ²)

An encoder is a backbone and its own projector; σ is the standard deviation of the entries of each
of their weights' and biases' gradients, before they are modulated.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fedsyn import streams
from fedsyn.core.cohort import Cohort
from fedsyn.core.training import Training
from fedsyn.metrics.classification import discrepancy
from fedsyn.models.fusion import MODALITIES, FusionNet
from fedsyn.objectives.base import Objective
from fedsyn.objectives.classes.halves import HalvesBatch, HalvesObjective, HalvesOptions, LocalLoss
from fedsyn.settings.plugins import FLAT
from fedsyn.settings.sections import Field, NonNegative, Section


class OGMGEOptions(Section):
    """Options of the objective OGM-GE."""

    alpha: NonNegative = Field(0.8, description="strength α of the modulation")
    noise: bool = Field(True, description="noise on the gradients: generalisation enhancement")


@dataclass(frozen=True)
class OGMGELoss(HalvesObjective):
    """Cross-entropy, from which the dominant modality's encoder learns less."""

    options: OGMGEOptions

    def training(
        self, net: FusionNet, cohort: Cohort, training: Training, purpose: str
    ) -> LocalLoss:
        """The loss, whose gradient is modulated on its way to the parameters."""
        generators = cohort.streams(f"{purpose}.ogm_ge") if self.options.noise else []

        def loss(params: Tensor, clients: Tensor, batch: HalvesBatch, step: Tensor) -> Tensor:
            noise = None
            if generators:  # drawn for all, so that nobody's depends on who still trains
                drawn = streams.normal(generators, net.layout.size)
                noise = drawn.to(params)[clients]
            strength = strengths(net, batch, self.options.alpha)
            params.register_hook(lambda gradient: modulated(net, gradient, strength, noise))
            return self(net, batch)

        return loss


def strengths(net: FusionNet, batch: HalvesBatch, alpha: float) -> Tensor:  # [C, 2]
    """Of the image's and of the text's encoder: their k."""
    with torch.no_grad():
        halves = net.halves(batch.reading.parts, batch.reading.own)
        ratio = discrepancy(*halves, batch.target, batch.whole)
    both = torch.stack([ratio, 1 / ratio], -1)
    return torch.where(both > 1, 1 - (alpha * both).tanh(), 1)


def modulated(
    net: FusionNet,
    gradient: Tensor,  # [C, P]
    strength: Tensor,  # [C, 2]
    noise: Tensor | None,  # [C, P], standard normal
) -> Tensor:  # [C, P]
    """The gradient, that of the encoders modulated."""
    parts = dict(net.layout.columns(gradient))
    noises = {} if noise is None else net.layout.columns(noise)
    for name, part in parts.items():
        modality, *module = name.split(".")
        if module and module[0] in ("backbone", "own"):
            parts[name] = strength[:, MODALITIES.index(modality), None] * part
            if noises:
                deviation = part.std(-1, correction=0, keepdim=True)
                parts[name] = parts[name] + deviation * noises[name]
    return torch.cat(list(parts.values()), -1)


OGM_GE = Objective(
    name="ogm_ge",
    options={FLAT: HalvesOptions, "ogm_ge": OGMGEOptions},
    halves=lambda config: OGMGELoss(config.of(HalvesOptions).modality, config.of(OGMGEOptions)),
    draws=lambda config: config.of(OGMGEOptions).noise,
)
